"""The packing of users into nodes does not show in the model."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from counting import federate, made_population, private_plan, user_plan

from server.terms import Method
from shared.algorithms.base import State
from shared.algorithms.methods import ALGORITHMS, WHOLE_USERS, build
from shared.privacy.ledger import Ledger
from shared.privacy.plan import Plan, Trust, Unit

METHODS = {
    "averaging": Method(
        model="mf",
        algorithm="averaging",
        settings={
            "algorithm.local_steps": 2,
            "algorithm.sampling_rate": 0.5,
            "algorithm.engine": "vectorised",
        },
    ),
    "gradient": Method(
        model="gru",
        algorithm="gradient",
        settings={
            "model.dim": 4,
            "model.window": 3,
            "algorithm.precision": "double",
            "algorithm.examples.anywhere": 0.5,
        },
    ),
    "gram": Method(model="ease", algorithm="gram", settings={"model.head": 8}),
    "ials": Method(model="mf", algorithm="ials", settings={"model.dim": 3, "algorithm.head": 8}),
    "popularity": Method(model="popularity", algorithm="popularity", settings={}),
    "transitions": Method(model="transitions", algorithm="transitions", settings={"model.head": 8}),
}
ROUNDS = {"gram": 2, "transitions": 2}
OPEN = {
    "ease": (Method(model="ease", algorithm="gram", settings={}), 1),
    "ials": (Method(model="mf", algorithm="ials", settings={"model.dim": 3}), 3),
    "item-knn": (Method(model="item-knn", algorithm="gram", settings={}), 1),
    "transitions": (Method(model="transitions", algorithm="transitions", settings={}), 1),
}
"""The forms without a head, and their rounds."""
ZOO: dict[str, dict[str, object]] = {
    "bilinear": {"model.dim": 4},
    "ncf": {"model.dim": 4, "model.hidden": 4},
    "two-tower": {"model.dim": 4, "model.dropout": 0.3},
    "vae": {"model.hidden": 4, "model.latent": 2},
}
"""Models that the gradient learns besides the one of `METHODS`."""


def distance(a: State, b: State) -> float:
    return max(float(np.abs(a.tensors[n] - v).max(initial=0.0)) for n, v in b.tensors.items())


@pytest.mark.parametrize("share", [1.0, 0.4])
@pytest.mark.parametrize("nodes", [1, 2, 5])
def test_one_user_a_node_is_the_packed_run(nodes: int, share: float) -> None:
    population = made_population(12, 20)
    faithful = federate(population, nodes=12, rounds=6, share=share)
    packed = federate(population, nodes=nodes, rounds=6, share=share)
    assert distance(faithful, packed) <= 1e-6
    assert distance(faithful, federate(population, nodes=12, rounds=5, share=share)) > 1e-3


def test_threads_do_not_change_a_bit() -> None:
    population = made_population(12, 20)
    runs: list[Any] = [federate(population, nodes=6, workers=w) for w in (1, 4, 4)]
    for other in runs[1:]:
        assert np.array_equal(runs[0].tensors["table"], other.tensors["table"])


def test_every_algorithm_is_covered() -> None:
    assert set(METHODS) == set(ALGORITHMS)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("unit", [Unit.NONE, Unit.INTERACTION])
def test_packing_does_not_show_in_any_algorithm(name: str, unit: Unit, tmp_path: Path) -> None:
    if unit is Unit.INTERACTION and name in WHOLE_USERS:
        pytest.skip("protects whole users")
    compare(METHODS[name], unit, tmp_path)


@pytest.mark.parametrize("name", OPEN)
def test_packing_does_not_show_without_a_head(name: str, tmp_path: Path) -> None:
    method, rounds = OPEN[name]
    compare(method, Unit.NONE, tmp_path, rounds=rounds)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("trust", [Trust.CENTRAL, Trust.LOCAL])
def test_packing_does_not_show_in_whole_users(name: str, trust: Trust, tmp_path: Path) -> None:
    made = user_plan(trust=trust, cohort=12, noise="off", clip_norm=0.1)
    made = replace(made, rounds=ROUNDS.get(name, 3), participations=ROUNDS.get(name, 3))
    compare(METHODS[name], Unit.USER, tmp_path, run_plan=made)


@pytest.mark.parametrize("name", ZOO)
def test_packing_does_not_show_in_any_model_of_the_gradient(name: str, tmp_path: Path) -> None:
    settings = {**ZOO[name], "algorithm.precision": "double"}
    compare(Method(model=name, algorithm="gradient", settings=settings), Unit.NONE, tmp_path)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Full backward hook is firing:UserWarning")
def test_devices_with_opacus_are_the_packed_run(tmp_path: Path) -> None:
    averaging = METHODS["averaging"]
    settings = {**averaging.settings, "algorithm.engine": "auto"}
    compare(replace(averaging, settings=settings), Unit.INTERACTION, tmp_path)


def compare(
    method: Method,
    unit: Unit,
    tmp_path: Path,
    *,
    run_plan: Plan | None = None,
    rounds: int | None = None,
) -> None:
    population = made_population(12, 20)
    made = build(method.model, method.algorithm, method.settings, 20)
    plan = run_plan or private_plan(
        cohort=12,
        noise="off",
        sigma=9.0,
        sampling_rate=made.sampling_rate,
        steps=made.local_steps,
    )
    with Ledger(tmp_path / "one.db") as one, Ledger(tmp_path / "two.db") as two:
        faithful, packed = (
            federate(
                population,
                nodes=nodes,
                rounds=rounds or ROUNDS.get(method.algorithm, 3),
                run_plan=None if unit is Unit.NONE else plan,
                ledger=ledger,
                method=method,
                make=build,
            )
            for nodes, ledger in ((12, one), (2, two))
        )
    assert distance(faithful, made.start(1)) > 1e-3
    assert distance(faithful, packed) <= 1e-6
