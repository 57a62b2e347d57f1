"""Items taken out of training: nothing of them is left, and the towers still rank them."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.data.interactions import Interactions
from shared.errors import DataError
from simulations.benchmarks.cold_items import cold_split, main

N_ITEMS = 12


@given(
    histories=st.lists(
        st.lists(st.integers(0, N_ITEMS - 1), max_size=8, unique=True), min_size=1, max_size=6
    ),
    seed=st.integers(0, 50),
)
@settings(deadline=None, max_examples=60)
def test_no_removed_item_and_nothing_after_a_query_is_trained_on(
    histories: list[list[int]], seed: int
) -> None:
    table = Interactions.from_histories(histories, n_items=N_ITEMS)
    try:
        parts = cold_split(table, share=0.3, seed=seed)
    except DataError:
        return
    order = np.concatenate([parts.warm, parts.cold])
    assert sorted(order.tolist()) == list(range(N_ITEMS))
    assert parts.train.n_items == parts.known.n_items == len(parts.warm)
    assert not set(parts.warm[parts.train.items].tolist()) & set(parts.cold.tolist())
    asked = 0
    for user, history in enumerate(histories):
        cold = [place for place, item in enumerate(history) if item in parts.cold]
        end = cold[-1] if cold else len(history)
        before = [item for item in history[:end] if item in parts.warm]
        assert order[parts.train.history(user)].tolist() == before
        if cold and before:
            assert order[parts.known.history(asked)].tolist() == before
            assert order[parts.met.history(asked)].tolist() == history[:end]
            assert order[parts.answers[asked, 0]] == history[end]
            asked += 1
    assert asked == len(parts.answers)


def test_without_a_removed_item_nothing_can_be_asked() -> None:
    table = Interactions.from_histories([[0, 1]], n_items=2)
    with pytest.raises(DataError, match="removed item"):
        cold_split(table, share=1e-9, seed=0)


def events(folder: Path) -> Path:
    """Users of two tastes; an item's title names its taste."""
    rows, items = ["user,item,rating,timestamp"], ["id,title,categories"]
    rng = np.random.default_rng(0)
    for user in range(60):
        liked = rng.permutation(40)[:12] + 40 * (user % 2)
        rows += [f"{user},{item},5,{1000 + at}" for at, item in enumerate(liked)]
    for item in range(80):
        items.append(f"{item},{'Umbrella' if item < 40 else 'Volcano'} {item},")
    (folder / "items.csv").write_text("\n".join(items), encoding="utf-8")
    path = folder / "events.csv"
    path.write_text("\n".join(rows), encoding="utf-8")
    return path


def test_text_ranks_items_of_a_taste_above_chance(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Texts tell the taste: the removed items of the user's taste come before the others'."""
    path = events(tmp_path)
    given_ = [str(path), "--items", str(tmp_path / "items.csv"), "--rounds", "3", "--share", "0.4"]
    assert main(given_) == 0
    found = json.loads(capsys.readouterr().out)
    chance = found["chance_among_removed"]
    assert found["two_tower"]["hit_rate@10_among_removed"] > 1.3 * chance
    assert found["popularity"]["hit_rate@10_among_removed"] == 0.0
    assert 0 < chance < 0.5
    assert found["queries"] > 40


def test_items_without_content_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(events(tmp_path)), "--rounds", "1"]) == 2
    assert "item file" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([str(tmp_path), "--share", "1.5"])
