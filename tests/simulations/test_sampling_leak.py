"""The leak shows under the flawed sampler and nowhere else."""

import json

import numpy as np
import pytest

from shared.data.interactions import Interactions
from shared.data.splits import leave_last_out
from shared.randomness import stream
from simulations.benchmarks import sampling_leak


def made(users=400, n_items=150, events=12):
    """Everyone takes 12 items at random: nothing can be learned from anyone."""
    histories = [
        stream(5, "random histories", user).permutation(n_items)[:events].tolist()
        for user in range(users)
    ]
    return Interactions.from_histories(histories, n_items=n_items)


@pytest.mark.statistical
def test_flawed_above_nine_tenths_and_honest_at_chance():
    """The seed is fixed; over seeds the honest side would alarm in 1 of 15,000 (4 errors)."""
    found = sampling_leak.leak(made(), rounds=50, seed=0)
    assert found["shown"]
    assert found["flawed"][50] > 0.9
    assert found["flawed"][1] < found["flawed"][5] < found["flawed"][50]
    assert abs(found["honest"][50] - 0.10) < 4 * found["standard_error"]
    assert found["users"] == 400


def test_too_few_rounds_show_nothing():
    found = sampling_leak.leak(made(users=100), rounds=1, seed=0)
    assert not found["shown"]


def test_only_the_flawed_sampler_never_draws_the_answer(monkeypatch):
    """Count the draws of the held-out item itself, through the room's own sampler."""
    table = made(users=50)
    parts, drawn, real = leave_last_out(table), [], sampling_leak.unmet_items

    def watched(chances, *, owner, training):
        items = real(chances, owner=owner, training=training)
        answers = np.array([parts.test.targets.history(user)[0] for user in range(50)])
        drawn.append(int(np.sum(items == answers[owner])))
        return items

    monkeypatch.setattr(sampling_leak, "unmet_items", watched)
    sampling_leak.leak(table, rounds=20, seed=0)
    flawed, honest = drawn[:20], drawn[20:]
    assert sum(flawed) == 0
    assert sum(honest) > 50


def test_the_command(tmp_path, capsys):
    path = tmp_path / "pairs.txt"
    table = made(users=200)
    path.write_text(
        "".join(f"{u} {i}\n" for u, i in zip(table.users, table.items, strict=True)),
        encoding="utf-8",
    )
    assert sampling_leak.main([str(path), "--rounds", "50"]) == 0
    assert json.loads(capsys.readouterr().out)["shown"] is True
    assert sampling_leak.main([str(path), "--rounds", "1"]) == 4
    capsys.readouterr()
    assert sampling_leak.main([str(tmp_path / "absent")]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
