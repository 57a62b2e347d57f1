"""Mult-VAE: a history as a set, squeezed through a few noisy coordinates and told again.

    z ~ N(m, s^2),  (m, log s^2) = tanh(unit(x) E + e) F          score = tanh(z G) D + b

x are the items of the history; at scoring z is its mean. Each user's loss is that of a multinomial
over the catalogue plus the divergence of z from a standard normal. There is no vector of a user: a
new user works at once.

Source: Liang et al. 2018 (variational autoencoders for collaborative filtering).
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
from shared.randomness import stream

if TYPE_CHECKING:
    import torch

    Torch = torch.Tensor

__all__ = ["VAEConfig", "VAEModel"]

Array = NDArray[np.float64]

BATCH = 256


@dataclass(frozen=True, kw_only=True, slots=True)
class VAEConfig:
    """Settings of the autoencoder.

    Attributes:
        hidden: Coordinates of the layers on both sides.
        latent: Coordinates of z.
        dropout: Share of a history's items that training hides from the encoder.
        divergence: Weight of the divergence from a standard normal.
        half_life: Events after which an item weighs half in the encoder; 0 weighs all alike.
        init_scale: Standard deviation of a coordinate of the item tables at the start.

    Raises:
        ConfigError: A number is out of range.
    """

    hidden: int = 128
    latent: int = 64
    dropout: float = 0.5
    divergence: float = 0.2
    half_life: float = 0.0
    init_scale: float = 0.05

    def __post_init__(self) -> None:
        least = {"hidden": self.hidden, "latent": self.latent}
        wrong = [f"model.{name}={value} >= 1" for name, value in least.items() if value < 1]
        if not 0.0 <= self.dropout < 1.0:
            wrong.append(f"model.dropout={self.dropout} in [0, 1)")
        for name in ("divergence", "half_life"):
            if not 0.0 <= getattr(self, name) < math.inf:
                wrong.append(f"model.{name}={getattr(self, name)} >= 0")
        if not 0.0 < self.init_scale < math.inf:
            wrong.append(f"model.init_scale={self.init_scale} > 0")
        if wrong:
            raise ConfigError(f"Expected {', '.join(wrong)}.")


@dataclass(frozen=True, kw_only=True, slots=True)
class VAEModel:
    """An encoder of histories and a dense decoder of the catalogue.

    Attributes:
        n_items: Size of the catalogue.
        config: Public settings.
    """

    n_items: int
    config: VAEConfig = field(default_factory=VAEConfig)

    @property
    def global_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shapes of the shared tensors by name."""
        hidden, latent = self.config.hidden, self.config.latent
        return {
            "read": (self.n_items, hidden),
            "read.bias": (hidden,),
            "squeeze": (hidden, 2 * latent),
            "widen": (latent, hidden),
            "items": (self.n_items, hidden),
            "bias": (self.n_items,),
        }

    @property
    def local_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Nothing is kept per user: z is computed from the history."""
        return {}

    @property
    def frozen(self) -> frozenset[str]:
        """Nothing: all is learned."""
        return frozenset()

    def initial(self, seed: int) -> dict[str, Array]:
        """Return the start: from the seed alone."""
        rng = stream(seed, "initial autoencoder")
        scales = {
            "read": self.config.init_scale * math.sqrt(self.config.hidden),
            "squeeze": 1.0 / math.sqrt(self.config.hidden),
            "widen": 1.0 / math.sqrt(self.config.latent),
            "items": self.config.init_scale,
        }
        return {
            name: rng.normal(0.0, scales[name], shape) if name in scales else np.zeros(shape)
            for name, shape in self.global_shapes.items()
        }

    def score(self, tensors: Tensors, histories: Interactions) -> Array:
        """Return float64 [rows, n_items]."""
        import torch

        values = {name: torch.tensor(v, dtype=torch.float32) for name, v in tensors.items()}
        found = np.empty((histories.n_users, self.n_items))
        with torch.no_grad():
            for start in range(0, histories.n_users, BATCH):
                rows = np.arange(start, min(start + BATCH, histories.n_users))
                baskets = torch.tensor(self.baskets(histories.select(rows)), dtype=torch.float32)
                middle, _ = self.encoded(values, baskets)
                found[rows] = self.decoded(values, middle).numpy()
        return found

    def baskets(self, histories: Interactions) -> Array:
        """Return float64 [rows, n_items]: the weight of each item of each history, 0 of others.

        An item met twice has the weight of its last event.
        """
        found = np.zeros((histories.n_users, self.n_items))
        ends = np.repeat(histories.offsets[1:], histories.lengths)
        age = ends - 1 - np.arange(len(histories))
        half_life = self.config.half_life
        weights = np.exp2(-age / half_life) if half_life else np.ones(len(age))
        np.maximum.at(found, (histories.users, histories.items), weights)
        return found

    def encoded(self, tensors: Mapping[str, "Torch"], baskets: "Torch") -> tuple["Torch", "Torch"]:
        """Return the mean and the log variance of z, [users, latent] each.

        Args:
            tensors: The global tensors.
            baskets: [users, n_items], weights of the items that are known.
        """
        import torch

        unit = baskets * torch.rsqrt((baskets * baskets).sum(dim=-1, keepdim=True) + 1e-12)
        inner = torch.tanh(unit @ tensors["read"] + tensors["read.bias"])
        middle, spread = (inner @ tensors["squeeze"]).chunk(2, dim=-1)
        return middle, spread

    def decoded(self, tensors: Mapping[str, "Torch"], codes: "Torch") -> "Torch":
        """Return [users, n_items], the scores that codes [users, latent] stand for."""
        import torch

        return torch.tanh(codes @ tensors["widen"]) @ tensors["items"].T + tensors["bias"]
