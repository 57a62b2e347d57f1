"""From clipped contributions to what a masked sum is made of, and back (trust distributed).

    ClippedUpdate -> Rounded (integers on the grid) -> Veiled (with its devices' noise shares)

A `Veiled` is still a secret: a device's one share of the noise does not hide its contribution.
Only masked words of it may travel (`secure_sum`). A simulation that hosts many devices may make
the sum over them at once (`PartialSum`): the masks between devices cancel in the sum to the last
bit, and the sum of m shares is one discrete Gaussian of m times the variance, up to what
`noise_shares.sum_slack` bounds by 10^-50. What is released then has the same law.

Which neighbour on the grid a coordinate is rounded to may be drawn from the experiment's seed: the
norm bound, and with it the guarantee, holds whatever is drawn. So a run without noise does not
depend on how users are packed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import ceil, prod, sqrt
from typing import Final

import numpy as np
from numpy.typing import NDArray

from shared.errors import ConfigError
from shared.privacy.discrete_gaussian import LARGEST_SIGMA, discrete_gaussian
from shared.privacy.keystream import OSWords, StandInWords, WordSource
from shared.privacy.noise_shares import SMOOTHING, NoiseShares
from shared.privacy.plan import Plan, Trust, Unit
from shared.privacy.quantisation import Grid, round_rows, signed, wrap
from shared.privacy.release import ClippedUpdate, check_clip
from shared.randomness import keyed_uniforms

__all__ = [
    "Layout",
    "PartialSum",
    "Rounded",
    "Veiled",
    "check_distributed",
    "gathered",
    "noise_shares",
    "opened",
    "round_off",
    "veil",
]

Array = NDArray[np.float64]
Ints = NDArray[np.int64]
Words = NDArray[np.uint32]


RESOLUTION: Final = 50.0
"""Clip norm in grid units of sqrt(dimension): rounding costs 0.03 % of the noise, or less."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """Where each tensor lies in the flat vector: by name, row by row.

    Attributes:
        shapes: Name -> shape.
    """

    shapes: Mapping[str, tuple[int, ...]]

    @property
    def dimension(self) -> int:
        """Coordinates of the flat vector."""
        return sum(prod(shape) for shape in self.shapes.values())

    def starts(self) -> dict[str, int]:
        """Return where each tensor begins, in the order of the names."""
        places, at = {}, 0
        for name in sorted(self.shapes):
            places[name] = at
            at += prod(self.shapes[name])
        return places

    def split(self, flat: Array) -> dict[str, Array]:
        """Return the tensors of a flat vector."""
        return {
            name: flat[at : at + prod(self.shapes[name])].reshape(self.shapes[name])
            for name, at in self.starts().items()
        }


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Rounded:
    """The sum of contributions on the grid, without noise: secret.

    Attributes:
        integers: int64 [dimension], grid units.
        users: Users in the sum.
    """

    integers: Ints = field(repr=False)
    users: int


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Veiled:
    """A sum of contributions with its devices' shares of the noise: secret until it is masked.

    Attributes:
        words: uint32 [dimension], modulo 2^32.
        users: Users in the sum.
        private: False when a stand-in replaced the protective noise.
    """

    words: Words = field(repr=False)
    users: int
    private: bool


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PartialSum:
    """What a simulation's node hands over for its devices: the masks between them cancelled.

    Attributes:
        tensors: Name -> float64 whole numbers, grid units.
        users: Users in the sum.
        private: False when a stand-in replaced the protective noise.
    """

    tensors: Mapping[str, Array] = field(repr=False)
    users: int
    private: bool


def check_distributed(plan: Plan) -> None:
    """Refuse a plan in which devices do not share out the noise of a secure sum.

    Raises:
        ConfigError: The unit is not a user, or the trust is not distributed.
    """
    if (plan.unit, plan.trust) != (Unit.USER, Trust.DISTRIBUTED):
        raise ConfigError(
            "Expected unit=user with trust=distributed for a secure sum, found "
            f"unit={plan.unit} with trust={plan.trust}."
        )


def noise_shares(plan: Plan, *, round: int, layout: Layout) -> NoiseShares:
    """Return the public noise plan of one round.

    Raises:
        ConfigError: The plan is not distributed, or the noise does not fit the grid.
    """
    check_distributed(plan)
    multiplier, dimension = plan.multiplier(round), layout.dimension
    # A short vector among many devices needs a finer grid for a share to be wide enough on it.
    least = 2.0 * SMOOTHING * sqrt(plan.honest / dimension) / multiplier
    resolution = max(RESOLUTION, least)
    return NoiseShares(
        grid=Grid(dimension=dimension, clip_norm=plan.clip_norm, resolution=resolution),
        noise_multiplier=multiplier,
        minimum=plan.honest,
        devices=plan.expected_cohort,
    )


def round_off(
    clipped: ClippedUpdate,
    plan: Plan,
    *,
    shares: NoiseShares,
    layout: Layout,
    keys: Ints,
    seed: int,
    round: int,
) -> Rounded:
    """Round each user's clipped contribution to the grid and sum the integers.

    Args:
        clipped: Contributions clipped at the plan's bound.
        plan: Protects a user, with trust distributed.
        shares: Its noise plan in this round.
        layout: Of the flat vector.
        keys: int64 [users], stable name of each user: its rounding is the same in any packing.
        seed: Experiment seed, for the rounding alone.
        round: Index of the round.

    Raises:
        ConfigError: The contributions were clipped at another bound.

    Guarantees:
        round off bounds every user: the norm of each one's integers is at most the sensitivity.
        packing does not show in the integers.
    """
    check_clip(clipped, plan)
    owner, place, values = _coordinates(clipped, layout)

    def draw(attempt: int) -> Array:
        return keyed_uniforms(seed, f"rounding {round} {attempt}", keys[owner], place)

    grid = shares.grid
    scaled = values * (grid.reach / grid.clip_norm)
    rounded = round_rows(scaled, owner=owner, users=clipped.users, grid=grid, draw=draw)
    # Sums of whole numbers below 2^53 are exact in float64.
    total = np.bincount(place, weights=rounded.astype(np.float64), minlength=grid.dimension)
    return Rounded(integers=total.astype(np.int64), users=clipped.users)


def _coordinates(clipped: ClippedUpdate, layout: Layout) -> tuple[Ints, Ints, Array]:
    """Return owner, place in the flat vector and value of every coordinate that is not zero."""
    parts = []
    starts = layout.starts()
    for name, rows in clipped.tensors.items():
        width = prod(rows.shape[1:])
        place = starts[name] + rows.index[:, None] * width + np.arange(width)
        flat = rows.values.reshape(len(rows.index), width)
        kept = flat != 0.0
        owner = np.broadcast_to(rows.owner[:, None], kept.shape)
        parts.append((owner[kept], place[kept], flat[kept]))
    owners, places, values = (np.concatenate(column) for column in zip(*parts, strict=True))
    return owners, places, values


def veil(
    rounded: Rounded,
    plan: Plan,
    *,
    shares: NoiseShares,
    seed: int,
    keys: tuple[str | int, ...] = (),
) -> Veiled:
    """Add the noise shares of all devices in a sum.

    Args:
        rounded: The sum on the grid.
        plan: Says where protective draws come from.
        shares: The noise plan of this round.
        seed: Of a stand-in; protective noise never sees it.
        keys: Names the draw of a stand-in.

    Raises:
        OSError: The operating system gives no entropy.

    Guarantees:
        veil noises every coordinate, touched or not, with `users` shares.
    """
    integers, source = rounded.integers, _source(plan, seed, keys)
    if source is not None:
        integers = integers + _draws(len(integers), rounded.users, shares.deviation, source)
    private = source is not None and source.private
    return Veiled(words=wrap(integers), users=rounded.users, private=private)


def _draws(size: int, users: int, deviation: float, source: WordSource) -> Ints:
    """Return the sum of so many shares: one draw, or few where it is wider than the sampler."""
    parts = ceil(users * (deviation / LARGEST_SIGMA) ** 2)
    sigma = min(deviation * (users / parts) ** 0.5, LARGEST_SIGMA)
    total = np.zeros(size, dtype=np.int64)
    for _ in range(parts):
        total += discrete_gaussian(size=size, sigma=sigma, source=source)
    return total


def _source(plan: Plan, seed: int, keys: tuple[str | int, ...]) -> WordSource | None:
    """Return where the noise comes from; None where a stand-in switches it off."""
    if plan.noise == "os":
        return OSWords()
    return StandInWords(seed, *keys) if plan.noise == "seeded" else None


def gathered(veiled: Veiled, layout: Layout) -> PartialSum:
    """Return a veiled sum as tensors of whole numbers, for a simulation's grid."""
    flat = signed(veiled.words).astype(np.float64)
    return PartialSum(tensors=layout.split(flat), users=veiled.users, private=veiled.private)


def opened(total: Mapping[str, Array], shares: NoiseShares) -> dict[str, Array]:
    """Return a whole sum, given in grid units modulo 2^32, in the contributions' own unit."""
    return {
        name: shares.estimate(
            (value.astype(np.int64) & 0xFFFFFFFF).astype(np.uint32).ravel()
        ).reshape(value.shape)
        for name, value in total.items()
    }
