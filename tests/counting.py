"""A learning method small enough to check by hand, and the federation that runs it in tests.

The table [n_items, 2] holds, per item, how many users met it and a quantity that depends on the
state and on the users' memory: a lost round, a lost memory or a double reply all change it.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from client.app import app as client_app
from server.census import cohort_size, greet, most_participations
from server.journal import Observer
from server.rounds import run_rounds
from server.terms import Method, Terms
from shared.algorithms.base import Alike, Cohort, Memory, State
from shared.data.interactions import Interactions
from shared.models.base import Tensors
from shared.privacy.gaussian import perturb
from shared.privacy.plan import Plan, Trust, Unit
from shared.privacy.release import LocalUpdate, Release, Rows
from shared.randomness import NoiseSource, stream
from simulations.grids import LocalGrid
from simulations.population import Population

CATALOGUE = "catalogue-digest"
Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True, kw_only=True)
class Table:
    """The model: one global table, one local counter."""

    n_items: int

    @property
    def global_shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {"table": (self.n_items, 2)}

    @property
    def local_shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {"visits": (1,)}

    def initial(self, seed: int) -> dict[str, Array]:
        return {"table": stream(seed, "table").normal(size=(self.n_items, 2))}

    def score(self, tensors: Tensors, histories: Interactions) -> Array:
        return np.tile(tensors["table"][:, 0], (histories.n_users, 1))


@dataclass(frozen=True, kw_only=True)
class Counting(Alike):
    """Counts items; the second column mixes in the state, the key and the memory."""

    n_items: int

    @property
    def model(self) -> Table:
        return Table(n_items=self.n_items)

    @property
    def sampling_rate(self) -> float:
        return 1.0

    @property
    def local_steps(self) -> int:
        return 1

    def start(self, seed: int) -> State:
        moments = {"moment": np.zeros((self.n_items, 2)), "steps": np.zeros(())}
        return State(tensors=self.model.initial(seed), optimiser=moments, round=0)

    def memory(self, keys: np.ndarray[Any, Any], seed: int) -> dict[str, Array]:
        return {"visits": np.zeros((len(keys), 1))}

    def contribute(self, state: State, cohort: Cohort, plan: Plan) -> tuple[LocalUpdate, Memory]:
        table = cohort.histories
        owner, index = np.unique(np.stack([table.users, table.items]), axis=1)
        visits = np.asarray(cohort.memory["visits"])
        mixed = np.tanh(state.tensors["table"][index, 1]) + visits[owner, 0]
        mixed = mixed + 0.01 * cohort.keys[owner]
        values = np.stack([np.ones(len(owner)), mixed], axis=1)
        rows = Rows(owner=owner, index=index, values=values, shape=(self.n_items, 2))
        return LocalUpdate(tensors={"table": rows}, users=table.n_users), {"visits": visits + 1}

    def contribute_per_interaction(
        self, state: State, cohort: Cohort, plan: Plan, noise: NoiseSource
    ) -> tuple[Release, Memory]:
        update, memory = self.contribute(state, cohort, plan)
        users = cohort.histories.n_users
        variance = users * (plan.noise_multiplier * plan.clip_norm) ** 2
        sums = {name: rows.total() for name, rows in update.tensors.items()}
        release = perturb(
            sums, variance={"table": variance}, users=users, noise=noise, keys=(cohort.round,)
        )
        return release, memory

    def absorb(self, state: State, total: Mapping[str, Array], plan: Plan) -> State:
        mean = total["table"] / plan.expected_cohort
        moment = 0.5 * state.optimiser["moment"] + mean
        steps = np.asarray(state.optimiser["steps"] + 1.0)
        table = state.tensors["table"] + 0.1 * moment / np.sqrt(steps)
        optimiser = {"moment": moment, "steps": steps}
        return State(tensors={"table": table}, optimiser=optimiser, round=state.round + 1)


def build(model: str, algorithm: str, settings: Mapping[str, object], n_items: int) -> Counting:
    assert (model, algorithm) == ("table", "counting")
    return Counting(n_items=n_items)


METHOD = Method(model="table", algorithm="counting", settings={"model.name": "table"})


def plan(*, rounds: int = 3, cohort: int = 6, participations: int | None = None) -> Plan:
    """A plan without protection."""
    return Plan(
        unit=Unit.NONE,
        trust=Trust.LOCAL,
        epsilon=float("inf"),
        delta=0.0,
        clip_norm=1.0,
        noise_multiplier=0.0,
        sampling_rate=1.0,
        steps_per_round=1,
        participations=rounds if participations is None else participations,
        rounds=rounds,
        expected_cohort=cohort,
        noise="off",
    )


def private_plan(
    *,
    rounds: int = 3,
    cohort: int = 6,
    noise: str = "os",
    sigma: float = 2.0,
    sampling_rate: float = 1.0,
    steps: int = 1,
) -> Plan:
    """A plan that hides one interaction."""
    return Plan(
        unit=Unit.INTERACTION,
        trust=Trust.LOCAL,
        epsilon=8.0,
        delta=1e-5,
        clip_norm=1.0,
        noise_multiplier=sigma,
        sampling_rate=sampling_rate,
        steps_per_round=steps,
        participations=rounds,
        rounds=rounds,
        expected_cohort=cohort,
        noise=noise,
    )


def user_plan(
    *,
    trust: Trust,
    rounds: int = 3,
    cohort: int = 6,
    noise: str = "os",
    sigma: float = 2.0,
    clip_norm: float = 1.0,
) -> Plan:
    """A plan that hides a person's whole history."""
    return Plan(
        unit=Unit.USER,
        trust=trust,
        epsilon=8.0,
        delta=1e-5,
        clip_norm=clip_norm,
        noise_multiplier=sigma,
        sampling_rate=1.0,
        steps_per_round=1,
        participations=rounds,
        rounds=rounds,
        expected_cohort=cohort,
        noise=noise,
    )


def made_population(users: int = 6, items: int = 8) -> Population:
    """Histories of 1 to 5 items each."""
    rng = stream(5, "counting population")
    histories = [rng.integers(items, size=1 + u % 5).tolist() for u in range(users)]
    table = Interactions.from_histories(histories, n_items=items)
    return Population.from_interactions(table, catalogue=CATALOGUE)


def federate(
    population: Population,
    *,
    nodes: int,
    rounds: int = 3,
    share: float = 1.0,
    seed: int = 1,
    quorum: float = 0.8,
    deadline: float = 60.0,
    run_plan: Plan | None = None,
    app: Any = client_app,
    method: Method = METHOD,
    make: Any = build,
    make_server: Any = lambda learner: learner,
    ledger: Any = None,
    replies: Path | None = None,
    directory: Path | None = None,
    resume: bool = False,
    observer: Observer | None = None,
    workers: int | None = None,
) -> State:
    """Run Counting, unless told otherwise, on a LocalGrid and return the last state."""
    participants = population.participants(nodes, ledger=ledger, replies=replies, build=make)
    with LocalGrid(app, participants, workers=workers) as grid:
        census = greet(grid)
        size = cohort_size(users=census.users, share=share)
        times = most_participations(rounds=rounds, size=size, users=census.users)
        parts = (method.model, method.algorithm, method.settings, census.n_items)
        made = plan(rounds=rounds, cohort=size, participations=times)
        return run_rounds(
            grid,
            census=census,
            algorithm=make_server(make(*parts)),
            method=method,
            plan=made if run_plan is None else run_plan,
            terms=Terms(rounds=rounds, cohort=size, quorum=quorum, deadline=deadline),
            seed=seed,
            directory=directory,
            resume=resume,
            observer=observer,
            companions=grid,
        )


def main() -> None:
    """Run a federation in a process that may be killed: python counting.py DIRECTORY ROUNDS."""
    from shared.privacy.ledger import Ledger

    directory, rounds = Path(sys.argv[1]), int(sys.argv[2])
    with Ledger(directory / "ledger.db") as ledger:
        federate(
            made_population(),
            nodes=2,
            rounds=rounds,
            run_plan=private_plan(rounds=rounds, noise="seeded", sigma=20.0),
            ledger=ledger,
            replies=directory / "replies",
            directory=directory,
            resume=True,
        )


if __name__ == "__main__":
    main()
