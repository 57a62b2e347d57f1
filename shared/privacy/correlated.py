r"""Noise that later rounds take back: banded square-root Toeplitz, for devices that come rarely.

A run adds up its rounds, so what hurts is the noise of the running sum. Instead of z_t, fresh in
each round, round t carries \(w = C^{-1} z\): what one round added, the next ones partly take back.
C is lower triangular and Toeplitz, with the coefficients of the square root of the matrix of all
sums, \(c_j = c_{j-1} (2j-1) / (2j)\), cut off after `bands` of them.

**Sensitivity.** \(x + C^{-1} z = C^{-1} (C x + z)\): the run is one Gaussian release of \(C x\),
and what follows is computed from it. A user with contributions g (norm at most 1, in clip norms)
in the rounds t_1, t_2, ... moves \(C x\) by \(\sum_i C_{\cdot,t_i} g_i\). If these rounds are at
least `separation` >= `bands` apart, the columns overlap nowhere, whatever the g are, so the
squares of their norms add up: each participation costs exactly \(\mu^2 = |C_{\cdot,t}|^2 / z^2\),
like a release of its own, and k of them add. Closer than `bands` they do overlap, and no
accounting by participations holds: the ledger of the device refuses them. That C is triangular
makes the argument hold for contributions that depend on earlier rounds.

**Central** trust: the server adds \(C^{-1} z\) to the sums (`CorrelatedNoise`).

**Distributed** trust: no one may know z, so each masked sum has to carry shares of noise that are
fresh and independent. There the devices send \(C x\): c_0 g in the round of a participation, and
c_1 g, c_2 g, ... (`encode`; the echoes of one clipped contribution that the device keeps) in the
`bands - 1` rounds after it. The server sees \(C x + z\) and applies \(C^{-1}\) (`Decoder`), for
free. A device sends a multiple of one contribution in a round, so round t + j is an ordinary
release that costs it \(\mu_j^2 = c_j^2 / z^2\) (`echo_spend`), in sum what the column costs; an
echo that stays away costs utility alone. Where contributions are rounded to a grid, the bound of
an echo is the one of `quantisation` for the clip norm c_j S: rounding does not shrink with c_j.

Runs have the central half; under distributed trust `Plan` refuses more than one band for now.

Rms noise of the running sum in clip norms, delta 1e-6, separation = bands:

    rounds  separation  epsilon  independent  correlated
    40      40          3              6.99        3.21
    40      10          3             13.98        6.84
    100     10          3             34.69       14.84

This is the noise of a sum over a cohort of users / separation. Divided by the cohort, everyone in
every round under independent noise has less of it (40 rounds, epsilon 3: 44.2 clip norms over all
users, against 68.4): correlation is for devices that cannot always come, or may rest. Under
distributed trust the echoes cost as many messages as taking part in those rounds would.

Sources: Fichtenberger, Henzinger & Upadhyay 2023 (square root); Choquette-Choo, Ganesh, McKenna,
McMahan, Rush, Thakurta & Xu 2023 (bands and minimal separation); McKenna 2024 (banded Toeplitz
at scale); Denisov, McMahan, Rush, Smith & Thakurta 2022 (adaptive contributions).
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from math import sqrt
from typing import Never

import numpy as np
from numpy.typing import NDArray

from shared.errors import ConfigError, RunError
from shared.privacy.bands import coefficients
from shared.privacy.bounds import count, number
from shared.privacy.gaussian import ROUNDING, perturb
from shared.privacy.plan import Plan
from shared.privacy.release import ClippedUpdate, Release, check_entrusted
from shared.randomness import NoiseSource

__all__ = [
    "CorrelatedNoise",
    "Decoder",
    "encode",
    "iterate_rms",
]

Array = NDArray[np.float64]


def iterate_rms(*, rounds: int, bands: int, noise_multiplier: float) -> float:
    """Return the noise of the running sum of rounds: its rms over the rounds, in clip norms.

    Args:
        rounds: Rounds of the run.
        bands: Coefficients of a column; 1 is independent noise.
        noise_multiplier: z, the standard deviation of fresh noise in clip norms.

    Raises:
        ConfigError: A number is out of range.
    """
    decoder = Decoder(bands=bands)
    pulse = [np.ones(1)] + [np.zeros(1)] * (count("rounds", rounds) - 1)
    sums = np.cumsum([decoder.step({"": value})[""] for value in pulse])
    # The noise of fresh draw s is in the running sum of round t with weight sums[t - s].
    return number("noise_multiplier", noise_multiplier) * sqrt(float(np.cumsum(sums**2).mean()))


def encode(kept: ClippedUpdate, *, since: NDArray[np.int64], bands: int) -> ClippedUpdate:
    """Return what devices send of their newest contribution in a round: c_since times it.

    Contributions of all rounds have to be in one unit: under a clip norm that moves, divide by it.

    Args:
        kept: The contributions, as they were clipped; a device keeps its own and shows nobody.
        since: int64 [users], rounds since each was made: 0 in the round of the participation. A
            user whose echoes are over sends zeros.
        bands: Coefficients of a column.

    Raises:
        ConfigError: `since` is negative, or not one whole number a user.

    Guarantees:
        Encoding never exceeds the clip norm: a user's norm is c_since times what it was.
    """
    since = np.asarray(since)
    if since.shape != (kept.users,) or since.dtype.kind != "i" or (since < 0).any():
        raise ConfigError("Expected rounds since its contribution, >= 0, for every user.")
    known = np.append(coefficients(bands), 0.0)
    factors = known[np.minimum(since, bands)]
    tensors = {name: rows.times(factors) for name, rows in kept.tensors.items()}
    return replace(kept, tensors=tensors)


class Decoder:
    """C^-1, one round at a time: what goes in is C x + z, what comes out x + C^-1 z.

    Its memory is its last `bands - 1` answers. Under distributed trust they are released already,
    and belong into a checkpoint (`past`), without which decoding cannot go on.

    Args:
        bands: Coefficients of a column.
        past: What `past` of an earlier decoder was; without it a run begins.

    Raises:
        ConfigError: `bands` is not a whole number of at least 1.

    Guarantees:
        Decoding undoes encoding: without noise the sums come out.
        A round that is refused leaves the memory as it was.
    """

    def __init__(self, *, bands: int, past: Mapping[str, Array] | None = None) -> None:
        self._weights = coefficients(bands)[1:]
        self._past = {
            name: deque(values[: len(self._weights)], maxlen=len(self._weights))
            for name, values in (past or {}).items()
        }

    @property
    def past(self) -> dict[str, Array]:
        """Name -> float64 [rounds kept, ...], the newest answer first."""
        return {name: np.array(kept) for name, kept in self._past.items()}

    def step(self, totals: Mapping[str, Array]) -> dict[str, Array]:
        """Return the decoded tensors of the next round; float64 of the shapes that came in.

        Raises:
            RunError: The tensors are not those of the rounds before.
        """
        if self._past and not self._fits(totals):
            raise RunError(
                "A round of correlated noise has other tensors than the rounds before it; give "
                "such a round noise of its own."
            )
        answers = {name: self._answer(name, value) for name, value in totals.items()}
        for name, answer in answers.items():
            kept = self._past.setdefault(name, deque(maxlen=len(self._weights)))
            kept.appendleft(answer)
        return {name: answer.copy() for name, answer in answers.items()}

    def _fits(self, totals: Mapping[str, Array]) -> bool:
        return set(totals) == set(self._past) and all(
            value.shape == totals[name].shape for name, kept in self._past.items() for value in kept
        )

    def _answer(self, name: str, value: Array) -> Array:
        answer = np.array(value, dtype=np.float64)
        for weight, earlier in zip(self._weights, self._past.get(name, ()), strict=False):
            answer -= weight * earlier
        return answer


class CorrelatedNoise:
    """The noise of a trusted server, C^-1 z, for the rounds of one run.

    Its memory, the noise of the last `bands - 1` rounds, would undo the protection of those rounds
    and is never written. After a restart a new object begins a fresh block. The run then has a
    block-diagonal C, in which the columns of the last rounds of a block are cut off: none is
    longer than it was, and columns of two blocks cannot overlap, so no user costs more. What is
    lost is that the new block takes nothing back of the old one's noise.

    Args:
        bands: Coefficients of a column.
        source: Where fresh draws come from.

    Raises:
        ConfigError: `bands` is not a whole number of at least 1.

    Guarantees:
        Every value of every round gets a fresh draw of the full deviation.
        A restart does not raise the sensitivity.
        The memory is never written: the object cannot be serialised or copied.
    """

    def __init__(self, *, bands: int, source: NoiseSource) -> None:
        self._decoder = Decoder(bands=bands)
        self._source = source

    def __reduce__(self) -> Never:
        raise RunError("Correlated noise is a secret and is not written; begin a fresh block.")

    def privatise(
        self,
        total: Mapping[str, Array],
        *,
        users: int,
        plan: Plan,
        noise_multiplier: float,
        keys: tuple[str | int, ...] = (),
    ) -> Release:
        """Release the sum of the next round of the run (unit user, trust central).

        Clip norm and multiplier may change from round to round, by what is public: a participation
        costs what the multiplier of its own round says.

        Args:
            total: Name -> float64 sum of validated clipped contributions.
            users: Users in the sum.
            plan: Protects a user, with trust central; its clip norm scales the noise.
            noise_multiplier: z, the standard deviation of fresh noise in clip norms.
            keys: Names the draw for stand-in sources.

        Raises:
            ConfigError: The plan protects another unit or trusts another party; the multiplier is
                out of range; or there is no user.
            RunError: A sum is not finite, or the tensors are not those of the rounds before.
        """
        check_entrusted(plan)
        deviation = number("noise_multiplier", noise_multiplier) * plan.clip_norm * ROUNDING
        for name, value in total.items():
            if not np.isfinite(value).all():
                raise RunError(f"Expected a finite sum in tensor {name!r}: nothing was released.")
        fresh = perturb(
            {name: np.zeros(value.shape) for name, value in total.items()},
            variance=dict.fromkeys(total, 1.0),
            users=users,
            noise=self._source,
            keys=keys,
        )
        noise = self._decoder.step(fresh.tensors)
        noised = {name: value + deviation * noise[name] for name, value in total.items()}
        return Release(tensors=noised, users=users, private=fresh.private)
