r"""Further values inside the same release: each for a share of what the round costs anyway.

A user's contribution, of norm at most S, shrinks by \(\sqrt{1 - \sum_i q_i}\); each rider, a short
vector of bounded norm, is scaled to norm at most \(\sqrt{q_i} S\) and travels as one more tensor
of the same vector. The norm of the whole is at most S, so clip norm, noise and spend of the round
stay what they are: of its \(\mu^2\) the contribution has \(1 - \sum_i q_i\) and each rider its
\(q_i\). The server divides the scales out of the noised sums; that is free.

Without riders the same values would need a release of their own, charged on its own. Sources:
Andrew, Thakkar, McMahan & Ramaswamy 2021 (one vector, several purposes); additivity of mu^2: Dong,
Roth & Su 2019.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from shared.errors import ConfigError, RunError
from shared.privacy.bounds import count, number
from shared.privacy.release import ClippedUpdate, Rows

__all__ = ["Rider", "Riders"]

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Rider:
    """The public description of one block of further values.

    Attributes:
        name: Its tensor; no tensor of a contribution has this name.
        size: Values of one user.
        bound: L2 bound of one user's values, in their own unit.
        share: Part of the round's mu^2 that it gets; below 1.

    Raises:
        ConfigError: A number is out of range.
    """

    name: str
    size: int
    bound: float
    share: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", count("size", self.size))
        for name, high in (("bound", math.inf), ("share", 1.0)):
            if not 0.0 < getattr(self, name) < high:
                raise ConfigError(
                    f"Expected 0 < {name} < {high:g} for rider {self.name!r}, found "
                    f"{getattr(self, name)}; a few percent of the budget are usual."
                )

    def scale(self, clip_norm: float) -> float:
        """Return what its values are multiplied by on their way."""
        return math.sqrt(self.share) * clip_norm / self.bound


@dataclass(frozen=True, kw_only=True, slots=True)
class Riders:
    """Everything that rides along in the releases of a run.

    Attributes:
        blocks: The riders.

    Raises:
        ConfigError: Two have one name, or nothing is left for the contribution.

    Guarantees:
        The joint norm of a user's contribution and riders is at most the clip norm (1 + 1e-6).
        Unscaling is exact: without noise the sums of both come out.
        A rider that is not finite is zero, and one beyond its bound is shortened to it.
    """

    blocks: tuple[Rider, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "blocks", tuple(self.blocks))
        if len({block.name for block in self.blocks}) < len(self.blocks):
            raise ConfigError("Two riders have one name; rename one.")
        if not self.rest > 0.0:
            raise ConfigError("The riders' shares leave nothing for training; lower them.")

    @property
    def rest(self) -> float:
        """Part of the round's mu^2 that the contribution keeps."""
        return 1.0 - math.fsum(block.share for block in self.blocks)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape of its sum."""
        return {block.name: (block.size,) for block in self.blocks}

    def deviations(self, *, sum_deviation: float, clip_norm: float) -> dict[str, float]:
        """Return the noise that `detach` leaves in a rider's sum, by name, in the rider's unit.

        Args:
            sum_deviation: Standard deviation of the noise on one value of the released sum.
            clip_norm: The clip norm of the round.
        """
        return {block.name: sum_deviation / block.scale(clip_norm) for block in self.blocks}

    def attach(self, clipped: ClippedUpdate, values: Mapping[str, Array]) -> ClippedUpdate:
        """Return the contributions with the riders aboard; the clip norm stays.

        Args:
            clipped: One contribution a user.
            values: Name -> float64 [users, size], what each user reports.

        Raises:
            ConfigError: The names or shapes are not those of the riders, or a name is taken.
        """
        shapes = {block.name: (clipped.users, block.size) for block in self.blocks}
        if {name: np.shape(value) for name, value in values.items()} != shapes:
            raise ConfigError(f"Expected values of shapes {shapes} to ride along.")
        if taken := sorted(set(shapes) & set(clipped.tensors)):
            raise ConfigError(f"Rider {taken[0]!r} has the name of another tensor; rename it.")
        factors = np.full(clipped.users, math.sqrt(self.rest))
        tensors = {name: rows.times(factors) for name, rows in clipped.tensors.items()}
        for block in self.blocks:
            bounded = _bounded(values[block.name], block.bound)
            tensors[block.name] = _rows(block.scale(clipped.clip_norm) * bounded)
        return replace(clipped, tensors=tensors)

    def detach(
        self, total: Mapping[str, Array], *, clip_norm: float
    ) -> tuple[dict[str, Array], dict[str, Array]]:
        """Return the sums of the contributions and those of the riders, each in its own unit.

        Args:
            total: Name -> float64 released sum.
            clip_norm: The clip norm of the round.

        Raises:
            ConfigError: The clip norm is out of range.
            RunError: A rider is missing or has another shape.
        """
        bound, scale = number("clip_norm", clip_norm), math.sqrt(self.rest)
        for name, shape in self.shapes.items():
            if name not in total or total[name].shape != shape:
                raise RunError(f"The released sum has no rider {name!r} of shape {shape}.")
        main = {name: total[name] / scale for name in total if name not in self.shapes}
        rode = {block.name: total[block.name] / block.scale(bound) for block in self.blocks}
        return main, rode


def _bounded(values: Array, bound: float) -> Array:
    """Return each user's values, zero where one is not finite, and no longer than the bound."""
    values = np.asarray(values, dtype=np.float64)
    sound = np.isfinite(values).all(axis=1, keepdims=True)
    values = np.where(sound, values, 0.0)
    # Measured by the longer of the largest value and the bound, no square and no ratio overflows.
    unit = np.maximum(np.abs(values).max(axis=1, keepdims=True), bound)
    norms = np.linalg.norm(values / unit, axis=1, keepdims=True)
    shortened = values / unit * (bound / np.where(norms > 0.0, norms, 1.0))
    return np.where(norms > bound / unit, shortened, values)


def _rows(values: Array) -> Rows:
    """One row of the rider's tensor for each value of each user."""
    users, size = values.shape
    owner, index = np.divmod(np.arange(users * size, dtype=np.int64), size)
    return Rows(owner=owner, index=index, values=values.reshape(-1), shape=(size,))
