"""Federated evaluation: the latest event is kept out of training, and measured once, bounded."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from counting import Counting, federate, made_population, user_plan
from hypothesis import given, settings
from hypothesis import strategies as st

from server.journal import RoundReport
from shared.algorithms.base import Cohort, State
from shared.algorithms.measured import Measured, measurements
from shared.data.interactions import Interactions
from shared.errors import ConfigError
from shared.privacy.ledger import Ledger
from shared.privacy.plan import Plan, Trust
from shared.privacy.release import clip

N_ITEMS = 12
SHARE = 0.2
METHOD = Measured(inner=Counting(n_items=N_ITEMS), rounds=3, share=SHARE)


def plan(**changes: Any) -> Plan:
    made = user_plan(trust=Trust.CENTRAL, cohort=4, noise="off")
    return replace(made, shares=METHOD.shares(3), metrics_share=SHARE, **changes)


def cohort(histories: list[list[int]], *, round_: int) -> Cohort:
    table = Interactions.from_histories(histories, n_items=N_ITEMS)
    keys = np.arange(len(histories))
    memory = {"visits": np.zeros((len(histories), 1))}
    return Cohort(histories=table, keys=keys, memory=memory, round=round_, seed=1)


def state(scores: np.ndarray, round_: int = 2) -> State:
    return State(tensors={"table": np.stack([scores, scores], 1)}, optimiser={}, round=round_)


def test_shares_leave_the_rest_to_learning() -> None:
    assert METHOD.shares(3) == pytest.approx((0.4, 0.4, 0.2))
    assert [METHOD.purpose(turn) for turn in (1, 2, 3)] == ["train", "train", "metrics"]
    assert METHOD.asked(3) == {"metrics": (2,)}
    assert METHOD.asked(2) == METHOD.sent(3) == METHOD.model.global_shapes
    with pytest.raises(ConfigError, match="a round to learn in"):
        replace(METHOD, rounds=1)


def test_learning_sees_its_own_rounds_and_the_same_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Plan] = []
    real = Counting.absorb

    def absorb(self: Counting, before: State, total: Any, given: Plan) -> State:
        seen.append(given)
        return real(self, before, total, given)

    monkeypatch.setattr(Counting, "absorb", absorb)
    whole = plan(noise_multiplier=3.0)
    METHOD.absorb(METHOD.start(0), {"table": np.zeros((N_ITEMS, 2))}, whole)
    (inner,) = seen
    assert (inner.rounds, inner.metrics_share) == (2, 0.0)
    for turn in (1, 2):
        assert inner.multiplier(turn) == pytest.approx(whole.multiplier(turn))


def test_the_measured_event_is_no_training_event() -> None:
    one = cohort([[1, 2, 3], [4], [], [5, 6]], round_=1)
    other = cohort([[1, 2, 9], [7], [], [5, 8]], round_=1)
    start = METHOD.start(0)
    found, same = (METHOD.contribute(start, each, plan())[0] for each in (one, other))
    for name, rows in found.tensors.items():
        np.testing.assert_array_equal(rows.total(), same.tensors[name].total())
    seen = found.tensors["table"].total()[:, 0]
    assert sorted(np.flatnonzero(seen).tolist()) == [1, 2, 5]


def test_what_is_measured() -> None:
    scores = np.arange(N_ITEMS, dtype=float)[::-1]
    # Known items are no candidates: user 0's item 2 comes first, user 1's item 11 beyond ten.
    table = cohort([[0, 1, 2], [0, 11], [3], []], round_=3)
    update, _ = METHOD.contribute(state(scores), table, plan(clip_norm=5.0))
    values = update.tensors["metrics"].values.reshape(4, 2) / 5.0 * 0.5**0.5 + 0.5
    np.testing.assert_allclose(values, [[1, 1], [0, 0], [0.5, 0.5], [0.5, 0.5]], atol=1e-12)
    total = {"metrics": update.tensors["metrics"].total()}
    after = METHOD.absorb(state(scores), total, plan(clip_norm=5.0))
    assert measurements(after)["hit_rate@10"] == pytest.approx(0.5)
    assert after.tensors is not None
    assert after.round == 3
    assert measurements(state(scores)) == {}


@settings(deadline=None, max_examples=40)
@given(
    histories=st.lists(st.lists(st.integers(0, N_ITEMS - 1), max_size=6), min_size=1, max_size=5),
    scores=st.lists(
        st.one_of(st.floats(-3, 3), st.just(float("nan"))), min_size=N_ITEMS, max_size=N_ITEMS
    ),
)
def test_the_report_is_bounded(histories: list[list[int]], scores: list[float]) -> None:
    table = cohort(histories, round_=3)
    update, _ = METHOD.contribute(state(np.array(scores)), table, plan(clip_norm=2.0))
    norms = np.linalg.norm(update.tensors["metrics"].values.reshape(-1, 2), axis=1)
    assert (norms <= 2.0 * (1 + 1e-12)).all()
    assert clip(update, clip_norm=2.0 * (1 + 1e-9)).below.all()


@pytest.mark.parametrize("trust", list(Trust))
def test_a_run_ends_with_a_measurement(trust: Trust, tmp_path: Path) -> None:
    seen: list[RoundReport] = []

    def observe(report: RoundReport) -> bool:
        seen.append(report)
        return False

    population = made_population(12, N_ITEMS)
    inner = Counting(n_items=N_ITEMS)
    whole = Measured(inner=inner, rounds=3, share=SHARE)
    made = replace(
        user_plan(trust=trust, cohort=12, clip_norm=3.0, sigma=30.0, noise="off"),
        epsilon=100.0,
        shares=whole.shares(3),
        metrics_share=SHARE,
    )
    with Ledger(tmp_path / "ledger.db") as ledger:
        federate(
            population,
            nodes=12,
            run_plan=made,
            ledger=ledger,
            observer=observe,
            directory=tmp_path / "run",
            make_server=lambda learner: Measured(inner=learner, rounds=3, share=SHARE),
        )
        assert [one.purpose for one in ledger.history()][-12:] == ["metrics"] * 12
        assert len(ledger.worst(delta=1e-5)) == 2
    assert [bool(report.notes) for report in seen] == [False, False, True]
    assert 0.0 <= seen[-1].notes["devices_hit_rate@10"] <= 1.0
    table = seen[1].state.tensors["table"]
    np.testing.assert_array_equal(seen[-1].state.tensors["table"], table)
