"""Item-kNN: an item scores by its cosine similarity to the known items that are near to it.

Source: Deshpande & Karypis 2004 (item-based top-N); the shrinkage is that of Bell & Koren 2007.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from shared.errors import ConfigError
from shared.models.linear import Linear, LinearConfig

__all__ = ["ItemKNN", "ItemKNNModelConfig"]

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class ItemKNNModelConfig(LinearConfig):
    """How far a neighbourhood reaches.

    Attributes:
        neighbours: Items that each item is near to, without a head; with one all of it is.
        shrinkage: Added to the denominator of a similarity, which damps rare items: in users, with
            a head in mean entries of the diagonal.

    Raises:
        ConfigError: A number is out of range.
    """

    neighbours: int = 400
    shrinkage: float = 0.0

    def __post_init__(self) -> None:
        LinearConfig.__post_init__(self)
        if self.neighbours < 1:
            raise ConfigError(f"Expected model.neighbours={self.neighbours} >= 1.")
        if not 0.0 <= self.shrinkage < np.inf:
            raise ConfigError(f"Expected model.shrinkage={self.shrinkage} >= 0.")


@dataclass(frozen=True, kw_only=True, slots=True)
class ItemKNN(Linear):
    """Cosine neighbours over the whole catalogue or a head."""

    config: ItemKNNModelConfig = field(default_factory=ItemKNNModelConfig)

    def solve(self, gram: Array) -> Array:
        """Return the similarities of a Gram matrix, float64 [size, size], zero on the diagonal."""
        norms = np.sqrt(np.diag(gram))
        unit = float(np.diag(gram).mean()) if self.config.head else 1.0
        damping = self.config.shrinkage * unit
        weights = gram / np.maximum(np.outer(norms, norms) + damping, 1e-12)
        np.fill_diagonal(weights, 0.0)
        reach = self.config.neighbours
        if not self.config.head and reach < len(weights):
            edge = -np.partition(-weights, reach - 1, axis=0)[reach - 1]
            weights[weights < edge] = 0.0
        return np.asarray(weights)
