"""Histories as decayed means of item vectors: the user side of models that keep no order.

    m_k(t) = sum_{r<t} 2 ** (-(t - 1 - r) / half_life_k) x_r,  divided by the sum of the weights

A mean is taken at several half-lives, over the whole history, however long. There is no vector of
a user, so a new user works at once; an empty history has mean 0.

Source: Ding & Li 2005 (time weights), Covington, Adams & Sargin 2016 (pooled histories).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from shared.data.interactions import Interactions
from shared.errors import ConfigError
from shared.models.base import Tensors
from shared.models.mf import principal_axes
from shared.models.predictor import Predictor
from shared.models.windows import Windows, half_lives, take_windows

if TYPE_CHECKING:
    import torch

    Torch = torch.Tensor

__all__ = ["Pooled", "PooledConfig", "padded_content", "pooled", "predicted"]

Array = NDArray[np.float64]

BATCH = 256
SCORES = 1 << 24
LEAST = 1e-9


@dataclass(frozen=True, kw_only=True, slots=True)
class PooledConfig:
    """Settings that all models of pooled histories share.

    Attributes:
        dim: Coordinates of an item vector and of a state.
        window: Newest events that training asks for; the means take in all events.
        memories: Decayed means.
        shortest: Half-life of the fastest of them, in events.
        longest: Half-life of the slowest.
        dropout: Share of the coordinates of a state that training leaves out.

    Raises:
        ConfigError: A number is out of range.
    """

    dim: int = 64
    window: int = 100
    memories: int = 3
    shortest: float = 1.0
    longest: float = 100.0
    dropout: float = 0.0

    def __post_init__(self) -> None:
        least = {"dim": self.dim, "window": self.window, "memories": self.memories}
        wrong = [f"model.{name}={value}" for name, value in least.items() if value < 1]
        for name in ("shortest", "longest"):
            if not 0.0 < getattr(self, name) < math.inf:
                wrong.append(f"model.{name}={getattr(self, name)}")
        if not 0.0 <= self.dropout < 1.0:
            wrong.append(f"model.dropout={self.dropout}")
        if wrong:
            raise ConfigError(f"Expected positive numbers and a dropout in [0, 1): {wrong}.")

    @property
    def half_lives(self) -> Array:
        """float64 [memories], in events."""
        return half_lives(shortest=self.shortest, longest=self.longest, count=self.memories)


class Pooled:
    """What models of pooled histories have in common; mixed into their dataclasses."""

    __slots__ = ()

    config: PooledConfig
    n_items: int

    @property
    def local_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Nothing is kept per user: the state is computed from the history."""
        return {}

    @property
    def masks(self) -> int:
        """One dropout mask, of the state."""
        return 1

    def windows(self, histories: Interactions, ends: NDArray[np.int64] | None = None) -> Windows:
        """Return the newest events of each history and decayed sums of those before them."""
        config = self.config
        return take_windows(histories, size=config.window, half_lives=config.half_lives, ends=ends)

    def prepared(self, windows: Windows, *, kind: "torch.dtype") -> dict[str, "Torch"]:
        """Return windows as tensors of a number type, for `states`."""
        import torch

        return {
            "events": torch.from_numpy(windows.events),
            "older": torch.from_numpy(windows.older),
            "before": torch.tensor(windows.weights, dtype=kind),
        }


def pooled(table: "Torch", prepared: Mapping[str, "Torch"], half_lives: Array) -> "Torch":
    """Return decayed means of the vectors of all events before each position of a window.

    Args:
        table: [n_items, dim], item vectors.
        prepared: `events` [users, width], `older` [m], `before` [users, memories, m].
        half_lives: float64 [memories], in events.

    Returns:
        [users, memories, width + 1, dim]; 0 where nothing came before.

    Guarantees:
        A mean depends on events before its position alone.
    """
    import torch

    events, before = prepared["events"], prepared["before"]
    users, width = events.shape
    keep = np.exp2(-1.0 / half_lives)
    age = np.arange(width + 1)[:, None] - 1 - np.arange(width)
    powers = np.where(age >= 0, keep[:, None, None] ** np.maximum(age, 0), 0.0)
    within = torch.tensor(powers, dtype=table.dtype)
    since = torch.tensor(keep[:, None] ** np.arange(width + 1), dtype=table.dtype)
    read = torch.nn.functional.embedding(events, table)
    new = (within.flatten(0, 1) @ read).reshape(users, len(since), width + 1, -1)
    old = before @ table[prepared["older"]]
    mass = within.sum(dim=-1) + since * before.sum(dim=-1, keepdim=True)
    return (new + since[:, :, None] * old[:, :, None]) / mass.clamp(min=LEAST).unsqueeze(-1)


def predicted(model: Predictor, tensors: Tensors, histories: Interactions) -> Array:
    """Return float64 [rows, n_items]: a model's scores by the state after the whole history."""
    import torch

    values = {name: torch.tensor(v, dtype=torch.float32) for name, v in tensors.items()}
    found = np.empty((histories.n_users, model.n_items))
    size = max(1, min(BATCH, SCORES // (model.n_items * model.breadth)))
    with torch.no_grad():
        values = dict(model.ready(values, {}))
        for start in range(0, histories.n_users, size):
            rows = np.arange(start, min(start + size, histories.n_users))
            part = model.windows(histories.select(rows))
            states = model.states(values, model.prepared(part, kind=torch.float32))
            last = states[torch.arange(len(rows)), torch.from_numpy(part.lengths)]
            found[rows] = model.scores(values, last).numpy()
    return found


def padded_content(features: Array | None, *, n_items: int, dim: int) -> Array:
    """Return public item content as float64 [n_items, dim], each row of length 1 or 0.

    Content of at most `dim` columns is kept as it is and padded; of wider content the principal
    axes are taken. Without content all is 0.
    """
    content = np.zeros((n_items, dim))
    if features is not None and features.shape[1]:
        found = features if features.shape[1] <= dim else principal_axes(features, dim)
        content[:, : found.shape[1]] = found
    norms = np.linalg.norm(content, axis=1, keepdims=True)
    return np.asarray(content / np.where(norms > 0, norms, 1.0))
