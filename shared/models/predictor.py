"""What a model offers to be learned by gradients as a teller of the next item.

`algorithms.next_item` asks at each position of a window which item comes next; a model that offers
what is named here can be asked. Most score by a dot product of a state and an item vector: `Dot`
says the rest for them.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from shared.data.interactions import Interactions
from shared.models.base import Model
from shared.models.windows import Windows

if TYPE_CHECKING:
    import torch

    Torch = torch.Tensor

__all__ = ["Dot", "Predictor", "Windowed"]


class Windowed(Protocol):
    """The settings that the examples of a model follow."""

    @property
    def dim(self) -> int:
        """Coordinates that a dropout mask covers."""
        ...

    @property
    def window(self) -> int:
        """Newest events that are read one by one, and asked for in training."""
        ...

    @property
    def dropout(self) -> float:
        """Share of the coordinates that training leaves out."""
        ...


class Predictor(Model, Protocol):
    """A model that tells the next item at each position of a window."""

    @property
    def n_items(self) -> int:
        """Size of the catalogue."""
        ...

    @property
    def frozen(self) -> frozenset[str]:
        """Global tensors that devices are sent and nobody learns."""
        ...

    @property
    def config(self) -> Windowed:
        """Public settings."""
        ...

    @property
    def breadth(self) -> int:
        """Numbers in memory for one score of one position."""
        ...

    @property
    def masks(self) -> int:
        """How many dropout masks [dim] a position takes."""
        ...

    def windows(self, histories: Interactions, ends: NDArray[np.int64] | None = None) -> Windows:
        """Return the newest events of each history and decayed sums of those before them."""
        ...

    def prepared(self, windows: Windows, *, kind: "torch.dtype") -> dict[str, "Torch"]:
        """Return windows as tensors of a number type, for `states`."""
        ...

    def common(self, rng: np.random.Generator, *, kind: "torch.dtype") -> dict[str, "Torch"]:
        """Return the draws of a training step that all users share: made without data."""
        ...

    def ready(
        self, tensors: Mapping[str, "Torch"], batch: Mapping[str, "Torch"]
    ) -> Mapping[str, "Torch"]:
        """Return the tensors with what all positions share computed once.

        Args:
            tensors: The global tensors.
            batch: Holds the draws of `common` in training, none of them in scoring.
        """
        ...

    def states(
        self,
        tensors: Mapping[str, "Torch"],
        prepared: Mapping[str, "Torch"],
        masks: "Torch | None" = None,
    ) -> "Torch":
        """Return [users, width + 1, any], the state before each event and after the last.

        Args:
            tensors: What `ready` returns.
            prepared: What `prepared` returns.
            masks: [users, positions, masks, dim], factors of the dropout.
        """
        ...

    def scores(
        self, tensors: Mapping[str, "Torch"], states: "Torch", items: "Torch | None" = None
    ) -> "Torch":
        """Return [..., items]: scores of the catalogue, or of some items, at states [..., any]."""
        ...

    def paired(self, tensors: Mapping[str, "Torch"], states: "Torch", items: "Torch") -> "Torch":
        """Return [...]: the score of one item [...] at each state [..., any]."""
        ...


class Dot:
    """score(i) = <state, items_i> + bias_i, all tensors learned, no draws in common."""

    __slots__ = ()

    @property
    def frozen(self) -> frozenset[str]:
        """Nothing: all is learned."""
        return frozenset()

    @property
    def breadth(self) -> int:
        """The score itself."""
        return 1

    def common(self, rng: np.random.Generator, *, kind: "torch.dtype") -> dict[str, "Torch"]:
        """Return nothing."""
        return {}

    def ready(
        self, tensors: Mapping[str, "Torch"], batch: Mapping[str, "Torch"]
    ) -> Mapping[str, "Torch"]:
        """Return the tensors themselves."""
        return tensors

    def scores(
        self, tensors: Mapping[str, "Torch"], states: "Torch", items: "Torch | None" = None
    ) -> "Torch":
        """Return [..., items]: scores of the catalogue, or of some items."""
        if items is None:
            return states @ tensors["items"].T + tensors["bias"]
        return states @ tensors["items"][items].T + tensors["bias"][items]

    def paired(self, tensors: Mapping[str, "Torch"], states: "Torch", items: "Torch") -> "Torch":
        """Return [...]: the score of one item at each state."""
        return (states * tensors["items"][items]).sum(dim=-1) + tensors["bias"][items]
