"""What a device is asked to tell, by kind of model: the next items, or the history itself.

This is all that the descent (`gradient`) knows of a model: how to draw the padded batch of a
cohort, and the loss of that batch under given tensors.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from shared.algorithms.base import Cohort
from shared.algorithms.next_item import ExampleConfig, draw_examples, losses
from shared.algorithms.rebuilding import draw_histories, rebuilding_losses
from shared.data.interactions import Interactions
from shared.models.predictor import Predictor
from shared.models.vae import VAEModel

if TYPE_CHECKING:
    import torch

    Torch = torch.Tensor

__all__ = ["Learned", "NextItem", "Rebuilding", "Task", "task_of"]

Ints = NDArray[np.int64]
Learned = Predictor | VAEModel
"""What gradients learn."""


class Task(Protocol):
    """Examples of a cohort and their loss."""

    def cost(self, histories: Interactions) -> Ints:
        """Return int64 [users]: a catalogue of scores is in memory so many times for each."""
        ...

    def draw(
        self, cohort: Cohort, *, step: int, weighted: bool, kind: "torch.dtype"
    ) -> dict[str, "Torch"]:
        """Return the padded batch of a local step, from 0; named by user, round and step."""
        ...

    def losses(
        self,
        tensors: Mapping[str, "Torch"],
        batch: Mapping[str, "Torch"],
        candidates: "Torch | None",
        *,
        packed: bool,
    ) -> "Torch":
        """Return the loss of a batch under the global tensors, summed over its users."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class NextItem:
    """At each position of a window: which item comes next.

    Attributes:
        config: Public settings.
        model: Tells it.
    """

    config: ExampleConfig
    model: Predictor

    def cost(self, histories: Interactions) -> Ints:
        """Return int64 [users]: a catalogue of scores a position."""
        return np.minimum(histories.lengths, self.model.config.window) * self.model.breadth

    def draw(
        self, cohort: Cohort, *, step: int, weighted: bool, kind: "torch.dtype"
    ) -> dict[str, "Torch"]:
        """Return the padded windows of a local step."""
        return draw_examples(
            self.config, self.model, cohort, step=step, weighted=weighted, kind=kind
        )

    def losses(
        self,
        tensors: Mapping[str, "Torch"],
        batch: Mapping[str, "Torch"],
        candidates: "Torch | None",
        *,
        packed: bool,
    ) -> "Torch":
        """Return the weighted cross-entropy, summed over users."""
        return losses(self.config, self.model, tensors, batch, candidates, packed=packed)


@dataclass(frozen=True, kw_only=True, slots=True)
class Rebuilding:
    """Which items a history holds, told from a part of it.

    Attributes:
        config: Public settings.
        model: Tells it.
    """

    config: ExampleConfig
    model: VAEModel

    def cost(self, histories: Interactions) -> Ints:
        """Return int64 [users]: the catalogue is told once."""
        return np.minimum(histories.lengths, 1)

    def draw(
        self, cohort: Cohort, *, step: int, weighted: bool, kind: "torch.dtype"
    ) -> dict[str, "Torch"]:
        """Return what the encoder sees in a local step, and what is to be told."""
        return draw_histories(
            self.config, self.model, cohort, step=step, weighted=weighted, kind=kind
        )

    def losses(
        self,
        tensors: Mapping[str, "Torch"],
        batch: Mapping[str, "Torch"],
        candidates: "Torch | None",
        *,
        packed: bool,
    ) -> "Torch":
        """Return the weighted likelihood and divergence, summed over users."""
        return rebuilding_losses(self.model, tensors, batch)


def task_of(config: ExampleConfig, model: Learned) -> Task:
    """Return what a model is asked to tell."""
    if isinstance(model, VAEModel):
        return Rebuilding(config=config, model=model)
    return NextItem(config=config, model=model)
