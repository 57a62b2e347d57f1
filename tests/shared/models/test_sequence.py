"""Sequence models: causality, padding, memory of the whole history, and a naive rewrite."""

import math

import numpy as np
import pytest
import torch

from shared.data.interactions import Interactions
from shared.errors import ConfigError
from shared.models.attention import SASRecConfig, sasrec
from shared.models.gru import GRUConfig, gru
from shared.models.sequence import SequenceModel

N_ITEMS, DIM = 9, 4
SETTINGS = {"dim": DIM, "window": 4, "memories": 2, "shortest": 1.0, "longest": 8.0}


def built(name: str, **changes) -> SequenceModel:
    if name == "gru":
        return gru(GRUConfig(**{**SETTINGS, **changes}), N_ITEMS, None)
    return sasrec(SASRecConfig(**{**SETTINGS, **changes}), N_ITEMS, None)


def tensors(model: SequenceModel) -> dict[str, np.ndarray]:
    """Tensors in which nothing is zero."""
    rng = np.random.default_rng(1)
    return {n: v + rng.normal(scale=0.4, size=v.shape) for n, v in model.initial(0).items()}


def table(*histories: list[int]) -> Interactions:
    return Interactions.from_histories(list(histories), n_items=N_ITEMS)


def states(model: SequenceModel, values, *histories: list[int]) -> np.ndarray:
    wide = {n: torch.tensor(v) for n, v in values.items()}
    prepared = model.prepared(model.windows(table(*histories)), kind=torch.float64)
    return model.states(wide, prepared).numpy()


both = pytest.mark.parametrize("name", ["gru", "sasrec"])


@both
def test_a_later_event_changes_no_earlier_state(name: str) -> None:
    model = built(name, window=6)
    values = tensors(model)
    one = states(model, values, [1, 2, 3, 4, 5, 6])[0]
    two = states(model, values, [1, 2, 3, 8, 0, 0])[0]
    np.testing.assert_allclose(one[:4], two[:4], atol=1e-12)
    assert (np.abs(one[4:] - two[4:]).max(axis=1) > 1e-6).all()


@both
def test_padding_does_not_show(name: str) -> None:
    model = built(name)
    values = tensors(model)
    alone = states(model, values, [3, 1])[0]
    padded = states(model, values, [1, 2, 3, 4], [3, 1], [])[1]
    np.testing.assert_allclose(padded[:3], alone, atol=1e-12)


@both
def test_order_counts(name: str) -> None:
    model = built(name)
    scores = model.score(tensors(model), table([1, 2, 3], [3, 2, 1]))
    assert np.abs(scores[0] - scores[1]).max() > 1e-3


@both
def test_events_before_the_window_count(name: str) -> None:
    values = tensors(built(name))
    recent = [1, 2, 3, 4]
    histories = table(recent, [7, *recent], [8, *recent], [7, 0, 0, *recent])
    scores = built(name).score(values, histories)
    gaps = [np.abs(scores[a] - scores[b]).max() for a, b in ((0, 1), (1, 2), (1, 3))]
    assert min(gaps) > 1e-4
    short = built(name, memories=0)
    forgetful = short.score({n: v for n, v in values.items() if n != "memory"}, histories)
    np.testing.assert_allclose(forgetful[0], forgetful[1], atol=1e-5)


def test_decayed_sums_do_not_see_where_the_window_begins() -> None:
    """With the core's share taken away, a window of 2 and one of 9 give the same scores."""
    history = table([1, 5, 5, 2, 8, 0, 3, 3, 7])
    values = {**tensors(built("gru")), "output": np.zeros((DIM, DIM))}
    one, two = (built("gru", window=w).score(values, history) for w in (2, 9))
    np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-5)


def test_a_state_is_what_its_formula_says() -> None:
    """The recurrent model, one event at a time."""
    model = built("gru", window=3)
    values = tensors(model)
    history = [2, 7, 7, 1, 5]
    squash = lambda x: 1.0 / (1.0 + np.exp(-x))  # noqa: E731
    hidden = np.zeros(DIM)
    read = [values["start"], *(values["items"][history[-3:]] * math.sqrt(DIM))]
    for x in read:
        fed = x @ values["gru.input"] + values["gru.bias"]
        kept = hidden @ values["gru.hidden"]
        reset, update = np.split(squash(fed[: 2 * DIM] + kept[: 2 * DIM]), 2)
        new = np.tanh(fed[2 * DIM :] + reset * (kept[2 * DIM :] + values["gru.candidate"]))
        hidden = (1.0 - update) * new + update * hidden
    state = hidden @ values["output"]
    for slot, half_life in enumerate(model.half_lives):
        keep = 0.5 ** (1.0 / half_life)
        memory = np.zeros(DIM)
        for item in history:
            memory = keep * memory + np.sqrt(1 - keep**2) * values["items"][item] * math.sqrt(DIM)
        state = state + memory @ values["memory"][slot]
    expected = values["items"] @ state + values["bias"]
    np.testing.assert_allclose(model.score(values, table(history))[0], expected, rtol=1e-4)


@both
def test_an_empty_history_and_a_long_one_are_scored(name: str) -> None:
    model = built(name)
    values = tensors(model)
    rng = np.random.default_rng(3)
    scores = model.score(values, table([], rng.integers(N_ITEMS, size=3000).tolist(), [4]))
    assert np.isfinite(scores).all()
    assert np.abs(scores[0] - scores[2]).max() > 1e-4
    np.testing.assert_allclose(model.score(values, table([]))[0], scores[0], rtol=1e-5, atol=1e-6)


@both
def test_rows_do_not_depend_on_their_batch(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = built(name)
    histories = table(*[[u, (3 * u) % 9, 1][: 1 + u % 3] for u in range(9)])
    whole = model.score(tensors(model), histories)
    monkeypatch.setattr("shared.models.sequence.BATCH", 4)
    np.testing.assert_allclose(model.score(tensors(model), histories), whole, rtol=1e-4, atol=1e-5)


def test_content_is_a_start() -> None:
    features = np.eye(N_ITEMS)[:, :2]
    config = GRUConfig(**SETTINGS, init="content", content_scale=1.0, init_scale=1e-3)
    items = gru(config, N_ITEMS, features).initial(0)["items"]
    alike, apart = np.linalg.norm(items[4] - items[5]), np.linalg.norm(items[0] - items[5])
    assert alike < 0.1 < apart


def test_a_start_from_content_ranks_what_is_like_the_history() -> None:
    features = np.repeat(np.eye(3), 3, axis=0)
    start = {"init": "content", "content_scale": 1.0, "init_scale": 1e-3}
    config = GRUConfig(**SETTINGS, **start, memory_scale=1.0, core_scale=0.0)
    model = gru(config, N_ITEMS, features)
    scores = model.score(model.initial(0), table([0], [4], [8]))
    for row, group in zip(scores, (range(3), range(3, 6), range(6, 9)), strict=True):
        assert set(np.argsort(-row)[:3]) == set(group)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("core_scale", -1.0),
        ("dim", 0),
        ("window", 0),
        ("memories", -1),
        ("dropout", 1.0),
        ("longest", 0.0),
    ],
)
def test_bad_configs_are_refused(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"model.{name}"):
        GRUConfig(**{name: value})


@pytest.mark.parametrize("change", [{"heads": 3, "dim": 64}, {"blocks": 0}, {"heads": 0}])
def test_heads_share_out_the_coordinates(change: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="blocks"):
        SASRecConfig(**change)
