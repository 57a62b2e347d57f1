"""What may leave a device, in the type system: `LocalUpdate -> Release`.

A `LocalUpdate` is a secret: what one cohort's data says. It cannot be encoded. A `Release` is the
output of a privacy mechanism and may travel; only this room makes one. `Unprotected` is the plain
sum of a run with `unit = none`; it has its own encoder, which checks that the plan says so.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from shared.errors import ConfigError
from shared.privacy.plan import Plan, Unit

__all__ = ["LocalUpdate", "Release", "Rows", "Unprotected", "expose"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Rows:
    """Part of a tensor, row by row, for many users at once.

    Attributes:
        owner: int64 [m], index in the cohort of the user whose contribution the row is.
        index: int64 [m], row of the global tensor; one (owner, index) pair occurs once.
        values: float64 [m, ...], the contribution to that row.
        shape: Shape of the global tensor.
    """

    owner: NDArray[np.int64] = field(repr=False)
    index: NDArray[np.int64] = field(repr=False)
    values: NDArray[np.float64] = field(repr=False)
    shape: tuple[int, ...]

    def total(self) -> NDArray[np.float64]:
        """Return the dense sum over users, float64 of `shape`."""
        from scipy.sparse import csr_array

        count = len(self.index)
        places = csr_array(
            (np.ones(count), self.index, np.arange(count + 1)), shape=(count, self.shape[0])
        )
        dense = places.T @ self.values.reshape(count, math.prod(self.shape[1:]))
        return np.asarray(dense, dtype=np.float64).reshape(self.shape)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LocalUpdate:
    """What a cohort learned from its data: secret, never encoded.

    Attributes:
        tensors: Name of a global tensor -> the rows that each user contributes to it.
        users: Number of users in the cohort.
    """

    tensors: Mapping[str, Rows] = field(repr=False)
    users: int


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Release:
    """The output of a privacy mechanism: dense, every row noised, ready to travel.

    Attributes:
        tensors: Name of a global tensor -> float64 sum over the cohort's users, noised.
        users: Number of users in the cohort (public: the server chose it).
        private: False when a stand-in replaced the protective noise.
    """

    tensors: Mapping[str, NDArray[np.float64]] = field(repr=False)
    users: int
    private: bool


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Unprotected:
    """The plain sum of a run without protection."""

    tensors: Mapping[str, NDArray[np.float64]] = field(repr=False)
    users: int


def expose(update: LocalUpdate, plan: Plan) -> Unprotected:
    """Turn a secret into plain sums, in a run that declared it protects nothing.

    Raises:
        ConfigError: The plan protects a unit.
    """
    if plan.unit is not Unit.NONE:
        raise ConfigError(f"Expected unit=none to send plain sums, found unit={plan.unit}.")
    sums = {name: rows.total() for name, rows in update.tensors.items()}
    return Unprotected(tensors=sums, users=update.users)
