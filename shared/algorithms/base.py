"""One learning method, both halves side by side: what devices send, what the server does with it.

`contribute` is the device half. Its cohort is any number of users: a device is a cohort of one, a
simulation node a cohort of thousands, the code is the same. `absorb` is the server half.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from shared.data.interactions import Interactions
from shared.models.base import Model
from shared.privacy.plan import Plan
from shared.privacy.release import LocalUpdate, Release
from shared.randomness import NoiseSource

__all__ = ["Algorithm", "Alike", "Cohort", "Memory", "Shapes", "State", "Summing"]

Array = NDArray[np.float64]
Memory = Mapping[str, Array]
Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Cohort:
    """The users who take part in a round, as one device (or one simulation node) holds them.

    Attributes:
        histories: Training interactions, one row a user.
        keys: int64 [users], stable name of each user for reproducible streams: the result of a
            round does not depend on how users are packed into cohorts.
        memory: Local tensors, first axis users. They never leave the device.
        round: Index of the round, from 1.
        seed: Experiment seed, for reproducible draws only.
    """

    histories: Interactions = field(repr=False)
    keys: NDArray[np.int64] = field(repr=False)
    memory: Memory = field(repr=False)
    round: int
    seed: int


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class State:
    """Everything the server needs to go on with the next round.

    Attributes:
        tensors: The global model, sent to devices.
        optimiser: Server-side moments and the like, never sent.
        round: Rounds absorbed so far.
    """

    tensors: Mapping[str, Array] = field(repr=False)
    optimiser: Mapping[str, Array] = field(repr=False)
    round: int


class _Modelled(Protocol):
    @property
    def model(self) -> Model: ...


class Alike:
    """What a method says whose rounds are all alike: the whole model goes out and comes back."""

    __slots__ = ()

    def shares(self, rounds: int) -> tuple[float, ...]:
        """Return nothing: every round takes the same."""
        return ()

    def purpose(self, round: int) -> str:
        """Return that every round trains."""
        return "train"

    def sent(self: "_Modelled", round: int) -> Shapes:
        """Return the shapes of the model's global tensors."""
        return self.model.global_shapes

    def asked(self: "_Modelled", round: int) -> Shapes:
        """Return the shapes of the model's global tensors."""
        return self.model.global_shapes


class Algorithm(Protocol):
    """A learning method. Implementations are frozen and hold public settings only."""

    @property
    def model(self) -> Model:
        """The model this method learns."""
        ...

    @property
    def sampling_rate(self) -> float:
        """Public probability that one interaction enters one local step."""
        ...

    @property
    def local_steps(self) -> int:
        """Public number of noised local steps in one round (interaction-level privacy)."""
        ...

    def shares(self, rounds: int) -> tuple[float, ...]:
        """Return what each round takes of the budget (`Plan.shares`); empty for all alike."""
        ...

    def purpose(self, round: int) -> str:
        """Return what a round, from 1, releases: one of `statement.PURPOSES`."""
        ...

    def sent(self, round: int) -> Shapes:
        """Return the tensors of the state that devices are sent in a round, from 1."""
        ...

    def asked(self, round: int) -> Shapes:
        """Return the tensors of one contribution in a round, from 1; of public settings alone."""
        ...

    def start(self, seed: int) -> State:
        """Return the state before the first round; independent of all data."""
        ...

    def memory(self, keys: NDArray[np.int64], seed: int) -> dict[str, Array]:
        """Return the local tensors of users who have not taken part yet, data-independent."""
        ...

    def contribute(self, state: State, cohort: Cohort, plan: Plan) -> tuple[LocalUpdate, Memory]:
        """Device half without noise: one update per user, and the users' new memory."""
        ...

    def contribute_per_interaction(
        self, state: State, cohort: Cohort, plan: Plan, noise: NoiseSource
    ) -> tuple[Release, Memory]:
        """Device half in which learning is itself the mechanism that protects an interaction."""
        ...

    def absorb(self, state: State, total: Mapping[str, Array], plan: Plan) -> State:
        """Server half: the next state from the validated sum over all users of the round.

        Denominators are public: `plan.expected_cohort`, never the number of replies.
        """
        ...


@runtime_checkable
class Summing(Protocol):
    """A method that can sum up a cohort without making each user's update: for `unit = none`."""

    def contribute_sum(
        self, state: State, cohort: Cohort, plan: Plan
    ) -> tuple[Mapping[str, Array], Memory]:
        """Device half without protection: the sum of what `contribute` returns, and the memory.

        Returns:
            float64 sums over the users by tensor name, and the users' new memory.
        """
        ...
