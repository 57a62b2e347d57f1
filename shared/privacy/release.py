"""What may leave a device, in the type system: `LocalUpdate -> ClippedUpdate -> Release`.

A `LocalUpdate` is a secret: what one cohort's data says. A `ClippedUpdate` is still a secret, but
no user weighs more than the clip norm in it. Neither can be encoded. A `Release` is the output of
a privacy mechanism and may travel; only this room makes one. Two types travel without noise, each
by an encoder of its own that checks the plan: `Entrusted`, the clipped sum for a trusted server
that adds the noise (`unit = user`, `trust = central`), and `Unprotected`, the plain sum of a run
with `unit = none`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from shared.errors import ConfigError, RunError
from shared.privacy.bounds import number
from shared.privacy.plan import Plan, Trust, Unit

__all__ = [
    "ClippedUpdate",
    "Entrusted",
    "LocalUpdate",
    "Release",
    "Rows",
    "Unprotected",
    "check_clip",
    "check_entrusted",
    "clip",
    "entrust",
    "expose",
    "expose_sum",
]


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

    def times(self, factors: NDArray[np.float64]) -> "Rows":
        """Return the rows, each multiplied by the factor of its owner.

        Args:
            factors: float64 [users].
        """
        places = (-1, *[1] * (self.values.ndim - 1))
        return replace(self, values=self.values * factors[self.owner].reshape(places))


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
class ClippedUpdate:
    """A cohort's update in which no user weighs more than the bound: still secret, made by `clip`.

    Attributes:
        tensors: Name of a global tensor -> the rows that each user contributes to it.
        users: Number of users in the cohort.
        clip_norm: L2 bound of one user's rows over all tensors together.
        below: bool [users], whose contribution was finite and no longer than the bound: a secret
            like the rest.
    """

    tensors: Mapping[str, Rows] = field(repr=False)
    users: int
    clip_norm: float
    below: NDArray[np.bool_] = field(repr=False)


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
class Entrusted:
    """A sum of clipped contributions without noise: for a server that is trusted to add it."""

    tensors: Mapping[str, NDArray[np.float64]] = field(repr=False)
    users: int


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Unprotected:
    """The plain sum of a run without protection."""

    tensors: Mapping[str, NDArray[np.float64]] = field(repr=False)
    users: int


def clip(update: LocalUpdate, *, clip_norm: float) -> ClippedUpdate:
    """Bound what each user weighs: its whole contribution, over all tensors, by its L2 norm.

    A contribution of norm v is multiplied by min(1, clip_norm / v). A user with a value that is
    not finite, or whose norm overflows, contributes zeros: a NaN cannot skip the bound.

    Args:
        update: One contribution a user.
        clip_norm: The bound; > 0.

    Raises:
        ConfigError: The bound is not finite or not positive.
        RunError: A user contributes one row twice, so that its norm is not that of its rows.

    Guarantees:
        clip bounds norm: no user's norm exceeds `clip_norm` (1 + 1e-6).
        clip zeroes non finite: such a user's rows are all zero, the others' unchanged by it.
        clip is identity below bound: bit for bit.

    Source: McMahan, Ramage, Talwar & Zhang 2018 (flat clipping of a user's update).
    """
    bound = number("clip_norm", clip_norm)
    squares = np.zeros(update.users)
    with np.errstate(over="ignore", invalid="ignore"):
        for name, rows in update.tensors.items():
            _check_once(name, rows)
            values = rows.values.reshape(len(rows.owner), math.prod(rows.shape[1:]))
            weights = np.einsum("ij,ij->i", values, values)
            squares += np.bincount(rows.owner, weights=weights, minlength=update.users)
    sound = np.isfinite(squares)
    norms = np.sqrt(np.where(sound, squares, 0.0))
    factors = np.divide(bound, norms, out=np.ones(update.users), where=norms > bound)
    clipped = {n: _scaled(rows, factors, sound) for n, rows in update.tensors.items()}
    below = sound & (norms <= bound)
    return ClippedUpdate(tensors=clipped, users=update.users, clip_norm=bound, below=below)


def _check_once(name: str, rows: Rows) -> None:
    places = np.sort(rows.owner * rows.shape[0] + rows.index)
    if (places[1:] == places[:-1]).any():
        raise RunError(
            f"Tensor {name!r} has a row twice from one user, whose weight cannot be bounded so; "
            "sum a user's rows before they are clipped."
        )


def _scaled(rows: Rows, factors: NDArray[np.float64], sound: NDArray[np.bool_]) -> Rows:
    places = (-1, *[1] * (rows.values.ndim - 1))
    scaled = np.where(
        sound[rows.owner].reshape(places),
        rows.values * factors[rows.owner].reshape(places),
        0.0,
    )
    return Rows(owner=rows.owner, index=rows.index, values=scaled, shape=rows.shape)


def entrust(clipped: ClippedUpdate, plan: Plan) -> Entrusted:
    """Sum up clipped contributions for a server that is trusted to add the noise.

    Raises:
        ConfigError: The plan does not trust the server, or clips at another bound.
    """
    check_entrusted(plan)
    check_clip(clipped, plan)
    sums = {name: rows.total() for name, rows in clipped.tensors.items()}
    return Entrusted(tensors=sums, users=clipped.users)


def check_entrusted(plan: Plan) -> None:
    """Refuse to send a sum without noise under a plan that does not trust the server.

    Raises:
        ConfigError: The unit is not a user, or the trust is not central.
    """
    if (plan.unit, plan.trust) != (Unit.USER, Trust.CENTRAL):
        raise ConfigError(
            "Expected unit=user with trust=central to send clipped sums without noise, found "
            f"unit={plan.unit} with trust={plan.trust}."
        )


def check_clip(clipped: ClippedUpdate, plan: Plan) -> None:
    """Refuse contributions clipped at another bound than the plan accounts.

    Raises:
        ConfigError: The bounds differ.
    """
    if clipped.clip_norm != plan.clip_norm:
        raise ConfigError(
            f"Expected contributions clipped at clip_norm={plan.clip_norm}, found "
            f"{clipped.clip_norm}; clip at the plan's bound."
        )


def expose(update: LocalUpdate, plan: Plan) -> Unprotected:
    """Turn a secret into plain sums, in a run that declared it protects nothing.

    Raises:
        ConfigError: The plan protects a unit.
    """
    sums = {name: rows.total() for name, rows in update.tensors.items()}
    return expose_sum(sums, users=update.users, plan=plan)


def expose_sum(sums: Mapping[str, NDArray[np.float64]], *, users: int, plan: Plan) -> Unprotected:
    """Let sums that a method made itself travel, in a run that declared it protects nothing.

    Raises:
        ConfigError: The plan protects a unit.
    """
    if plan.unit is not Unit.NONE:
        raise ConfigError(f"Expected unit=none to send plain sums, found unit={plan.unit}.")
    return Unprotected(tensors=sums, users=users)
