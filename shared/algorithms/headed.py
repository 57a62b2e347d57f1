"""Methods in two rounds: private counts choose the head, then something is learned over it.

Without a head (nothing is protected) one round of plain sums is all.
"""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from shared.algorithms.base import Shapes, State
from shared.errors import ConfigError

__all__ = ["Headed"]

Array = NDArray[np.float64]


class _Shares(Protocol):
    @property
    def counts(self) -> float: ...


class _Size(Protocol):
    @property
    def head(self) -> int: ...


class _Model(Protocol):
    @property
    def n_items(self) -> int: ...

    @property
    def config(self) -> _Size: ...

    def initial(self, seed: int) -> dict[str, Array]: ...


class _Method(Protocol):
    @property
    def model(self) -> _Model: ...

    @property
    def config(self) -> _Shares: ...

    @property
    def _head(self) -> bool: ...


class Headed:
    """What such methods have in common."""

    __slots__ = ()

    @property
    def sampling_rate(self) -> float:
        """Everything enters."""
        return 1.0

    @property
    def local_steps(self) -> int:
        """One contribution a round."""
        return 1

    @property
    def _head(self: _Method) -> bool:
        return self.model.config.head > 0

    def shares(self: _Method, rounds: int) -> tuple[float, ...]:
        """Return the budget of counts and of what follows; nothing to share in a single round.

        Raises:
            ConfigError: The run has another number of rounds than the method.
        """
        needed = 2 if self._head else 1
        if rounds != needed:
            raise ConfigError(
                f"Expected training.rounds={needed} for this method "
                f"{'with' if self._head else 'without'} a head, found {rounds}; set it so."
            )
        return (self.config.counts, 1.0 - self.config.counts) if self._head else ()

    def purpose(self: _Method, round: int) -> str:
        """Return that a head is counted first, then trained."""
        return "counts" if self._head and round == 1 else "train"

    def sent(self: _Method, round: int) -> Shapes:
        """Return the counts, in the round that needs the head."""
        return {"counts": (self.model.n_items,)} if self._head and round == 2 else {}

    def start(self: _Method, seed: int) -> State:
        """Return the model's zeros."""
        return State(tensors=self.model.initial(seed), optimiser={}, round=0)

    def memory(self, keys: NDArray[np.int64], seed: int) -> dict[str, Array]:
        """Return nothing: no tensor stays on the device."""
        return {}
