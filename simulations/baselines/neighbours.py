"""Popularity, and the items that share the most users with those of a history.

Source: Deshpande & Karypis 2004 (item-based top-N); the shrinkage is that of Bell & Koren 2007.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from shared.data.interactions import Interactions
from shared.errors import ConfigError
from shared.evaluation.protocols import Scorer
from simulations.baselines.incidence import gram, incidence

__all__ = ["ItemKNNConfig", "PopularityConfig", "fit_item_knn", "fit_popularity"]


@dataclass(frozen=True, kw_only=True, slots=True)
class PopularityConfig:
    """Popularity has no settings."""

    stochastic: ClassVar[bool] = False


@dataclass(frozen=True, kw_only=True, slots=True)
class ItemKNNConfig:
    """How far a neighbourhood reaches.

    Attributes:
        neighbours: Items that each item is near to.
        shrinkage: Users added to the denominator of a similarity, which damps rare items.

    Raises:
        ConfigError: A number is out of range.
    """

    stochastic: ClassVar[bool] = False

    neighbours: int = 400
    shrinkage: float = 0.0

    def __post_init__(self) -> None:
        if self.neighbours < 1 or not 0 <= self.shrinkage < np.inf:
            raise ConfigError(
                f"Expected item-knn.neighbours={self.neighbours} >= 1 and "
                f"item-knn.shrinkage={self.shrinkage} >= 0."
            )


def fit_popularity(train: Interactions, *, config: PopularityConfig, seed: int) -> Scorer:
    """Return a scorer that gives everyone the training events of each item."""
    counts = np.bincount(train.items, minlength=train.n_items).astype(np.float64)
    return lambda histories: np.broadcast_to(counts, (histories.n_users, len(counts)))


def fit_item_knn(train: Interactions, *, config: ItemKNNConfig, seed: int) -> Scorer:
    """Return a scorer that sums the similarity of an item to those of the history.

    Args:
        train: Training interactions of everyone.
        config: Of the method.
        seed: Unused; there is nothing random.
    """
    similarity = gram(train)
    norms = np.sqrt(np.diag(similarity))
    similarity /= np.maximum(np.outer(norms, norms) + config.shrinkage, 1e-12)
    np.fill_diagonal(similarity, 0.0)
    k = config.neighbours
    if k < len(similarity):
        edge = -np.partition(-similarity, k - 1, axis=0)[k - 1]
        similarity[similarity < edge] = 0.0
    return lambda histories: incidence(histories) @ similarity
