"""A small self-attention encoder that reads a window of events.

Positions enter as learned weights of distances, so an event means the same wherever the window
begins. Normalisation comes before each sublayer.

Source: Kang & McAuley 2018 (self-attentive sequential recommendation), Shaw, Uszkoreit & Vaswani
2018 (relative positions), Xiong et al. 2020 (normalisation first).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from shared.errors import ConfigError
from shared.models.sequence import SequenceConfig, SequenceModel

if TYPE_CHECKING:
    import torch

    Torch = torch.Tensor

__all__ = ["AttentionCore", "SASRecConfig", "sasrec"]

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class SASRecConfig(SequenceConfig):
    """Settings of the self-attention model.

    Attributes:
        blocks: Layers of attention and position-wise network.
        heads: Attention heads; they share out the coordinates.

    Raises:
        ConfigError: A number is out of range.
    """

    dropout: float = 0.3
    blocks: int = 2
    heads: int = 2

    def __post_init__(self) -> None:
        SequenceConfig.__post_init__(self)
        if self.blocks < 1 or self.heads < 1 or self.dim % self.heads:
            raise ConfigError(
                f"Expected model.blocks={self.blocks} >= 1 and model.heads={self.heads} that "
                f"divide model.dim={self.dim}."
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class AttentionCore:
    """Blocks of causal self-attention.

    Attributes:
        dim: Coordinates of inputs and hidden states.
        window: Most events that are read.
        blocks: Layers.
        heads: Attention heads of a layer.
    """

    dim: int
    window: int
    blocks: int
    heads: int

    @property
    def masks(self) -> int:
        """Dropout after each sublayer."""
        return 2 * self.blocks

    def initial(self, rng: np.random.Generator) -> dict[str, Array]:
        """Return uniform weights within 1 / sqrt(dim), no biases, normalisations of gain 1."""
        bound, square = 1.0 / math.sqrt(self.dim), (self.dim, self.dim)
        made = {"last.gain": np.ones(self.dim)}
        for block in range(self.blocks):
            at = f"block{block}."
            made[f"{at}attention.gain"] = np.ones(self.dim)
            made[f"{at}distance"] = np.zeros((self.heads, self.window + 1))
            made[f"{at}queries"] = rng.uniform(-bound, bound, (self.dim, 3 * self.dim))
            made[f"{at}mixed"] = rng.uniform(-bound, bound, square)
            made[f"{at}network.gain"] = np.ones(self.dim)
            made[f"{at}inner"] = rng.uniform(-bound, bound, square)
            made[f"{at}inner.bias"] = np.zeros(self.dim)
            made[f"{at}outer"] = rng.uniform(-bound, bound, square)
        return made

    def read(self, tensors: Mapping[str, "Torch"], inputs: "Torch", masks: "Torch") -> "Torch":
        """Return hidden states [users, positions, dim]."""
        import torch

        hidden = inputs
        for block in range(self.blocks):
            own = _below(tensors, f"block{block}.")
            normal = _normalised(hidden, own["attention.gain"])
            hidden = hidden + self._attended(own, normal) * masks[:, :, 2 * block]
            normal = _normalised(hidden, own["network.gain"])
            inner = torch.relu(normal @ own["inner"] + own["inner.bias"])
            hidden = hidden + (inner @ own["outer"]) * masks[:, :, 2 * block + 1]
        return _normalised(hidden, tensors["last.gain"])

    def _attended(self, own: Mapping[str, "Torch"], normal: "Torch") -> "Torch":
        """Return what each position gathers from itself and those before it."""
        import torch

        users, width, _ = normal.shape
        parts = (normal @ own["queries"]).reshape(users, width, 3, self.heads, -1)
        query, key, value = parts.permute(2, 0, 3, 1, 4).unbind(0)
        distance = torch.arange(width)[:, None] - torch.arange(width)
        weights = query @ key.transpose(-1, -2) / math.sqrt(self.dim / self.heads)
        weights = weights + own["distance"][:, distance.clamp(min=0)]
        weights = weights.masked_fill(distance < 0, -math.inf).softmax(dim=-1)
        return (weights @ value).transpose(1, 2).reshape(users, width, -1) @ own["mixed"]


def _normalised(values: "Torch", gain: "Torch") -> "Torch":
    """Return values of mean 0 and variance 1 along the last axis, times a gain."""
    import torch

    return torch.nn.functional.layer_norm(values, values.shape[-1:]) * gain


def _below(tensors: Mapping[str, "Torch"], prefix: str) -> dict[str, "Torch"]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def sasrec(config: SASRecConfig, n_items: int, features: Array | None) -> SequenceModel:
    """Return the self-attention model."""
    core = AttentionCore(
        dim=config.dim, window=config.window, blocks=config.blocks, heads=config.heads
    )
    return SequenceModel(n_items=n_items, config=config, core=core, features=features)
