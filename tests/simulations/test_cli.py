"""The command: exit codes, one sentence on standard error, one object on standard output."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from simulations.cli import app
from simulations.display import Display

ROOT = Path(__file__).parents[2]
RUN = CliRunner()


def fedrec(*words: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own."""
    command = [sys.executable, "-m", "simulations.cli", *words]
    return subprocess.run(command, text=True, timeout=120, cwd=ROOT, **options)  # noqa: S603


def one_sentence(text: str, *parts: str) -> None:
    """Assert that standard error is one line of ours, without a traceback."""
    assert text.count("\n") == 1
    assert text.startswith("fedrec: ")
    assert "Traceback" not in text
    for part in parts:
        assert part in text


def test_importing_the_command_pulls_nothing_heavy() -> None:
    heavy = ("torch", "opacus", "flwr", "polars", "dp_accounting", "scipy", "numpy")
    code = f"import sys, simulations.cli; print([m for m in {heavy!r} if m in sys.modules])"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60)  # noqa: S603
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize(
    "words", [["--help"], ["simulate", "--help"], ["data", "inspect", "--help"], ["version"]]
)
def test_help_and_version_are_done(words: list[str]) -> None:
    done = RUN.invoke(app, words)
    assert done.exit_code == 0
    assert done.stdout


@pytest.mark.parametrize("words", [["simulat"], ["simulate", "--epsilom", "3"], ["data", "fetch"]])
def test_bad_usage_exits_2(words: list[str]) -> None:
    assert RUN.invoke(app, words).exit_code == 2


def refused(*words: str, code: int = 2) -> str:
    done = RUN.invoke(app, list(words))
    assert done.exit_code == code, done.output
    assert done.stdout == ""
    one_sentence(done.stderr)
    return done.stderr


def test_missing_dataset(tmp_path: Path) -> None:
    out = tmp_path / "out"
    message = refused("simulate", "--dataset", str(tmp_path / "none.csv"), "--out", str(out))
    assert "none.csv" in message
    assert not out.exists()


def test_unusable_dataset_leaves_nothing_behind(tmp_path: Path) -> None:
    data, out = tmp_path / "bad.csv", tmp_path / "out"
    data.write_text("user,item\n1\n", encoding="utf-8")
    message = refused("simulate", "--dataset", str(data), "--out", str(out))
    assert "bad.csv:2" in message
    assert not out.exists()


def test_config_errors_name_the_file_and_every_key(tmp_path: Path) -> None:
    config = tmp_path / "mine.toml"
    config.write_text("sead = 1\n[training]\nroundz = 3\n", encoding="utf-8")
    message = refused("simulate", str(config))
    for part in ("mine.toml", "did you mean seed?", "did you mean rounds?"):
        assert part in message


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--epsilon", "-1"], "epsilon"),
        (["--epsilon", "nan"], "epsilon"),
        (["--rounds", "0"], "training.rounds=0"),
        (["--set", "training.nothing=1"], "training.nothing"),
        (["--set", "training"], "--set"),
        (["--unit", "persons"], "privacy.unit='persons'"),
        (["--model", "mff"], "did you mean mf?"),
        (["--resume"], "--out"),
        (["/nowhere/mine.toml"], "/nowhere/mine.toml"),
    ],
)
def test_impossible_requests(words: list[str], part: str) -> None:
    assert part in refused("simulate", *words)


NONSENSE = {
    "privacy.epsilon": ["0", "-1", "nan", "inf"],
    "privacy.delta": ["0", "-1e-5", "1", "2", "nan", "inf"],
    "privacy.clip_norm": ["0", "-1", "nan", "inf"],
    "privacy.noise": ["inf", "'none'"],
    "privacy.dropouts": ["0.5", "-0.1", "nan"],
    "privacy.colluders": ["0.5", "inf"],
    "privacy.clip_quantile": ["1", "nan"],
    "privacy.metrics_share": ["1", "-0.1"],
    "training.rounds": ["0", "-3"],
    "training.cohort": ["0", "1.5", "nan"],
}


@pytest.mark.parametrize("unit", ["user", "interaction"])
@pytest.mark.parametrize("setting", NONSENSE)
def test_bad_numbers_are_refused_before_any_data_is_read(setting: str, unit: str) -> None:
    """The data set does not exist, and nobody gets as far as to notice."""
    for value in NONSENSE[setting]:
        words = ("--unit", unit, "--dataset", "/nowhere.csv", "--set", f"{setting}={value}")
        message = refused("simulate", *words)
        assert setting.split(".")[1] in message, (value, message)
        assert "nowhere" not in message


def test_delta_above_one_over_users_is_refused_before_anything_runs(
    tmp_path: Path, words: list[str]
) -> None:
    asked = [*words, "--out", str(tmp_path / "out"), "--delta", "0.4"]
    assert "delta <= 1/users" in refused(*asked)
    assert not (tmp_path / "out").exists()


def test_resume_of_an_empty_directory(tmp_path: Path) -> None:
    message = refused("simulate", "--resume", "--out", str(tmp_path))
    assert "Nothing to resume" in message
    assert list(tmp_path.iterdir()) == []


def test_a_directory_in_use_is_not_overwritten(tmp_path: Path, events_file: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "precious").touch()
    refused("simulate", "--dataset", str(events_file), "--out", str(out))
    assert [path.name for path in out.iterdir()] == ["precious"]


def test_cut_off_beyond_the_catalogue(tmp_path: Path, events_file: Path) -> None:
    words = ("simulate", "--dataset", str(events_file), "--out", str(tmp_path / "out"))
    message = refused(*words, "--set", "evaluation.full=['ndcg@31']")
    assert "ndcg@31" in message
    assert not (tmp_path / "out").exists()


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    done = RUN.invoke(app, ["simulate", "--dataset", str(tmp_path / "none"), "--debug"])
    assert done.exit_code == 2
    assert "Traceback" in done.stderr


KEYS = {
    "dataset",
    "protocol",
    "model",
    "algorithm",
    "rounds",
    "seed",
    "test",
    "validation",
    "baselines",
    "privacy",
    "cost",
    "confidence",
    "measured_by_devices",
}


@pytest.fixture
def words(tmp_path: Path, events_file: Path) -> list[str]:
    """A run of two rounds on the made population."""
    config = tmp_path / "tiny.toml"
    config.write_text(
        "[evaluation]\nfull = ['hit_rate@10', 'ndcg@10', 'recall@20']\nnegatives = 10\n",
        encoding="utf-8",
    )
    return ["simulate", str(config), "--dataset", str(events_file), "--rounds", "2"]


def test_a_run_without_protection(tmp_path: Path, words: list[str]) -> None:
    out = tmp_path / "out"
    done = RUN.invoke(app, [*words, "--unit", "none", "--json", "--out", str(out)])
    assert done.exit_code == 0, done.stderr
    result = json.loads(done.stdout)
    assert set(result) == KEYS
    assert result == json.loads((out / "result.json").read_text(encoding="utf-8"))
    assert result["dataset"]["users"] == 40
    assert result["rounds"] == 2
    assert result["privacy"]["private"] is False
    assert result["privacy"]["epsilon"] is None
    assert result["baselines"]["private_popularity"] is None
    assert 0 <= result["test"]["ndcg@10"] <= result["test"]["hit_rate@10"] <= 1
    assert result["cost"]["bytes_up_per_user"] > 0
    names = {path.name for path in out.iterdir()}
    assert {"manifest.json", "metrics.jsonl", "result.json", "checkpoints"} <= names
    assert len((out / "metrics.jsonl").read_text().splitlines()) == 2
    assert str(tmp_path) not in json.dumps(result)


def test_a_protected_run(tmp_path: Path, words: list[str]) -> None:
    out = tmp_path / "out"
    done = RUN.invoke(app, [*words, "--epsilon", "4", "--json", "--out", str(out)])
    assert done.exit_code == 0, done.stderr
    result = json.loads(done.stdout)
    privacy = result["privacy"]
    assert privacy["private"] is True
    assert 0 < privacy["epsilon"] <= 4
    assert abs(privacy["second_opinion"] - privacy["epsilon"]) <= 0.02
    assert privacy["noise_multiplier"] > 0
    assert set(result["baselines"]["private_popularity"]) == set(result["test"])
    assert (out / "ledger.db").exists()


def test_plan_only_shows_and_stops(tmp_path: Path, words: list[str]) -> None:
    asked = [*words, "--unit", "user", "--trust", "central", "--plan-only"]
    done = RUN.invoke(app, [*asked, "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert (found["plan"]["unit"], found["plan"]["trust"]) == ("user", "central")
    assert "trust=local" in found["alternatives"]
    shown = RUN.invoke(app, asked)
    assert "Nothing was learned, spent or written." in shown.stdout
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("trust", ["central", "local"])
def test_a_run_that_protects_whole_users(words: list[str], tmp_path: Path, trust: str) -> None:
    place = ["--json", "--out", str(tmp_path / "run")]
    done = RUN.invoke(app, [*words, *place, "--unit", "user", "--trust", trust])
    assert done.exit_code == 0, done.output
    privacy = json.loads(done.stdout)["privacy"]
    assert (privacy["private"], privacy["unit"], privacy["trust"]) == (True, "user", trust)
    assert privacy["epsilon"] == pytest.approx(8.0, abs=0.01)


def test_stand_in_noise_is_never_called_private(words: list[str], tmp_path: Path) -> None:
    noise = ["--set", "privacy.noise=off", "--json", "--out", str(tmp_path / "out")]
    done = RUN.invoke(app, [*words, *noise])
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["privacy"]["private"] is False


def test_resume_of_a_finished_run_returns_its_result(tmp_path: Path, words: list[str]) -> None:
    out = str(tmp_path / "out")
    first = RUN.invoke(app, [*words, "--unit", "none", "--json", "--out", out])
    again = RUN.invoke(app, ["simulate", "--resume", "--json", "--out", out])
    assert again.exit_code == 0, again.stderr
    assert json.loads(again.stdout) == json.loads(first.stdout)


def test_resume_keeps_the_settings(tmp_path: Path, words: list[str]) -> None:
    out = str(tmp_path / "out")
    RUN.invoke(app, [*words, "--unit", "none", "--json", "--out", out])
    message = refused("simulate", "--resume", "--rounds", "9", "--out", out)
    assert "training.rounds" in message


def test_the_table_says_what_is_not_protected(tmp_path: Path, words: list[str]) -> None:
    done = RUN.invoke(app, [*words, "--unit", "none", "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.stderr
    assert "NOT PROTECTED" in done.stdout
    assert "popularity" in done.stdout


def test_inspect_shows_counts(events_file: Path) -> None:
    done = RUN.invoke(app, ["data", "inspect", str(events_file), "--json"])
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["users"] == 40
    assert RUN.invoke(app, ["data", "inspect", str(events_file)]).exit_code == 0


def test_fetch_of_an_unknown_name() -> None:
    assert "ml-100k" in refused("data", "fetch", "ml-3")


def test_a_poor_terminal(events_file: Path) -> None:
    poor = {"NO_COLOR": "1", "COLUMNS": "30", "PYTHONIOENCODING": "ascii", "TERM": "dumb"}
    environment = {**os.environ, **poor, "PYTHONUTF8": "0", "LC_ALL": "C"}
    done = fedrec("data", "inspect", str(events_file), capture_output=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.isascii()
    assert "\x1b" not in done.stdout


def test_closed_standard_output(events_file: Path) -> None:
    words = " ".join([sys.executable, "-m", "simulations.cli", "data", "inspect", str(events_file)])
    closed = subprocess.run(  # noqa: S602
        f"{words} >&-", shell=True, capture_output=True, text=True, cwd=ROOT, timeout=120
    )
    assert closed.returncode in {0, 1}
    assert "Traceback" not in closed.stderr
    broken = subprocess.run(  # noqa: S602
        f"{words} | true", shell=True, capture_output=True, text=True, cwd=ROOT, timeout=120
    )
    assert "Traceback" not in broken.stderr
    assert "Exception" not in broken.stderr


@pytest.mark.slow
def test_interrupt_ends_with_130(tmp_path: Path, words: list[str]) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "simulations.cli", *words, "--unit", "none"]
    command += ["--rounds", "100000", "--out", str(out)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT)  # noqa: S603
    try:
        end = time.monotonic() + 60
        while not (out / "metrics.jsonl").exists() and time.monotonic() < end:
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert "--resume" in errors
    assert not (out / "result.json").exists()


def test_fetch_never_passes_the_synthetic_off_as_real() -> None:
    done = RUN.invoke(app, ["data", "fetch", "ml-100k", "--json"])
    assert done.exit_code == 2
    assert done.stdout == ""
    assert "SYNTHETIC" not in done.stderr


@pytest.mark.parametrize("patience", ["0", "3"])
def test_an_interrupted_run_resumes_to_the_same_result(
    tmp_path: Path, words: list[str], monkeypatch: pytest.MonkeyPatch, patience: str
) -> None:
    words += ["--unit", "none", "--rounds", "5", "--set", f"training.patience={patience}"]
    whole = RUN.invoke(app, [*words, "--json", "--out", str(tmp_path / "whole")])
    assert whole.exit_code == 0, whole.stderr

    def interrupt(display: Display, *, done: int, **_: object) -> None:
        if done == 3:
            raise KeyboardInterrupt

    cut = str(tmp_path / "cut")
    with monkeypatch.context() as patch:
        patch.setattr(Display, "advance", interrupt)
        done = RUN.invoke(app, [*words, "--out", cut])
    assert done.exit_code == 130
    assert f"--resume --out {cut}" in " ".join(done.stderr.split())
    assert not (tmp_path / "cut" / "result.json").exists()
    again = RUN.invoke(app, ["simulate", "--resume", "--json", "--out", cut])
    assert again.exit_code == 0, again.stderr
    first, second = json.loads(whole.stdout), json.loads(again.stdout)
    for key in ("test", "validation", "rounds", "confidence"):
        assert first[key] == second[key]
