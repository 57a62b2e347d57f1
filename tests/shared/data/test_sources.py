"""From a name or a path to a data set."""

from pathlib import Path

import pytest

from shared.data import sources
from shared.data.cleaning import CleaningConfig
from shared.data.columns import ColumnMap
from shared.data.sources import SOURCES, SYNTHETIC_NOTICE, Dataset, load
from shared.data.synthetic import SyntheticConfig, synthetic_population
from shared.errors import DataError

U_DATA = "10\t7\t3\t5\n9\t8\t4\t6\n10\t8\t1\t4\n"
FLAGS = "|0" * 5 + "|1" + "|0" * 13


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two users and two items in the form of MovieLens-100K."""
    made = tmp_path / "mine"
    made.mkdir()
    (made / "u.data").write_text(U_DATA, encoding="utf-8")
    (made / "u.item").write_text(f"8|Eight|||{FLAGS}\n7|Seven|||{FLAGS}\n", encoding="latin-1")
    return made


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the synthetic population small."""
    config = SyntheticConfig(users=12, items=40, events=150, least=5)
    monkeypatch.setattr(
        sources, "synthetic_population", lambda seed: synthetic_population(config, seed=seed)
    )


def quiet(path: str | Path, **options: object) -> Dataset:
    return load(path, announce=lambda _: None, **options)  # type: ignore[arg-type]


def test_a_folder_becomes_an_indexed_data_set(folder: Path) -> None:
    dataset = quiet(folder)
    assert dataset.name == "mine"
    assert dataset.users.ids == ("9", "10")
    assert dataset.items.ids == ("7", "8")
    assert dataset.interactions.history(1).tolist() == [1, 0]
    assert dataset.interactions.times.tolist() == [6, 4, 5]
    assert dataset.interactions.weights.tolist() == [1.0, 1.0, 1.0]
    assert dataset.content is not None
    assert dataset.content.titles == ("Seven", "Eight")
    assert dataset.content.categories == (("Comedy",), ("Comedy",))
    assert dataset.has_times
    assert not dataset.synthetic
    assert "Harper" in dataset.notice


def test_the_digest_sees_every_change_and_no_row_order(folder: Path) -> None:
    file, first = folder / "u.data", quiet(folder).digest
    file.write_text("".join(reversed(U_DATA.splitlines(keepends=True))), encoding="utf-8")
    assert quiet(folder).digest == first
    seen = {first}
    for old, new in (("10\t7", "11\t7"), ("\t7\t", "\t9\t"), ("\t5\n", "\t7\n")):
        file.write_text(U_DATA.replace(old, new), encoding="utf-8")
        seen.add(quiet(folder).digest)
    assert len(seen) == 4


def test_ids_left_without_events_are_left_out(folder: Path) -> None:
    dataset = quiet(folder, cleaning=CleaningConfig(implicit_threshold=4))
    assert (dataset.users.ids, dataset.items.ids) == (("9",), ("8",))
    assert dataset.interactions.n_items == 1
    assert dataset.report.dropped["rated under the threshold"] == 2


def test_an_item_file_must_know_the_items(folder: Path) -> None:
    items = folder / "other.csv"
    items.write_text("id,title\n8,Acht\n", encoding="utf-8")
    content = quiet(folder, items=items).content
    assert content is not None
    assert content.titles == ("", "Acht")
    items.write_text("id,title\n99,None\n", encoding="utf-8")
    with pytest.raises(DataError, match="knows no item"):
        quiet(folder, items=items)
    (folder / "u.item").write_text(f"99|None|||{FLAGS}\n", encoding="latin-1")
    assert quiet(folder).content is None


def test_a_file_with_a_column_map_is_loaded(events_file: Path) -> None:
    dataset = quiet(events_file, columns=ColumnMap(value=""))
    assert dataset.name == "events"
    assert dataset.content is None
    assert dataset.notice == ""
    assert dataset.users.ids[:3] == ("1", "2", "3")


@pytest.mark.usefixtures("small")
def test_without_movielens_the_synthetic_population_is_used_loudly(tmp_path: Path) -> None:
    said: list[str] = []
    dataset = load("ml-100k", cache=tmp_path, announce=said.append)
    assert dataset.synthetic
    assert dataset.name == "synthetic"
    assert dataset.notice == SYNTHETIC_NOTICE
    assert any("Using the synthetic population" in line for line in said)
    assert SYNTHETIC_NOTICE in said
    with pytest.raises(DataError, match="ml-1m is not in"):
        quiet("ml-1m", cache=tmp_path)


@pytest.mark.usefixtures("small")
def test_the_synthetic_population_follows_its_seed() -> None:
    first, again, other = quiet("synthetic"), quiet("synthetic", seed=0), quiet("synthetic", seed=1)
    assert first.digest == again.digest != other.digest
    assert first.content is not None
    assert all(first.content.titles)


def test_a_known_set_is_taken_from_the_cache(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    folder.rename(tmp_path / "cache" / "ml-100k")
    said: list[str] = []
    dataset = load("ml-100k", cache=tmp_path / "cache", announce=said.append)
    assert dataset.name == "ml-100k"
    assert not dataset.synthetic
    assert ["not the published" in line for line in said] == [True]


def test_known_sets_are_described() -> None:
    for name, source in SOURCES.items():
        if source is not None:
            assert source.name == name
            assert source.url.startswith("https://")
            assert source.events in source.members.values()
            assert source.notice
    ml100k = SOURCES["ml-100k"]
    assert ml100k is not None
    assert len(ml100k.sha256) == 64
    assert ml100k.events in ml100k.wheel_members.values()
