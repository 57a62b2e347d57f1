"""What a federation refuses before anything is read, spent or written."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from counting import CATALOGUE, Counting, build, made_population
from masked import made_plan

from client.participant import Participant
from shared.config import Settings
from shared.data.interactions import Interactions
from shared.data.splits import leave_last_out
from shared.errors import ConfigError
from shared.privacy.distributed import Layout, noise_shares
from shared.privacy.ledger import Ledger
from shared.protocol import Order, state_digest
from simulations.federation import Federation


def made_settings(
    users_per_node: int, *, grid: str = "ray", trust: str = "distributed"
) -> Settings:
    table: dict[str, Any] = {
        "model": {"name": "popularity"},
        "privacy": {"unit": "user", "trust": trust},
        "simulation": {"grid": grid, "users_per_node": users_per_node},
    }
    return Settings.from_table(table)


def made_federation(population: Interactions, settings: Settings) -> Federation:
    split = leave_last_out(population)
    return Federation(settings=settings, split=split, catalogue="c")


def test_devices_on_ray_take_no_part_in_secure_sums() -> None:
    """They keep no memory between messages; said by the settings, before data is read."""
    with pytest.raises(ConfigError, match="keep no memory") as refused:
        made_settings(1)
    assert str(refused.value).count(". ") == 0
    for users_per_node, grid, trust in ((1, "local", "distributed"), (1, "ray", "central")):
        assert made_settings(users_per_node, grid=grid, trust=trust)


def test_a_packing_that_comes_to_a_user_a_node_is_refused_on_ray(
    population: Interactions, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("os.cpu_count", lambda: 64)
    with pytest.raises(ConfigError, match="keep no memory"):
        made_federation(population, made_settings(0))
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    assert made_federation(population, made_settings(0)).nodes == 2
    assert made_federation(population, made_settings(1, grid="local")).nodes == 40
    assert made_federation(population, made_settings(1, trust="central")).nodes == 40
    assert list(tmp_path.iterdir()) == []


def test_a_packed_node_of_another_process_answers(tmp_path: Path) -> None:
    """What a Ray actor does: its users come from a file, and it keeps nothing between messages."""
    plan = made_plan()
    made_population().save(tmp_path / "population.npz")
    with Ledger(tmp_path / "ledger.db") as ledger:

        def afresh(part: int) -> Participant:
            path, places = tmp_path / "population.npz", {"ledger": ledger, "build": build}
            return Participant.from_file(path, part=part, parts=2, **places)

        whole = afresh(0).greet()
        assert (whole.users, whole.identity) == (3, "")
        tensors = {
            name: value.astype(np.float32)
            for name, value in Counting(n_items=8).model.initial(1).items()
        }
        total = 0.0
        for part in range(2):
            order = Order(
                run="run",
                round=1,
                place=part,
                seed=1,
                model="table",
                algorithm="counting",
                settings="{}",
                plan=plan,
                catalogue=CATALOGUE,
                participants=np.arange(3),
                tensors=tensors,
                state=state_digest(tensors),
            )
            reply, _ = afresh(part).answer(order, None)
            total = total + reply.tensors["table"]
        assert len(ledger.history()) == 2
    shares = noise_shares(plan, round=1, layout=Layout(shapes={"table": (8, 2)}))
    assert 0.1 * shares.grid.reach < np.abs(total).max() < 6 * shares.grid.sensitivity
