"""The matrix C of correlated noise in numbers: its columns, what they cost, what noise they leave.

C is lower triangular, banded and Toeplitz; `correlated` says what it is for and where it is from.
A run without correlated noise is the case of one band: C is then the identity.
"""

from math import sqrt

import numpy as np
from numpy.typing import NDArray

from shared.errors import ConfigError
from shared.privacy.accounting import Spend
from shared.privacy.bounds import count, number

__all__ = [
    "check_bands",
    "coefficients",
    "column_norm",
    "echo_spend",
    "participation_spend",
    "sensitivity",
    "weighted_norm",
]

Array = NDArray[np.float64]


def coefficients(bands: int) -> Array:
    """Return c_0 .. c_{bands-1}, float64, from 1 downwards.

    >>> coefficients(4).tolist()
    [1.0, 0.5, 0.375, 0.3125]

    Raises:
        ConfigError: `bands` is not a whole number of at least 1.
    """
    steps = np.arange(1, count("bands", bands))
    return np.concatenate([[1.0], np.cumprod((2 * steps - 1) / (2 * steps))])


def column_norm(*, bands: int, rounds_left: int) -> float:
    """Return the norm of the column of a round, exact at the end of the run too.

    Args:
        bands: Coefficients of a whole column.
        rounds_left: Rounds from this one to the last, both counted; fewer than `bands` cut it off.

    Raises:
        ConfigError: A number is not a whole number of at least 1.
    """
    kept = coefficients(bands)[: count("rounds_left", rounds_left)]
    return float(np.linalg.norm(kept))


def sensitivity(*, rounds: int, separation: int, bands: int) -> float:
    """Return how far one user moves C x at most, in clip norms.

    The worst user comes in round 1 and then every `separation` rounds: no column starts earlier,
    and a column is never longer than an earlier one.

    Args:
        rounds: Rounds of the run.
        separation: Least distance of two participations of a user; 1 allows every round.
        bands: Coefficients of a column, at most `separation`; 1 is independent noise.

    Raises:
        ConfigError: A number is out of range, or there are more bands than rounds of separation.

    Guarantees:
        Sensitivity is exact: no user who keeps the separation moves C x further, and one reaches
        it.

    >>> round(sensitivity(rounds=40, separation=10, bands=10), 3)
    2.677
    """
    check_bands(bands, separation)
    firsts = range(0, count("rounds", rounds), separation)
    norms = (column_norm(bands=bands, rounds_left=rounds - first) for first in firsts)
    return sqrt(sum(norm * norm for norm in norms))


def participation_spend(
    *, noise_multiplier: float, round: int, rounds: int, separation: int, bands: int
) -> Spend:
    """Return what one participation costs with all its echoes: |column|^2 / z^2, and nothing else.

    Only right where the device refuses to come again within `separation` rounds
    (`Ledger.reserve`).

    Args:
        noise_multiplier: z, the standard deviation of fresh noise in clip norms.
        round: The round of the participation, from 1.
        rounds: Rounds of the run.
        separation: Least distance of two participations.
        bands: Coefficients of a column, at most `separation`.

    Raises:
        ConfigError: A number is out of range, or there are more bands than rounds of separation.
    """
    check_bands(bands, separation)
    count("round", round, most=count("rounds", rounds), why="the run ends before")
    norm = column_norm(bands=bands, rounds_left=rounds - round + 1)
    return _spend(noise_multiplier, norm)


def echo_spend(*, noise_multiplier: float, since: int, bands: int) -> Spend:
    """Return what a device pays in one round under distributed trust: c_since^2 / z^2.

    Args:
        noise_multiplier: z, the standard deviation of the noise of the masked sum in clip norms.
        since: Rounds since the participation; 0 is the participation itself.
        bands: Coefficients of a column; there is no echo after `bands - 1` rounds.

    Raises:
        ConfigError: A number is out of range.
    """
    known = coefficients(bands)
    if not 0 <= since < len(known):
        raise ConfigError(f"Expected 0 <= since < bands={bands}, found {since}; send no echo then.")
    return _spend(noise_multiplier, float(known[since]))


def weighted_norm(weights: Array, *, bands: int, blocks: tuple[int, ...] = (1,)) -> float:
    r"""Return the deviation of \(\sum_t w_t (C^{-1} z)_t\) for fresh z of deviation 1.

    The sum is \(z^T C^{-T} w\), so this is the norm of \(C^{-T} w\): exact, whatever the weights.

    Args:
        weights: float64 [rounds], from round 1.
        bands: Coefficients of a column; 1 is independent noise.
        blocks: Rounds at which the noise began afresh, ascending, the first one among them: what
            a restart makes of C is block-diagonal.
    """
    known = coefficients(bands)[1:]
    solved = np.array(weights, dtype=np.float64)
    ends = (*(first - 1 for first in blocks[1:]), len(solved))
    for first, end in zip(blocks, ends, strict=True):
        for place in range(end - 1, first - 2, -1):
            later = solved[place + 1 : end][: len(known)]
            solved[place] -= known[: len(later)] @ later
    return float(np.linalg.norm(solved))


def check_bands(bands: int, separation: int) -> None:
    """Refuse columns longer than they are apart: they overlap, and nothing accounts for that.

    Raises:
        ConfigError: There are more bands than rounds of separation, or a number is below 1.
    """
    why = "columns of one user's rounds must not overlap: use fewer bands or a wider separation"
    count("bands", bands, most=count("separation", separation), why=why)


def _spend(noise_multiplier: float, norm: float) -> Spend:
    sigma = number("noise_multiplier", noise_multiplier) / norm
    return Spend(noise_multiplier=sigma, sampling_rate=1.0, steps=1)
