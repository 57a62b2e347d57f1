"""The work of a node in one round: contribute, clip, protect as the plan says, sum, encode.

Users are taken a block at a time, so that memory does not grow with the cohort: sums, and the
noise in them, are the same however users are cut into blocks.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from shared.algorithms.base import Algorithm, Cohort, Memory, State, Summing
from shared.data.interactions import Interactions
from shared.privacy.adaptive_clip import adaptive_of, attach, shapes_with_bits
from shared.privacy.distributed import (
    Layout,
    Rounded,
    Veiled,
    gathered,
    noise_shares,
    round_off,
    veil,
)
from shared.privacy.gaussian import privatise
from shared.privacy.noise_shares import NoiseShares
from shared.privacy.plan import Trust, Unit
from shared.privacy.release import (
    ClippedUpdate,
    Entrusted,
    LocalUpdate,
    Release,
    Unprotected,
    clip,
    entrust,
    expose,
    expose_sum,
)
from shared.protocol import (
    Order,
    Reply,
    encode_entrusted,
    encode_partial,
    encode_reply,
    encode_unprotected,
)
from shared.randomness import noise_source

__all__ = ["BLOCK_USERS", "Work"]

Ints = NDArray[np.int64]
Dense = TypeVar("Dense", Release, Entrusted, Unprotected)

BLOCK_USERS = 256
"""Users whose contributions are in memory at once."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Work:
    """What one order asks of the users of a node.

    Attributes:
        algorithm: The learning method.
        order: What the server asks.
        histories: Training interactions of all users of the node.
        keys: int64 [users of the node], stable name of each.
        memory: Local tensors of all users of the node.
    """

    algorithm: Algorithm
    order: Order
    histories: Interactions = field(repr=False)
    keys: Ints = field(repr=False)
    memory: Memory = field(repr=False)

    def reply(self) -> tuple[Reply, Memory]:
        """Return what the participants send together, and the node's memory afterwards."""
        order, plan = self.order, self.order.plan
        if (plan.unit, plan.trust) == (Unit.USER, Trust.DISTRIBUTED):
            veiled, memory = self.veiled()
            return encode_partial(gathered(veiled, self.layout), order=order), memory
        if plan.unit is Unit.NONE:
            exposed, memory = self._summed(self._exposed)
            return encode_unprotected(exposed, order=order), memory
        if plan.trust is Trust.CENTRAL:
            entrusted, memory = self._summed(self._entrusted)
            return encode_entrusted(entrusted, order=order), memory
        released, memory = self._summed(self._released)
        return encode_reply(released, order=order), memory

    def veiled(self) -> tuple[Veiled, Memory]:
        """Return the participants' sum with their noise shares, and the memory afterwards."""
        order, shares = self.order, self.shares
        total, memory = np.zeros(self.layout.dimension, dtype=np.int64), self.memory
        for people in self._blocks():
            clipped, learned = self._clipped(people)
            total += self._rounded(clipped, people, shares).integers
            memory = _merged(memory, learned, people)
        whole = Rounded(integers=total, users=len(order.participants))
        keys = ("shares", order.round, int(self.keys[order.participants[0]]))
        return veil(whole, order.plan, shares=shares, seed=order.seed, keys=keys), memory

    @property
    def layout(self) -> Layout:
        """Where each tensor of a contribution lies in a flat vector."""
        asked = self.algorithm.asked(self.order.round)
        return Layout(shapes=shapes_with_bits(self.order.plan, asked))

    @property
    def shares(self) -> NoiseShares:
        """The noise plan of a round with distributed trust."""
        return noise_shares(self.order.plan, round=self.order.round, layout=self.layout)

    def _blocks(self) -> Iterator[Ints]:
        people = self.order.participants
        for start in range(0, len(people), BLOCK_USERS):
            yield people[start : start + BLOCK_USERS]

    def _summed(self, part: Callable[[Ints], tuple[Dense, Memory]]) -> tuple[Dense, Memory]:
        """Return the sum over all blocks, and the memory after them."""
        memory, parts = self.memory, []
        for people in self._blocks():
            made, learned = part(people)
            parts.append(made)
            memory = _merged(memory, learned, people)
        return reduce(_added, parts), memory

    def _exposed(self, people: Ints) -> tuple[Unprotected, Memory]:
        if isinstance(self.algorithm, Summing):
            state, cohort, plan = self._state(), self._cohort(people), self.order.plan
            sums, learned = self.algorithm.contribute_sum(state, cohort, plan)
            return expose_sum(sums, users=len(people), plan=plan), learned
        update, learned = self._update(people)
        return expose(update, self.order.plan), learned

    def _entrusted(self, people: Ints) -> tuple[Entrusted, Memory]:
        clipped, learned = self._clipped(people)
        return entrust(clipped, self.order.plan), learned

    def _released(self, people: Ints) -> tuple[Release, Memory]:
        order, plan = self.order, self.order.plan
        noise = noise_source(plan.noise, order.seed)
        if plan.unit is Unit.INTERACTION:
            state, cohort = self._state(), self._cohort(people)
            return self.algorithm.contribute_per_interaction(state, cohort, plan, noise)
        clipped, learned = self._clipped(people)
        keys = ("user", order.round, int(self.keys[people[0]]))
        return privatise(clipped, plan, noise, round=order.round, keys=keys), learned

    def _clipped(self, people: Ints) -> tuple[ClippedUpdate, Memory]:
        """Return bounded contributions, with the bits that move the bound where it moves."""
        update, learned = self._update(people)
        plan = self.order.plan
        clipped = clip(update, clip_norm=plan.clip_norm)
        adaptive = adaptive_of(plan)
        return (attach(clipped, adaptive=adaptive) if adaptive else clipped), learned

    def _rounded(self, clipped: ClippedUpdate, people: Ints, shares: NoiseShares) -> Rounded:
        return round_off(
            clipped,
            self.order.plan,
            shares=shares,
            layout=self.layout,
            keys=self.keys[people],
            seed=self.order.seed,
            round=self.order.round,
        )

    def _update(self, people: Ints) -> tuple[LocalUpdate, Memory]:
        return self.algorithm.contribute(self._state(), self._cohort(people), self.order.plan)

    def _state(self) -> State:
        tensors = {name: value.astype(np.float64) for name, value in self.order.tensors.items()}
        return State(tensors=tensors, optimiser={}, round=self.order.round - 1)

    def _cohort(self, people: Ints) -> Cohort:
        return Cohort(
            histories=self.histories.select(people),
            keys=self.keys[people],
            memory={name: value[people] for name, value in self.memory.items()},
            round=self.order.round,
            seed=self.order.seed,
        )


def _added(one: Dense, other: Dense) -> Dense:
    """Return the sum of two parts of a cohort, of one kind."""
    tensors = {name: value + other.tensors[name] for name, value in one.tensors.items()}
    return replace(one, tensors=tensors, users=one.users + other.users)


def _merged(memory: Memory, learned: Memory, people: Ints) -> Memory:
    """Return the memory of all users, with the rows of some of them replaced."""
    merged = {name: np.array(value) for name, value in memory.items()}
    for name, value in learned.items():
        merged[name][people] = value
    return merged
