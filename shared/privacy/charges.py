"""What each unit was charged so far, what that comes to, and whether one more charge still fits."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from shared.errors import BudgetError
from shared.privacy.accounting import Spend, epsilon_of
from shared.privacy.bounds import number

__all__ = ["Band", "Budget", "Charges", "Spent"]

Ints = NDArray[np.int64]
Kind = tuple[float, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """The most that one unit may ever spend.

    Attributes:
        epsilon: Largest epsilon.
        delta: The failure probability it is for.
        planned: A whole spend already known to fit (`Plan.total_spend`); part of it needs no new
            computation. It only saves time: it is itself checked against `epsilon`.

    Raises:
        ConfigError: A number is not finite or out of range.
    """

    epsilon: float
    delta: float
    planned: Spend | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "epsilon", number("epsilon", self.epsilon))
        object.__setattr__(self, "delta", number("delta", self.delta))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Spent:
    """What the units of a ledger spent; a reservation counts as spent.

    Attributes:
        users: int64 [users], keys of everyone ever charged, ascending.
        steps: int64 [users], noised steps of each.
        epsilon: float64 [users], epsilon of each (never averaged: publish the largest).
        delta: The failure probability the epsilons are for.
        private: Whether every draw came from the operating system; otherwise `epsilon` is what
            the settings would give, not a protection.
    """

    users: Ints = field(repr=False)
    steps: Ints = field(repr=False)
    epsilon: NDArray[np.float64] = field(repr=False)
    delta: float
    private: bool

    @property
    def largest(self) -> float:
        """The largest epsilon of any user; 0 before anyone was charged."""
        return float(self.epsilon.max(initial=0.0))


@dataclass(frozen=True, kw_only=True, slots=True)
class Band:
    """Users who were charged the same.

    Attributes:
        spends: What each was charged.
        users: How many they are.
        epsilon: What it comes to.
    """

    spends: tuple[Spend, ...]
    users: int
    epsilon: float


class Charges:
    """Steps by kind (noise multiplier, sampling rate) and user: all that accounting needs."""

    def __init__(self) -> None:
        self._steps: dict[Kind, dict[int, int]] = {}
        self._private = True

    def add(self, users: Ints, spend: Spend, *, private: bool) -> None:
        """Charge each user; a key that occurs twice pays twice."""
        totals = self._steps.setdefault(_kind(spend), {})
        for user in users.tolist():
            totals[user] = totals.get(user, 0) + spend.steps
        self._private = self._private and private

    def take_back(self, users: Ints, spend: Spend) -> None:
        """Undo `add` of the same users and spend."""
        totals = self._steps[_kind(spend)]
        for user in users.tolist():
            totals[user] -= spend.steps

    def spent(self, *, delta: float) -> Spent:
        """Return what each user spent.

        Raises:
            ConfigError: delta is out of range.
        """
        users = np.array(sorted({u for t in self._steps.values() for u in t}), dtype=np.int64)
        kinds = tuple(self._steps)
        table = self._table(users, kinds)
        distinct, where = np.unique(table, axis=0, return_inverse=True)
        costs = [epsilon_of(_spends(kinds, row), delta=delta) for row in distinct]
        return Spent(
            users=users,
            steps=table.sum(axis=1),
            epsilon=np.array(costs, dtype=np.float64)[where.reshape(-1)],
            delta=delta,
            private=self._private,
        )

    def bands(self, *, delta: float) -> list[Band]:
        """Return the users grouped by what they were charged, the least first.

        Raises:
            ConfigError: delta is out of range.
        """
        users = sorted({u for t in self._steps.values() for u in t})
        kinds = tuple(self._steps)
        table = self._table(np.array(users, dtype=np.int64), kinds)
        rows, counts = np.unique(table, axis=0, return_counts=True)
        charged = [tuple(_spends(kinds, row)) for row in rows]
        found = [
            Band(spends=spends, users=int(count), epsilon=epsilon_of(spends, delta=delta))
            for spends, count in zip(charged, counts, strict=True)
        ]
        return sorted(found, key=lambda band: band.epsilon)

    def refuse_beyond(self, budget: Budget, *, participants: Ints, spend: Spend) -> None:
        """Check that everyone could pay; charge nobody.

        Raises:
            BudgetError: A participant would exceed the budget.
        """
        users, times = np.unique(participants, return_counts=True)
        if not len(users):
            return
        kinds = tuple(dict.fromkeys((*self._steps, _kind(spend))))
        after = self._table(users, kinds)
        after[:, kinds.index(_kind(spend))] += times * spend.steps
        for row in _largest_rows(after):
            _refuse(budget, _spends(kinds, row), asked=spend)

    def _table(self, users: Ints, kinds: tuple[Kind, ...]) -> Ints:
        """int64 [users, kinds]: steps of each kind that each user was charged."""
        table = np.zeros((len(users), len(kinds)), dtype=np.int64)
        for column, kind in enumerate(kinds):
            totals = self._steps.get(kind, {})
            table[:, column] = [totals.get(user, 0) for user in users.tolist()]
        return table


def _kind(spend: Spend) -> Kind:
    return (spend.noise_multiplier, spend.sampling_rate)


def _spends(kinds: tuple[Kind, ...], row: Ints) -> list[Spend]:
    """One row of the table as spends."""
    return [
        Spend(noise_multiplier=sigma, sampling_rate=rate, steps=int(steps))
        for (sigma, rate), steps in zip(kinds, row, strict=True)
        if steps
    ]


def _refuse(budget: Budget, spends: list[Spend], *, asked: Spend) -> None:
    if _within_plan(spends, budget):
        return
    after = epsilon_of(spends, delta=budget.delta)
    if after > budget.epsilon:
        raise BudgetError(
            f"This round would bring a device to epsilon {after:.4g} at delta {budget.delta:g}, "
            f"beyond its budget of {budget.epsilon:.4g} (asked: {asked.steps} steps at noise "
            f"{asked.noise_multiplier:.4g}); end here, or plan fewer rounds."
        )


def _within_plan(spends: list[Spend], budget: Budget) -> bool:
    """Whether the spends are part of a whole that fits, so that nothing need be computed."""
    planned = budget.planned
    if planned is None or len(spends) != 1 or spends[0].steps > planned.steps:
        return False
    same = _kind(planned) == _kind(spends[0])
    return same and epsilon_of((planned,), delta=budget.delta) <= budget.epsilon


def _largest_rows(rows: Ints) -> Ints:
    """Distinct rows that no other row exceeds in every column: the only ones worth costing."""
    distinct = np.unique(rows, axis=0)
    keep = [
        not np.any(np.all(distinct >= row, axis=1) & np.any(distinct > row, axis=1))
        for row in distinct
    ]
    return distinct[np.array(keep, dtype=np.bool_)]
