"""`fedrec audit`: a sound run verifies, a false claim or a changed file does not."""

import json
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from shared.privacy.disclosure import ITEMS
from simulations.cli import app

RUN = CliRunner()
Change = Callable[[dict[str, Any]], None]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One protected run of two rounds on the made population; tests copy it."""
    return simulated(tmp_path_factory.mktemp("run"), "--epsilon", "4")


def simulated(place: Path, *words: str) -> Path:
    from conftest import made_histories

    events, config, out = place / "events.csv", place / "tiny.toml", place / "out"
    rows = [f"{u + 1},{i + 1}" for u, items in enumerate(made_histories()) for i in items]
    events.write_text("user,item\n" + "\n".join(rows) + "\n", encoding="utf-8")
    config.write_text(
        "[evaluation]\nfull = ['hit_rate@10', 'ndcg@10', 'recall@20']\nnegatives = 10\n",
        encoding="utf-8",
    )
    given = ["--dataset", str(events), "--rounds", "2", *words, "--json", "--out", str(out)]
    done = RUN.invoke(app, ["simulate", str(config), *given], env={"FEDREC_OFFLINE": "1"})
    assert done.exit_code == 0, done.stderr
    return out


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    place = tmp_path / "run"
    shutil.copytree(finished, place)
    return place


def audited(path: Path, *words: str) -> tuple[int, dict[str, Any], str]:
    done = RUN.invoke(app, ["audit", str(path), "--json", *words])
    return done.exit_code, json.loads(done.stdout), done.stderr


def failed(report: dict[str, Any]) -> set[str]:
    return {check["name"] for check in report["checks"] if check["ok"] is False}


def test_a_sound_run_verifies(run: Path) -> None:
    code, report, _ = audited(run)
    assert code == 0
    assert report["verdict"] == "verified"
    assert all(check["ok"] for check in report["checks"])
    claim = json.loads((run / "result.json").read_text())["privacy"]
    assert report["spend"]["epsilon"] == pytest.approx(claim["epsilon"], abs=1e-9)
    assert abs(report["spend"]["second_opinion"] - claim["epsilon"]) <= 0.02
    assert [q["users"] for q in report["spend"]["quantiles"]] == [0, 0.25, 0.5, 0.75, 0.9, 1]
    assert report["forecast"]["rounds_left_most_charged"] == 0
    assert report["ledger"]["first_bad_record"] is None
    assert any("whole history" in line for line in report["not_protected"])


def test_the_audit_needs_no_key_and_writes_nothing(run: Path) -> None:
    (run / "ledger.key").unlink()
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    assert audited(run)[0] == 0
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before


def test_words_say_the_same(run: Path) -> None:
    done = RUN.invoke(app, ["audit", str(run)])
    assert done.exit_code == 0, done.stderr
    for part in ("VERIFIED", "Spent: epsilon", "Not protected:", "more rounds like the last"):
        assert part in done.stdout
    assert done.stdout.isascii()


@pytest.mark.parametrize(
    ("file", "change", "check"),
    [
        ("result.json", lambda r: r["privacy"].update(epsilon=3.5), "epsilon"),
        ("result.json", lambda r: r["privacy"].update(epsilon=4.5), "epsilon"),
        ("result.json", lambda r: r["privacy"].update(epsilon=None), "epsilon"),
        ("result.json", lambda r: r["privacy"].update(unit="user"), "terms"),
        ("result.json", lambda r: r["privacy"].update(clip_norm=0.1), "terms"),
        ("result.json", lambda r: r["privacy"]["ledger"].update(seq=99), "head"),
        ("result.json", lambda r: r["privacy"]["ledger"].update(digest="0" * 64), "head"),
        ("result.json", lambda r: r["privacy"].update(ledger={}), "head"),
        ("manifest.json", lambda m: m["settings"]["privacy"].update(epsilon=3.0), "settings"),
        ("manifest.json", lambda m: m["settings"]["privacy"].update(epsilon=3.0), "budget"),
        ("manifest.json", lambda m: m.update(settings_digest="0"), "settings"),
    ],
)
def test_a_false_claim_exits_4(run: Path, file: str, change: Change, check: str) -> None:
    value = json.loads((run / file).read_text())
    change(value)
    (run / file).write_text(json.dumps(value))
    code, report, said = audited(run)
    assert code == 4
    assert check in failed(report)
    assert said.startswith("fedrec: ")
    assert said.count("\n") == 1


def test_a_claim_of_private_noise_is_checked(tmp_path: Path) -> None:
    out = simulated(tmp_path, "--set", "privacy.noise=seeded")
    assert audited(out)[0] == 0
    assert audited(out)[1]["spend"]["private"] is False
    result = json.loads((out / "result.json").read_text())
    result["privacy"]["private"] = True
    (out / "result.json").write_text(json.dumps(result))
    assert audited(out)[0] == 4


def edited(run: Path, *statements: str) -> None:
    with sqlite3.connect(run / "ledger.db") as connection:
        for statement in statements:
            connection.execute(statement)
    connection.close()


@pytest.mark.parametrize(
    ("statements", "first_bad"),
    [
        (["UPDATE record SET body = replace(body, '\"steps\":1', '\"steps\":0') WHERE seq=1"], 1),
        (["DELETE FROM record WHERE seq = 2"], 2),
        (["DELETE FROM record WHERE seq = 0"], 0),
        (["UPDATE roster SET users = x'0100000000000000' WHERE seq = 1"], 1),
        (["DELETE FROM roster WHERE seq = 1"], 1),
    ],
)
def test_tampering_is_named(run: Path, statements: list[str], first_bad: int) -> None:
    edited(run, *statements)
    code, report, said = audited(run)
    assert code == 4
    assert report["ledger"]["first_bad_record"]["seq"] == first_bad
    assert f"record {first_bad} " in said


def test_a_cut_end_is_missed_by_the_result_that_kept_the_head(run: Path) -> None:
    edited(run, "DELETE FROM record WHERE seq = (SELECT max(seq) FROM record)")
    code, report, _ = audited(run)
    assert code == 4
    assert failed(report) == {"head"}
    code, report, _ = audited(run / "ledger.db")
    assert code == 0
    assert report["verdict"] == "no claim to compare with"
    assert {c["name"] for c in report["checks"] if c["ok"]} == {"chain", "accountants", "budget"}


def test_the_servers_ledger_is_checked_against_what_devices_saw(run: Path, tmp_path: Path) -> None:
    server = run / "server-ledger.db"
    code, report, _ = audited(run)
    names = {check["name"]: check["found"] for check in report["checks"]}
    assert names["witness ledger.db"] == "2 heads witnessed, all in the chain"
    assert code == 0
    assert audited(server, "--witness", str(run / "ledger.db"))[0] == 0
    with sqlite3.connect(server) as connection:
        connection.execute("DELETE FROM record WHERE seq > 1")
        connection.execute("DELETE FROM roster WHERE seq > 1")
    connection.close()
    code, report, said = audited(run)
    assert code == 4
    assert failed(report) == {"witness ledger.db"}
    assert "forked or cut" in said
    edited(run, "UPDATE roster SET users = zeroblob(8)")
    assert "chain" in failed(audited(run)[1])


def test_a_run_without_protection_says_so(tmp_path: Path) -> None:
    out = simulated(tmp_path, "--unit", "none")
    code, report, _ = audited(out)
    assert code == 0
    assert report["verdict"] == "nothing protected"
    assert report["spend"] is None
    assert "protected nothing" in RUN.invoke(app, ["audit", str(out)]).stdout
    result = json.loads((out / "result.json").read_text())
    result["privacy"]["epsilon"] = 1.0
    (out / "result.json").write_text(json.dumps(result))
    assert audited(out)[0] == 4


@pytest.mark.parametrize("name", ["nowhere", "", "empty.db", "text"])
def test_what_is_no_ledger_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty.db").touch()
    (tmp_path / "text").write_text("no database, and long enough to be looked at " * 20)
    done = RUN.invoke(app, ["audit", str(tmp_path / name)])
    assert done.exit_code in {1, 2}
    assert done.stdout == ""
    assert done.stderr.startswith("fedrec: ")


def test_the_disclosure_has_17_items_and_invents_nothing(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "disclosure"
    assert RUN.invoke(app, ["audit", str(run), "--export", str(out)]).exit_code == 0
    written = json.loads((out / "disclosure.json").read_text())
    page = (out / "disclosure.md").read_text()
    assert len(written["items"]) == len(ITEMS) == 17
    for item in written["items"]:
        assert f"## {item['item']}. {item['title']}" in page
    by_title = {item["title"]: item["values"] for item in written["items"]}
    result = json.loads((run / "result.json").read_text())
    assert by_title["Privacy loss"]["epsilon"] == pytest.approx(result["privacy"]["epsilon"])
    assert by_title["Utility"]["test"] == result["test"]
    assert by_title["Contact and change log"] == {"contact": None, "change log": None}
    assert "- contact: unknown" in page
    loss = written["registry"]["deployment"]["privacy_loss"]
    assert loss["privacy_parameters"] == {"epsilon": pytest.approx(4.0, abs=0.01), "delta": 1e-5}


def test_the_disclosure_of_a_bare_ledger_says_unknown(run: Path, tmp_path: Path) -> None:
    done = RUN.invoke(app, ["audit", str(run / "ledger.db"), "--export", str(tmp_path / "out")])
    assert done.exit_code == 0
    page = (tmp_path / "out" / "disclosure.md").read_text()
    assert "- test: unknown" in page
    assert "- claimed epsilon: unknown" in page


def test_correlated_noise_of_a_whole_run_verifies(tmp_path: Path) -> None:
    """Columns, their cut-off ends included, come to the claimed epsilon by both accountants."""
    settings = ("unit='user'", "trust='central'", "separation=3", "noise='os'")
    words = [word for one in settings for word in ("--set", f"privacy.{one}")]
    cohort = ("--set", "training.cohort=0.3", "--rounds", "7", "--epsilon", "4")
    place = simulated(tmp_path, *words, *cohort)
    code, report, _ = audited(place)
    assert (code, report["verdict"]) == (0, "verified")
    claim = json.loads((place / "result.json").read_text())["privacy"]
    assert (claim["separation"], claim["bands"]) == (3, 3)
    assert claim["epsilon"] <= 4.0
    page = RUN.invoke(app, ["audit", str(place), "--export", str(tmp_path / "disclosure")])
    assert page.exit_code == 0
    said = (tmp_path / "disclosure" / "disclosure.md").read_text()
    assert "banded square-root Toeplitz" in said
    assert "least distance in rounds between two of them: 3" in said
    found = json.loads((place / "result.json").read_text())
    found["privacy"]["bands"] = 1
    (place / "result.json").write_text(json.dumps(found))
    code, report, _ = audited(place)
    assert code == 4
    assert failed(report) == {"terms"}
