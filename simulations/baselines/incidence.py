"""Histories as a 0/1 matrix, and how often two items meet in one history."""

import numpy as np
from numpy.typing import NDArray

from shared.data.interactions import Interactions

__all__ = ["gram", "incidence"]

Floats = NDArray[np.float64]

_BLOCK = 1024


def incidence(histories: Interactions) -> Floats:
    """Return float64 [rows, n_items]: 1 where an item is in the history, however often.

    >>> incidence(Interactions.from_histories([[2, 0, 2], []], n_items=3)).tolist()
    [[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]]
    """
    matrix = np.zeros((histories.n_users, histories.n_items))
    matrix[histories.users, histories.items] = 1.0
    return matrix


def gram(histories: Interactions) -> Floats:
    """Return float64 [n_items, n_items]: users who have both items; the diagonal counts one item.

    Users are taken in blocks, so the memory does not grow with their number.
    """
    total = np.zeros((histories.n_items, histories.n_items))
    for start in range(0, histories.n_users, _BLOCK):
        rows = np.arange(start, min(start + _BLOCK, histories.n_users))
        # Counts below 2^24 are exact in float32, and the product is twice as fast there.
        block = incidence(histories.select(rows)).astype(np.float32)
        total += block.T @ block
    return total
