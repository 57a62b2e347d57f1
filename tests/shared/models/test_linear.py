"""Scores of linear item models: what is known, the tail, histories that say nothing."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.data.interactions import Interactions
from shared.errors import ConfigError
from shared.models.ease import Ease, EaseModelConfig
from shared.models.linear import LinearConfig, known
from shared.models.neighbours import ItemKNN, ItemKNNModelConfig

ITEMS = 6
COUNTS = np.array([5.0, 1.0, 4.0, -2.0, 3.0, 0.5])
WEIGHTS = np.random.default_rng(4).normal(size=(ITEMS, ITEMS))
rows = st.lists(st.lists(st.integers(0, ITEMS - 1), max_size=8), min_size=1, max_size=4)


@settings(deadline=None, max_examples=40)
@given(rows, st.sampled_from([0.0, 0.7, 5.0]))
def test_known_items_equal_a_loop(histories: list[list[int]], half_life: float) -> None:
    expected = np.zeros((len(histories), ITEMS))
    for row, history in enumerate(histories):
        for age, item in enumerate(reversed(history)):
            weight = 0.5 ** (age / half_life) if half_life else 1.0
            expected[row, item] = max(expected[row, item], weight)
    table = Interactions.from_histories(histories, n_items=ITEMS)
    np.testing.assert_allclose(known(table, half_life=half_life).toarray(), expected, rtol=1e-6)


def test_a_repeated_item_counts_once_by_its_newest_event() -> None:
    model = Ease(n_items=ITEMS, config=EaseModelConfig(half_life=1.0))
    tensors = {"counts": COUNTS, "weights": WEIGHTS}
    table = Interactions.from_histories([[2, 0, 2]], n_items=ITEMS)
    np.testing.assert_allclose(model.score(tensors, table)[0], WEIGHTS[2] + 0.5 * WEIGHTS[0])


def test_tail_follows_the_head_by_count() -> None:
    model = ItemKNN(n_items=ITEMS, config=ItemKNNModelConfig(head=3))
    weights = 1e9 * WEIGHTS[:3, :3]
    table = Interactions.from_histories([[1, 2, 3, 0], [3, 1], []], n_items=ITEMS)
    scores = model.score({"counts": COUNTS, "weights": weights}, table)
    np.testing.assert_allclose(scores[0, [0, 2, 4]], weights[0] + weights[1])
    assert scores[0, [0, 2, 4]].min() > scores[0, [1, 3, 5]].max()
    assert np.argsort(-scores[0, [1, 3, 5]]).tolist() == [0, 2, 1]
    np.testing.assert_array_equal(scores[1:], np.tile(COUNTS, (2, 1)))


def test_without_known_head_items_the_order_is_that_of_the_counts() -> None:
    for config in (EaseModelConfig(), EaseModelConfig(head=4)):
        model = Ease(n_items=ITEMS, config=config)
        weights = WEIGHTS[: model.size, : model.size]
        nobody = Interactions.from_histories([[]], n_items=ITEMS)
        scores = model.score({"counts": COUNTS, "weights": weights}, nobody)
        np.testing.assert_array_equal(scores, COUNTS[None])


def test_ease_equals_a_constrained_regression() -> None:
    """Each column is the ridge regression of one item on the others."""
    rng = np.random.default_rng(1)
    held = (rng.random((30, ITEMS)) < 0.4).astype(np.float64)
    found = Ease(n_items=ITEMS, config=EaseModelConfig(ridge=3.0)).solve(held.T @ held)
    for item in range(ITEMS):
        rest = np.delete(held, item, axis=1)
        system = rest.T @ rest + 3.0 * np.eye(ITEMS - 1)
        column = np.linalg.solve(system, rest.T @ held[:, item])
        np.testing.assert_allclose(np.delete(found[:, item], item), column, atol=1e-10)
        assert found[item, item] == 0.0


def test_neighbourhoods_are_cut_without_a_head_only() -> None:
    gram = np.array([[4.0, 2.0, 1.0], [2.0, 4.0, 3.0], [1.0, 3.0, 4.0]])
    near = ItemKNN(n_items=3, config=ItemKNNModelConfig(neighbours=1)).solve(gram)
    np.testing.assert_allclose(near, [[0, 0, 0], [0.5, 0, 0.75], [0, 0.75, 0]])
    headed = ItemKNN(n_items=3, config=ItemKNNModelConfig(neighbours=1, head=3)).solve(gram)
    assert (headed > 0).sum() == 6
    damped = ItemKNN(n_items=3, config=ItemKNNModelConfig(shrinkage=4.0)).solve(gram)
    np.testing.assert_allclose(damped[0], [0, 0.25, 0.125])


def test_a_catalogue_that_nobody_touched_has_finite_weights() -> None:
    for model in (Ease(n_items=3), ItemKNN(n_items=3)):
        assert np.isfinite(model.solve(np.zeros((3, 3)))).all()


@pytest.mark.parametrize(
    ("kind", "setting"),
    [
        (LinearConfig, {"head": 1}),
        (LinearConfig, {"half_life": -1.0}),
        (EaseModelConfig, {"head": -2}),
        (EaseModelConfig, {"ridge": 0.0}),
        (EaseModelConfig, {"head_ridge": float("nan")}),
        (ItemKNNModelConfig, {"half_life": float("inf")}),
        (ItemKNNModelConfig, {"neighbours": 0}),
        (ItemKNNModelConfig, {"shrinkage": -1.0}),
    ],
)
def test_impossible_settings_are_named(kind: type, setting: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=f"model.{next(iter(setting))}"):
        kind(**setting)
