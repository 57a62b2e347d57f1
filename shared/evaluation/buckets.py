"""Who a recommender serves: metrics by how active a user is and how popular the target is.

Buckets are made from what is known when the question is asked (a user's history, an item's training
events), never from held-out items. They part the queries, so a metric's mean over all queries is
the weighted mean of its buckets.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from shared.data.queries import Queries
from shared.evaluation.metrics import activity_buckets, popularity_buckets

__all__ = ["Buckets", "bucket_means", "by_activity", "by_popularity"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Buckets:
    """A partition of queries.

    Attributes:
        labels: What each bucket holds, in words; the first is the least active or most popular.
        users: int64 [queries], who asked.
        of: int64 [queries], bucket of each query.
    """

    labels: tuple[str, ...]
    users: Ints = field(repr=False)
    of: Ints = field(repr=False)


def by_activity(queries: Queries, *, buckets: int = 4) -> Buckets:
    """Part queries by quantiles of the length of the known history.

    Args:
        queries: Who asks, knowing what.
        buckets: How many parts; equal lengths stay together, so some may be empty.
    """
    lengths = queries.histories.lengths
    of = activity_buckets(lengths, buckets=buckets)
    return Buckets(labels=_ranges(lengths, of, buckets), users=queries.users, of=of)


def by_popularity(queries: Queries, counts: Floats, *, buckets: int = 4) -> Buckets:
    """Part queries by the popularity of what they ask for, the head of the catalogue first.

    Buckets of items hold equal shares of the training events; a query with several targets goes by
    the one with the most.

    Args:
        queries: Who asks for what.
        counts: float64 [n_items], training events of each item.
        buckets: How many parts.
    """
    targets = queries.targets
    of_item = popularity_buckets(counts, buckets=buckets)
    of = np.full(len(queries), buckets - 1, dtype=np.int64)
    np.minimum.at(of, targets.users, of_item[targets.items])
    most = np.zeros(len(queries))
    np.maximum.at(most, targets.users, counts[targets.items])
    return Buckets(labels=_ranges(most, of, buckets), users=queries.users, of=of)


def bucket_means(users: Ints, values: Floats, buckets: Buckets) -> list[tuple[int, float | None]]:
    """Return, a bucket, how many queries it holds and the mean of a metric over them.

    Args:
        users: int64 [n], whose each value is, in any order; those not in `buckets` are left out.
        values: float64 [n], the metric of each.
        buckets: The partition; an empty bucket has no mean.
    """
    order = np.argsort(buckets.users, kind="stable")
    places = np.searchsorted(buckets.users[order], users)
    places = order[np.minimum(places, len(order) - 1)]
    known = buckets.users[places] == users
    of, kept = buckets.of[places[known]], values[known]
    size = len(buckets.labels)
    counts = np.bincount(of, minlength=size)
    sums = np.bincount(of, weights=kept, minlength=size)
    return [
        (n, total / n if n else None)
        for n, total in zip(counts.tolist(), sums.tolist(), strict=True)
    ]


def _ranges(values: NDArray[np.number], of: Ints, buckets: int) -> tuple[str, ...]:
    """Name each bucket by the least and the greatest value in it."""
    held: Sequence[NDArray[np.number]] = [values[of == bucket] for bucket in range(buckets)]
    return tuple(f"{v.min():.0f} to {v.max():.0f}" if len(v) else "none" for v in held)
