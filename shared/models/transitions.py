"""Transitions: what follows what, how soon; a user is the decayed history that the device holds.

score = q W, where q sums the known items, each weighted by decay^age. Nothing about a user is
learned or kept, so a new user works at once and any length of history is used.

Two forms. With `head = 0` (no protection) the whole catalogue is scored and W stacks one block for
each of three decays: the last few items, the last dozen, the long run. With a head (private runs)
W covers the `head` items with the largest released counts and one decay; items outside the head
follow below it in the order of their counts, and a history without head items gets that order
alone. Both ends take the head from the same float32 counts.

What noise hides, public content tells in part: with a head, how alike an item is to the long
history is added to its score, both in standard deviations over the head of the same query.

Source: facts of this project on decayed-history ridge; Steck 2019 (closed-form item models).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from shared.data.interactions import Interactions
from shared.errors import ConfigError
from shared.models.base import Tensors

if TYPE_CHECKING:
    from scipy.sparse import csr_array

__all__ = ["TransitionsConfig", "TransitionsModel", "decayed", "head_of", "head_scores"]

Array = NDArray[np.float64]
Ints = NDArray[np.int64]

BATCH = 512


@dataclass(frozen=True, kw_only=True, slots=True)
class TransitionsConfig:
    """Settings of decayed-history scores.

    Attributes:
        head: Items that private transitions are learned over; 0 lets whole-user runs take the
            rule of `methods.sized`, and other runs the whole catalogue.
        decay: Weight of an item relative to the one after it, with a head.
        short: The same without a head: the block of the last few items; 0 is the last item alone.
        middle: The block of the last dozen.
        long: The block of the long run.
        content: Weight of public item content beside the transitions, with a head; 0 leaves it
            out.
        content_decay: Decay of the history that items are compared with by content.
        content_rank: Most dimensions of content that devices receive.

    Raises:
        ConfigError: A number is out of range.
    """

    head: int = 0
    decay: float = 0.7
    short: float = 0.3
    middle: float = 0.8
    long: float = 0.97
    content: float = 0.4
    content_decay: float = 0.95
    content_rank: int = 32

    def __post_init__(self) -> None:
        wrong = (
            [] if self.head == 0 or self.head >= 2 else [f"model.head={self.head} to be 0 or 2+"]
        )
        for name in ("decay", "short", "middle", "long", "content_decay"):
            value = getattr(self, name)
            if not 0.0 <= value < 1.0:
                wrong.append(f"model.{name}={value} in [0, 1)")
        if not 0.0 <= self.content < math.inf:
            wrong.append(f"model.content={self.content} of 0 or more")
        if self.content_rank < 1:
            wrong.append(f"model.content_rank={self.content_rank} of 1 or more")
        if len({self.short, self.middle, self.long}) < 3:
            wrong.append("model.short, model.middle and model.long to differ")
        if wrong:
            raise ConfigError(f"Expected {', '.join(wrong)}.")

    @property
    def blocks(self) -> tuple[float, ...]:
        """The decays of the stacked blocks."""
        return (self.decay,) if self.head else (self.short, self.middle, self.long)


@dataclass(frozen=True, kw_only=True, slots=True)
class TransitionsModel:
    """Weights from known to next items, applied to a decayed history.

    Attributes:
        n_items: Size of the catalogue.
        config: Public settings.
        features: float64 [n_items, any], public item content, or None. Only the server needs it:
            what it comes to is in the weights that devices receive.
    """

    n_items: int
    config: TransitionsConfig = field(default_factory=TransitionsConfig)
    features: Array | None = field(default=None, repr=False)

    @property
    def size(self) -> int:
        """Items that the weights lead to: the head, or the whole catalogue."""
        return min(self.config.head, self.n_items) if self.config.head else self.n_items

    @property
    def global_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shapes of the shared tensors by name."""
        blocks = len(self.config.blocks)
        shapes = {"counts": (self.n_items,), "weights": (blocks * self.size, self.size)}
        if self.config.head and self.config.content:
            shapes["content"] = (self.size, min(self.config.content_rank, self.size))
        return shapes

    @property
    def local_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Nothing is kept per user."""
        return {}

    def initial(self, seed: int) -> dict[str, Array]:
        """Return zeros, whatever the seed."""
        return {name: np.zeros(shape) for name, shape in self.global_shapes.items()}

    def score(self, tensors: Tensors, histories: Interactions) -> Array:
        """Return float64 [rows, n_items].

        Guarantees:
            items outside the head follow below it by count, never tied by a large offset.
            without head items in the history, or before weights are learned, the order is that of
        the counts.
        """
        scores = np.empty((histories.n_users, self.n_items))
        for start in range(0, histories.n_users, BATCH):
            rows = np.arange(start, min(start + BATCH, histories.n_users))
            part = histories.select(rows)
            scores[rows] = (
                self._headed(tensors, part)
                if self.config.head
                else _open(tensors, part, self.config.blocks)
            )
        return scores

    def _headed(self, tensors: Tensors, histories: Interactions) -> Array:
        """Score the head by its weights and everything else below it, by counts."""
        head = head_of(tensors["counts"], self.size)
        query = decayed(histories, self.config.decay)[:, head]
        beside = None
        if self.config.content and tensors["content"].any():
            long = decayed(histories, self.config.content_decay)[:, head]
            alike = np.asarray((long @ tensors["content"]) @ tensors["content"].T)
            beside = self.config.content * _standard(alike)
        return head_scores(
            query, tensors["weights"], counts=tensors["counts"], head=head, beside=beside
        )


def _open(tensors: Tensors, histories: Interactions, decays: tuple[float, ...]) -> Array:
    """Score the whole catalogue: a block of weights a decay; counts, where nothing is known."""
    blocks = np.split(tensors["weights"], len(decays))
    scores = np.zeros((histories.n_users, histories.n_items))
    for decay, weights in zip(decays, blocks, strict=True):
        scores += decayed(histories, decay) @ weights
    scores[histories.lengths == 0] = tensors["counts"]
    return scores


def _standard(scores: Array) -> Array:
    """Return each row without its mean, in its standard deviations; a constant row is 0."""
    apart = scores - scores.mean(axis=1, keepdims=True)
    spread = scores.std(axis=1, keepdims=True)
    return np.asarray(apart / np.where(spread > 0.0, spread, 1.0))


def head_scores(
    query: "csr_array", weights: Array, *, counts: Array, head: Ints, beside: Array | None = None
) -> Array:
    """Return float64 [rows, items]: the head by weights, the rest below it by counts.

    Args:
        query: float64 [rows, head], what each row knows of the head.
        weights: float64 [head, head].
        counts: float64 [items]; a row that knows nothing of the head has these for scores, and
            every row has while there are no weights.
        head: int64 [head], items of the head.
        beside: float64 [rows, head], what else speaks for an item, in standard deviations of a
            row's scores.
    """
    inside = np.asarray(query @ weights)
    if beside is not None:
        inside = _standard(inside) + beside
    scores = _below(counts, inside.min(axis=1))
    scores[:, head] = inside
    unknown = np.asarray(query.sum(axis=1)).ravel() == 0.0
    unknown |= not weights.any()
    scores[unknown] = counts
    return scores


def _below(counts: Array, floor: Array) -> Array:
    """Return float64 [rows, items]: in the order of the counts, all of them below `floor`.

    The span is that of the floor's own size, so that no digits of the counts are lost.
    """
    low, high = counts.min(initial=0.0), counts.max(initial=0.0)
    place = (counts - low) / max(high - low, 1e-300) - 2.0
    span = np.maximum(np.abs(floor), 1e-12)
    return np.asarray(floor[:, None] + span[:, None] * place[None, :])


def decayed(histories: Interactions, decay: float) -> "csr_array":
    """Return the decayed histories, sparse float64 [rows, items]: decay^age at each event's item.

    An item met again has the sum of its events. Weights below 1e-6 are left out.
    """
    from scipy.sparse import csr_array

    ends = np.repeat(histories.offsets[1:], histories.lengths)
    age = ends - 1 - np.arange(len(histories))
    weights = np.power(float(decay), age)
    kept = weights > 1e-6
    places = (histories.users[kept], histories.items[kept])
    shape = (histories.n_users, histories.n_items)
    return csr_array((weights[kept], places), shape=shape)


def head_of(counts: Array, size: int) -> Ints:
    """Return int64 [size]: the items with the largest counts, largest first.

    The counts are taken as float32, the form in which they travel; equal ones go by item index.

    >>> head_of(np.array([1.0, 3.0, 2.0, 3.0]), 3).tolist()
    [1, 3, 2]
    """
    return np.argsort(-counts.astype(np.float32), kind="stable")[:size].astype(np.int64)
