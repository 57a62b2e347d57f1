"""Federated evaluation: a method with one more round, in which devices measure the final model.

Each device keeps its latest event out of all training rounds. In the last round it ranks that item
under the final model, among everything it has not met before, and reports hit rate and NDCG at 10.
The report is a release of its own: bounded, noised and charged like any other, by the run's trust
mode, for its share of the budget. A device without two events reports the middle, as one that
failed would.

Values lie in [0, 1] and are reported less one half, so that their norm is at most sqrt(1/2); on
their way they are stretched to the clip norm of the run. The denominator is public.

Guarantees:
    the measured event is no training event: no contribution of a training round depends on it.
    the report is bounded: its norm is at most the clip norm, whatever the model says.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from shared.algorithms.base import Algorithm, Cohort, Memory, Shapes, State
from shared.data.interactions import Interactions
from shared.errors import ConfigError
from shared.evaluation.metrics import hit_rate, ndcg
from shared.evaluation.ranking import rank_full
from shared.models.base import Model
from shared.privacy.plan import Plan
from shared.privacy.release import LocalUpdate, Release, Rows
from shared.randomness import NoiseSource

__all__ = ["METRICS", "Measured", "measurements"]

Array = NDArray[np.float64]

METRICS: Final = ("hit_rate@10", "ndcg@10")
"""What is measured, in this order."""

NAME: Final = "metrics"
CUT: Final = 10
BOUND: Final = 0.5 * len(METRICS) ** 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """A method whose last round is an evaluation by the devices.

    Attributes:
        inner: The method that learns in all rounds before.
        rounds: Rounds of the run, the last one included.
        share: Of the budget, in mu^2, for the last round.

    Raises:
        ConfigError: There is no round left to learn in.
    """

    inner: Algorithm
    rounds: int
    share: float

    def __post_init__(self) -> None:
        if self.rounds < 2:
            raise ConfigError("Expected a round to learn in before the devices measure; add one.")

    @property
    def model(self) -> Model:
        """The model this method learns."""
        return self.inner.model

    @property
    def sampling_rate(self) -> float:
        """Public probability that one interaction enters one local step."""
        return self.inner.sampling_rate

    @property
    def local_steps(self) -> int:
        """Public number of noised local steps in one round."""
        return self.inner.local_steps

    def shares(self, rounds: int) -> tuple[float, ...]:
        """Return the inner method's shares of what is left, and the measurement's."""
        learning = rounds - 1
        inner = self.inner.shares(learning) or (1.0 / learning,) * learning
        return (*((1.0 - self.share) * share for share in inner), self.share)

    def purpose(self, round: int) -> str:
        """Return "metrics" for the last round."""
        return "metrics" if round == self.rounds else self.inner.purpose(round)

    def sent(self, round: int) -> Shapes:
        """Return the final model's tensors for the last round."""
        return self.model.global_shapes if round == self.rounds else self.inner.sent(round)

    def asked(self, round: int) -> Shapes:
        """Return the metrics alone for the last round."""
        return {NAME: (len(METRICS),)} if round == self.rounds else self.inner.asked(round)

    def start(self, seed: int) -> State:
        """Return the inner method's start."""
        return self.inner.start(seed)

    def memory(self, keys: NDArray[np.int64], seed: int) -> dict[str, Array]:
        """Return the inner method's local tensors."""
        return self.inner.memory(keys, seed)

    def contribute(self, state: State, cohort: Cohort, plan: Plan) -> tuple[LocalUpdate, Memory]:
        """Learn from all but the latest event, or measure it."""
        known, latest = _cut(cohort.histories)
        if cohort.round < self.rounds:
            learning = replace(cohort, histories=known)
            return self.inner.contribute(state, learning, _learning(plan, self.share))
        values = self._measure(state, known, latest) - 0.5
        users, size = values.shape
        owner, index = np.divmod(np.arange(users * size, dtype=np.int64), size)
        stretched = values.reshape(-1) * (plan.clip_norm / BOUND)
        rows = Rows(owner=owner, index=index, values=stretched, shape=(size,))
        return LocalUpdate(tensors={NAME: rows}, users=users), {}

    def contribute_per_interaction(
        self, state: State, cohort: Cohort, plan: Plan, noise: NoiseSource
    ) -> tuple[Release, Memory]:
        """Refuse: one interaction changes what a device would measure by any amount.

        Raises:
            ConfigError: Always.
        """
        raise ConfigError("Devices measure a model with unit=user alone; set metrics_share=0.")

    def absorb(self, state: State, total: Mapping[str, Array], plan: Plan) -> State:
        """Take the inner method's step, or keep what was measured beside the model."""
        if state.round + 1 < self.rounds:
            return self.inner.absorb(state, total, _learning(plan, self.share))
        unit = BOUND / plan.clip_norm / plan.expected_cohort
        deviation = plan.sum_deviation(self.rounds) * unit
        kept = {"measured": total[NAME] * unit + 0.5, "measured.deviation": np.array(deviation)}
        optimiser = {**state.optimiser, **kept}
        return State(tensors=state.tensors, optimiser=optimiser, round=state.round + 1)

    def _measure(self, state: State, known: Interactions, latest: NDArray[np.int64]) -> Array:
        """Return float64 [users, metrics]; one half where there is nothing to measure."""
        scores = self.model.score(state.tensors, known)
        ranks = rank_full(scores, known, latest[:, None])
        values = np.stack([hit_rate(ranks, CUT), ndcg(ranks, CUT)], axis=1)
        nothing = (latest < 0) | (known.lengths == 0)
        return np.where(nothing[:, None] | ~np.isfinite(values), 0.5, values)


def _learning(plan: Plan, share: float) -> Plan:
    """Return the plan of the rounds before the last: the same noise in each, one round fewer."""
    rounds, rest = plan.rounds - 1, 1.0 - share
    shares = tuple(part / rest for part in plan.shares[:-1])
    scale = math.sqrt(rounds / (plan.rounds * rest))
    return replace(
        plan,
        rounds=rounds,
        participations=rounds,
        shares=shares,
        noise_multiplier=plan.noise_multiplier * scale,
        metrics_share=0.0,
    )


def _cut(histories: Interactions) -> tuple[Interactions, NDArray[np.int64]]:
    """Return the histories without their latest events, and those; -1 where there is none."""
    lengths = histories.lengths
    last = histories.offsets[1:] - 1
    latest = np.where(lengths > 0, histories.items[last] if len(histories) else -1, -1)
    kept = np.ones(len(histories), dtype=np.bool_)
    kept[last[lengths > 0]] = False
    left = np.maximum(lengths - 1, 0)
    known = Interactions(
        items=histories.items[kept],
        offsets=np.concatenate([[0], np.cumsum(left)]).astype(np.int64),
        times=histories.times[kept],
        weights=histories.weights[kept],
        n_items=histories.n_items,
    )
    return known, np.asarray(latest, dtype=np.int64)


def measurements(state: State) -> dict[str, float]:
    """Return what devices measured, by name, and the standard deviation of the noise in it."""
    if "measured" not in state.optimiser:
        return {}
    found = dict(zip(METRICS, state.optimiser["measured"].tolist(), strict=True))
    return {**found, "noise": float(state.optimiser["measured.deviation"])}
