"""Neural collaborative filtering: a product and a small network look at a user and an item.

    score(i) = <g, p * v_i> + w relu(W relu(A p + B v_i + c) + d) + b_i

The user side p is a pooled history (decayed means of the same item vectors, mixed), not a vector of
the user, so a new user works at once.

Source: He et al. 2017 (generalised product beside a network).
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
from shared.models.pooled import Pooled, PooledConfig, pooled, predicted
from shared.randomness import stream

if TYPE_CHECKING:
    import torch

    Torch = torch.Tensor

__all__ = ["NCFConfig", "NCFModel"]

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class NCFConfig(PooledConfig):
    """Settings of neural collaborative filtering.

    Attributes:
        hidden: Coordinates of the network's first layer; its second has half of them.
        init_scale: Standard deviation of a coordinate of an item vector at the start.

    Raises:
        ConfigError: A number is out of range.
    """

    dim: int = 32
    window: int = 50
    hidden: int = 32
    init_scale: float = 0.1

    def __post_init__(self) -> None:
        PooledConfig.__post_init__(self)
        if self.hidden < 2 or not 0.0 < self.init_scale < math.inf:
            raise ConfigError(
                f"Expected model.hidden={self.hidden} >= 2 and model.init_scale="
                f"{self.init_scale} > 0."
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class NCFModel(Pooled):
    """Item vectors, the weights of their product with the user side, and a network.

    Attributes:
        n_items: Size of the catalogue.
        config: Public settings.
    """

    n_items: int
    config: NCFConfig = field(default_factory=NCFConfig)

    @property
    def global_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shapes of the shared tensors by name."""
        dim, wide = self.config.dim, self.config.hidden
        return {
            "items": (self.n_items, dim),
            "bias": (self.n_items,),
            "mix": (self.config.memories, dim, dim),
            "product": (dim,),
            "first.user": (dim, wide),
            "first.item": (dim, wide),
            "first.bias": (wide,),
            "second": (wide, wide // 2),
            "second.bias": (wide // 2,),
            "last": (wide // 2,),
        }

    @property
    def frozen(self) -> frozenset[str]:
        """Nothing: all is learned."""
        return frozenset()

    @property
    def breadth(self) -> int:
        """The network's layers, for each score."""
        return self.config.hidden + self.config.hidden // 2

    def initial(self, seed: int) -> dict[str, Array]:
        """Return the start: from the seed alone."""
        config, rng = self.config, stream(seed, "initial network")
        made = {name: np.zeros(shape) for name, shape in self.global_shapes.items()}
        made["items"] = rng.normal(0.0, config.init_scale, made["items"].shape)
        made["mix"] += np.eye(config.dim) / config.memories
        made["product"] += 1.0
        for name in ("first.user", "first.item", "second", "last"):
            bound = math.sqrt(6.0 / sum((*made[name].shape, 1)))
            made[name] = rng.uniform(-bound, bound, made[name].shape)
        return made

    def score(self, tensors: Tensors, histories: Interactions) -> Array:
        """Return float64 [rows, n_items]."""
        return predicted(self, tensors, histories)

    def common(self, rng: np.random.Generator, *, kind: "torch.dtype") -> dict[str, "Torch"]:
        """Return nothing."""
        return {}

    def ready(
        self, tensors: Mapping[str, "Torch"], batch: Mapping[str, "Torch"]
    ) -> Mapping[str, "Torch"]:
        """Return the tensors with what the first layer makes of each item."""
        read = tensors["items"] @ tensors["first.item"] + tensors["first.bias"]
        return {**tensors, "read": read}

    def states(
        self,
        tensors: Mapping[str, "Torch"],
        prepared: Mapping[str, "Torch"],
        masks: "Torch | None" = None,
    ) -> "Torch":
        """Return [users, width + 1, dim], the user side.

        Guarantees:
            A state depends on events before its position alone.
        """
        means = pooled(tensors["items"], prepared, self.config.half_lives)
        states = (means @ tensors["mix"]).sum(dim=1)
        return states if masks is None else states * masks[:, :, 0]

    def scores(
        self, tensors: Mapping[str, "Torch"], states: "Torch", items: "Torch | None" = None
    ) -> "Torch":
        """Return [..., items]: scores of the catalogue, or of some items."""
        vectors, read, bias = tensors["items"], tensors["read"], tensors["bias"]
        if items is not None:
            vectors, read, bias = vectors[items], read[items], bias[items]
        product = (states * tensors["product"]) @ vectors.T
        asked = (states @ tensors["first.user"]).unsqueeze(-2)
        return product + self._network(tensors, asked + read) + bias

    def paired(self, tensors: Mapping[str, "Torch"], states: "Torch", items: "Torch") -> "Torch":
        """Return [...]: the score of one item at each state."""
        product = (states * tensors["product"] * tensors["items"][items]).sum(dim=-1)
        first = states @ tensors["first.user"] + tensors["read"][items]
        return product + self._network(tensors, first) + tensors["bias"][items]

    def _network(self, tensors: Mapping[str, "Torch"], first: "Torch") -> "Torch":
        """Return what the network says of first layers [..., hidden], [...]."""
        import torch

        second = torch.relu(first) @ tensors["second"] + tensors["second.bias"]
        return torch.relu(second) @ tensors["last"]
