"""Pair statistics against loops; every user weighs 1."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.algorithms.pairs import count_rows, distinct, head_pairs, pair_sums
from shared.data.interactions import Interactions

ITEMS = 7
histories = st.lists(st.lists(st.integers(0, ITEMS - 1), max_size=12), min_size=1, max_size=5)


def table(rows: list[list[int]]) -> Interactions:
    return Interactions.from_histories(rows, n_items=ITEMS)


def latest(row: list[int]) -> list[int]:
    """The slow form of `distinct`: an item stands where it was met last."""
    return [item for place, item in enumerate(row) if item not in row[place + 1 :]]


@settings(deadline=None, max_examples=40)
@given(histories)
def test_repeats_count_once_where_the_item_was_met_last(rows: list[list[int]]) -> None:
    users, items = distinct(table(rows))
    for user, row in enumerate(rows):
        assert items[users == user].tolist() == latest(row)


@settings(deadline=None, max_examples=40)
@given(histories)
def test_pair_sums_equal_a_loop(rows: list[list[int]]) -> None:
    decays = (0.3, 0.9)
    expected = np.zeros((ITEMS, ITEMS, 2))
    for row in map(latest, rows):
        for later, b in enumerate(row):
            for earlier, a in enumerate(row[:later]):
                for place, decay in enumerate(decays):
                    expected[a, b, place] += decay ** (later - earlier)
    # What is left out is below a thousandth of the nearest pair.
    np.testing.assert_allclose(pair_sums(table(rows), decays), expected, atol=5 * 0.3e-3)


@settings(deadline=None, max_examples=40)
@given(histories)
def test_every_user_has_norm_one(rows: list[list[int]]) -> None:
    head = np.array([5, 2, 0, 6], dtype=np.int64)
    owner, cells, weights, _ = head_pairs(table(rows), head, decay=0.7)
    assert cells.size == 0 or (cells.min() >= 0 and cells.max() < 6)
    squares = np.bincount(owner, weights=weights**2, minlength=len(rows))
    inside = [len([i for i in latest(row) if i in head]) for row in rows]
    np.testing.assert_allclose(squares, [float(n > 1) for n in inside], atol=1e-12)
    users, _, values = count_rows(table(rows))
    totals = np.bincount(users, weights=values**2, minlength=len(rows))
    np.testing.assert_allclose(totals, [float(bool(row)) for row in rows], atol=1e-12)


@settings(deadline=None, max_examples=40)
@given(histories)
def test_one_pair_of_one_user_occurs_once(rows: list[list[int]]) -> None:
    owner, cells, _, _ = head_pairs(table(rows), np.arange(ITEMS), decay=0.5)
    assert len({*zip(owner.tolist(), cells.tolist(), strict=True)}) == len(owner)


def test_head_pairs_by_hand() -> None:
    owner, cells, weights, forward = head_pairs(
        table([[4, 1, 3, 4], [2], []]), np.array([3, 4, 1]), decay=0.5
    )
    # Latest events: 1, 3, 4; places 2, 0, 1. Cells of (0,1), (0,2), (1,2) are 0, 1, 2.
    norm = np.sqrt(1 + 1 + 0.25)
    assert owner.tolist() == [0, 0, 0]
    found = dict(zip(cells.tolist(), zip(weights * norm, forward, strict=True), strict=True))
    assert found[1] == (pytest.approx(1.0), False)
    assert found[0] == (pytest.approx(1.0), True)
    assert found[2] == (pytest.approx(0.5), False)


def test_nobody_and_nothing() -> None:
    for rows in ([[]], [[], []], [[3], [3]]):
        assert not pair_sums(table(rows), (0.5,)).any()
        assert all(len(part) == 0 for part in head_pairs(table(rows), np.arange(3), decay=0.5))


def test_the_last_item_alone_is_a_decay_of_zero() -> None:
    owner, _, weights, _ = head_pairs(table([[0, 1, 2]]), np.arange(ITEMS), decay=0.0)
    assert owner.tolist() == [0, 0]
    np.testing.assert_allclose(weights, np.sqrt(0.5))
