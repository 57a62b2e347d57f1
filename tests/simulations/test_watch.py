"""Between rounds: the best model is kept, patience ends a run, a resume goes on as before."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from server.journal import RoundReport
from shared.algorithms.base import State
from shared.config import TrainingConfig
from shared.data.interactions import Interactions
from shared.data.splits import leave_last_out
from shared.models.popularity import PopularityModel
from simulations.cost import Meter
from simulations.display import Display
from simulations.watch import Watch

GOOD = {0: 0.0, 1: 5.0, 2: 9.0, 3: 5.0, 4: 1.0, 5: 0.0}
"""Round -> how much of the right order is in the tensors: best after round 2."""


class Nothing:
    def snapshot(self) -> dict[str, Any]:
        return {"nodes": np.array(1)}

    def restore(self, arrays: Mapping[str, Any]) -> None:
        assert set(arrays) == {"nodes"}


@pytest.fixture
def watching(population: Interactions) -> Any:
    split = leave_last_out(population)
    right = np.bincount(split.validation.targets.items, minlength=population.n_items)

    def build(**training: Any) -> tuple[Watch, Any]:
        watch = Watch(
            training=TrainingConfig(rounds=5, **training),
            model=PopularityModel(n_items=population.n_items),
            queries=split.validation,
            devices=Nothing(),
            display=Display(silent=True),
            meter=Meter(),
        )

        def report(number: int) -> RoundReport:
            rng = np.random.default_rng(0)
            counts = GOOD[number] * right + 5 * rng.standard_normal(len(right))
            return RoundReport(
                round=number,
                rounds=5,
                state=State(tensors={"counts": counts}, optimiser={}, round=number),
                epsilon=float("inf"),
                users=40,
                replies=1,
                quarantined={},
                seconds=0.0,
                bytes_up=1,
                bytes_down=1,
            )

        return watch, report

    return build


def test_patience_stops_and_keeps_the_best(watching: Any) -> None:
    watch, report = watching(patience=2)
    assert [watch(report(n)) for n in (1, 2, 3, 4)] == [False, False, False, True]
    assert watch.best_round == 2
    np.testing.assert_array_equal(watch.tensors["counts"], report(2).state.tensors["counts"])


def test_without_patience_the_last_model_counts(watching: Any) -> None:
    watch, report = watching()
    assert not any(watch(report(n)) for n in range(1, 6))
    np.testing.assert_array_equal(watch.tensors["counts"], report(5).state.tensors["counts"])


def test_a_resumed_run_stops_where_it_would_have(watching: Any) -> None:
    before, report = watching(patience=2)
    for number in (1, 2, 3):
        before(report(number))
    after, _ = watching(patience=2)
    after.restore(before.snapshot())
    assert after(report(4)) is True
    assert after.best_round == 2
    np.testing.assert_array_equal(after.tensors["counts"], report(2).state.tensors["counts"])


def test_validation_is_noted_when_it_is_due(watching: Any) -> None:
    watch, report = watching(validate_every=2)
    reports = [report(n) for n in range(1, 6)]
    for one in reports:
        watch(one)
    noted = [one.round for one in reports if "validation_ndcg@10" in one.notes]
    assert noted == [2, 4, 5]
