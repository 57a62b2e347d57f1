"""Bounded views of histories of any length: the newest events, and decayed sums of the older ones.

A sequence model reads at most `size` events one by one. What lies before them is not lost: it is
summed up, each event halved in weight after a fixed number of later events, at several such
half-lives. So the memory of a device is bounded, and no event of a long life is without effect.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from shared.data.interactions import Interactions

__all__ = ["Windows", "half_lives", "take_windows"]

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Windows:
    """One window a user, padded at its end, and what lies before it.

    Attributes:
        events: int64 [users, width], items, oldest first; 0 behind a window's length.
        lengths: int64 [users], events of each window.
        older: int64 [m], items that occur before some window; ascending.
        weights: float64 [users, decays, m], decayed sum of each of them as of the window's start:
            an event with r later ones before the window weighs 2 ** (-r / half-life).
    """

    events: Ints = field(repr=False)
    lengths: Ints = field(repr=False)
    older: Ints = field(repr=False)
    weights: Floats = field(repr=False)


def half_lives(*, shortest: float, longest: float, count: int) -> Floats:
    """Return float64 [count] half-lives in events, in geometric steps.

    >>> half_lives(shortest=2.0, longest=32.0, count=3).round(6).tolist()
    [2.0, 8.0, 32.0]
    """
    return np.geomspace(shortest, longest, count) if count else np.zeros(0)


def take_windows(
    histories: Interactions, *, size: int, half_lives: Floats, ends: Ints | None = None
) -> Windows:
    """Cut one window a user.

    Args:
        histories: One row a user.
        size: Most events of a window.
        half_lives: float64 [decays], in events.
        ends: int64 [users], events of each history that are known; all of them if absent.

    Guarantees:
        An event at or after a user's end has no effect.
    """
    known = histories.lengths if ends is None else np.asarray(ends, dtype=np.int64)
    starts = np.maximum(known - size, 0)
    lengths = known - starts
    width = int(lengths.max(initial=0))
    place = histories.offsets[:-1, None] + starts[:, None] + np.arange(width)
    inside = np.arange(width) < lengths[:, None]
    events = np.zeros((histories.n_users, width), dtype=np.int64)
    events[inside] = histories.items[place[inside]]
    older, weights = _older(histories, starts, half_lives)
    return Windows(events=events, lengths=lengths, older=older, weights=weights)


def _older(histories: Interactions, starts: Ints, half_lives: Floats) -> tuple[Ints, Floats]:
    """Return the items before the windows and their decayed sums."""
    owner = np.repeat(np.arange(histories.n_users), starts)
    first = np.repeat(np.cumsum(starts) - starts, starts)
    position = np.arange(len(owner)) - first
    items = histories.items[histories.offsets[owner] + position]
    older, column = np.unique(items, return_inverse=True)
    age = starts[owner] - 1 - position
    shape = (histories.n_users, len(older))
    weights = np.zeros((histories.n_users, len(half_lives), len(older)))
    for slot, half_life in enumerate(half_lives):
        decayed = np.exp2(-age / half_life)
        flat = np.bincount(
            owner * len(older) + column, weights=decayed, minlength=shape[0] * shape[1]
        )
        weights[:, slot] = flat.reshape(shape)
    return older, weights
