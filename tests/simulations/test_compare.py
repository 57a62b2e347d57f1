"""A comparison: right rows, paired differences, nothing run twice, nothing mixed up."""

import csv
import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from typer.testing import CliRunner

from shared.errors import RunError
from shared.evaluation.buckets import Buckets
from shared.evaluation.protocols import Scores
from simulations import compare as room
from simulations.cli import app
from simulations.lineup import lineup
from simulations.scorebook import load_scores, save_scores
from simulations.standings import Row, pooled, standings

RUN = CliRunner()
TINY = """
[model]
name = "popularity"
[privacy]
unit = "user"
trust = "central"
[training]
rounds = 1
[evaluation]
full = ["hit_rate@10", "ndcg@10"]
negatives = 10
extra = []
"""


@pytest.fixture
def words(tmp_path: Path, events_file: Path) -> list[str]:
    """Private counts at two budgets and without protection, two seeds, two baselines."""
    config = tmp_path / "counts.toml"
    config.write_text(TINY, encoding="utf-8")
    return [
        *("compare", str(config), "--dataset", str(events_file), "--epsilons", "none,8"),
        *("--seeds", "0,1", "--baselines", "popularity,item-knn", "--out", str(tmp_path / "out")),
    ]


def refused(*words: str, part: str) -> None:
    done = RUN.invoke(app, list(words))
    assert done.exit_code == 2, done.output
    assert part in done.stderr


def test_a_comparison(words, tmp_path, monkeypatch):
    done = RUN.invoke(app, [*words, "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    out = tmp_path / "out"
    assert json.loads((out / "compare.json").read_text(encoding="utf-8")) == found
    rows = {row["name"]: row for row in found["rows"]}
    assert list(rows) == [
        "popularity", "item-knn", "counts@none", "counts@8", "private popularity@8",
    ]  # fmt: skip
    assert found["reference"] == "popularity"
    base, ours = rows["popularity"]["metrics"], rows["counts@none"]["metrics"]
    for metric in found["metrics"]:
        # Counts without noise are popularity: same scores, no difference, no spread.
        assert ours[metric]["mean"] == base[metric]["mean"]
        assert ours[metric]["above_reference"] == [0.0, 0.0, 0.0]
        assert ours[metric]["sd"] == base[metric]["sd"]
        gap = rows["item-knn"]["metrics"][metric]
        assert gap["above_reference"][0] == pytest.approx(gap["mean"] - base[metric]["mean"])
    assert (rows["counts@8"]["runs"], rows["item-knn"]["runs"]) == (2, 2)
    assert rows["counts@8"]["epsilon"] == 8.0
    assert rows["counts@8"]["cost"]["bytes_up_per_user"] > 0
    assert rows["item-knn"]["tried"] == 3
    for row in found["rows"]:
        for kind in ("activity", "popularity"):
            parts = row["buckets"][kind]
            assert sum(part["users"] for part in parts) == 40
            hits = sum(part["users"] * (part["hit_rate@10"] or 0.0) for part in parts)
            assert hits / 40 == pytest.approx(row["metrics"]["hit_rate@10"]["mean"])
    with (out / "compare.csv").open(encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    assert [line["name"] for line in table] == list(rows)
    assert float(table[1]["ndcg@10"]) == rows["item-knn"]["metrics"]["ndcg@10"]["mean"]
    figure = ElementTree.parse(out / "compare.svg").getroot()  # noqa: S314
    assert len(figure.findall("{*}circle")) == 3
    assert "http" not in (out / "compare.svg").read_text().replace("http://www.w3.org/2000/svg", "")

    # Asked again, nothing is run or trained, and the answer is the same.
    def never(*_: object, **__: object) -> None:
        raise AssertionError

    with monkeypatch.context() as patch:
        patch.setattr(room, "measure", never)
        patch.setattr(room, "choose", never)
        again = RUN.invoke(app, [*words, "--buckets"])
        assert again.exit_code == 0, again.output
        assert "item-knn" in again.stdout
        assert "by training events of the target" in again.stdout
        third = RUN.invoke(app, [*words, "--json", "--reference", "item-knn"])
    assert json.loads(third.stdout)["rows"][1]["metrics"]["ndcg@10"]["above_reference"][0] == 0.0

    # The directory is not reused for other settings.
    refused(*words, "--set", "privacy.clip_norm=9.0", part="other settings")


def test_an_interrupted_comparison_goes_on(words, tmp_path, monkeypatch):
    real, calls = room.measure, []

    def second_time_interrupted(**given):
        calls.append(given["out"])
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(**given)

    words = [*words[:5], "none", *words[6:]]
    with monkeypatch.context() as patch:
        patch.setattr(room, "measure", second_time_interrupted)
        done = RUN.invoke(app, words)
    assert done.exit_code == 130
    assert "--out" in done.stderr
    assert not (tmp_path / "out" / "compare.json").exists()

    def counted(**given):
        calls.append(given["out"])
        return real(**given)

    monkeypatch.setattr(room, "measure", counted)
    assert RUN.invoke(app, words).exit_code == 0
    assert [path.name for path in calls[2:]] == ["counts@none-seed1"]

    # Killed between a run's result and its scores: measured again, at the cost it had.
    table = (tmp_path / "out" / "compare.csv").read_text(encoding="utf-8")
    (tmp_path / "out" / "scores" / "counts@none-seed0.safetensors").unlink()
    assert RUN.invoke(app, words).exit_code == 0
    assert [path.name for path in calls[3:]] == ["counts@none-seed0"]
    assert (tmp_path / "out" / "compare.csv").read_text(encoding="utf-8") == table


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (["--epsilons", "0"], "epsilon"),
        (["--epsilons", "three"], "none"),
        (["--epsilons", "1,,2"], "--epsilons"),
        (["--seeds", "0,0"], "--seeds"),
        (["--seeds", "x"], "--seeds"),
        (["--baselines", "knn"], "item-knn"),
        (["--reference", "mf@1"], "counts@8"),
        (["--models", "mff"], "did you mean mf?"),
    ],
)
def test_impossible_requests_write_nothing(words, tmp_path, change, part):
    refused(*words, *change, part=part)
    assert not (tmp_path / "out").exists()


def test_lines_must_be_asked_the_same_and_have_names_of_their_own(words, tmp_path):
    other = tmp_path / "other.toml"
    other.write_text(TINY.replace("negatives = 10", "negatives = 9"), encoding="utf-8")
    refused(*words, str(other), part="evaluation")
    (tmp_path / "sub").mkdir()
    twin = tmp_path / "sub" / "counts.toml"
    twin.write_text(TINY, encoding="utf-8")
    refused(*words, str(twin), part="counts@8")


def scores(users, values):
    column = np.array(values, dtype=np.float64)
    return Scores(
        metrics={"m": float(column.mean())},
        extra={},
        per_query={"m": column},
        users=np.array(users),
    )


def test_pooled_averages_each_user_over_the_runs_that_asked():
    whole = pooled([scores([1, 2, 3], [0.0, 1.0, 1.0]), scores([3, 4], [0.0, 1.0])])
    assert whole.users.tolist() == [1, 2, 3, 4]
    assert whole.per_query["m"].tolist() == [0.0, 1.0, 0.5, 1.0]


def row(name, kind, runs):
    return Row(name=name, label=name, kind=kind, about={}, cost={}, scores=dict(enumerate(runs)))


def test_the_interval_is_paired_and_pooled():
    """Differences of 1 for everyone: no width, whatever the users' own spread."""
    low = row("low", "central", [scores([0, 1, 2], [0.0, 5.0, 9.0])])
    high = row(
        "high",
        "federated",
        [scores([0, 1, 2], [0.5, 5.5, 9.5]), scores([2, 1, 0], [10.5, 6.5, 1.5])],
    )
    part = Buckets(labels=("a", "b"), users=np.arange(3), of=np.array([0, 1, 1]))
    parts = {seed: {"half": part} for seed in (0, 1)}
    found = standings([low, high], reference="low", parts=parts)["rows"][1]
    assert found["metrics"]["m"]["above_reference"] == pytest.approx([1.0, 1.0, 1.0])
    assert found["metrics"]["m"]["sd"] == pytest.approx(1 / np.sqrt(2))
    assert found["metrics"]["m"]["clear"]
    assert [one["m"] for one in found["buckets"]["half"]] == pytest.approx([1.0, 8.0])


def test_scores_come_back_from_their_file(tmp_path):
    path = tmp_path / "book" / "one.safetensors"
    whole = {"test": scores([3, 1], [0.25, 0.5]), "floor": scores([3, 1], [0.0, 0.0])}
    save_scores(path, whole, note={"key": "k"})
    found, note = load_scores(path)
    assert note == {"key": "k"}
    assert found.keys() == whole.keys()
    for name, one in whole.items():
        assert found[name].metrics == one.metrics
        assert found[name].users.tolist() == one.users.tolist()
        assert found[name].per_query["m"].tolist() == one.per_query["m"].tolist()
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(RunError, match=r"one\.safetensors"):
        load_scores(path)


def test_a_protocol_that_asks_others_under_each_seed(words):
    """Under strong generalisation baselines are trained anew, and users pooled over the seeds."""
    strong = ["--set", "protocol=strong", "--epsilons", "none", "--baselines", "item-knn"]
    done = RUN.invoke(app, [*words, *strong, "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert 4 < found["users_asked"] <= 8
    assert [row["runs"] for row in found["rows"]] == [2, 2]
    assert sum(part["users"] for part in found["rows"][0]["buckets"]["activity"]) == 4


def test_a_configuration_without_protection_never_carries_a_budget(tmp_path):
    plain = tmp_path / "plain.toml"
    plain.write_text(TINY.replace('unit = "user"', 'unit = "none"'), encoding="utf-8")
    safe = tmp_path / "safe.toml"
    safe.write_text(TINY, encoding="utf-8")
    given = {"models": [], "seeds": [0], "flags": {}, "assignments": []}
    lines = lineup(configs=[plain, safe], epsilons=["3", "1"], **given)
    assert [line.name for line in lines] == ["plain@none", "safe@3", "safe@1"]
    assert [line.runs[0].privacy.epsilon for line in lines[1:]] == [3.0, 1.0]
    own = lineup(configs=[plain, safe], epsilons=[], **given)
    assert [line.name for line in own] == ["plain@none", "safe@8"]
