"""Negative items for training, drawn with what the device knows and nothing else.

The held-out items of an evaluation can be drawn: a sampler that avoids them teaches a model the
answers (it is "the item that was never a negative"). `uniform_items` looks at no data at all, as
interaction-level privacy requires: there a negative drawn outside the user's items would make one
interaction's step depend on the others.
"""

import numpy as np
from numpy.typing import NDArray

from shared.data.interactions import Interactions

__all__ = ["uniform_items", "unmet_items"]

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


def uniform_items(chances: Floats, *, n_items: int) -> Ints:
    """Return int64 of the shape of `chances`: uniform over the whole catalogue.

    Args:
        chances: Uniform draws in [0, 1).
        n_items: Size of the catalogue.

    Guarantees:
        draws ignore data: they depend on the chances and the catalogue alone.
    """
    return np.minimum((chances * n_items).astype(np.int64), n_items - 1)


def unmet_items(chances: Floats, *, owner: Ints, training: Interactions) -> Ints:
    """Return items uniform outside each owner's *training* items.

    The r-th item that a user has not met is r plus the number of met items below it: a search in
    the sorted met items, so a draw needs no rejection however dense a user is.

    Args:
        chances: float64 [draws], uniform in [0, 1).
        owner: int64 [draws], row of `training` that each draw is for.
        training: Training interactions, one row a user.

    Guarantees:
        held out item can be drawn: only training items are avoided.
        a user who met everything draws from the whole catalogue: no history makes a device fail.
    """
    n = training.n_items
    met = np.unique(training.users * n + training.items)
    user, items = np.divmod(met, max(n, 1))
    counts = np.bincount(user, minlength=training.n_users)
    starts = np.cumsum(counts) - counts
    left = (n - counts)[owner]
    # How many unmet items lie below each met one; sorted within a user, distinct users apart.
    unmet_below = user * (n + 1) + items - (np.arange(len(met)) - starts[user])
    nth = np.clip((chances * left).astype(np.int64), 0, left - 1)
    met_below = np.searchsorted(unmet_below, owner * (n + 1) + nth, side="right") - starts[owner]
    return np.where(left > 0, nth + met_below, uniform_items(chances, n_items=n))
