"""The plan before the run: what it will cost, what would cost less or more."""

import io

import pytest
from rich.console import Console

from shared.config import Settings
from shared.data.interactions import Interactions
from shared.privacy.correlated import iterate_rms
from simulations import forecast as room
from simulations.display import Display
from simulations.forecast import forecast
from simulations.outlook import show_forecast


def planned(dataset: str, *, cohort: float = 1.0, **privacy: object):
    settings = Settings.from_table(
        {
            "data": {"dataset": dataset},
            "model": {"name": "popularity"},
            "algorithm": {"name": "popularity"},
            "privacy": {"unit": "user", "trust": "central", "epsilon": 3.0} | privacy,
            "training": {"rounds": 4, "cohort": cohort},
        }
    )
    with Display(silent=True) as display:
        return forecast(settings=settings, display=display)


@pytest.fixture
def path(tmp_path) -> str:
    file = tmp_path / "events.csv"
    rows = [f"{u},{(u * 3 + k) % 20},{k}" for u in range(30) for k in range(6)]
    file.write_text("user,item,timestamp\n" + "\n".join(rows) + "\n")
    return str(file)


def test_the_plan_stands_beside_its_alternatives(path: str) -> None:
    found = planned(path)
    assert (found["users"], found["items"]) == (30, 20)
    plan, beside = found["plan"], found["alternatives"]
    assert set(beside) == {"rounds=2", "rounds=8", "trust=local", "trust=distributed"}
    assert plan["epsilon"] == pytest.approx(3.0, abs=1e-3)
    assert abs(plan["epsilon"] - plan["second_opinion"]) <= 0.02
    assert beside["rounds=8"]["noise_multiplier"] == pytest.approx(
        2**0.5 * plan["noise_multiplier"]
    )
    local, central = beside["trust=local"]["noise_of_mean"], plan["noise_of_mean"]
    assert local == pytest.approx(30**0.5 * central)
    # One of 30 may fall silent, two may work with the server.
    shared = beside["trust=distributed"]["noise_of_mean"]
    assert shared == pytest.approx((30 / 27) ** 0.5 * central)
    assert plan["bytes_up_per_user"] == 4 * 4 * 20


def test_a_separation_shows_what_correlated_noise_saves(path: str) -> None:
    found = planned(path, cohort=0.25, separation=4)
    plan, alone = found["plan"], planned(path, cohort=0.25, separation=4, bands=1)["plan"]
    assert set(found["alternatives"]) == {"rounds=2", "rounds=8"}
    assert (plan["separation"], plan["bands"], plan["participations"]) == (4, 4, 1)
    # Seven users a round: by hand, the rms of the running sum's noise.
    squares = sum(t * alone["noise_multiplier"] ** 2 for t in (1, 2, 3, 4)) / 4
    assert alone["noise_of_iterate"] == pytest.approx(squares**0.5 / 7)
    rms = iterate_rms(rounds=4, bands=4, noise_multiplier=plan["noise_multiplier"])
    assert plan["noise_of_iterate"] == pytest.approx(rms / 7)
    assert plan["noise_of_iterate"] < alone["noise_of_iterate"]
    out = io.StringIO()
    show_forecast(found, out=Console(file=out, width=160))
    assert "rounds of correlated noise" in out.getvalue()


def test_interactions_have_no_other_trust(path: str) -> None:
    found = planned(path, unit="interaction", trust="local")
    assert set(found["alternatives"]) == {"rounds=2", "rounds=8"}


def test_without_protection_nothing_is_claimed(path: str) -> None:
    plan = planned(path, unit="none")["plan"]
    assert (plan["epsilon"], plan["second_opinion"], plan["noise_multiplier"]) == (None, None, 0.0)


def test_every_number_is_shown(path: str) -> None:
    stream = io.StringIO()
    show_forecast(planned(path), out=Console(file=stream, width=120))
    text = stream.getvalue()
    for word in ("rounds=8", "trust=local", "noise multiplier", "second opinion", "1e-05"):
        assert word in text


def test_nothing_about_people_is_needed_but_their_number(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other histories of as many people and items give the same plan."""
    honest = planned(path)
    cut = room.split

    def shuffled(table: Interactions, protocol: str, seed: int):
        parts = cut(table, protocol, seed)
        parts.train.items[:] = parts.train.items[::-1].copy()
        return parts

    monkeypatch.setattr(room, "split", shuffled)
    assert planned(path) == honest
