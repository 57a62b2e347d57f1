r"""Implicit alternating least squares, both halves: the user's half is solved on the device.

A device solves its own vector against the item table it received and never sends it.

Without a head (no protection) a round is an exact sweep: devices report what the items' normal
equations are sums of, \(\sum p_u\), \(\sum p_u p_u^T\) by item and \(\sum p_u p_u^T\) over all, and
the server solves every item.

With a head (whole users protected) the first round counts, which chooses the head and starts its
vectors from public content and popularity. In the rounds after, a user reports its vector's
direction at each of its head items, together of norm 1: the right-hand sides alone, for there the
signal is. The popular part is known from the counts, the rest is shrunk by its known noise, and the
server divides by what it knows of the left-hand sides. Each further round costs all of them noise,
so the usual number is two.

Source: Hu, Koren & Volinsky 2008; Chien et al. 2021 (private alternating least squares).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from shared.algorithms.base import Cohort, Memory, Shapes, State
from shared.algorithms.pairs import count_rows, distinct
from shared.algorithms.spectra import shrink
from shared.algorithms.transitions import LEAST_COUNT, edge_of
from shared.data.interactions import Interactions
from shared.errors import ConfigError
from shared.models.mf import MatrixFactorization
from shared.models.squares import fit_squares, outer_cells, solve_rows
from shared.models.transitions import head_of
from shared.privacy.plan import Plan, Unit
from shared.privacy.release import LocalUpdate, Release, Rows
from shared.randomness import NoiseSource

__all__ = ["Ials", "IalsConfig"]

Array = NDArray[np.float64]
Ints = NDArray[np.int64]

TIES = 1e-6
"""Span of the biases that part equal scores by count."""

BELOW = -5.0
"""Bias of the items outside a head, whose vectors are zero."""


@dataclass(frozen=True, kw_only=True, slots=True)
class IalsConfig:
    """Settings of the server's half; those of the users' vectors are `model.squares`.

    Attributes:
        head: Items that private rounds learn; 0 lets whole-user runs take the rule of
            `methods.sized`, and other runs sweep exactly over the whole catalogue.
        counts: Share of the budget that the private counts take.
        edge: Factor of the noise edge in shrinkage; 0 leaves it to the rule of `edge_of`.
        damping: Added to an item's count where private right-hand sides are divided by it, in mean
            counts of the head.

    Raises:
        ConfigError: A number is out of range.
    """

    head: int = 0
    counts: float = 0.1
    edge: float = 0.0
    damping: float = 10.0

    def __post_init__(self) -> None:
        if self.head < 0 or self.head == 1:
            raise ConfigError(f"Expected algorithm.head={self.head} to be 0 or 2+.")
        if not 0.0 < self.counts < 1.0:
            raise ConfigError(f"Expected algorithm.counts={self.counts} in (0, 1).")
        for name in ("edge", "damping"):
            if not 0.0 <= getattr(self, name) < np.inf:
                raise ConfigError(f"Expected algorithm.{name}={getattr(self, name)} >= 0.")


@dataclass(frozen=True, kw_only=True, slots=True)
class Ials:
    """Alternating least squares, exact or private.

    Attributes:
        model: The model it learns; its users are fitted by squares.
        config: Public settings.
    """

    model: MatrixFactorization
    config: IalsConfig = field(default_factory=IalsConfig)

    @property
    def sampling_rate(self) -> float:
        """Everything enters."""
        return 1.0

    @property
    def local_steps(self) -> int:
        """One contribution a round."""
        return 1

    def shares(self, rounds: int) -> tuple[float, ...]:
        """Return the budget of the counts and of each round after; all alike without a head.

        Raises:
            ConfigError: There is no round after the counts.
        """
        if not self._head:
            return ()
        if rounds < 2:
            raise ConfigError(
                f"Expected training.rounds of 2 or more for ials with a head, found {rounds}: the "
                "first one counts; set it so."
            )
        return (self.config.counts, *[(1.0 - self.config.counts) / (rounds - 1)] * (rounds - 1))

    def purpose(self, round: int) -> str:
        """Return that a head is counted first, then trained."""
        return "counts" if self._counts(round) else "train"

    def sent(self, round: int) -> Shapes:
        """Return the model's tensors; nothing to those who count."""
        return {} if self._counts(round) else self.model.global_shapes

    def asked(self, round: int) -> Shapes:
        """Return counts, then the head's right-hand sides; without a head both sides of all."""
        items, dim = self.model.n_items, self.model.config.dim
        if self._counts(round):
            return {"counts": (items,)}
        if self._head:
            return {"items": (self._size, dim)}
        return {"items": (items, 1 + dim + dim * (dim + 1) // 2), "users": (dim, dim)}

    def start(self, seed: int) -> State:
        """Return the model's start without biases."""
        tensors = {**self.model.initial(seed), "bias": np.zeros(self.model.n_items)}
        return State(tensors=tensors, optimiser={}, round=0)

    def memory(self, keys: Ints, seed: int) -> dict[str, Array]:
        """Return zeros for the users' vectors."""
        return {"user": np.zeros((len(keys), self.model.config.dim))}

    def contribute(self, state: State, cohort: Cohort, plan: Plan) -> tuple[LocalUpdate, Memory]:
        """Return what the users' vectors say of the items, and the vectors as their memory.

        Guarantees:
            every private contribution has norm clip norm, or 0.
            repeats count once.

        Raises:
            ConfigError: Users are to be protected without a head.
        """
        histories, users = cohort.histories, cohort.histories.n_users
        if self._counts(cohort.round):
            owner, index, values = count_rows(histories)
            shape = (self.model.n_items,)
            counted = Rows(owner=owner, index=index, values=values * plan.clip_norm, shape=shape)
            return LocalUpdate(tensors={"counts": counted}, users=users), dict(cohort.memory)
        vectors = self._vectors(state, histories)
        if self._head:
            rows = self._directions(state, histories, vectors, plan)
        else:
            rows = self._plain(histories, vectors, plan)
        return LocalUpdate(tensors=rows, users=users), {"user": vectors}

    def contribute_per_interaction(
        self, state: State, cohort: Cohort, plan: Plan, noise: NoiseSource
    ) -> tuple[Release, Memory]:
        """Refuse: a vector solved from a history moves with any of its interactions.

        Raises:
            ConfigError: Always.
        """
        raise ConfigError(
            "Alternating least squares protects whole users; use unit=user, or "
            "algorithm=averaging for unit=interaction."
        )

    def absorb(self, state: State, total: Mapping[str, Array], plan: Plan) -> State:
        """Start the head from the counts, or solve for the items.

        Guarantees:
            without signal above the noise the ranking is that of the private counts.
            plain sums give the sweep of a central fit.
        """
        round_, optimiser = state.round + 1, state.optimiser
        if self._counts(round_):
            counts = np.round(total["counts"] / plan.clip_norm, 3)
            tensors, optimiser = self._started(state, counts), {"counts": counts}
        elif self._head:
            tensors = self._denoised(state, total["items"] / plan.clip_norm, plan)
        else:
            tensors = self._swept(total, plan)
        return State(tensors=tensors, optimiser=optimiser, round=round_)

    @property
    def _head(self) -> bool:
        return self.config.head > 0

    @property
    def _size(self) -> int:
        return min(self.config.head, self.model.n_items)

    def _counts(self, round: int) -> bool:
        return self._head and round == 1

    def _vectors(self, state: State, histories: Interactions) -> Array:
        """Solve the users' vectors; in training all of a history weighs alike."""
        weights = np.zeros((histories.n_users, self.model.n_items))
        weights[histories.users, histories.items] = 1.0
        return fit_squares(weights, state.tensors["items"], self.model.config.squares)

    def _plain(self, histories: Interactions, vectors: Array, plan: Plan) -> dict[str, Rows]:
        """Return the cohort's sums under its first user: nothing is clipped, so nobody has rows."""
        from scipy.sparse import csr_array

        if plan.unit is not Unit.NONE:
            raise ConfigError(
                "Expected algorithm.head of 2 or more to protect users, found 0; set it."
            )
        users, items = distinct(histories)
        shape = (histories.n_users, self.model.n_items)
        held = csr_array((np.ones(len(users)), (users, items)), shape=shape)
        ones = np.ones((len(vectors), 1))
        columns = np.concatenate([ones, vectors, outer_cells(vectors)], axis=1)
        sums = {"items": np.asarray(held.T @ columns), "users": vectors.T @ vectors}
        return {name: _under_first(values) for name, values in sums.items()}

    def _directions(
        self, state: State, histories: Interactions, vectors: Array, plan: Plan
    ) -> dict[str, Rows]:
        """Return each user's direction at each of its head items, of norm `plan.clip_norm`."""
        places = np.full(self.model.n_items, -1, dtype=np.int64)
        places[head_of(state.tensors["bias"], self._size)] = np.arange(self._size)
        users, items = distinct(histories)
        inside = places[items] >= 0
        users, index = users[inside], places[items[inside]]
        sizes = np.bincount(users, minlength=histories.n_users)
        lengths = np.linalg.norm(vectors, axis=1) * np.sqrt(sizes)
        scale = np.divide(plan.clip_norm, lengths, out=np.zeros_like(lengths), where=lengths > 0)
        values = (vectors * scale[:, None])[users]
        shape = (self._size, self.model.config.dim)
        return {"items": Rows(owner=users, index=index, values=values, shape=shape)}

    def _swept(self, total: Mapping[str, Array], plan: Plan) -> dict[str, Array]:
        """Solve every item; biases only part ties, by count."""
        counts, right, own = np.split(total["items"], [1, 1 + self.model.config.dim], axis=1)
        items = solve_rows(
            own,
            total["users"],
            right,
            counts[:, 0],
            others=plan.expected_cohort,
            config=self.model.config.squares,
        )
        return {"items": items, "bias": TIES * _place(counts[:, 0])}

    def _started(self, state: State, counts: Array) -> dict[str, Array]:
        """Return vectors of the head from the public start, longer for popular items.

        The first coordinate is common to all, so that every user has a share in popularity.
        """
        head = head_of(counts, self._size)
        bias = BELOW + _place(counts)
        bias[head] = TIES * _place(counts)[head]
        start = state.tensors["items"][head, : self.model.config.dim - 1]
        scaled = start / max(_length(start), 1e-12)
        level = _level(counts[head])
        popular = np.sqrt(level / level.mean())[:, None]
        found = np.concatenate([np.ones((len(head), 1)), scaled], axis=1) * popular
        return {"items": self._table(head, found), "bias": _sent(bias)}

    def _denoised(self, state: State, right: Array, plan: Plan) -> dict[str, Array]:
        """Return the head's vectors from noised right-hand sides: shrink, then divide."""
        head = head_of(state.tensors["bias"], self._size)
        level = _level(state.optimiser["counts"][head])
        deviation = plan.sum_deviation(state.round + 1) / plan.clip_norm
        edge = self.config.edge or edge_of(plan.expected_cohort / deviation if deviation else 0.0)
        popular = np.outer(level / level.sum(), right.sum(axis=0))
        found = popular + shrink(right - popular, edge * deviation)
        found = found / (level + self.config.damping * level.mean())[:, None]
        return {**state.tensors, "items": self._table(head, found)}

    def _table(self, head: Ints, found: Array) -> Array:
        """Return the table of all items: the head's vectors at length 1 on average, else zeros."""
        items = np.zeros((self.model.n_items, self.model.config.dim))
        items[head] = found / max(_length(found), 1e-12)
        return _sent(items)


def _level(counts: Array) -> Array:
    """Return noised counts of the head without those near or below zero."""
    return np.maximum(counts, LEAST_COUNT * max(float(counts.mean()), 1e-12))


def _length(vectors: Array) -> float:
    """Return the root mean square length of vectors."""
    return math.sqrt(float(np.square(vectors).sum()) / len(vectors))


def _place(counts: Array) -> Array:
    """Return counts moved into [0, 1]."""
    low, high = counts.min(initial=0.0), counts.max(initial=0.0)
    return np.asarray((counts - low) / max(high - low, 1e-300))


def _sent(values: Array) -> Array:
    """Return values as they travel: both ends have the same."""
    return values.astype(np.float32).astype(np.float64)


def _under_first(sums: Array) -> Rows:
    index = np.arange(len(sums), dtype=np.int64)
    return Rows(owner=np.zeros_like(index), index=index, values=sums, shape=sums.shape)
