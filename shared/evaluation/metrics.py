r"""Metrics of a ranking, as pure functions of where the held-out items landed.

`ranks` is int64 [queries, width]: the 0-based rank of each target among the candidates, in any
order, `-1` where a query has fewer targets than the widest one. A target that cannot be found has
a rank beyond every cut-off. Ranks within a query are distinct. With n targets and cut-off k:

    hit rate   1 if any rank < k
    recall     hits / min(k, n)          (the best possible value is 1 whatever k and n are)
    precision  hits / k
    F1         harmonic mean of that recall and that precision
    NDCG       sum over hits of 1 / log2(rank + 2), over that sum for ranks 0 .. min(k, n) - 1
    MRR        1 / (first rank + 1), 0 beyond the cut-off
    MAP        sum over hits of (precision at the hit) / min(k, n)

Sources: Järvelin & Kekäläinen 2002 (NDCG); Liang et al. 2018 (recall with min(k, n)); Zhou et al.
2010 (novelty as self-information); Ge et al. 2010 (catalogue coverage).
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "METRICS",
    "activity_buckets",
    "average_precision",
    "coverage",
    "f1",
    "hit_rate",
    "ndcg",
    "novelty",
    "popularity_buckets",
    "precision",
    "recall",
    "recall_by_bucket",
    "reciprocal_rank",
]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def hit_rate(ranks: Ints, k: int) -> Floats:
    """Return float64 [queries]: 1 where at least one target is among the first k.

    >>> hit_rate(np.array([[0, 12], [10, -1]]), 10).tolist()
    [1.0, 0.0]
    """
    return np.minimum(_counts(ranks, k), 1.0)


def recall(ranks: Ints, k: int) -> Floats:
    """Return float64 [queries]: hits divided by min(k, number of targets)."""
    return _counts(ranks, k) / _reachable(ranks, k)


def precision(ranks: Ints, k: int) -> Floats:
    """Return float64 [queries]: hits divided by k."""
    return _counts(ranks, k) / k


def f1(ranks: Ints, k: int) -> Floats:
    """Return float64 [queries]: 2 * hits / (k + min(k, n)), the harmonic mean of both."""
    return 2.0 * _counts(ranks, k) / (k + _reachable(ranks, k))


def ndcg(ranks: Ints, k: int) -> Floats:
    """Return float64 [queries]: discounted gain of binary relevance over the best possible."""
    discounts = 1.0 / np.log2(np.arange(k) + 2.0)
    found = _hits(ranks, k)
    gains = np.where(found, discounts[np.where(found, ranks, 0)], 0.0).sum(axis=1)
    ideal: Floats = np.cumsum(discounts)[_reachable(ranks, k) - 1]
    return np.asarray(gains / ideal, dtype=np.float64)


def reciprocal_rank(ranks: Ints, k: int) -> Floats:
    """Return float64 [queries]: 1 / (1 + rank of the first target), 0 beyond the cut-off."""
    inverse = np.where(_hits(ranks, k), 1.0 / (np.maximum(ranks, 0) + 1.0), 0.0)
    return np.asarray(inverse.max(axis=1, initial=0.0), dtype=np.float64)


def average_precision(ranks: Ints, k: int) -> Floats:
    """Return float64 [queries]: mean precision at the hits, over min(k, number of targets)."""
    beyond = np.iinfo(np.int64).max - 1
    ordered = np.sort(np.where(_hits(ranks, k), ranks, beyond), axis=1)
    at_hit = np.arange(1, ranks.shape[1] + 1) / (ordered + 1.0)
    total = np.where(ordered < k, at_hit, 0.0).sum(axis=1)
    return np.asarray(total / _reachable(ranks, k), dtype=np.float64)


METRICS: dict[str, Callable[[Ints, int], Floats]] = {
    "hit_rate": hit_rate,
    "recall": recall,
    "precision": precision,
    "f1": f1,
    "ndcg": ndcg,
    "mrr": reciprocal_rank,
    "map": average_precision,
}


def coverage(lists: Ints, *, n_items: int) -> float:
    """Return the share of the catalogue that somebody is recommended.

    Args:
        lists: int64 [queries, k], recommended items; -1 where a list is shorter.
        n_items: Size of the catalogue.
    """
    return len(np.unique(lists[lists >= 0])) / max(int(n_items), 1)


def novelty(lists: Ints, *, popularity: Floats) -> Floats:
    """Return float64 [queries]: mean self-information in bits of the recommended items.

    The probability of an item is its share of the training events with one event added to every
    item, so an item nobody has seen is the most novel one and not infinitely so.

    Args:
        lists: int64 [queries, k], recommended items; -1 where a list is shorter.
        popularity: float64 [n_items], training events of each item.
    """
    counts = np.maximum(popularity, 0.0) + 1.0
    bits = np.append(-np.log2(counts / counts.sum()), 0.0)  # -1 reads the appended zero
    return np.asarray(bits[lists].sum(axis=1) / np.maximum((lists >= 0).sum(axis=1), 1))


def popularity_buckets(popularity: Floats, *, buckets: int = 3) -> Ints:
    """Return int64 [n_items]: 0 for the head, the last for the tail.

    Buckets hold equal shares of the training events: with three, the head is the few items that
    begin in the first third of all events when items are sorted from the most popular.
    """
    counts = np.maximum(popularity, 0.0)
    order = np.argsort(-counts, kind="stable")
    before = np.cumsum(counts[order]) - counts[order]
    bucket = np.empty(len(counts), dtype=np.int64)
    bucket[order] = np.minimum(before * buckets // max(counts.sum(), 1.0), buckets - 1)
    return bucket


def activity_buckets(lengths: Ints, *, buckets: int = 3) -> Ints:
    """Return int64 [queries]: 0 for the shortest histories, the last for the longest.

    Buckets hold equal shares of the queries, but equal lengths stay together.
    """
    if len(lengths) == 0:
        return np.zeros(0, dtype=np.int64)
    edges = np.quantile(lengths, np.arange(1, buckets) / buckets)
    return np.searchsorted(edges, lengths, side="left").astype(np.int64)


def recall_by_bucket(ranks: Ints, bucket: Ints, k: int, *, buckets: int = 3) -> Floats:
    """Return float64 [buckets]: recall of the targets of each bucket.

    Args:
        ranks: int64 [queries, width], see the module.
        bucket: int64, broadcastable to `ranks`: bucket of each target.
        k: Cut-off.
        buckets: Number of buckets.

    Returns:
        Mean over the queries that have a target in the bucket; NaN when none has.
    """
    means = np.full(buckets, np.nan)
    for b in range(buckets):
        inside = np.where(bucket == b, ranks, -1)
        asked = (inside >= 0).any(axis=1)
        if asked.any():
            means[b] = recall(inside[asked], k).mean()
    return means


def _hits(ranks: Ints, k: int) -> NDArray[np.bool_]:
    """Return bool, shape of `ranks`: targets among the first k."""
    return (ranks >= 0) & (ranks < k)


def _counts(ranks: Ints, k: int) -> Floats:
    """Return float64 [queries]: hits among the first k."""
    return np.asarray(_hits(ranks, k).sum(axis=1), dtype=np.float64)


def _reachable(ranks: Ints, k: int) -> Ints:
    """Return int64 [queries]: most hits a list of length k can hold, at least 1."""
    return np.asarray(np.clip((ranks >= 0).sum(axis=1), 1, k), dtype=np.int64)
