"""Federated averaging of matrix factorisation, both halves.

Device half: a copy of the item rows that the user touches descends for a few steps together with
the user's own vector; the change of the rows is the contribution, the vector stays. Without
protection that is FedAvg (McMahan et al. 2017) with a local part (Singhal et al. 2021). With
`unit = interaction` every step is differentially private gradient descent: everything a released
gradient depends on, the user vector included, starts independent of the data and is trained inside
the mechanism. A single device descends with Opacus; a packed cohort descends at once, on the same
compact tables (equal to Opacus: tests/shared/privacy/test_dpsgd.py).

Server half: a step of a server optimiser on the mean change, divided by the public expected cohort.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from shared.algorithms.base import Alike, Cohort, Memory, State
from shared.algorithms.denoising import shrink_rows
from shared.algorithms.examples import Batch, Slots, draw_batches
from shared.algorithms.local_training import Block, LocalTables, changed_rows, gradients
from shared.algorithms.optimisers import OptimiserConfig, descend, learning_rate
from shared.algorithms.private_training import Descent, descend_together, release
from shared.errors import ConfigError
from shared.models.mf import MatrixFactorization
from shared.privacy.plan import Plan, Unit
from shared.privacy.release import LocalUpdate, Release
from shared.randomness import NoiseSource, keyed_uniforms

__all__ = ["Averaging", "AveragingConfig"]

Array = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class AveragingConfig:
    """Settings of federated averaging.

    Attributes:
        local_steps: Gradient steps of a device in one round.
        sampling_rate: Probability that one interaction enters one step.
        negatives: Negatives of one example.
        negative_weight: Weight of one negative in the loss.
        examples: Public number that divides a device's summed gradients; a device's own count
            would be a leak.
        local: Descent of the device; its rate moves the item rows. In private runs its schedule
            counts rounds, and its penalties hold for the user vector alone.
        user_rate: Rate of the user vector, relative to `local.rate`.
        bias_rate: Rate of the item biases, relative to `local.rate`.
        user_scale: Weight of the user vector in the joint clip (private runs).
        bias_scale: Weight of the bias in the joint clip (private runs).
        server: Descent of the server on the mean change.
        denoise: Shrink released rows by the known noise (private runs; free post-processing).
        engine: Who computes a private device's steps: "opacus", "vectorised", or "auto": Opacus
            for a single device, the vectorised twin for a packed cohort. Speed only.

    Raises:
        ConfigError: A number is out of range.
    """

    local_steps: int = 1
    sampling_rate: float = 1.0
    negatives: int = 1
    negative_weight: float = 1.0
    examples: float = 100.0
    local: OptimiserConfig = field(default_factory=lambda: OptimiserConfig(rate=10.0))
    user_rate: float = 1.0
    bias_rate: float = 0.25
    user_scale: float = 0.3
    bias_scale: float = 0.5
    server: OptimiserConfig = field(default_factory=lambda: OptimiserConfig(rate=40.0))
    denoise: bool = True
    engine: Literal["auto", "opacus", "vectorised"] = "auto"

    def __post_init__(self) -> None:
        least = {"local_steps": self.local_steps, "negatives": self.negatives}
        wrong = [f"algorithm.{name}={value} >= 1" for name, value in least.items() if value < 1]
        if not 0.0 < self.sampling_rate <= 1.0:
            wrong.append(f"algorithm.sampling_rate={self.sampling_rate} in (0, 1]")
        names = ("negative_weight", "examples", "user_rate", "bias_rate")
        for name in (*names, "user_scale", "bias_scale"):
            if not 0.0 < getattr(self, name) < np.inf:
                wrong.append(f"algorithm.{name}={getattr(self, name)} > 0")
        if wrong:
            raise ConfigError(f"Expected {', '.join(wrong)}.")


@dataclass(frozen=True, kw_only=True, slots=True)
class Averaging(Alike):
    """Federated averaging of matrix factorisation.

    Attributes:
        model: The model it learns.
        config: Public settings.
    """

    model: MatrixFactorization
    config: AveragingConfig = field(default_factory=AveragingConfig)

    @property
    def sampling_rate(self) -> float:
        """Public probability that one interaction enters one local step."""
        return self.config.sampling_rate

    @property
    def local_steps(self) -> int:
        """Public number of local steps in one round."""
        return self.config.local_steps

    def start(self, seed: int) -> State:
        """Return the model's initial tensors, no moments."""
        return State(tensors=self.model.initial(seed), optimiser={}, round=0)

    def memory(self, keys: Ints, seed: int) -> dict[str, Array]:
        """Return user vectors near zero, reproducible by user key and independent of all data."""
        dim = np.arange(self.model.config.dim)
        chances = keyed_uniforms(seed, "initial user", keys[:, None], dim[None, :])
        return {"user": (chances - 0.5) * 2e-2}

    def contribute(self, state: State, cohort: Cohort, plan: Plan) -> tuple[LocalUpdate, Memory]:
        """Return each user's change of the rows it touched, and the users' new vectors."""
        slots, batches = self._draw(cohort, None)
        start = tables = _copy(state, cohort, slots)
        done, steps = (cohort.round - 1) * len(batches), plan.rounds * len(batches)
        moments: Mapping[str, Array] = {}
        for step, batch in enumerate(batches, start=1):
            found = gradients(tables, slots, batch, negative_weight=self.config.negative_weight)
            size = np.bincount(batch.owner, minlength=cohort.histories.n_users)
            scaled = {
                "user": self.config.user_rate * found["user"] / np.maximum(size, 1)[:, None],
                "items": found["items"] / self.config.examples,
                "bias": self.config.bias_rate * found["bias"] / self.config.examples,
            }
            rate = learning_rate(self.config.local, step=done + step, steps=steps)
            values, moments = descend(
                self.config.local, tables.values(), scaled, moments, step=step, rate=rate
            )
            tables = LocalTables(**values)
        moved = LocalTables(
            user=tables.user, items=tables.items - start.items, bias=tables.bias - start.bias
        )
        change = changed_rows(moved, slots, n_items=self.model.n_items)
        return LocalUpdate(tensors=change, users=cohort.histories.n_users), {"user": moved.user}

    def contribute_per_interaction(
        self, state: State, cohort: Cohort, plan: Plan, noise: NoiseSource
    ) -> tuple[Release, Memory]:
        """Return the cohort's noised change of every row, and the users' new vectors.

        Guarantees:
            one interaction moves one example of a step, and its scaled gradient is clipped.
            every row of every user is noised with the variance of all steps.
            the noise has its own grain: no start, however large, swallows or rounds it.

        Raises:
            ConfigError: Local training is not plain gradient descent, or the plan protects
                another unit than one interaction or accounts other steps.
        """
        self._check(plan)
        slots, batches = self._draw(cohort, noise)
        descent = Descent(
            cohort=cohort,
            start=_copy(state, cohort, slots),
            slots=slots,
            batches=batches,
            blocks=self._blocks(cohort.round, plan),
            negative_weight=self.config.negative_weight,
            plan=plan,
            noise=noise,
        )
        debts = descent.debts()
        if self._uses_opacus(cohort):
            from shared.algorithms.opacus_device import descend_devices

            moved = descend_devices(descent, debts)
        else:
            moved = descend_together(descent, debts)
        return release(descent, moved, debts), {"user": moved.user}

    def absorb(self, state: State, total: Mapping[str, Array], plan: Plan) -> State:
        """Step along the mean change; in a private run, publish the rows shrunk by their noise."""
        step = state.round + 1
        raw = {
            name: state.optimiser.get(f"raw.{name}", value) for name, value in state.tensors.items()
        }
        against = {name: -value / plan.expected_cohort for name, value in total.items()}
        rate = learning_rate(self.config.server, step=step, steps=plan.rounds)
        moved, moments = descend(
            self.config.server, raw, against, state.optimiser, step=step, rate=rate
        )
        if not self._denoises(plan):
            return State(tensors=moved, optimiser=moments, round=step)
        return self._denoised(state, moved, moments, plan)

    def _denoises(self, plan: Plan) -> bool:
        server = self.config.server
        plain = server.name == "sgd" and not (server.momentum or server.l1 or server.l2)
        return self.config.denoise and plain and plan.unit is not Unit.NONE

    def _denoised(
        self, state: State, moved: Mapping[str, Array], moments: dict[str, Array], plan: Plan
    ) -> State:
        """Publish the item rows shrunk towards their start; keep the raw ones beside them."""
        step = state.round + 1
        start = state.optimiser.get("start.items", state.tensors["items"])
        past = state.optimiser.get("weights.items", np.zeros(0))
        weights = np.zeros(step)
        weights[: len(past)], weights[-1] = past, self._weight(step, plan)
        # Noise follows the clip norm, which may have moved since: weights are kept times it.
        now = (weights / plan.clip_norm).tolist()
        deviation = plan.weighted_deviation(now, blocks=state.blocks)
        shrunk = start + shrink_rows(moved["items"] - start, variance=deviation**2)
        kept = {"raw.items": moved["items"], "start.items": start, "weights.items": weights}
        return State(tensors={**moved, "items": shrunk}, optimiser={**moments, **kept}, round=step)

    def _weight(self, round_: int, plan: Plan) -> float:
        """Return by what noise of one clip norm in a round's sum moves an item row (public)."""
        rate = learning_rate(self.config.server, step=round_, steps=plan.rounds)
        if plan.unit is Unit.INTERACTION:
            rate *= self._blocks(round_, plan)["items"].rate
        return rate * plan.clip_norm / plan.expected_cohort

    def _draw(self, cohort: Cohort, noise: NoiseSource | None) -> tuple[Slots, list[Batch]]:
        return draw_batches(
            cohort,
            steps=self.config.local_steps,
            rate=self.config.sampling_rate,
            negatives=self.config.negatives,
            noise=noise,
        )

    def _check(self, plan: Plan) -> None:
        local = self.config.local
        if plan.unit is not Unit.INTERACTION:
            raise ConfigError(f"Expected unit=interaction for private training, found {plan.unit}.")
        if local.name != "sgd" or local.momentum:
            raise ConfigError(
                "Expected algorithm.local.name=sgd without momentum with unit=interaction: the "
                "noise of unread rows is exact for plain gradient descent only."
            )
        if (plan.sampling_rate, plan.steps_per_round) != (self.sampling_rate, self.local_steps):
            raise ConfigError(
                "Expected a plan with algorithm.sampling_rate and algorithm.local_steps as its own "
                "rate and steps: other noise would be accounted than is added."
            )

    def _blocks(self, round_: int, plan: Plan) -> dict[str, Block]:
        """Return scale and step length of each block in one round (public)."""
        config = self.config
        local = learning_rate(config.local, step=round_, steps=plan.rounds)
        rate, penalty = local / config.examples, local * config.user_rate
        return {
            "user": Block(
                scale=config.user_scale,
                rate=rate * config.user_rate,
                l1=penalty * config.local.l1,
                l2=penalty * config.local.l2,
            ),
            "items": Block(scale=1.0, rate=rate),
            "bias": Block(scale=config.bias_scale, rate=rate * config.bias_rate),
        }

    def _uses_opacus(self, cohort: Cohort) -> bool:
        if self.config.engine == "auto":
            return cohort.histories.n_users == 1
        return self.config.engine == "opacus"


def _copy(state: State, cohort: Cohort, slots: Slots) -> LocalTables:
    """Return each owner's copy of the rows it touches, and the users' vectors."""
    return LocalTables(
        user=np.array(cohort.memory["user"]),
        items=state.tensors["items"][slots.row],
        bias=state.tensors["bias"][slots.row],
    )
