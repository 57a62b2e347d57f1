"""A bilinear model: what people of some behaviour take next, told by public item content.

    score(i) = sum_k <m_k W_k, c_i> + b_i          m_k: decayed means of the history's content

Learned are W [memories, dim, dim] and the item biases, a few thousand numbers: what a few thousand
private users can feed. The content is public; devices receive it as a tensor that nobody learns.

Source: Chu & Park 2009 (bilinear models of behaviour and content).
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
from shared.models.pooled import Pooled, PooledConfig, padded_content, pooled, predicted
from shared.models.predictor import Dot

if TYPE_CHECKING:
    import torch

    Torch = torch.Tensor

__all__ = ["BilinearConfig", "BilinearModel"]

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class BilinearConfig(PooledConfig):
    """Settings of the bilinear model; `dim` is the width of the content.

    Attributes:
        scale: Length of an item's content. Plain descent moves the scores of a W by its fourth
            power, those of a bias whatever it is: a private run takes a small one.
        affinity: What the score of the content that a history consists of starts with, by a
            multiple of the identity in each W: like items rank high before any round.

    Raises:
        ConfigError: A number is out of range.
    """

    dim: int = 32
    scale: float = 1.0
    affinity: float = 1.0

    def __post_init__(self) -> None:
        PooledConfig.__post_init__(self)
        if not (0.0 <= self.affinity < math.inf and 0.0 < self.scale < math.inf):
            raise ConfigError(
                f"Expected model.affinity={self.affinity} >= 0 and model.scale={self.scale} > 0."
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class BilinearModel(Pooled, Dot):
    """Weights between the content of a history and the content of an item, and item biases.

    Attributes:
        n_items: Size of the catalogue.
        config: Public settings.
        features: float64 [n_items, any], public item content, or None. Only a starting server
            needs it: it is in the tensor `content` that devices receive.
    """

    n_items: int
    config: BilinearConfig = field(default_factory=BilinearConfig)
    features: Array | None = field(default=None, repr=False)

    @property
    def global_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shapes of the shared tensors by name."""
        dim, memories = self.config.dim, self.config.memories
        shapes = {"content": (self.n_items, dim), "weights": (memories, dim, dim)}
        return {**shapes, "bias": (self.n_items,)}

    @property
    def frozen(self) -> frozenset[str]:
        """The content is public and stays what it is."""
        return frozenset({"content"})

    def initial(self, seed: int) -> dict[str, Array]:
        """Return the start: of public item content alone, whatever the seed."""
        config = self.config
        start = config.affinity / (config.memories * config.scale**2) * np.eye(config.dim)
        content = padded_content(self.features, n_items=self.n_items, dim=config.dim)
        return {
            "content": content * config.scale,
            "weights": np.tile(start, (config.memories, 1, 1)),
            "bias": np.zeros(self.n_items),
        }

    def score(self, tensors: Tensors, histories: Interactions) -> Array:
        """Return float64 [rows, n_items]; without a history, the biases."""
        return predicted(self, tensors, histories)

    def ready(
        self, tensors: Mapping[str, "Torch"], batch: Mapping[str, "Torch"]
    ) -> Mapping[str, "Torch"]:
        """Return the tensors with the content as the item vectors."""
        return {**tensors, "items": tensors["content"]}

    def states(
        self,
        tensors: Mapping[str, "Torch"],
        prepared: Mapping[str, "Torch"],
        masks: "Torch | None" = None,
    ) -> "Torch":
        """Return [users, width + 1, dim], the content that each position asks for.

        Guarantees:
            A state depends on events before its position alone.
        """
        means = pooled(tensors["content"], prepared, self.config.half_lives)
        states = (means @ tensors["weights"]).sum(dim=1)
        return states if masks is None else states * masks[:, :, 0]
