"""Every entry of every registry keeps its contract."""

from pathlib import Path

import pytest
from contracts import check_algorithm, check_model, check_reader

from shared.algorithms.base import Algorithm
from shared.algorithms.methods import ALGORITHMS, build
from shared.config import Settings
from shared.data.interactions import Interactions
from shared.data.readers import READERS
from shared.models.zoo import MODELS

CHOICES = {"ials": "mf"}
"""Algorithms that no model uses unless told to, and a model of theirs."""

SAMPLES = {
    "movielens-100k": ("u.data", "1\t10\t3\t5\n2\t10\t4\t6\n1\t20\t5\t7\n"),
    "movielens-1m": ("ratings.dat", "1::10::3::5\n2::10::4::6\n1::20::5::7\n"),
    "pairs": ("pairs.txt", "1 10\n2 10\n1 20\n"),
    "recbole": (
        "a.inter",
        "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
        "1\t10\t3\t5\n2\t10\t4\t6\n1\t20\t5\t7\n",
    ),
    "delimited": ("a.csv", "user,item,rating,time\n1,10,3,5\n2,10,4,6\n1,20,5,7\n"),
    "jsonl": (
        "a.jsonl",
        '{"user": "1", "item": "10"}\n{"user": "2", "item": "10"}\n{"user": "1", "item": "20"}\n',
    ),
}


def test_every_reader_has_a_sample() -> None:
    assert set(READERS) - {"parquet"} == set(SAMPLES)


@pytest.mark.parametrize("name", sorted(SAMPLES))
def test_reader(name: str, tmp_path: Path) -> None:
    file, text = SAMPLES[name]
    path = tmp_path / file
    path.write_text(text, encoding="utf-8")
    check_reader(READERS[name], path)


def test_parquet_reader(tmp_path: Path) -> None:
    polars = pytest.importorskip("polars")
    path = tmp_path / "a.parquet"
    polars.DataFrame({"user": [1, 2, 1], "item": [10, 10, 20]}).write_parquet(path)
    check_reader(READERS["parquet"], path)


def built(table: dict[str, object], n_items: int) -> Algorithm:
    """The learning method that some settings name."""
    settings = Settings.from_table(table)
    rooms = ("model.", "algorithm.")
    public = {key: value for key, value in settings.to_flat().items() if key.startswith(rooms)}
    return build(settings.model.name, settings.algorithm.name, public, n_items)


@pytest.mark.parametrize("name", sorted(MODELS))
def test_model(name: str, population: Interactions, awkward: Interactions) -> None:
    for histories in (population, awkward):
        check_model(built({"model": {"name": name}}, histories.n_items).model, histories)


@pytest.mark.parametrize("name", sorted(MODELS))
def test_usual_algorithm_of_a_model(name: str) -> None:
    check_algorithm(built({"model": {"name": name}}, 12))


def test_every_algorithm_is_some_models_usual_one_or_a_choice() -> None:
    usual = {Settings.from_table({"model": {"name": name}}).algorithm.name for name in MODELS}
    assert usual | set(CHOICES) == set(ALGORITHMS)


@pytest.mark.parametrize("name", sorted(CHOICES))
def test_algorithm_of_choice(name: str, population: Interactions, awkward: Interactions) -> None:
    table = {"model": {"name": CHOICES[name]}, "algorithm": {"name": name}}
    check_algorithm(built(table, 12))
    for histories in (population, awkward):
        check_model(built(table, histories.n_items).model, histories)
