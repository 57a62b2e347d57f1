r"""From a contribution to integers of bounded norm, and back from their sum.

Clip to the norm c, divide by the grid step g, round each coordinate at random to one of its two
neighbours so that the expectation stays, and keep the rounding only if the norm of the *integers*
is at most

    Delta^2 = floor(min((c/g + sqrt(d))^2, c^2/g^2 + d/4 + c/g + sqrt(d)/2))

(Kairouz, Liu & Steinke 2021, theorem 1 with beta = exp(-1/2), a rounding being kept with
probability above 0.39 whatever the data, in practice nearly always). Delta is the sensitivity: it
is compared in integer arithmetic after the last step that looks at the data, so no error of
floating point, and no clipping done badly, can exceed it.

With c/g = 50*sqrt(d) Delta lies above c/g by 0.03 % at d = 2,000 and 0.008 % at d = 100,000, and
sums of thousands of devices fit 32 bits. Flattening by a random rotation is left out: it changes
neither Delta nor the noise, and the bits it saves (1,000 devices, d = 100,000, noise of 6.2 clip
norms: 25 bits become 21) buy nothing where words have 32.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from shared.errors import ConfigError
from shared.privacy.bounds import count, number
from shared.privacy.keystream import WordSource

__all__ = ["BITS", "Grid", "bits_needed", "quantise", "round_rows", "signed", "wrap"]

BITS: Final = 32
"""Width of the modulus: sums are taken modulo 2^32, which uint32 does by itself."""

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

REACH: Final = 2.0**26
"""Largest clip norm in grid units, with what rounding may add: sums of squares stay exact."""

ATTEMPTS: Final = 32
"""Roundings tried before the one towards zero, whose norm never grows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Grid:
    """The public lattice that contributions are rounded to.

    Attributes:
        dimension: Coordinates of one contribution, d.
        clip_norm: L2 bound of one contribution, c.
        resolution: c/g in units of sqrt(d): 50 costs 0.03 % of the noise at 2,000 coordinates.

    Raises:
        ConfigError: A number is out of range, or the integers would not fit the modulus.
    """

    dimension: int
    clip_norm: float
    resolution: float = 50.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "dimension", count("dimension", self.dimension))
        object.__setattr__(self, "clip_norm", number("clip_norm", self.clip_norm))
        if not 0.1 <= self.resolution <= 1e6 or self.reach + math.sqrt(self.dimension) > REACH:
            raise ConfigError(
                f"Expected 0.1 <= resolution <= 1e6 and clip / step below 2^26, found resolution "
                f"{self.resolution} with {self.dimension} coordinates; use a coarser grid."
            )

    @property
    def step(self) -> float:
        """Grid step g, in the unit of the contribution."""
        return self.clip_norm / self.reach

    @property
    def reach(self) -> float:
        """The clip norm in grid units, c/g."""
        return self.resolution * math.sqrt(self.dimension)

    @property
    def squared_sensitivity(self) -> int:
        """Delta^2: the largest squared L2 norm that `quantise` returns, in grid units."""
        reach, side = self.reach, math.sqrt(self.dimension)
        rounded = reach * reach + self.dimension / 4 + reach + side / 2
        return math.floor(min((reach + side) ** 2, rounded))

    @property
    def sensitivity(self) -> float:
        """Delta, rounded up, in grid units."""
        return math.nextafter(math.sqrt(self.squared_sensitivity), math.inf)


def quantise(values: NDArray[np.float64], *, grid: Grid, source: WordSource) -> NDArray[np.int64]:
    """Clip a contribution and round it at random to the grid.

    Args:
        values: float64 [dimension], any norm; a non-finite value voids the whole contribution.
        grid: The lattice.
        source: Uniform words of the rounding.

    Returns:
        int64 [dimension], grid units.

    Raises:
        ConfigError: The shape is another.
        OSError: The operating system gives no entropy.

    Guarantees:
        quantise bounds the norm: the sum of squares of the integers is at most Delta^2.
        quantise zeroes non finite: a NaN or an infinity gives the zero contribution.
        quantise is unbiased: below the clip norm the expectation is the contribution, up to the
        conditioning on the norm.
    """
    if values.shape != (grid.dimension,):
        raise ConfigError(f"Expected {grid.dimension} coordinates in one flat vector.")

    def draw(attempt: int) -> Floats:
        return (source.words(grid.dimension) >> np.uint64(11)).astype(np.float64) * 2.0**-53

    scaled = _clipped(values, grid.reach, grid.clip_norm)
    owner = np.zeros(grid.dimension, dtype=np.int64)
    return round_rows(scaled, owner=owner, users=1, grid=grid, draw=draw)


def round_rows(
    scaled: Floats, *, owner: Ints, users: int, grid: Grid, draw: Callable[[int], Floats]
) -> Ints:
    """Round the coordinates of many users' contributions at once; those not named are zero.

    Args:
        scaled: float64 [m], coordinates in grid units of contributions of norm at most `reach`.
        owner: int64 [m], whose each of them is, 0 .. users - 1.
        users: Number of users.
        grid: The lattice.
        draw: Attempt, from 0 -> float64 [m], uniforms in [0, 1). They bear no guarantee: the
            bound holds whatever is drawn.

    Returns:
        int64 [m], grid units.

    Guarantees:
        round rows bounds every norm: no user's sum of squares exceeds Delta^2, whatever is drawn.
    """
    floor = np.floor(scaled)
    fraction, base = scaled - floor, floor.astype(np.int64)
    chosen = np.trunc(scaled).astype(np.int64)
    waiting = np.ones(users, dtype=np.bool_)
    for attempt in range(ATTEMPTS):
        rounded = base + (draw(attempt) < fraction)
        sound = waiting & _within(rounded, owner, users, grid)
        np.copyto(chosen, rounded, where=sound[owner])
        waiting &= ~sound
        if not waiting.any():
            break
    return np.where(_within(chosen, owner, users, grid)[owner], chosen, 0)


def _within(integers: Ints, owner: Ints, users: int, grid: Grid) -> NDArray[np.bool_]:
    """Whether each user's sum of squares is at most Delta^2: exact, for both are below 2^53."""
    squares = np.square(integers.astype(np.float64))
    sums = np.bincount(owner, weights=squares, minlength=users)
    return np.asarray(sums <= grid.squared_sensitivity)


def _clipped(values: NDArray[np.float64], reach: float, clip_norm: float) -> NDArray[np.float64]:
    """Return values in grid units, of norm at most `reach` up to rounding errors."""
    values = np.asarray(values, dtype=np.float64)
    if not np.isfinite(values).all():
        return np.zeros_like(values)
    largest = float(np.abs(values).max())
    if largest == 0.0:
        return np.zeros_like(values)
    unit = values / largest  # Squares of what is left neither overflow nor all vanish.
    norm = float(np.linalg.norm(unit))
    return unit * (reach * min(largest / clip_norm, 1.0 / norm))


def wrap(integers: NDArray[np.int64]) -> NDArray[np.uint32]:
    """Return integers modulo 2^32, uint32."""
    return (integers & 0xFFFFFFFF).astype(np.uint32)


def signed(words: NDArray[np.uint32]) -> NDArray[np.int64]:
    """Return the representatives in -2^31 .. 2^31 - 1 of words modulo 2^32, int64."""
    return words.view(np.int32).astype(np.int64)


def bits_needed(*, devices: int, grid: Grid, deviation: float) -> int:
    """Return the modulus width at which a sum does not wrap around.

    Args:
        devices: Most contributions in one sum.
        grid: The lattice; in the worst case all contributions lie on one coordinate.
        deviation: Standard deviation of the noise in the sum, grid units.

    Returns:
        The least b with 2^b > 2 * (devices * Delta + 6 * deviation). Wrap-around would be
        post-processing: it costs utility, never privacy.
    """
    span = 2.0 * (devices * grid.sensitivity + 6.0 * deviation) + 1.0
    return math.ceil(math.log2(span))
