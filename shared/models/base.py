"""What a model is to the rest of the house: named global tensors, and scores from a history.

A model scores from the global tensors and the asking user's own history, both at hand on the
device. What else it learns about a user (a factor, a state) is a *local tensor*: it stays on the
device and is no part of this interface's inputs, so a new user works at once.
"""

from collections.abc import Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from shared.data.interactions import Interactions

__all__ = ["Model", "Tensors"]

Tensors = Mapping[str, NDArray[np.float64]]


class Model(Protocol):
    """Scores items for histories.

    A model declares which tensors the federation shares and which never leave the device.
    """

    @property
    def global_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shapes of the shared tensors by name."""
        ...

    @property
    def local_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shapes, per user, of the tensors that stay on the device."""
        ...

    def initial(self, seed: int) -> dict[str, NDArray[np.float64]]:
        """Return the global tensors a run starts from; independent of all data."""
        ...

    def score(self, tensors: Tensors, histories: Interactions) -> NDArray[np.float64]:
        """Return float64 [rows of `histories`, n_items]; higher is better.

        Items of the history may have any finite score: the ranking excludes them.
        """
        ...
