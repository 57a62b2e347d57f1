"""`fedrec audit --attack`: what it reads, prints, keeps and exits with."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import made_histories
from typer.testing import CliRunner

from shared.errors import ConfigError
from shared.privacy.plan import Unit
from shared.randomness import OSNoise
from simulations.attack.canaries import AttackConfig, Canaries
from simulations.attack.target import SIZES, read_target
from simulations.cli import app

RUN = CliRunner()


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """As few canaries as can be."""
    usual = AttackConfig(canaries=40, history=5, long_history=20)
    monkeypatch.setattr(AttackConfig, "usual", classmethod(lambda cls, privacy: usual))


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    events = tmp_path / "events.csv"
    rows = [f"{u + 1},{i + 1}" for u, items in enumerate(made_histories()) for i in items]
    events.write_text("user,item\n" + "\n".join(rows) + "\n", encoding="utf-8")
    path = tmp_path / "run.toml"
    path.write_text(
        f"[data]\ndataset = '{events}'\n[model]\nname = 'popularity'\n"
        "[privacy]\nunit = 'user'\ntrust = 'central'\nepsilon = 3.0\nclip_norm = 1.0\n"
        "[training]\nrounds = 2\n"
        "[evaluation]\nfull = ['hit_rate@10', 'ndcg@10', 'recall@20']\nnegatives = 10\n",
        encoding="utf-8",
    )
    return path


def invoked(*words: str) -> tuple[int, str, str]:
    done = RUN.invoke(app, ["audit", *words])
    return done.exit_code, done.stdout, done.stderr


@pytest.mark.usefixtures("small")
def test_a_settings_file_is_attacked(settings: Path, tmp_path: Path) -> None:
    out = tmp_path / "found"
    code, said, _ = invoked("--attack", str(settings), "--json", "--seed", "3", "--out", str(out))
    report: dict[str, Any] = json.loads(said)
    assert code == 0
    assert json.loads((out / "attack.json").read_text()) == report
    assert report["verdict"] == "PASS"
    assert (report["users"], report["items"], report["seed"]) == (40, 30, 3)
    assert report["claim"]["epsilon"] == pytest.approx(3.0, abs=0.01)
    assert set(report["layers"]) == {"conformance", "canaries", "statistics"}
    assert 0.0 <= report["lower_bound"] <= report["claim"]["epsilon"]
    code, said, _ = invoked("--attack", str(settings))
    assert code == 0
    assert said.isascii()
    for part in ("Conformance", "Attack canaries", "lower bound", "accounted     3.0"):
        assert part in said


@pytest.mark.usefixtures("small")
def test_a_run_keeps_what_an_attack_found(settings: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = RUN.invoke(app, ["simulate", str(settings), "--out", str(out)])
    assert done.exit_code == 0, done.stderr
    assert "audit: not run" in done.stdout
    code, said, _ = invoked("--attack", str(out), "--json")
    report = json.loads(said)
    kept = json.loads((out / "result.json").read_text())["privacy"]["audit"]
    assert code == 0
    for name in ("lower_bound", "estimate", "method", "canaries", "verdict"):
        assert kept[name] == report[name]
    code, said, _ = invoked(str(out), "--json")
    checked = json.loads(said)
    assert code == 0
    assert checked["ledger"]["kinds"]["audit"] == 1
    assert checked["verdict"] == "verified"


@pytest.mark.usefixtures("small")
def test_an_alarm_exits_4_and_is_kept(
    settings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    assert RUN.invoke(app, ["simulate", str(settings), "--out", str(out)]).exit_code == 0
    monkeypatch.setattr(OSNoise, "gaussian", lambda self, shape, *keys: np.zeros(shape))
    code, said, error = invoked("--attack", str(out))
    assert code == 4
    assert "ALARM  noise variance" in said
    assert error.startswith("fedrec: The mechanism of ")
    assert error.count("\n") == 1
    kept = json.loads((out / "result.json").read_text())["privacy"]["audit"]
    assert kept["verdict"] == "ALARM"


@pytest.mark.usefixtures("small")
def test_noise_that_can_be_repeated_is_an_alarm(settings: Path) -> None:
    text = settings.read_text().replace("[privacy]\n", "[privacy]\nnoise = 'seeded'\n")
    settings.write_text(text)
    code, said, _ = invoked("--attack", str(settings), "--json")
    wrong = [c["name"] for c in json.loads(said)["layers"]["conformance"]["checks"] if not c["ok"]]
    assert (code, wrong) == (4, ["noise source"])


@pytest.mark.parametrize("words", [(), ("somewhere", "--attack", "elsewhere")])
def test_one_thing_is_audited_at_a_time(words: tuple[str, ...]) -> None:
    code, _, error = invoked(*words)
    assert code == 2
    assert error.startswith("fedrec: Name either")


def test_what_cannot_be_attacked_is_refused(tmp_path: Path, settings: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    (tmp_path / "open.toml").write_text("[privacy]\nunit = 'none'\n")
    for aim in (bare, tmp_path / "open.toml", tmp_path / "absent.toml"):
        code, _, error = invoked("--attack", str(aim))
        assert code == 2
        assert error.count("\n") == 1
    with pytest.raises(ConfigError, match="at least 40 canaries"):
        AttackConfig(canaries=10)


def test_known_data_sets_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "known.toml"
    path.write_text("[data]\ndataset = 'ml-1m'\n")
    target = read_target(path)
    assert (target.users, target.items) == SIZES["ml-1m"]


def planted(**changes: Any) -> Canaries:
    config = AttackConfig(canaries=40)
    given: dict[str, Any] = {"unit": Unit.USER, "honest": 10, "items": 30, "seed": 1}
    return Canaries.toss(config, **{**given, **changes})


@pytest.mark.parametrize("shape", [(72,), (72, 5), (20, 20), (9, 40), (500, 2)])
def test_every_planted_user_owns_a_coordinate(shape: tuple[int, ...]) -> None:
    canaries = planted()
    name, row, column = canaries.cells({"small": (3, 2), "large": shape})
    assert name == "large"
    assert len(set(zip(row.tolist(), column.tolist(), strict=True))) == canaries.planted == 42
    assert row.min() >= 0
    assert row.max() == shape[0] - 1
    assert column.max() < max(shape[1:], default=1)


def test_a_tensor_of_items_gives_each_planted_user_its_own_row() -> None:
    canaries = planted()
    _, row, _ = canaries.cells({"items": (72, 5)})
    assert sorted(row.tolist()) == list(range(30, 72))
    with pytest.raises(ConfigError, match="hold no 42 canaries"):
        canaries.cells({"items": (20, 2)})


def test_coins_are_fair_and_reproducible() -> None:
    one, same, other = planted(), planted(), planted(seed=2)
    assert (one.included == same.included).all()
    assert (one.included != other.included).any()
    assert one.alternating.sum() == 20
    assert planted(unit=Unit.INTERACTION).alternating.sum() == 0
    assert (one.signs(1) == 1.0).all()
    assert one.signs(2).sum() == 0.0
