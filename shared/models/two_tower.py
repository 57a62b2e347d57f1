"""Two towers: a history and an item meet as vectors; an item's vector is its text plus its own.

    v_i = unit(text_i P + id_i)        b_i = <text_i, a> + own_i
    q   = unit(sum_k m_k A_k)          score(i) = <q, v_i> / temperature + b_i

m_k are decayed means of the history's item vectors. The text vectors are computed once, at the
server, from public content, and nobody learns them. In training some items lose their own part
(id_i and own_i) for a step, so that the text learns to stand alone: an item that nobody has met is
ranked by its text. Before any round the model ranks by likeness of texts.

Source: Yi et al. 2019 (two towers), Volkovs, Yu & Poutanen 2017 (dropping what cold items lack).
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
from shared.models.predictor import Dot
from shared.randomness import stream

if TYPE_CHECKING:
    import torch

    Torch = torch.Tensor

__all__ = ["TwoTowerConfig", "TwoTowerModel", "compressed", "with_new_items"]

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class TwoTowerConfig(PooledConfig):
    """Settings of the two towers; `dim` is the width of texts, items and states.

    Attributes:
        encoder: What turns texts into vectors: a key of `texts.ENCODERS`, or the folder of a
            sentence-transformers model. Only the server reads it.
        id_dropout: Share of the items that a training step ranks by their text alone.
        temperature: What cosines are divided by.
        init_scale: Standard deviation of a coordinate of an item's own part at the start.

    Raises:
        ConfigError: A number is out of range.
    """

    encoder: str = "n-grams"
    id_dropout: float = 0.25
    temperature: float = 0.1
    init_scale: float = 0.02

    def __post_init__(self) -> None:
        PooledConfig.__post_init__(self)
        wrong = []
        if not 0.0 <= self.id_dropout <= 1.0:
            wrong.append(f"model.id_dropout={self.id_dropout} in [0, 1]")
        for name in ("temperature", "init_scale"):
            if not 0.0 < getattr(self, name) < math.inf:
                wrong.append(f"model.{name}={getattr(self, name)} > 0")
        if wrong:
            raise ConfigError(f"Expected {', '.join(wrong)}.")


@dataclass(frozen=True, kw_only=True, slots=True)
class TwoTowerModel(Pooled, Dot):
    """A history's vector and an item's, compared by cosine.

    Attributes:
        n_items: Size of the catalogue.
        config: Public settings.
        features: float64 [n_items, any], vectors of the items' texts, or None. Only a starting
            server needs them: they are in the tensor `text` that devices receive.
    """

    n_items: int
    config: TwoTowerConfig = field(default_factory=TwoTowerConfig)
    features: Array | None = field(default=None, repr=False)

    @property
    def global_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shapes of the shared tensors by name."""
        dim, memories = self.config.dim, self.config.memories
        return {
            "text": (self.n_items, dim),
            "project": (dim, dim),
            "appeal": (dim,),
            "ids": (self.n_items, dim),
            "bias": (self.n_items,),
            "mix": (memories, dim, dim),
        }

    @property
    def frozen(self) -> frozenset[str]:
        """The texts' vectors stay what they are."""
        return frozenset({"text"})

    def initial(self, seed: int) -> dict[str, Array]:
        """Return the start: from the seed and public item texts alone."""
        config, dim = self.config, self.config.dim
        ids = stream(seed, "initial ids").normal(0.0, config.init_scale, (self.n_items, dim))
        text = np.zeros((self.n_items, dim))
        if self.features is not None:
            text = compressed(self.features, self.features, dim=dim)
        return {
            "text": text,
            "project": np.eye(dim),
            "appeal": np.zeros(dim),
            "ids": ids,
            "bias": np.zeros(self.n_items),
            "mix": np.tile(np.eye(dim) / config.memories, (config.memories, 1, 1)),
        }

    def score(self, tensors: Tensors, histories: Interactions) -> Array:
        """Return float64 [rows, n_items]; without a history, the biases."""
        return predicted(self, tensors, histories)

    def common(self, rng: np.random.Generator, *, kind: "torch.dtype") -> dict[str, "Torch"]:
        """Return `kept` [n_items]: 0 for the items that lose their own part in this step."""
        import torch

        return {
            "kept": torch.tensor(rng.random(self.n_items) >= self.config.id_dropout, dtype=kind)
        }

    def ready(
        self, tensors: Mapping[str, "Torch"], batch: Mapping[str, "Torch"]
    ) -> Mapping[str, "Torch"]:
        """Return the tensors with item vectors and biases."""
        text, ids, own = tensors["text"], tensors["ids"], tensors["bias"]
        if (kept := batch.get("kept")) is not None:
            ids, own = ids * kept.unsqueeze(-1), own * kept
        items = _unit(text @ tensors["project"] + ids)
        return {**tensors, "items": items, "bias": text @ tensors["appeal"] + own}

    def states(
        self,
        tensors: Mapping[str, "Torch"],
        prepared: Mapping[str, "Torch"],
        masks: "Torch | None" = None,
    ) -> "Torch":
        """Return [users, width + 1, dim], unit vectors divided by the temperature.

        Guarantees:
            A state depends on events before its position alone.
        """
        means = pooled(tensors["items"], prepared, self.config.half_lives)
        states = _unit((means @ tensors["mix"]).sum(dim=1)) / self.config.temperature
        return states if masks is None else states * masks[:, :, 0]


def with_new_items(tensors: Tensors, *, known: Array, new: Array) -> dict[str, Array]:
    """Return a trained model for a catalogue with items that came after training, at its end.

    A new item has its text and no part of its own; nothing is trained.

    Args:
        tensors: Of the trained model.
        known: float64 [n_items, any], text vectors of the catalogue it was trained on.
        new: float64 [new items, any], those of the new items, by the same encoder.
    """
    grown = dict(tensors)
    dim = tensors["text"].shape[1]
    grown["text"] = np.concatenate([tensors["text"], compressed(new, known, dim=dim)])
    for name in ("ids", "bias"):
        blank = np.zeros((len(new), *tensors[name].shape[1:]))
        grown[name] = np.concatenate([tensors[name], blank])
    return grown


def compressed(features: Array, known: Array, *, dim: int) -> Array:
    """Return float64 [rows, dim]: features along the principal axes of `known`, rows of length 1.

    A row of zeros, an item without text, stays one. The sign of an axis is fixed, so that the same
    `known` gives the same axes wherever they are computed.
    """
    centre = known.mean(axis=0)
    axes = _principal(known - centre)[:, :dim]
    largest = np.abs(axes).argmax(axis=0)
    axes = axes * np.where(axes[largest, np.arange(axes.shape[1])] < 0, -1.0, 1.0)
    found = np.zeros((len(features), dim))
    found[:, : axes.shape[1]] = (features - centre) @ axes
    found[~features.any(axis=1)] = 0.0
    norms = np.linalg.norm(found, axis=1, keepdims=True)
    return np.asarray(found / np.where(norms > 1e-9, norms, 1.0))


def _principal(centred: Array) -> Array:
    """Return the principal axes of rows as columns, the widest first; only those with any width."""
    if len(centred) < centred.shape[1]:
        _, widths, rows = np.linalg.svd(centred, full_matrices=False)
        widths, axes = widths**2, rows.T
    else:
        widths, axes = np.linalg.eigh(centred.T @ centred)
        widths, axes = widths[::-1], axes[:, ::-1]
    return np.asarray(axes[:, widths > 1e-9 * max(widths.max(initial=0.0), 1e-12)])


def _unit(values: "Torch") -> "Torch":
    """Return vectors of length 1, near 0 where they are; smooth everywhere."""
    import torch

    return values * torch.rsqrt((values * values).sum(dim=-1, keepdim=True) + 1e-6)
