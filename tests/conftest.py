"""Tiny made populations: small enough to read, with tastes strong enough to learn."""

import sys
import warnings
from pathlib import Path

import pytest

# pytest puts tests/ on the path, where folders are named after the packages they mirror.
sys.path.insert(0, str(Path(__file__).parents[1]))

with warnings.catch_warnings():
    # typer 0.20 imports names that click 8.5 deprecates; the import is ours to silence, no more.
    warnings.simplefilter("ignore", DeprecationWarning)
    import typer  # noqa: F401

from shared.data.interactions import Interactions
from shared.randomness import stream

USERS, ITEMS = 40, 30


def made_histories() -> list[list[int]]:
    """Two tastes: even users like the first half of the catalogue, odd users the second."""
    half = ITEMS // 2
    histories = []
    for user in range(USERS):
        rng = stream(11, "made population", user)
        liked = rng.permutation(half)[: 6 + user % 5] + (user % 2) * half
        histories.append([int(item) for item in liked])
    return histories


@pytest.fixture
def population() -> Interactions:
    """40 users, 30 items, 6 to 10 events each."""
    return Interactions.from_histories(made_histories(), n_items=ITEMS)


@pytest.fixture
def awkward() -> Interactions:
    """Users without events, with one, with everything; an item nobody touched."""
    return Interactions.from_histories([[], [3], list(range(7)), [0, 1]], n_items=8)


@pytest.fixture
def events_file(tmp_path: Path) -> Path:
    """The population as a CSV file with a header and times."""
    path = tmp_path / "events.csv"
    rows = ["user,item,rating,timestamp"]
    for user, history in enumerate(made_histories()):
        for place, item in enumerate(history):
            rows.append(f"{user + 1},{item + 1},{1 + place % 5},{1_000_000_000 + place}")
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No network, no shared cache, no telemetry, whatever the machine is set to."""
    monkeypatch.setenv("FEDREC_OFFLINE", "1")
    monkeypatch.setenv("FEDREC_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setenv("FLWR_TELEMETRY_ENABLED", "0")
    monkeypatch.setenv("FLWR_DISABLE_UPDATE_CHECK", "1")
