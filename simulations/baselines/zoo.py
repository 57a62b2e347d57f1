"""The central baselines by name, and the settings each is tried with on validation."""

from typing import Any, Protocol

from shared.data.interactions import Interactions
from shared.evaluation.protocols import Scorer
from simulations.baselines.bpr import BprConfig, fit_bpr
from simulations.baselines.ease import EaseConfig, fit_ease
from simulations.baselines.ials import IalsConfig, fit_ials
from simulations.baselines.neighbours import (
    ItemKNNConfig,
    PopularityConfig,
    fit_item_knn,
    fit_popularity,
)
from simulations.baselines.sasrec import SasrecConfig, fit_sasrec

__all__ = ["BASELINES", "GRIDS", "Fit"]


class Fit(Protocol):
    """Trains on everyone's training interactions, in one place, without any protection."""

    def __call__(self, train: Interactions, *, config: Any, seed: int) -> Scorer:
        """Return histories -> float64 [rows, n_items], higher is better."""
        ...


BASELINES: dict[str, tuple[type, Fit]] = {
    "popularity": (PopularityConfig, fit_popularity),
    "item-knn": (ItemKNNConfig, fit_item_knn),
    "ease": (EaseConfig, fit_ease),
    "ials": (IalsConfig, fit_ials),
    "bpr": (BprConfig, fit_bpr),
    "sasrec": (SasrecConfig, fit_sasrec),
}
"""Name -> its config and what trains it."""

GRIDS: dict[str, tuple[Any, ...]] = {
    "item-knn": tuple(ItemKNNConfig(neighbours=k) for k in (20, 100, 400)),
    "ease": tuple(EaseConfig(ridge=ridge) for ridge in (100.0, 300.0, 1000.0)),
}
"""Name -> settings of which the best on validation is taken; others keep their one default."""
