"""Local training of matrix factorisation on the rows a cohort touches.

All users of a cohort descend at once, each on a copy of the rows it touches (`Slots`), so a packed
cohort does what its devices would do one by one. The loss of an example is the logistic loss of
its positive against its negatives, each negative times `negative_weight`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from shared.algorithms.examples import Batch, Slots
from shared.privacy.dpsgd import clip_factors
from shared.privacy.release import Rows

__all__ = ["Block", "LocalTables", "changed_rows", "gradients"]

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """How a block of parameters enters the joint clip, and how far it moves.

    A block's gradient is multiplied by `scale` before the clip, which sets its share of the
    bound, and the step is divided by it again.

    Attributes:
        scale: Weight of the block in the norm.
        rate: Step length for a gradient of 1.
        l1: Absolute penalty of one step.
        l2: Squared penalty of one step.
    """

    scale: float
    rate: float
    l1: float = 0.0
    l2: float = 0.0


@dataclass(kw_only=True, slots=True, eq=False)
class LocalTables:
    """What local training moves: the values, or how far they moved.

    Attributes:
        user: float64 [users, dim].
        items: float64 [slots, dim], each owner's copy of the rows it touches.
        bias: float64 [slots].
    """

    user: Array = field(repr=False)
    items: Array = field(repr=False)
    bias: Array = field(repr=False)

    def values(self) -> dict[str, Array]:
        """Return the blocks by name."""
        return {"user": self.user, "items": self.items, "bias": self.bias}

    def unmoved(self) -> "LocalTables":
        """Return the users' vectors with rows that have not moved yet."""
        return LocalTables(
            user=self.user.copy(), items=np.zeros_like(self.items), bias=np.zeros_like(self.bias)
        )

    def plus(self, moved: "LocalTables") -> "LocalTables":
        """Return the values after the rows moved; the users' vectors are those of `moved`."""
        return LocalTables(
            user=moved.user, items=self.items + moved.items, bias=self.bias + moved.bias
        )


def gradients(
    tables: LocalTables,
    slots: Slots,
    batch: Batch,
    *,
    negative_weight: float,
    blocks: Mapping[str, Block] | None = None,
    clip_norm: float | None = None,
) -> dict[str, Array]:
    """Return the summed gradient of each block over the examples of a batch.

    Args:
        tables: Current values.
        slots: Which user and row each slot is.
        batch: The examples.
        negative_weight: Weight of one negative in the loss of its example.
        blocks: With `clip_norm`: each block's scale in the joint norm.
        clip_norm: Bound of one example's scaled gradient over all blocks; None does not clip.

    Returns:
        "user" [users, dim], "items" [slots, dim] and "bias" [slots], unscaled.

    Guarantees:
        The scaled gradient of one example has a norm of at most `clip_norm`; an item that occurs
        twice in an example counts with the sum of its two gradients.
    """
    scores = np.einsum("sd,sd->s", tables.items, tables.user[slots.owner]) + tables.bias
    chance = 1.0 / (1.0 + np.exp(-np.clip(scores[batch.slots], -30.0, 30.0)))
    slope = negative_weight * chance
    slope[:, 0] = chance[:, 0] - 1.0
    if clip_norm is not None and blocks is not None:
        norms = _norms(tables, batch, slope, blocks)
        slope *= clip_factors(norms, clip_norm=clip_norm)[:, None]
        slope = np.where(np.isfinite(slope), slope, 0.0)
    # Slots of one owner share its vector, so sums over examples are sums of single numbers.
    total = np.bincount(batch.slots.ravel(), weights=slope.ravel(), minlength=len(slots.owner))
    user = np.zeros_like(tables.user)
    if len(slots.owner):
        first = np.flatnonzero(np.diff(slots.owner, prepend=-1))
        pulled = np.add.reduceat(total[:, None] * tables.items, first, axis=0)
        user[slots.owner[first]] = pulled
    towards_rows: Array = total[:, None] * tables.user[slots.owner]
    return {"user": user, "items": towards_rows, "bias": np.asarray(total, dtype=np.float64)}


def _norms(tables: LocalTables, batch: Batch, slope: Array, blocks: Mapping[str, Block]) -> Array:
    """Return float64 [examples]: norm of each example's scaled gradient over all blocks."""
    vectors = tables.user[batch.owner]
    towards_user = np.einsum("ek,ekd->ed", slope, tables.items[batch.slots])
    same = batch.slots[:, :, None] == batch.slots[:, None, :]
    rows = np.einsum("ea,eab,eb->e", slope, same, slope)
    of_row = blocks["items"].scale ** 2 * np.square(vectors).sum(axis=1) + blocks["bias"].scale ** 2
    of_user = blocks["user"].scale ** 2 * np.square(towards_user).sum(axis=1)
    return np.asarray(np.sqrt(rows * of_row + of_user))


def changed_rows(moved: LocalTables, slots: Slots, *, n_items: int) -> dict[str, Rows]:
    """Return how far each user moved the shared rows, as rows of the global tensors."""
    return {
        name: Rows(
            owner=slots.owner,
            index=slots.row,
            values=values,
            shape=(n_items, *values.shape[1:]),
        )
        for name, values in (("items", moved.items), ("bias", moved.bias))
    }
