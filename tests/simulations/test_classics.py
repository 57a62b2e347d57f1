"""Private runs of item-kNN, EASE and least squares end, and are charged what was asked for."""

from pathlib import Path
from typing import Any

import pytest

from shared.config import Settings
from simulations.display import Display
from simulations.run import simulate

RUNS = {
    "ease": ({"name": "ease"}, {"name": "gram"}),
    "item-knn": ({"name": "item-knn"}, {"name": "gram"}),
    "ials": ({"name": "mf", "dim": 3}, {"name": "ials"}),
}


@pytest.mark.parametrize("trust", ["central", "distributed", "local"])
@pytest.mark.parametrize("name", sorted(RUNS))
def test_a_private_run_ends_and_is_charged_right(
    name: str, trust: str, events_file: Path, tmp_path: Path
) -> None:
    model, algorithm = RUNS[name]
    table: dict[str, Any] = {
        "data": {"dataset": str(events_file)},
        "model": model,
        "algorithm": algorithm,
        "privacy": {"unit": "user", "trust": trust, "epsilon": 3.0, "delta": 1e-3},
        "training": {"rounds": 2},
        "evaluation": {"full": ["hit_rate@10", "ndcg@10"], "sampled": [], "extra": []},
        "simulation": {"users_per_node": 20},
    }
    settings = Settings.from_table(table)
    with Display(silent=True) as display:
        result = simulate(settings=settings, out=tmp_path / "run", resume=False, display=display)
    assert result["rounds"] == 2
    assert result["privacy"]["epsilon"] == pytest.approx(3.0, abs=1e-6)
    assert 0.0 <= result["test"]["hit_rate@10"] <= 1.0
    assert result["cost"]["bytes_up_per_user"] > 0
