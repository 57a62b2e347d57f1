"""The columnar table that every room reads: one event a row, grouped by user, oldest first.

Users and items are indices (0 .. n-1); the names behind them live in `vocabulary`. A table may be
the whole population, a node's share of it, or one device's history: the code is the same.
"""

from dataclasses import dataclass, field
from typing import Self

import numpy as np
from numpy.typing import NDArray

__all__ = ["Interactions"]

Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Interactions:
    """Events of `n_users` users over a catalogue of `n_items` items.

    Attributes:
        items: int64 [events], item index of each event, grouped by user, in time order.
        offsets: int64 [n_users + 1]; user u's events are `items[offsets[u]:offsets[u + 1]]`.
        times: int64 [events], seconds since 1970, or the position where a file has no times.
        weights: float32 [events], strength of the event (1 for a plain view).
        n_items: size of the catalogue.
    """

    items: Ints = field(repr=False)
    offsets: Ints = field(repr=False)
    times: Ints = field(repr=False)
    weights: NDArray[np.float32] = field(repr=False)
    n_items: int

    @property
    def n_users(self) -> int:
        """Number of users, those without events included."""
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Ints:
        """int64 [n_users], events of each user."""
        return np.diff(self.offsets)

    @property
    def users(self) -> Ints:
        """int64 [events], user index of each event."""
        return np.repeat(np.arange(self.n_users, dtype=np.int64), self.lengths)

    def __len__(self) -> int:
        """Return the number of events."""
        return len(self.items)

    def history(self, user: int) -> Ints:
        """Return one user's items, oldest first."""
        return self.items[self.offsets[user] : self.offsets[user + 1]]

    def select(self, users: NDArray[np.integer]) -> Self:
        """Return the rows of `users`, in that order, renumbered 0 .. len(users) - 1."""
        lengths = self.lengths[users]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        index = np.arange(offsets[-1]) - np.repeat(offsets[:-1] - self.offsets[users], lengths)
        return type(self)(
            items=self.items[index],
            offsets=offsets,
            times=self.times[index],
            weights=self.weights[index],
            n_items=self.n_items,
        )

    @classmethod
    def from_events(
        cls,
        *,
        users: NDArray[np.integer],
        items: NDArray[np.integer],
        n_users: int,
        n_items: int,
        times: NDArray[np.integer] | None = None,
        weights: NDArray[np.floating] | None = None,
    ) -> Self:
        """Group loose events by user; equal times keep their given order (a stable sort).

        Raises:
            ValueError: An index is outside 0 .. n-1 or the columns differ in length.
        """
        when = np.arange(len(users)) if times is None else np.asarray(times, dtype=np.int64)
        strength = np.ones(len(users)) if weights is None else weights
        if not len(users) == len(items) == len(when) == len(strength):
            raise ValueError("Expected columns of one length.")
        for name, column, bound in (("user", users, n_users), ("item", items, n_items)):
            if len(column) and (column.min() < 0 or column.max() >= bound):
                raise ValueError(f"Expected every {name} index in 0 .. {bound - 1}.")
        order = np.lexsort((when, users))
        counts = np.bincount(np.asarray(users, dtype=np.int64), minlength=n_users)
        return cls(
            items=np.asarray(items, dtype=np.int64)[order],
            offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            times=when[order],
            weights=np.asarray(strength, dtype=np.float32)[order],
            n_items=n_items,
        )

    @classmethod
    def from_histories(cls, histories: list[list[int]], *, n_items: int) -> Self:
        """Build a table from one list of item indices a user, oldest first."""
        users = np.repeat(np.arange(len(histories)), [len(h) for h in histories])
        items = np.array([i for h in histories for i in h], dtype=np.int64)
        return cls.from_events(users=users, items=items, n_users=len(histories), n_items=n_items)
