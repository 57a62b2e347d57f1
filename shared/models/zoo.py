"""The models by name: the settings each one takes and how it is made."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared.data.content import ItemContent
from shared.data.features import content_features
from shared.data.texts import encode, item_texts
from shared.models.attention import SASRecConfig, sasrec
from shared.models.base import Model
from shared.models.bilinear import BilinearConfig, BilinearModel
from shared.models.ease import Ease, EaseModelConfig
from shared.models.gru import GRUConfig, gru
from shared.models.mf import MatrixFactorization, MFConfig
from shared.models.ncf import NCFConfig, NCFModel
from shared.models.neighbours import ItemKNN, ItemKNNModelConfig
from shared.models.popularity import PopularityModel
from shared.models.transitions import TransitionsConfig, TransitionsModel
from shared.models.two_tower import TwoTowerConfig, TwoTowerModel
from shared.models.vae import VAEConfig, VAEModel

__all__ = ["MODELS", "PopularityModelConfig", "public_features"]

Features = NDArray[np.float64] | None


@dataclass(frozen=True, kw_only=True, slots=True)
class PopularityModelConfig:
    """Popularity has no settings."""


def _ease(config: EaseModelConfig, n_items: int, features: Features) -> Model:
    return Ease(n_items=n_items, config=config, features=features)


def _item_knn(config: ItemKNNModelConfig, n_items: int, features: Features) -> Model:
    return ItemKNN(n_items=n_items, config=config, features=features)


def _bilinear(config: BilinearConfig, n_items: int, features: Features) -> Model:
    return BilinearModel(n_items=n_items, config=config, features=features)


def _mf(config: MFConfig, n_items: int, features: Features) -> Model:
    return MatrixFactorization(n_items=n_items, config=config, features=features)


def _ncf(config: NCFConfig, n_items: int, features: Features) -> Model:
    return NCFModel(n_items=n_items, config=config)


def _popularity(config: PopularityModelConfig, n_items: int, features: Features) -> Model:
    return PopularityModel(n_items=n_items)


def _transitions(config: TransitionsConfig, n_items: int, features: Features) -> Model:
    return TransitionsModel(n_items=n_items, config=config, features=features)


def _two_tower(config: TwoTowerConfig, n_items: int, features: Features) -> Model:
    return TwoTowerModel(n_items=n_items, config=config, features=features)


def _vae(config: VAEConfig, n_items: int, features: Features) -> Model:
    return VAEModel(n_items=n_items, config=config)


MODELS: dict[str, tuple[type, Callable[[Any, int, Features], Model]]] = {
    "bilinear": (BilinearConfig, _bilinear),
    "ease": (EaseModelConfig, _ease),
    "gru": (GRUConfig, gru),
    "item-knn": (ItemKNNModelConfig, _item_knn),
    "mf": (MFConfig, _mf),
    "ncf": (NCFConfig, _ncf),
    "popularity": (PopularityModelConfig, _popularity),
    "sasrec": (SASRecConfig, sasrec),
    "transitions": (TransitionsConfig, _transitions),
    "two-tower": (TwoTowerConfig, _two_tower),
    "vae": (VAEConfig, _vae),
}
"""Name -> (settings, maker of settings, catalogue size and public item features)."""


def public_features(content: ItemContent, config: object) -> NDArray[np.float64]:
    """Return what a model's start may use of public item content, float64 [items, any].

    Args:
        content: Of the catalogue, by item index.
        config: The model's settings: those that name an encoder get the texts' vectors, others
            categories and years.

    Raises:
        ConfigError: There is no such encoder.
        MissingExtraError: Its package is not installed.
    """
    if isinstance(config, TwoTowerConfig):
        return encode(item_texts(content), config.encoder)
    return content_features(content)
