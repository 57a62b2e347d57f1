"""Popularity: every user is recommended what most users met. The floor any model must clear."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shared.data.interactions import Interactions
from shared.models.base import Tensors

__all__ = ["PopularityModel"]


@dataclass(frozen=True, kw_only=True, slots=True)
class PopularityModel:
    """One global tensor, `counts` [n_items]: (estimated) events of each item.

    Attributes:
        n_items: Size of the catalogue.
    """

    n_items: int

    @property
    def global_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shapes of the shared tensors by name."""
        return {"counts": (self.n_items,)}

    @property
    def local_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Nothing is kept per user."""
        return {}

    def initial(self, seed: int) -> dict[str, NDArray[np.float64]]:
        """Return counts of zero, whatever the seed."""
        return {"counts": np.zeros(self.n_items)}

    def score(self, tensors: Tensors, histories: Interactions) -> NDArray[np.float64]:
        """Return float64 [rows of `histories`, n_items]: the counts, the same in every row."""
        return np.tile(tensors["counts"], (histories.n_users, 1))
