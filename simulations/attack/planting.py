"""The real algorithm, wrapped: canaries in what it contributes, and clues asked of it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from shared.algorithms.base import Algorithm, Cohort, Memory, State
from shared.data.interactions import Interactions
from shared.models.base import Model
from shared.privacy.plan import Plan
from shared.privacy.release import LocalUpdate, Release, Rows
from shared.randomness import NoiseSource
from simulations.attack.canaries import NORM, Canaries
from simulations.attack.transcript import Clue, Transcript

__all__ = ["Canaried", "Probe"]

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]
Ints = NDArray[np.int64]
Shapes = Mapping[str, tuple[int, ...]]
Shared = Mapping[str, Array]

BARE, TINY = 1e-9, 1e-30
"""The least deviation of a value, beside the largest of its tensor and at all."""


class Probe:
    """No noise at all: each draw is one known number, each coin lets everything in.

    It asks the code what it would do, and nothing that is made with it ever leaves `Canaried`. It
    calls itself private so that the code takes the same path as with protective noise.
    """

    private: ClassVar[bool] = True

    def __init__(self, value: float) -> None:
        self._value = value

    def gaussian(self, shape: tuple[int, ...], *keys: str | int) -> Array:
        """Return the known number everywhere."""
        return np.full(shape, self._value)

    def coins(self, size: int, rate: float, *keys: str | int) -> Flags:
        """Return heads."""
        return np.ones(size, dtype=np.bool_)


@dataclass(frozen=True, kw_only=True, slots=True)
class Canaried:
    """The real algorithm with canaries planted in what it contributes.

    Attributes:
        inner: The algorithm of the run.
        canaries: Whom to plant.
        transcript: Where contributions and sums are noted.
    """

    inner: Algorithm
    canaries: Canaries = field(repr=False)
    transcript: Transcript = field(repr=False)

    @property
    def model(self) -> Model:
        """The model of the real algorithm."""
        return self.inner.model

    @property
    def sampling_rate(self) -> float:
        """That of the real algorithm."""
        return self.inner.sampling_rate

    @property
    def local_steps(self) -> int:
        """Those of the real algorithm."""
        return self.inner.local_steps

    def shares(self, rounds: int) -> tuple[float, ...]:
        """Return those of the real algorithm."""
        return self.inner.shares(rounds)

    def purpose(self, round: int) -> str:
        """Return that of the real algorithm."""
        return self.inner.purpose(round)

    def sent(self, round: int) -> Shapes:
        """Return what the real algorithm sends."""
        return self.inner.sent(round)

    def asked(self, round: int) -> Shapes:
        """Return what the real algorithm asks for."""
        return self.inner.asked(round)

    def start(self, seed: int) -> State:
        """Return the start of the real algorithm."""
        return self.inner.start(seed)

    def memory(self, keys: Ints, seed: int) -> dict[str, Array]:
        """Return the memory of the real algorithm."""
        return self.inner.memory(keys, seed)

    def contribute(self, state: State, cohort: Cohort, plan: Plan) -> tuple[LocalUpdate, Memory]:
        """Let the real algorithm contribute, then put the canaries' contributions in place."""
        update, memory = self.inner.contribute(state, cohort, plan)
        planted = self._planted(update, cohort, plan)
        self.transcript.contributed(cohort.round, cohort.keys, planted, clip_norm=plan.clip_norm)
        return planted, memory

    def contribute_per_interaction(
        self, state: State, cohort: Cohort, plan: Plan, noise: NoiseSource
    ) -> tuple[Release, Memory]:
        """Let the real algorithm contribute; ask it first what a canary device would send."""
        self.transcript.took_part(cohort.round, cohort.keys)
        for device in np.intersect1d(cohort.keys, self.canaries.devices):
            clue = self._clue(state, cohort, plan, device=int(device))
            self.transcript.clued(cohort.round, int(device), clue)
        return self.inner.contribute_per_interaction(state, cohort, plan, noise)

    def absorb(self, state: State, total: Mapping[str, Array], plan: Plan) -> State:
        """Note the released sum and pass it on."""
        self.transcript.released(state.round + 1, total, plan)
        return self.inner.absorb(state, total, plan)

    def _planted(self, update: LocalUpdate, cohort: Cohort, plan: Plan) -> LocalUpdate:
        """Return the update with canaries in it and nobody else on their rows."""
        shapes = {name: rows.shape for name, rows in update.tensors.items()}
        where, row, column = self.canaries.cells(shapes)
        numbers = self.canaries.number(cohort.keys)
        owners = np.flatnonzero(numbers >= 0)
        place = numbers[owners]
        amounts = self.canaries.values(cohort.round, plan.clip_norm)[place]
        tensors = {}
        for name, rows in update.tensors.items():
            keep = numbers[rows.owner] < 0
            if name == where:
                keep &= ~np.isin(rows.index, row)
            kept = Rows(
                owner=rows.owner[keep],
                index=rows.index[keep],
                values=rows.values[keep],
                shape=rows.shape,
            )
            tensors[name] = (
                _extended(kept, owners, row[place], column[place], amounts)
                if name == where
                else kept
            )
        return LocalUpdate(tensors=tensors, users=update.users)

    def _clue(self, state: State, cohort: Cohort, plan: Plan, *, device: int) -> Clue:
        """Ask the real code what each canary of a device moves, and how large the noise is."""
        items = self.canaries.planted_item(self.canaries.items_of(device))
        here = np.flatnonzero(cohort.keys == device)

        def ask(history: Ints, fill: float, *, boost: float = 1.0, users: int = 1) -> Shared:
            asked = _single(cohort, here, history, boost=boost, users=users)
            found, _ = self.inner.contribute_per_interaction(state, asked, plan, Probe(fill))
            return found.tensors

        # A value without any noise would divide by zero; with next to none it shows as well.
        deviation = {
            n: np.maximum(v, max(BARE * v.max(), TINY)) for n, v in ask(items[:0], 1.0).items()
        }
        moved = ask(items, 0.0)
        return Clue(
            deviation=deviation,
            moves={n: v[items] for n, v in moved.items() if len(v) == cohort.histories.n_items},
            # A lone device and a packed cohort descend by different code.
            largest=[
                max(_weight(ask(items[:1], 0.0, boost=b, users=u), deviation) for u in (1, 2))
                for b in (1.0, NORM, NORM**2)
            ],
        )


def _single(cohort: Cohort, here: Ints, history: Ints, *, boost: float, users: int) -> Cohort:
    """Return one user of a cohort with another history, and a second one without any if asked."""
    rows = np.repeat(here, users)
    empty: list[list[int]] = [[]] * (users - 1)
    return Cohort(
        histories=Interactions.from_histories(
            [history.tolist(), *empty], n_items=cohort.histories.n_items
        ),
        keys=cohort.keys[rows] + np.arange(users),
        memory={n: boost * v[rows] for n, v in cohort.memory.items()},
        round=cohort.round,
        seed=cohort.seed,
    )


def _extended(rows: Rows, owner: Ints, row: Ints, column: Ints, amounts: Array) -> Rows:
    """Return the rows and one more a planted owner whose amount is not zero."""
    some = amounts != 0.0
    width = math.prod(rows.shape[1:])
    values = np.zeros((int(some.sum()), width))
    values[np.arange(len(values)), column[some]] = amounts[some]
    return Rows(
        owner=np.concatenate([rows.owner, owner[some]]),
        index=np.concatenate([rows.index, row[some]]),
        values=np.concatenate([rows.values, values.reshape(-1, *rows.shape[1:])]),
        shape=rows.shape,
    )


def _weight(moved: Mapping[str, Array], deviation: Mapping[str, Array]) -> float:
    """Return the norm of what one interaction moves, in standard deviations of the noise."""
    return math.sqrt(sum(float(np.square(v / deviation[n]).sum()) for n, v in moved.items()))
