"""Linear item models: score = x W, x the items that a device knows, W from how often items meet.

Two forms, as for transitions. Without a head W spans the whole catalogue. With a head (private
runs) it spans the `head` items with the largest released counts; items outside follow below them
in the order of their counts, and a history without head items gets that order alone.

Nothing about a user is learned or kept, so a new user works at once. Source: Ning & Karypis 2011.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from shared.data.interactions import Interactions
from shared.errors import ConfigError
from shared.models.base import Tensors
from shared.models.mf import recency_weights
from shared.models.transitions import head_of, head_scores

if TYPE_CHECKING:
    from scipy.sparse import csr_array

__all__ = ["Linear", "LinearConfig", "known"]

Array = NDArray[np.float64]

BATCH = 512


@dataclass(frozen=True, kw_only=True, slots=True)
class LinearConfig:
    """Settings of every linear item model.

    Attributes:
        head: Items that a private run learns over; 0 lets whole-user runs take the rule of
            `methods.sized`, and other runs the whole catalogue.
        half_life: Events after which a known item weighs half in a score; 0 weighs all alike,
            which suits sets, a few events suit what comes next.

    Raises:
        ConfigError: A number is out of range.
    """

    head: int = 0
    half_life: float = 0.0

    def __post_init__(self) -> None:
        if self.head < 0 or self.head == 1:
            raise ConfigError(f"Expected model.head={self.head} to be 0 or 2+.")
        if not 0.0 <= self.half_life < np.inf:
            raise ConfigError(f"Expected model.half_life={self.half_life} >= 0.")


@dataclass(frozen=True, kw_only=True, slots=True)
class Linear(ABC):
    """A model whose weights are a function of the Gram matrix of the histories.

    Attributes:
        n_items: Size of the catalogue.
        config: Public settings.
        features: float64 [n_items, any], public item content, or None. Only the server needs it:
            what it comes to is in the weights that devices receive.
    """

    n_items: int
    config: LinearConfig = field(default_factory=LinearConfig)
    features: Array | None = field(default=None, repr=False)

    @property
    def size(self) -> int:
        """Items that the weights span: the head, or the whole catalogue."""
        return min(self.config.head, self.n_items) if self.config.head else self.n_items

    @property
    def global_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shapes of the shared tensors by name."""
        return {"counts": (self.n_items,), "weights": (self.size, self.size)}

    @property
    def local_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Nothing is kept per user."""
        return {}

    def initial(self, seed: int) -> dict[str, Array]:
        """Return zeros, whatever the seed."""
        return {name: np.zeros(shape) for name, shape in self.global_shapes.items()}

    @abstractmethod
    def solve(self, gram: Array) -> Array:
        """Return the weights, float64 [size, size], of a Gram matrix of the same shape.

        Args:
            gram: How often two items meet in one history, on the diagonal how often one occurs;
                with a head in units of its own, and positive semidefinite.
        """

    def score(self, tensors: Tensors, histories: Interactions) -> Array:
        """Return float64 [rows, n_items].

        Guarantees:
            a repeated item counts once, by its newest event.
            without known head items the order is that of the counts.
        """
        scores = np.empty((histories.n_users, self.n_items))
        for start in range(0, histories.n_users, BATCH):
            rows = np.arange(start, min(start + BATCH, histories.n_users))
            scores[rows] = self._scored(tensors, histories.select(rows))
        return scores

    def _scored(self, tensors: Tensors, histories: Interactions) -> Array:
        counts = tensors["counts"]
        query = known(histories, half_life=self.config.half_life)
        if self.config.head:
            head = head_of(counts, self.size)
            return head_scores(query[:, head], tensors["weights"], counts=counts, head=head)
        scores = np.asarray(query @ tensors["weights"])
        scores[histories.lengths == 0] = counts
        return scores


def known(histories: Interactions, *, half_life: float) -> "csr_array":
    """Return the known items, sparse float64 [rows, items]: the weight of an item's newest event.

    >>> table = Interactions.from_histories([[2, 0, 2], []], n_items=3)
    >>> known(table, half_life=0.0).toarray().tolist()
    [[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]]
    >>> known(table, half_life=1.0).toarray().tolist()
    [[0.5, 0.0, 1.0], [0.0, 0.0, 0.0]]
    """
    from scipy.sparse import csr_array

    dense = np.zeros((histories.n_users, histories.n_items))
    weights = recency_weights(histories.lengths, half_life=half_life)
    np.maximum.at(dense, (histories.users, histories.items), weights.astype(np.float64))
    return csr_array(dense)
