"""A gated recurrent unit that reads a window of events.

Source: Cho et al. 2014 (the unit), Hidasi et al. 2016 (for recommendation).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from shared.models.sequence import SequenceConfig, SequenceModel

if TYPE_CHECKING:
    import torch

    Torch = torch.Tensor

__all__ = ["GRUConfig", "GRUCore", "gru"]

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class GRUConfig(SequenceConfig):
    """Settings of the recurrent model."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GRUCore:
    """One layer of gated recurrent units.

    Attributes:
        dim: Coordinates of inputs and hidden states.
    """

    dim: int

    @property
    def masks(self) -> int:
        """No dropout inside."""
        return 0

    def initial(self, rng: np.random.Generator) -> dict[str, Array]:
        """Return uniform weights within 1 / sqrt(dim), no biases."""
        bound, wide = 1.0 / math.sqrt(self.dim), 3 * self.dim
        return {
            "gru.input": rng.uniform(-bound, bound, (self.dim, wide)),
            "gru.hidden": rng.uniform(-bound, bound, (self.dim, wide)),
            "gru.bias": np.zeros(wide),
            "gru.candidate": np.zeros(self.dim),
        }

    def read(self, tensors: Mapping[str, "Torch"], inputs: "Torch", masks: "Torch") -> "Torch":
        """Return hidden states [users, positions, dim]."""
        import torch

        fed = inputs @ tensors["gru.input"] + tensors["gru.bias"]
        weights, candidate = tensors["gru.hidden"], tensors["gru.candidate"]
        state = torch.zeros_like(inputs[:, 0])
        states = []
        for given in fed.unbind(1):
            gates, fresh = given[:, : 2 * self.dim], given[:, 2 * self.dim :]
            kept = state @ weights
            reset, update = torch.sigmoid(gates + kept[:, : 2 * self.dim]).chunk(2, dim=-1)
            new = torch.tanh(fresh + reset * (kept[:, 2 * self.dim :] + candidate))
            state = torch.lerp(new, state, update)
            states.append(state)
        return torch.stack(states, dim=1)


def gru(config: GRUConfig, n_items: int, features: Array | None) -> SequenceModel:
    """Return the recurrent model."""
    core = GRUCore(dim=config.dim)
    return SequenceModel(n_items=n_items, config=config, core=core, features=features)
