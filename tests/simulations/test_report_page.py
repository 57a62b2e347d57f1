"""The page of a run: says what must be said, escapes everything, asks nothing of anyone."""

import json
from html.parser import HTMLParser
from pathlib import Path

import pytest
from typer.testing import CliRunner

from simulations.cli import app
from simulations.report.page import page

RUN = CliRunner()
NASTY = "<img src=x onerror=alert(1)>\"'&"
LOADS = {"src", "href", "srcset", "action", "data", "poster", "background", "style"}


class Seen(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.attributes, self.text = set(), set(), ""

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data):
        self.text += data


def seen(text):
    parser = Seen()
    parser.feed(text)
    parser.close()
    return parser


def result(**privacy):
    scores = {"hit_rate@10": 0.2, "ndcg@10": 0.1, "recall@20/activity=light": 0.3, "users": 7}
    return {
        "dataset": {
            "name": NASTY, "users": 7, "items": 9, "interactions": 50, "digest": NASTY,
            "synthetic": False,
        },
        "protocol": NASTY, "model": NASTY, "algorithm": NASTY, "rounds": 2, "seed": 0,
        "test": scores, "validation": scores,
        "baselines": {"popularity": scores, "private_popularity": {**scores, "ndcg@10": 0.05}},
        "privacy": {
            "private": True, "unit": "user", "trust": "central", "epsilon": 3.0, "delta": 1e-5,
            "adjacency": "add-or-remove", "accountant": NASTY, "second_opinion": 3.0,
            "noise_multiplier": 1.2, "clip_norm": 0.3, "audit": {"lower_bound": None},
            "ledger": {"seq": 3, "digest": "d1"}, **privacy,
        },
        "cost": {
            "seconds": 1.0, "client_updates_per_core_second": 2.0, "bytes_up_per_user": 3,
            "bytes_down_per_user": 4, "peak_rss_mb": 5.0,
        },
        "confidence": {"test": {"ndcg@10": [0.08, 0.12]}, "popularity": None},
    }  # fmt: skip


MANIFEST = {"dataset": {"name": NASTY}, "settings": {"data": {"dataset": NASTY}}, "versions": {}}
ROUNDS = [{"round": 1, "epsilon": 1.5}, {"round": 2, "epsilon": 3.0, "validation_ndcg@10": 0.1}]


def shown(changed=None, **privacy):
    whole = result(**privacy) | (changed or {})
    return seen(page(result=whole, manifest=MANIFEST, rounds=ROUNDS))


def test_nothing_in_the_data_opens_a_tag():
    found = shown()
    assert "img" not in found.tags
    assert "script" not in found.tags
    assert found.text.count(NASTY) >= 4


def test_the_page_asks_nothing():
    found = shown()
    assert not found.attributes & LOADS
    assert not found.tags & {"link", "iframe", "object", "embed", "image", "use"}
    text = page(result=result(), manifest=MANIFEST, rounds=ROUNDS)
    assert "url(" not in text
    assert "@import" not in text


def test_it_says_what_is_protected_from_whom_and_what_is_not():
    text = shown().text
    assert "a person's whole history, from everyone but the server" in text
    assert "the catalogue: the list of items is public" in text
    assert "0.1000 ± 0.0200" in text
    assert "epsilon spent by round" in text


@pytest.mark.parametrize(
    ("changed", "privacy", "word"),
    [
        ({"dataset": {**result()["dataset"], "synthetic": True}}, {}, "SYNTHETIC DATA"),
        ({}, {"unit": "none", "private": False, "epsilon": None, "delta": None}, "NOT PROTECTED"),
        ({}, {"private": False}, "NOT PRIVATE"),
        ({"test": {**result()["test"], "ndcg@10": 0.05}}, {}, "FAILED"),
    ],
)
def test_banners(changed, privacy, word):
    assert word not in shown().text
    assert word in shown(changed, **privacy).text


def test_a_run_leaves_a_page_that_can_be_written_again(tmp_path: Path, events_file: Path) -> None:
    out = tmp_path / "out"
    words = [
        "simulate",
        "--dataset",
        str(events_file),
        "--unit",
        "none",
        "--model",
        "mf",
        "--rounds",
        "2",
    ]
    words += ["--set", "evaluation.full=['hit_rate@10','ndcg@10']", "--out", str(out)]
    done = RUN.invoke(app, [*words, "--set", "evaluation.negatives=10"])
    assert done.exit_code == 0, done.output
    first = (out / "report.html").read_bytes()
    assert b"NOT PROTECTED" in first
    (out / "report.html").unlink()
    again = RUN.invoke(app, ["report", str(out), "--json"])
    assert json.loads(again.stdout) == {"report": str(out / "report.html")}
    assert (out / "report.html").read_bytes() == first


def test_no_page_of_a_run_that_is_not_finished(tmp_path: Path) -> None:
    done = RUN.invoke(app, ["report", str(tmp_path)])
    assert done.exit_code == 2
    assert "result.json" in done.stderr
    assert list(tmp_path.iterdir()) == []
