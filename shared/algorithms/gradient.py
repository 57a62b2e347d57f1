"""Federated descent of a model, both halves: FedSGD, or FedAvg with several local steps.

Device half: the device's own copy of the model takes a few gradient steps on the user's own
examples (`tasks`); the change is the contribution. With one step of rate 1 that is the negative
gradient. Server half: a step of a server optimiser along the mean change, divided by the public
expected cohort; the last round may publish the mean of the latest models.

Source: McMahan et al. 2017 (FedSGD, FedAvg), Reddi et al. 2021 (server optimisers), Polyak &
Juditsky 1992 (averaging of late iterates).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from shared.algorithms.base import Alike, Cohort, Memory, Shapes, State
from shared.algorithms.next_item import ExampleConfig, draw_candidates
from shared.algorithms.optimisers import OptimiserConfig, descend, learning_rate
from shared.algorithms.tasks import Learned, Task, task_of
from shared.errors import ConfigError
from shared.privacy.plan import Plan, Unit
from shared.privacy.release import LocalUpdate, Release, Rows
from shared.randomness import NoiseSource

if TYPE_CHECKING:
    import torch

    Torch = torch.Tensor

__all__ = ["Gradient", "GradientConfig"]

Array = NDArray[np.float64]
Ints = NDArray[np.int64]

SCORES = 1 << 24
"""Scores in memory at once; one user's are the least."""

AXES: dict[str, int | None] = {"kept": None, "older": None}
"""Parts of a batch that all its users share; the others have an axis of users first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GradientConfig:
    """Settings of the descent.

    Attributes:
        local_steps: Gradient steps of a device in one round, each on all examples of its window.
        local_rate: Learning rate of those steps.
        train_items: Whether the item table is learned; without it the table stays what it started
            from, public item content say, and a private run spends its noise on the rest alone.
        examples: Which examples, and their loss.
        server: Descent of the server on the mean change.
        average: Share of the rounds, at their end, whose models the last round averages; 0 none.
        precision: Number type of the device's arithmetic: "single", or "double", in which packing
            does not show even where the server's optimiser magnifies rounding.

    Raises:
        ConfigError: A number is out of range.
    """

    local_steps: int = 1
    local_rate: float = 1.0
    train_items: bool = True
    examples: ExampleConfig = field(default_factory=ExampleConfig)
    server: OptimiserConfig = field(
        default_factory=lambda: OptimiserConfig(name="adam", rate=0.005, schedule="cosine")
    )
    average: float = 0.0
    precision: Literal["single", "double"] = "single"

    def __post_init__(self) -> None:
        wrong = [] if self.local_steps >= 1 else [f"algorithm.local_steps={self.local_steps} >= 1"]
        if not 0.0 < self.local_rate < np.inf:
            wrong.append(f"algorithm.local_rate={self.local_rate} > 0")
        if not 0.0 <= self.average <= 1.0:
            wrong.append(f"algorithm.average={self.average} in [0, 1]")
        if wrong:
            raise ConfigError(f"Expected {', '.join(wrong)}.")


@dataclass(frozen=True, kw_only=True, slots=True)
class Gradient(Alike):
    """Federated descent of a model.

    Attributes:
        model: The model it learns.
        config: Public settings.
    """

    model: Learned
    config: GradientConfig = field(default_factory=GradientConfig)

    @property
    def sampling_rate(self) -> float:
        """Every example of a window is in every step."""
        return 1.0

    @property
    def local_steps(self) -> int:
        """Public number of local steps in one round."""
        return self.config.local_steps

    def asked(self, round: int) -> Shapes:
        """Return the shapes of the tensors that are learned."""
        still = self.model.frozen | (set() if self.config.train_items else {"items"})
        return {n: s for n, s in self.model.global_shapes.items() if n not in still}

    def start(self, seed: int) -> State:
        """Return the model's initial tensors, no moments."""
        return State(tensors=self.model.initial(seed), optimiser={}, round=0)

    def memory(self, keys: Ints, seed: int) -> dict[str, Array]:
        """Return nothing: a state is computed from the history."""
        return {}

    def contribute(self, state: State, cohort: Cohort, plan: Plan) -> tuple[LocalUpdate, Memory]:
        """Return each user's change of the whole model, and no memory."""
        users = cohort.histories.n_users
        shapes = self.asked(cohort.round)
        found = {name: np.zeros((users, *shape)) for name, shape in shapes.items()}
        for people, part in self._blocks(cohort):
            for name, change in self._changes(state, part, plan).items():
                found[name][people] = change.numpy()
        rows = {name: _rows(value) for name, value in found.items()}
        return LocalUpdate(tensors=rows, users=users), {}

    def contribute_sum(
        self, state: State, cohort: Cohort, plan: Plan
    ) -> tuple[Mapping[str, Array], Memory]:
        """Return the sum of the users' changes, and no memory: what `contribute` sums up to."""
        total = {name: np.zeros(shape) for name, shape in self.asked(cohort.round).items()}
        for _, part in self._blocks(cohort):
            if self.config.local_steps == 1:
                found = self._summed_step(state, part, plan)
            else:
                found = {n: v.sum(dim=0) for n, v in self._changes(state, part, plan).items()}
            for name, change in found.items():
                total[name] += change.numpy()
        return total, {}

    def contribute_per_interaction(
        self, state: State, cohort: Cohort, plan: Plan, noise: NoiseSource
    ) -> tuple[Release, Memory]:
        """Refuse: one event is in every later state of its user.

        Raises:
            ConfigError: Always.
        """
        raise ConfigError("Expected unit=user or unit=none for gradients of whole histories.")

    def absorb(self, state: State, total: Mapping[str, Array], plan: Plan) -> State:
        """Step along the mean change; the last round may publish the mean of the latest models."""
        step = state.round + 1
        against = {name: -value / plan.expected_cohort for name, value in total.items()}
        rate = learning_rate(self.config.server, step=step, steps=plan.rounds)
        learned = {name: state.tensors[name] for name in against}
        moved, moments = descend(
            self.config.server, learned, against, state.optimiser, step=step, rate=rate
        )
        late = self._late(state, moved, plan)
        published = late if late and step == plan.rounds else moved
        return State(
            tensors={**state.tensors, **published},
            optimiser={**moments, **{f"late.{name}": value for name, value in late.items()}},
            round=step,
        )

    def _late(self, state: State, moved: Mapping[str, Array], plan: Plan) -> dict[str, Array]:
        """Return the mean of the latest models, `moved` included; nothing before they begin."""
        before = int(plan.rounds * (1.0 - self.config.average))
        count = state.round + 1 - before
        if count <= 0:
            return {}
        past = {name: state.optimiser.get(f"late.{name}", value) for name, value in moved.items()}
        return {name: past[name] + (value - past[name]) / count for name, value in moved.items()}

    def _blocks(self, cohort: Cohort) -> Iterator[tuple[Ints, Cohort]]:
        """Cut a cohort into blocks of alike lengths whose scores fit into memory."""
        lengths = self._task.cost(cohort.histories)
        order = np.argsort(-lengths, kind="stable")
        order = order[lengths[order] > 0]
        candidates = self.config.examples.candidates or self.model.n_items
        while len(order):
            most = max(1, SCORES // int(lengths[order[0]] * candidates))
            people, order = order[:most], order[most:]
            yield (
                people,
                replace(
                    cohort, histories=cohort.histories.select(people), keys=cohort.keys[people]
                ),
            )

    def _summed_step(self, state: State, cohort: Cohort, plan: Plan) -> dict[str, "Torch"]:
        """Return the sum of the changes of one step, from the gradient of the summed loss."""
        import torch

        values = self._values(state)
        learned = [values[name].requires_grad_() for name in self.asked(cohort.round)]
        batch = self._drawn(cohort, plan, step=0)
        with torch.enable_grad():
            candidates = self._candidates(cohort)
            loss = self._task.losses(values, batch, candidates, packed=True)
            found = torch.autograd.grad(loss, learned)
        names = self.asked(cohort.round)
        return {n: -self.config.local_rate * g for n, g in zip(names, found, strict=True)}

    def _changes(self, state: State, cohort: Cohort, plan: Plan) -> dict[str, "Torch"]:
        """Return the change of each user's own copy of what is learned, [users, ...] a tensor."""
        from torch.func import grad, vmap

        given = self._values(state)
        candidates = self._candidates(cohort)

        def loss(values: Mapping[str, "Torch"], one: Mapping[str, "Torch"]) -> "Torch":
            whole = {**given, **values}
            alone = {n: v if n in AXES else v.unsqueeze(0) for n, v in one.items()}
            return self._task.losses(whole, alone, candidates, packed=False)

        start = {name: given[name] for name in self.asked(cohort.round)}
        moved: dict[str, Torch] = start
        for step in range(self.config.local_steps):
            batch = self._drawn(cohort, plan, step=step)
            axes = (dict.fromkeys(start, 0 if step else None), {n: AXES.get(n, 0) for n in batch})
            found = vmap(grad(loss), in_dims=axes)(moved, batch)
            moved = {n: v - self.config.local_rate * found[n] for n, v in moved.items()}
        return {name: value - start[name] for name, value in moved.items()}

    def _drawn(self, cohort: Cohort, plan: Plan, *, step: int) -> dict[str, "Torch"]:
        """Draw the examples of a step; in a private run every user's weigh 1 together."""
        weighted = plan.unit is Unit.NONE
        return self._task.draw(cohort, step=step, weighted=weighted, kind=self._kind())

    def _candidates(self, cohort: Cohort) -> "Torch | None":
        return draw_candidates(
            self.config.examples,
            n_items=self.model.n_items,
            seed=cohort.seed,
            round=cohort.round,
        )

    @property
    def _task(self) -> Task:
        return task_of(self.config.examples, self.model)

    def _values(self, state: State) -> dict[str, "Torch"]:
        import torch

        return {n: torch.tensor(v, dtype=self._kind()) for n, v in state.tensors.items()}

    def _kind(self) -> "torch.dtype":
        import torch

        return torch.float64 if self.config.precision == "double" else torch.float32


def _rows(values: Array) -> Rows:
    """Return dense contributions [users, ...] as rows of a tensor."""
    users, height = values.shape[:2]
    return Rows(
        owner=np.repeat(np.arange(users), height),
        index=np.tile(np.arange(height), users),
        values=values.reshape(users * height, *values.shape[2:]),
        shape=values.shape[1:],
    )
