"""Ordered pairs of a history: which item came before which, and how many events apart.

The statistic of a decay g is T[a, b] = sum of g^lag over the events of a and the later events of
b. It is a plain sum over users, built lag by lag in memory that does not grow with the history.
"""

import math

import numpy as np
from numpy.typing import NDArray

from shared.data.interactions import Interactions

__all__ = ["count_rows", "distinct", "head_pairs", "pair_sums", "square"]

Array = NDArray[np.float64]
Ints = NDArray[np.int64]

FAINTEST = 1e-3
"""Weights below this share of the nearest pair's are left out."""

CHUNK = 4_000_000
"""Pairs that are held at once."""


def distinct(histories: Interactions) -> tuple[Ints, Ints]:
    """Return user and item of each distinct (user, item) pair, by its latest event, in order."""
    keys = histories.users * histories.n_items + histories.items
    _, last = np.unique(keys[::-1], return_index=True)
    kept = np.sort(len(keys) - 1 - last)
    return histories.users[kept], histories.items[kept]


def count_rows(histories: Interactions) -> tuple[Ints, Ints, Array]:
    """Return user, item and value of counts in which every user has the norm 1.

    Guarantees:
        every user has norm 1, or 0 without events.
    """
    users, items = distinct(histories)
    sizes = np.bincount(users, minlength=histories.n_users)
    return users, items, 1.0 / np.sqrt(sizes[users])


def head_pairs(
    histories: Interactions, head: Ints, *, decay: float
) -> tuple[Ints, Ints, Array, NDArray[np.bool_]]:
    """Return the weighted pairs of head items of each user, with norm 1 a user.

    Args:
        histories: Histories in time order; an item counts by its latest event.
        head: int64 [size], items of the head.
        decay: Factor of a pair for each head event between its two; 1 takes all pairs alike.

    Returns:
        user int64 [m]; cell int64 [m], place of the unordered pair (i < j, places in the head) in
        the upper triangle, row by row; weight float64 [m]; whether i came first, bool [m].

    Guarantees:
        every user has norm 1, or 0 with fewer than two head items.
        one pair of one user occurs once.
    """
    places = np.full(histories.n_items, -1, dtype=np.int64)
    places[head] = np.arange(len(head))
    users, items = distinct(histories)
    inside = places[items] >= 0
    users, order = users[inside], places[items[inside]]
    found: list[tuple[Ints, Ints, Array, NDArray[np.bool_]]] = []
    for lag in range(1, _reach(decay, users) + 1):
        same = users[lag:] == users[:-lag]
        first, second = order[:-lag][same], order[lag:][same]
        low, high = np.minimum(first, second), np.maximum(first, second)
        cells = low * (2 * len(head) - low - 1) // 2 + high - low - 1
        weights = np.full(len(cells), decay ** (lag - 1))
        found.append((users[lag:][same], cells, weights, first < second))
    if not found:
        nothing = np.zeros(0, dtype=np.int64)
        return nothing, nothing, np.zeros(0), np.zeros(0, dtype=np.bool_)
    owner, cells, weights, forward = (np.concatenate(column) for column in zip(*found, strict=True))
    squares = np.bincount(owner, weights=np.square(weights), minlength=histories.n_users)
    return owner, cells, weights / np.sqrt(squares)[owner], forward


def square(cells: Array, mirror: float = 1.0) -> Array:
    """Return the square matrix of an upper triangle without diagonal, mirrored with a sign.

    >>> square(np.array([1.0, 2.0, 3.0]), -1.0).tolist()
    [[0.0, 1.0, 2.0], [-1.0, 0.0, 3.0], [-2.0, -3.0, 0.0]]
    """
    size = (1 + math.isqrt(1 + 8 * len(cells))) // 2
    matrix = np.zeros((size, size))
    matrix[np.triu_indices(size, 1)] = cells
    return matrix + mirror * matrix.T


def pair_sums(histories: Interactions, decays: tuple[float, ...]) -> Array:
    """Return float64 [items, items, decays]: the sum over users of g^lag for every ordered pair.

    Time is about events times the lags that matter for the largest decay.
    """
    users, items = distinct(histories)
    n_items = histories.n_items
    sums = np.zeros((len(decays), n_items * n_items))
    held: list[tuple[Ints, Array]] = []
    reach = _reach(max(decays), users)
    for lag in range(1, reach + 1):
        same = users[lag:] == users[:-lag]
        cells = items[:-lag][same] * n_items + items[lag:][same]
        held.append((cells, np.full(len(cells), float(lag))))
        if lag == reach or sum(len(cells) for cells, _ in held) > CHUNK:
            _add(sums, held, decays)
            held = []
    return np.moveaxis(sums, 0, -1).reshape(n_items, n_items, len(decays))


def _add(sums: Array, held: list[tuple[Ints, Array]], decays: tuple[float, ...]) -> None:
    cells, lags = (np.concatenate(column) for column in zip(*held, strict=True))
    for row, decay in enumerate(decays):
        if decay ** (float(lags[0]) - 1.0) >= FAINTEST:
            sums[row] += np.bincount(cells, weights=decay**lags, minlength=sums.shape[1])


def _reach(decay: float, users: Ints) -> int:
    """Return the largest lag that matters: by its weight, and by the longest history."""
    longest = int(np.bincount(users).max(initial=0)) if len(users) else 0
    if decay <= 0.0:
        return min(1, max(longest - 1, 0))
    if decay >= 1.0:
        return max(0, longest - 1)
    matters = 1 + int(np.log(FAINTEST) / np.log(decay))
    return max(0, min(matters, longest - 1))
