"""What a data set looks like, against counts by hand."""

import json
from pathlib import Path

import pytest

from shared.data.profile import Profile, profile
from shared.data.sources import load


def described(path: Path, text: str) -> Profile:
    path.write_text(text, encoding="utf-8")
    return profile(load(path, announce=lambda _: None))


def test_a_small_population_is_described(tmp_path: Path) -> None:
    text = "user,item,ts\na,x,10\na,y,10\na,z,30\nb,x,20\n"
    made = described(tmp_path / "events.csv", text)
    assert (made.users, made.items, made.interactions) == (2, 3, 4)
    assert made.density == pytest.approx(4 / 6)
    assert made.top_shares == {"0.01": 0.5, "0.05": 0.5, "0.1": 0.5, "0.2": 0.5}
    assert made.gini == pytest.approx(1 / 6)
    assert made.length_quantiles["0.0"] == 1.0
    assert made.length_quantiles["0.5"] == made.mean_length == 2.0
    assert made.short_users == 1
    assert (made.first_time, made.last_time) == (10, 30)
    assert made.tied_share == 0.5
    assert (made.with_title, made.categories) == (0, 0)
    assert json.loads(json.dumps(made.as_dict()))["users"] == 2


def test_without_times_nothing_is_said_about_them(tmp_path: Path) -> None:
    (tmp_path / "items.tsv").write_text("item\ttitle\tgenres\n1\tOne\tA|B\n", encoding="utf-8")
    made = described(tmp_path / "ml-1m.txt", "1 1\n2 1\n2 3\n")
    assert made.first_time is made.last_time is made.tied_share is None
    assert (made.with_title, made.categories) == (1, 2)


def test_users_with_one_event_have_no_ties(tmp_path: Path) -> None:
    assert described(tmp_path / "events.csv", "user,item,ts\na,x,1\nb,x,1\n").tied_share == 0.0
