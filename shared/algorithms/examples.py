"""Training examples: one distinct interaction each, with its negatives and its local steps.

Every draw is named by (seed, round, user, item, step), never by a position in the history: so it
does not depend on packing, and leaving one interaction out changes no other example. A server that
knows the seed learns nothing more.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from shared.algorithms.base import Cohort
from shared.algorithms.negatives import uniform_items, unmet_items
from shared.randomness import NoiseSource, keyed_uniforms

__all__ = ["Batch", "Slots", "draw_batches"]

Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]

DENSE_PAIRS = 50_000_000


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Slots:
    """The (user, item row) pairs that a cohort touches: its compact tables, laid end to end.

    Attributes:
        owner: int64 [slots], user of the cohort; sorted.
        row: int64 [slots], row of the global item table; sorted within an owner.
    """

    owner: Ints = field(repr=False)
    row: Ints = field(repr=False)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Batch:
    """The examples of one local step of all users of a cohort.

    Attributes:
        owner: int64 [examples], user of the cohort.
        slots: int64 [examples, 1 + negatives], places in `Slots`; the positive comes first.
    """

    owner: Ints = field(repr=False)
    slots: Ints = field(repr=False)


def draw_batches(
    cohort: Cohort, *, steps: int, rate: float, negatives: int, noise: NoiseSource | None
) -> tuple[Slots, list[Batch]]:
    """Draw the examples of each local step.

    Args:
        cohort: The users and their training histories.
        steps: Local steps, a public number.
        rate: Probability that one example enters one step.
        negatives: Negatives of one example.
        noise: Source of the coins in a private run: then negatives are uniform over the whole
            catalogue. None outside one: negatives are outside the user's training items.

    Returns:
        The slots that are touched, and a batch a step.
    """
    n_items = cohort.histories.n_items
    pairs = np.unique(cohort.histories.users * n_items + cohort.histories.items)
    owner, positive = np.divmod(pairs, max(n_items, 1))
    drawn: list[tuple[Ints, Ints]] = []
    for step in range(steps):
        taken = _coins(cohort, owner, positive, step=step, rate=rate, noise=noise)
        who, what = owner[taken], positive[taken]
        others = _negatives(cohort, who, what, step=step, size=negatives, private=noise is not None)
        drawn.append((who, np.concatenate([what[:, None], others], axis=1)))
    return _compact(drawn, users=cohort.histories.n_users, n_items=n_items)


def _coins(
    cohort: Cohort, owner: Ints, item: Ints, *, step: int, rate: float, noise: NoiseSource | None
) -> Flags:
    """Return bool [examples]: which enter the step, by protective coins in a private run."""
    if rate >= 1.0:
        return np.ones(len(owner), dtype=np.bool_)
    if noise is not None and noise.private:
        return noise.coins(len(owner), rate)
    chances = keyed_uniforms(
        cohort.seed, "example coins", cohort.round, step, cohort.keys[owner], item
    )
    return chances < rate


def _negatives(
    cohort: Cohort, owner: Ints, item: Ints, *, step: int, size: int, private: bool
) -> Ints:
    """Return int64 [examples, size]."""
    chances = keyed_uniforms(
        cohort.seed,
        "negatives",
        cohort.round,
        step,
        cohort.keys[owner][:, None],
        item[:, None],
        np.arange(size)[None, :],
    )
    if private:
        return uniform_items(chances, n_items=cohort.histories.n_items)
    drawn = unmet_items(chances.ravel(), owner=np.repeat(owner, size), training=cohort.histories)
    return drawn.reshape(len(owner), size)


def _compact(
    drawn: list[tuple[Ints, Ints]], *, users: int, n_items: int
) -> tuple[Slots, list[Batch]]:
    """Number the touched pairs, and express the batches in those numbers."""
    keys = [who[:, None] * n_items + rows for who, rows in drawn]
    flat = np.concatenate([k.ravel() for k in keys]) if keys else np.zeros(0, dtype=np.int64)
    if users * n_items <= DENSE_PAIRS:
        touched = np.zeros(users * n_items, dtype=np.bool_)
        touched[flat] = True
        unique = np.flatnonzero(touched)
        place = np.cumsum(touched, dtype=np.int64) - 1
        found = [place[k] for k in keys]
    else:
        unique = np.unique(flat)
        found = [np.searchsorted(unique, k) for k in keys]
    owner, row = np.divmod(unique, max(n_items, 1))
    batches = [Batch(owner=who, slots=s) for (who, _), s in zip(drawn, found, strict=True)]
    return Slots(owner=owner, row=row), batches
