"""What is asked of a recommender: known histories, and the held-out items to be found.

Every evaluation protocol (leave-last-out, by time, strong generalisation) is the same three
columns, so models and metrics never know which protocol they serve.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from shared.data.interactions import Interactions

__all__ = ["Queries", "Split"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Queries:
    """One row a query: row r asks for `targets` of row r, knowing `histories` of row r.

    Attributes:
        users: int64 [queries], the population index of the user who asks.
        histories: `Interactions` with one row a query: everything known at query time. All of it
            is excluded from the ranking.
        targets: `Interactions` with one row a query: the held-out items (never empty).
    """

    users: NDArray[np.int64] = field(repr=False)
    histories: Interactions = field(repr=False)
    targets: Interactions = field(repr=False)

    def __len__(self) -> int:
        """Return the number of queries."""
        return len(self.users)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Split:
    """A population cut into what devices learn from and what they are asked.

    Attributes:
        protocol: Name of the protocol ("leave-last-out", "by-time", "strong").
        train: `Interactions` of the whole population; users who only answer queries are empty.
        validation: Queries that may choose settings and stop training.
        test: Queries that are answered once.
    """

    protocol: str
    train: Interactions = field(repr=False)
    validation: Queries = field(repr=False)
    test: Queries = field(repr=False)
