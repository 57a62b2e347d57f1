"""Pooled histories and the models that stand on them, against formulas written out."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.data.interactions import Interactions
from shared.errors import ConfigError
from shared.models.bilinear import BilinearConfig, BilinearModel
from shared.models.ncf import NCFConfig, NCFModel
from shared.models.pooled import padded_content, pooled
from shared.models.two_tower import TwoTowerConfig, TwoTowerModel, compressed, with_new_items
from shared.models.windows import half_lives

N_ITEMS = 9
HISTORIES = [[0, 5, 3, 7, 7, 1], [4], [], [2, 3, 8, 0], [6, 1, 1]]
SHARED: dict[str, Any] = {"dim": 4, "window": 3, "memories": 2}
RNG = np.random.default_rng(3)
FEATURES = (RNG.random((N_ITEMS, 4)) < 0.5).astype(np.float64)
TEXTS = RNG.normal(size=(N_ITEMS, 12))
MADE: dict[str, Any] = {
    "bilinear": BilinearModel(n_items=N_ITEMS, config=BilinearConfig(**SHARED), features=FEATURES),
    "ncf": NCFModel(n_items=N_ITEMS, config=NCFConfig(**SHARED, hidden=6)),
    "two-tower": TwoTowerModel(n_items=N_ITEMS, config=TwoTowerConfig(**SHARED), features=TEXTS),
}
every = pytest.mark.parametrize("name", MADE)


def table(histories: list[list[int]] = HISTORIES) -> Interactions:
    return Interactions.from_histories(histories, n_items=N_ITEMS)


def moved(model: Any) -> dict[str, np.ndarray[Any, Any]]:
    """A model in which nothing that is learned is zero."""
    rng = np.random.default_rng(1)
    return {
        name: value if name in model.frozen else value + rng.normal(scale=0.3, size=value.shape)
        for name, value in model.initial(0).items()
    }


def mean(vectors: Any, history: list[int], half_life: float) -> Any:
    """The decayed mean of a history, one event after the other."""
    weights = 2.0 ** (-np.arange(len(history))[::-1] / half_life)
    return weights @ vectors[history] / weights.sum() if history else 0.0 * vectors[0]


@given(
    history=st.lists(st.integers(0, N_ITEMS - 1), max_size=12),
    window=st.integers(1, 12),
)
@settings(deadline=None, max_examples=40)
def test_means_are_those_of_the_whole_history_however_narrow_the_window(
    history: list[int], window: int
) -> None:
    config = BilinearConfig(**{**SHARED, "window": window})
    model = BilinearModel(n_items=N_ITEMS, config=config)
    vectors = RNG.normal(size=(N_ITEMS, 4))
    part = model.windows(table([history]))
    found = pooled(
        torch.tensor(vectors), model.prepared(part, kind=torch.float64), config.half_lives
    )
    expected = [mean(vectors, history, h) for h in config.half_lives]
    np.testing.assert_allclose(found[0, :, int(part.lengths[0])].numpy(), expected, atol=1e-9)


def test_an_empty_history_has_mean_zero() -> None:
    model = MADE["bilinear"]
    prepared = model.prepared(model.windows(table([[], [1]])), kind=torch.float64)
    found = pooled(torch.ones((N_ITEMS, 4), dtype=torch.float64), prepared, np.array([1.0, 2.0]))
    assert not found[0, :, 0].any()
    np.testing.assert_allclose(found[1, :, 1].numpy(), 1.0)


@every
def test_a_state_depends_on_events_before_its_position_alone(name: str) -> None:
    model = MADE[name]
    values = model.ready({n: torch.tensor(v) for n, v in moved(model).items()}, {})
    one, two = (
        model.states(values, model.prepared(model.windows(table([h])), kind=torch.float64))
        for h in ([1, 2, 3], [1, 2, 8])
    )
    torch.testing.assert_close(one[:, :3], two[:, :3])
    assert (one[:, 3] - two[:, 3]).abs().max() > 1e-3


@every
def test_one_item_has_the_score_it_has_in_the_catalogue(name: str) -> None:
    model = MADE[name]
    values = model.ready({n: torch.tensor(v) for n, v in moved(model).items()}, {})
    states = model.states(values, model.prepared(model.windows(table()), kind=torch.float64))
    whole, chosen = model.scores(values, states), torch.tensor([7, 2])
    torch.testing.assert_close(model.scores(values, states, chosen), whole[..., chosen])
    asked = torch.full(states.shape[:-1], 7)
    torch.testing.assert_close(model.paired(values, states, asked), whole[..., 7])


def test_bilinear_scores_are_the_formula() -> None:
    model = MADE["bilinear"]
    tensors = moved(model)
    content = tensors["content"]
    for row, history in enumerate(HISTORIES):
        expected = tensors["bias"].copy()
        for place, half_life in enumerate(model.config.half_lives):
            expected += mean(content, history, half_life) @ tensors["weights"][place] @ content.T
        found = model.score(tensors, table())[row]
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_two_tower_scores_are_cosines_and_biases() -> None:
    model = MADE["two-tower"]
    tensors = moved(model)
    items = tensors["text"] @ tensors["project"] + tensors["ids"]
    items /= np.linalg.norm(items, axis=1, keepdims=True)
    bias = tensors["text"] @ tensors["appeal"] + tensors["bias"]
    lives = model.config.half_lives
    for row, history in enumerate(HISTORIES):
        query = sum(mean(items, history, h) @ tensors["mix"][k] for k, h in enumerate(lives))
        query = query / max(np.linalg.norm(query), 1e-9)
        found = model.score(tensors, table())[row]
        np.testing.assert_allclose(found, 10.0 * items @ query + bias, atol=1e-3)


def test_ncf_scores_are_the_formula() -> None:
    model = MADE["ncf"]
    tensors = moved(model)
    lives = model.config.half_lives
    for row, history in enumerate(HISTORIES):
        user = sum(
            mean(tensors["items"], history, h) @ tensors["mix"][k] for k, h in enumerate(lives)
        )
        expected = []
        for vector, bias in zip(tensors["items"], tensors["bias"], strict=True):
            first = user @ tensors["first.user"] + vector @ tensors["first.item"]
            first = np.maximum(first + tensors["first.bias"], 0.0)
            second = np.maximum(first @ tensors["second"] + tensors["second.bias"], 0.0)
            expected.append((tensors["product"] * user) @ vector + second @ tensors["last"] + bias)
        np.testing.assert_allclose(model.score(tensors, table())[row], expected, atol=1e-4)


def test_dropped_ids_leave_the_text_alone() -> None:
    """An item that lost its own part is the item that came after training."""
    model = MADE["two-tower"]
    values = {n: torch.tensor(v) for n, v in moved(model).items()}
    kept = torch.ones(N_ITEMS, dtype=torch.float64)
    kept[4] = 0.0
    dropped, whole = model.ready(values, {"kept": kept}), model.ready(values, {})
    blank = {n: v.clone() for n, v in values.items()}
    blank["ids"][4], blank["bias"][4] = 0.0, 0.0
    cold = model.ready(blank, {})
    for part in ("items", "bias"):
        torch.testing.assert_close(dropped[part], cold[part])
        assert not torch.allclose(dropped[part][4], whole[part][4])


def test_the_share_of_dropped_ids_is_the_setting() -> None:
    """False alarm under 1e-9: 5,000 coins of .25, bounds of 6.5 standard errors."""
    model = TwoTowerModel(n_items=5000, config=TwoTowerConfig(id_dropout=0.25))
    kept = model.common(np.random.default_rng(0), kind=torch.float64)["kept"]
    assert abs(float(kept.mean()) - 0.75) < 0.04


def test_new_items_are_ranked_and_change_no_old_score() -> None:
    model, tensors = MADE["two-tower"], moved(MADE["two-tower"])
    new = np.stack([TEXTS[2], np.zeros(12), RNG.normal(size=12)])
    grown = with_new_items(tensors, known=TEXTS, new=new)
    bigger = TwoTowerModel(n_items=N_ITEMS + 3, config=model.config)
    assert {n: v.shape for n, v in grown.items()} == dict(bigger.global_shapes)
    wider = Interactions.from_histories(HISTORIES, n_items=N_ITEMS + 3)
    scores = bigger.score(grown, wider)
    np.testing.assert_allclose(scores[:, :N_ITEMS], model.score(tensors, table()), atol=1e-5)
    np.testing.assert_allclose(grown["text"][N_ITEMS], tensors["text"][2], atol=1e-9)
    assert not grown["text"][N_ITEMS + 1].any()
    assert np.isfinite(scores).all()


def test_axes_do_not_depend_on_the_order_of_the_catalogue() -> None:
    order = RNG.permutation(N_ITEMS)
    np.testing.assert_allclose(
        compressed(TEXTS, TEXTS, dim=4), compressed(TEXTS, TEXTS[order], dim=4), atol=1e-9
    )
    found = compressed(TEXTS, TEXTS, dim=20)
    assert found.shape == (N_ITEMS, 20)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1.0)


def test_before_any_round_like_texts_and_like_contents_rank_first() -> None:
    twins = np.repeat(RNG.normal(size=(3, 12)), 3, axis=0)
    towers = TwoTowerModel(n_items=N_ITEMS, config=TwoTowerConfig(**SHARED), features=twins)
    kinds = np.repeat(np.eye(3), 3, axis=0)
    plain = BilinearModel(n_items=N_ITEMS, config=BilinearConfig(**SHARED), features=kinds)
    for model in (towers, plain):
        best = np.argsort(-model.score(model.initial(0), table([[4]])))[0, :3]
        assert set(best.tolist()) == {3, 4, 5}


def test_content_is_padded_or_its_axes_are_taken() -> None:
    assert not padded_content(None, n_items=3, dim=2).any()
    assert not padded_content(np.zeros((3, 0)), n_items=3, dim=2).any()
    narrow = padded_content(np.array([[3.0], [0.0], [1.0]]), n_items=3, dim=2)
    np.testing.assert_array_equal(narrow, [[1.0, 0.0], [0.0, 0.0], [1.0, 0.0]])
    wide = padded_content(RNG.normal(size=(6, 9)), n_items=6, dim=2)
    np.testing.assert_allclose(np.linalg.norm(wide, axis=1), 1.0)


@pytest.mark.parametrize(
    ("config", "wrong", "name"),
    [
        (BilinearConfig, {"affinity": -1.0}, "affinity"),
        (BilinearConfig, {"scale": 0.0}, "scale"),
        (BilinearConfig, {"memories": 0}, "memories"),
        (BilinearConfig, {"shortest": 0.0}, "shortest"),
        (NCFConfig, {"hidden": 1}, "hidden"),
        (NCFConfig, {"dropout": 1.0}, "dropout"),
        (TwoTowerConfig, {"id_dropout": 1.5}, "id_dropout"),
        (TwoTowerConfig, {"temperature": 0.0}, "temperature"),
    ],
)
def test_bad_settings_of_a_model_are_refused(
    config: Any, wrong: dict[str, float], name: str
) -> None:
    with pytest.raises(ConfigError, match=name):
        config(**wrong)


def test_half_lives_are_the_settings() -> None:
    config = TwoTowerConfig(memories=2, shortest=2.0, longest=8.0)
    np.testing.assert_array_equal(config.half_lives, half_lives(shortest=2.0, longest=8.0, count=2))
