"""The models by name: the settings each one takes and how it is made."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared.models.attention import SASRecConfig, sasrec
from shared.models.base import Model
from shared.models.ease import Ease, EaseModelConfig
from shared.models.gru import GRUConfig, gru
from shared.models.mf import MatrixFactorization, MFConfig
from shared.models.neighbours import ItemKNN, ItemKNNModelConfig
from shared.models.popularity import PopularityModel
from shared.models.transitions import TransitionsConfig, TransitionsModel

__all__ = ["MODELS", "PopularityModelConfig"]

Features = NDArray[np.float64] | None


@dataclass(frozen=True, kw_only=True, slots=True)
class PopularityModelConfig:
    """Popularity has no settings."""


def _ease(config: EaseModelConfig, n_items: int, features: Features) -> Model:
    return Ease(n_items=n_items, config=config, features=features)


def _item_knn(config: ItemKNNModelConfig, n_items: int, features: Features) -> Model:
    return ItemKNN(n_items=n_items, config=config, features=features)


def _mf(config: MFConfig, n_items: int, features: Features) -> Model:
    return MatrixFactorization(n_items=n_items, config=config, features=features)


def _popularity(config: PopularityModelConfig, n_items: int, features: Features) -> Model:
    return PopularityModel(n_items=n_items)


def _transitions(config: TransitionsConfig, n_items: int, features: Features) -> Model:
    return TransitionsModel(n_items=n_items, config=config, features=features)


MODELS: dict[str, tuple[type, Callable[[Any, int, Features], Model]]] = {
    "ease": (EaseModelConfig, _ease),
    "gru": (GRUConfig, gru),
    "item-knn": (ItemKNNModelConfig, _item_knn),
    "mf": (MFConfig, _mf),
    "popularity": (PopularityModelConfig, _popularity),
    "sasrec": (SASRecConfig, sasrec),
    "transitions": (TransitionsConfig, _transitions),
}
"""Name -> (settings, maker of settings, catalogue size and public item features)."""
