"""A clip norm that moves over a run: every device is told it, and every release is right."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from counting import federate, made_population, user_plan

from server.journal import RoundReport
from shared.privacy.ledger import Ledger
from shared.privacy.plan import Plan, Trust


def plan(trust: Trust, **changes: float) -> Plan:
    made = user_plan(trust=trust, rounds=12, cohort=20, sigma=20.0, noise="off", clip_norm=0.01)
    return replace(made, clip_quantile=0.5, clip_share=0.1, epsilon=100.0, **changes)


@pytest.mark.parametrize("trust", list(Trust))
def test_the_clip_norm_moves_towards_the_quantile(trust: Trust, tmp_path: Path) -> None:
    seen: list[RoundReport] = []

    def observe(report: RoundReport) -> bool:
        seen.append(report)
        return False

    population = made_population(20, 15)
    with Ledger(tmp_path / "ledger.db") as ledger:
        federate(
            population,
            nodes=2,
            rounds=12,
            run_plan=plan(trust),
            ledger=ledger,
            observer=observe,
            directory=tmp_path / "run",
        )
        assert len(ledger.worst(delta=1e-5)) == 1
    norms = [report.notes["next_clip_norm"] for report in seen]
    assert norms == sorted(norms)
    # Everyone is above the first bounds, so each step is exp(rate * quantile).
    assert norms[0] == pytest.approx(0.01 * np.exp(0.1), rel=1e-3)
    assert norms[-1] == pytest.approx(0.01 * np.exp(1.2), rel=1e-2)


def last(tmp_path: Path, name: str, run_plan: Plan, *, nodes: int = 2) -> np.ndarray:
    with Ledger(tmp_path / f"{name}.db") as ledger:
        population = made_population(20, 15)
        rounds = run_plan.rounds
        state = federate(population, nodes=nodes, rounds=rounds, run_plan=run_plan, ledger=ledger)
    assert state.round == rounds
    return state.tensors["table"]


def test_packing_does_not_show_and_one_round_is_the_fixed_clip(tmp_path: Path) -> None:
    three = replace(plan(Trust.CENTRAL), rounds=3, participations=3)
    packed, faithful = (last(tmp_path, f"n{n}", three, nodes=n) for n in (2, 20))
    np.testing.assert_allclose(packed, faithful, atol=1e-6)
    moving = replace(three, rounds=1, participations=1)
    fixed = replace(moving, clip_quantile=0.0, clip_share=0.0)
    one, other = last(tmp_path, "moving", moving), last(tmp_path, "fixed", fixed)
    np.testing.assert_allclose(one, other, atol=1e-6)
    assert np.abs(packed - one).max() > 1e-5
