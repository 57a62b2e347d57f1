"""Where the held-out items land in a ranking, and the first k of it.

Ties are ranked pessimistically: every candidate with the target's score comes before it, so a
constant scorer finds nothing. Tied targets of one query follow each other behind the other
candidates: a scorer that puts all targets first is not punished for not ordering them.

A score of NaN or minus infinity means "never recommended": as a target it is a miss, as another
candidate it comes last.

Source: Krichene & Rendle 2020 (why sampled ranking comes second to full ranking).
"""

import numpy as np
from numpy.typing import NDArray

from shared.data.interactions import Interactions
from shared.data.queries import Queries
from shared.randomness import stream

__all__ = ["MISS", "rank_full", "rank_sampled", "sample_candidates", "target_matrix", "top_k"]

MISS = 1 << 40
"""Rank of a target that is never recommended: beyond every cut-off."""

_BLOCK = 512

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def target_matrix(targets: Interactions) -> Ints:
    """Return int64 [queries, width]: the distinct targets of each query, -1 where it has fewer."""
    pairs = np.unique(targets.users * targets.n_items + targets.items)
    rows, items = np.divmod(pairs, max(targets.n_items, 1))
    counts = np.bincount(rows, minlength=targets.n_users)
    columns = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    matrix = np.full((targets.n_users, int(counts.max(initial=0))), -1, dtype=np.int64)
    matrix[rows, columns] = items
    return matrix


def rank_full(scores: Floats, histories: Interactions, targets: Ints) -> Ints:
    """Rank targets among all items that are not in the query's history.

    Args:
        scores: float64 [rows, n_items], higher is better.
        histories: One row a query; its items are no candidates (a target in it is a miss).
        targets: int64 [rows, width], -1 where a query has fewer.

    Returns:
        int64, shape of `targets`: `#(score > target) + #(score == target) - 1` over the
        candidates, the query's other targets included; -1 where `targets` is.

    Guarantees:
        constant scorer hits nothing: ties count against the target.
        nan target is a miss.
    """
    candidates = _candidates(scores, histories)
    own = np.take_along_axis(candidates, np.maximum(targets, 0), axis=1)
    return _ranks(candidates, own, targets >= 0)


def rank_sampled(scores: Floats, negatives: Ints, targets: Ints) -> Ints:
    """Rank targets among the given negatives and the query's other targets.

    Args:
        scores: float64 [rows, n_items], higher is better.
        negatives: int64 [rows, n], -1 where a query has fewer (see `sample_candidates`).
        targets: int64 [rows, width], -1 where a query has fewer.

    Returns:
        int64, shape of `targets`; -1 where `targets` is.
    """
    chosen = np.concatenate([negatives, targets], axis=1)
    candidates = np.take_along_axis(np.asarray(scores), np.maximum(chosen, 0), axis=1)
    candidates = np.where((chosen < 0) | np.isnan(candidates), -np.inf, candidates)
    return _ranks(candidates, candidates[:, negatives.shape[1] :], targets >= 0)


def sample_candidates(queries: Queries, *, n: int = 99, seed: int, draw: int = 0) -> Ints:
    """Draw n uniform distinct items that each query's user has not met in history or targets.

    Returns:
        int64 [queries, n]; -1 at the end of a row whose user has fewer than n such items.

    Guarantees:
        one draw per seed: the same row for the same user, seed, draw and query, however many other
        users are asked with it.
    """
    n_items = queries.histories.n_items
    matrix = np.full((len(queries), n), -1, dtype=np.int64)
    for row, user in enumerate(queries.users.tolist()):
        unseen = np.ones(n_items, dtype=np.bool_)
        unseen[queries.histories.history(row)] = False
        unseen[queries.targets.history(row)] = False
        pool = np.flatnonzero(unseen)
        size = min(n, len(pool))
        rng = stream(seed, "candidates", draw, user)
        matrix[row, :size] = rng.choice(pool, size=size, replace=False)
    return matrix


def top_k(scores: Floats, histories: Interactions, k: int) -> Ints:
    """Return int64 [rows, k]: the best items outside the history, best first.

    Equal scores go to the smaller item index, so the list depends on nothing but its arguments.
    A row with fewer than k candidates that have a score ends in -1.
    """
    candidates = _candidates(scores, histories)
    width = min(k, candidates.shape[1])
    lists = np.full((len(candidates), k), -1, dtype=np.int64)
    if width == 0 or len(candidates) == 0:
        return lists
    edge = -np.partition(-candidates, width - 1, axis=1)[:, width - 1 : width]
    above, level = candidates > edge, candidates == edge
    room = width - above.sum(axis=1, keepdims=True)
    chosen = above | (level & (np.cumsum(level, axis=1) <= room))
    items = np.nonzero(chosen)[1].reshape(len(candidates), width)
    values = np.take_along_axis(candidates, items, axis=1)
    order = np.argsort(-values, axis=1, kind="stable")
    items = np.where(np.isneginf(values), -1, items)
    lists[:, :width] = np.take_along_axis(items, order, axis=1)
    return lists


def _candidates(scores: Floats, histories: Interactions) -> Floats:
    """Return a copy of the scores in which known items and NaN are minus infinity."""
    candidates = np.array(scores, dtype=np.float64)
    candidates[np.isnan(candidates)] = -np.inf
    candidates[histories.users, histories.items] = -np.inf
    return candidates


def _ranks(candidates: Floats, own: Floats, real: NDArray[np.bool_]) -> Ints:
    """Rank `own` [rows, width], which is among `candidates` [rows, m], where `real`."""
    rows, columns = np.nonzero(real)
    values = own[rows, columns]
    raw = np.empty(len(rows), dtype=np.int64)
    for start in range(0, len(rows), _BLOCK):
        part = slice(start, start + _BLOCK)
        raw[part] = np.count_nonzero(candidates[rows[part]] >= values[part, None], axis=1) - 1
    raw = raw - _tied_later(rows, raw)
    ranks = np.full(real.shape, -1, dtype=np.int64)
    ranks[rows, columns] = np.where(np.isneginf(values), MISS, raw)
    return ranks


def _tied_later(rows: Ints, raw: Ints) -> Ints:
    """Count, for each target, the later targets of its row with the same raw rank (so score)."""
    order = np.lexsort((raw, rows))
    pairs = np.stack([rows[order], raw[order]])
    first = np.flatnonzero(np.any(np.diff(pairs, axis=1, prepend=-1) != 0, axis=0))
    sizes = np.diff(np.append(first, len(order)))
    later = np.empty(len(order), dtype=np.int64)
    later[order] = np.repeat(first + sizes - 1, sizes) - np.arange(len(order))
    return later
