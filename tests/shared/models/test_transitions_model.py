"""Scores of decayed histories against loops; the tail; histories that say nothing."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.data.interactions import Interactions
from shared.errors import ConfigError
from shared.models.transitions import TransitionsConfig, TransitionsModel, decayed, head_of

ITEMS = 6
rows = st.lists(st.lists(st.integers(0, ITEMS - 1), max_size=8), min_size=1, max_size=4)
RNG = np.random.default_rng(2)
COUNTS = np.array([5.0, 1.0, 4.0, -2.0, 3.0, 0.5])


def slow_query(history: list[int], decay: float) -> np.ndarray:
    query = np.zeros(ITEMS)
    for age, item in enumerate(reversed(history)):
        query[item] += decay**age
    return query


@settings(deadline=None, max_examples=40)
@given(rows, st.sampled_from([0.0, 0.3, 0.9]))
def test_decayed_history_equals_a_loop(histories: list[list[int]], decay: float) -> None:
    table = Interactions.from_histories(histories, n_items=ITEMS)
    expected = [slow_query(history, decay) for history in histories]
    np.testing.assert_allclose(decayed(table, decay).toarray(), expected, atol=1e-5)


def test_whole_catalogue_adds_one_block_a_decay() -> None:
    model = TransitionsModel(n_items=ITEMS)
    weights = RNG.normal(size=model.global_shapes["weights"])
    table = Interactions.from_histories([[2, 0, 5], []], n_items=ITEMS)
    scores = model.score({"counts": COUNTS, "weights": weights}, table)
    stacked = np.concatenate([slow_query([2, 0, 5], g) for g in (0.3, 0.8, 0.97)])
    np.testing.assert_allclose(scores[0], stacked @ weights)
    np.testing.assert_array_equal(scores[1], COUNTS)


def test_tail_follows_the_head_by_count() -> None:
    model = TransitionsModel(n_items=ITEMS, config=TransitionsConfig(head=3, content=0.0))
    head = head_of(COUNTS, 3)
    assert head.tolist() == [0, 2, 4]
    weights = RNG.normal(size=(3, 3)) * 1e9
    table = Interactions.from_histories([[1, 2, 3, 0], [3, 1], []], n_items=ITEMS)
    scores = model.score({"counts": COUNTS, "weights": weights}, table)
    np.testing.assert_allclose(scores[0, head], slow_query([1, 2, 3, 0], 0.7)[head] @ weights)
    assert scores[0, head].min() > scores[0, [1, 3, 5]].max()
    assert np.argsort(-scores[0, [1, 3, 5]]).tolist() == [0, 2, 1]
    np.testing.assert_array_equal(scores[1:], np.tile(COUNTS, (2, 1)))


def test_close_counts_of_the_tail_are_not_tied() -> None:
    counts = np.concatenate([[1e4, 9e3], 1.0 + np.arange(48) * 1e-6])
    model = TransitionsModel(n_items=50, config=TransitionsConfig(head=2, content=0.0))
    table = Interactions.from_histories([[0]], n_items=50)
    scores = model.score({"counts": counts, "weights": np.full((2, 2), 1e5)}, table)
    assert len(np.unique(scores[0, 2:])) == 48


def test_both_ends_take_the_head_from_float32() -> None:
    counts = np.array([1.0, 1.0 + 1e-12, 2.0])
    sent = counts.astype(np.float32).astype(np.float64)
    assert head_of(counts, 3).tolist() == head_of(sent, 3).tolist() == [2, 0, 1]


def test_head_is_never_larger_than_the_catalogue() -> None:
    model = TransitionsModel(n_items=4, config=TransitionsConfig(head=100))
    assert model.global_shapes == {"counts": (4,), "weights": (4, 4), "content": (4, 4)}
    without = TransitionsModel(n_items=4, config=TransitionsConfig(head=100, content=0.0))
    assert without.global_shapes == {"counts": (4,), "weights": (4, 4)}


def test_content_adds_what_is_alike_in_standard_deviations() -> None:
    config = TransitionsConfig(head=3, content=0.4, content_decay=0.9, content_rank=2)
    model = TransitionsModel(n_items=ITEMS, config=config)
    head = head_of(COUNTS, 3)
    weights, content = RNG.normal(size=(3, 3)), RNG.normal(size=(3, 2))
    table = Interactions.from_histories([[2, 1, 0, 2]], n_items=ITEMS)
    parts = [
        slow_query([2, 1, 0, 2], 0.7)[head] @ weights,
        slow_query([2, 1, 0, 2], 0.9)[head] @ content @ content.T,
    ]
    parts = [(part - part.mean()) / part.std() for part in parts]
    tensors = {"counts": COUNTS, "weights": weights, "content": content}
    scores = model.score(tensors, table)[0]
    np.testing.assert_allclose(scores[head], parts[0] + 0.4 * parts[1])
    assert scores[head].min() > scores[[1, 3, 5]].max()
    # Two ends that differ by a factor in either part rank alike.
    scaled = {"counts": COUNTS, "weights": 9.0 * weights, "content": 5.0 * content}
    np.testing.assert_allclose(model.score(scaled, table)[0], scores)


def test_without_content_the_weights_rank_alone() -> None:
    table = Interactions.from_histories([[2, 0], [4]], n_items=ITEMS)
    tensors = {"counts": COUNTS, "weights": RNG.normal(size=(3, 3)), "content": np.zeros((3, 3))}
    found = [
        TransitionsModel(n_items=ITEMS, config=TransitionsConfig(head=3, content=weight))
        for weight in (0.4, 0.0)
    ]
    np.testing.assert_array_equal(found[0].score(tensors, table), found[1].score(tensors, table))


@pytest.mark.parametrize(
    "setting",
    [
        {"head": 1},
        {"head": -3},
        {"decay": 1.0},
        {"short": -0.1},
        {"long": 0.8},
        {"content": -0.1},
        {"content": float("inf")},
        {"content_decay": 1.0},
        {"content_rank": 0},
    ],
)
def test_impossible_settings_are_named(setting: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="model"):
        TransitionsConfig(**setting)
