"""Matrix factorisation: the fit of a user against scipy, the start, and a taste it must learn."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from training import plan

from shared.algorithms.averaging import Averaging, AveragingConfig
from shared.algorithms.base import Cohort
from shared.algorithms.optimisers import OptimiserConfig
from shared.data.interactions import Interactions
from shared.errors import ConfigError
from shared.models.mf import MatrixFactorization, MFConfig, recency_weights

N_ITEMS, DIM = 25, 4


def tensors(seed: int = 0, scale: float = 0.8) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {"items": scale * rng.normal(size=(N_ITEMS, DIM)), "bias": rng.normal(size=N_ITEMS)}


def objective(vector, values, history, config: MFConfig) -> float:
    """The stated objective, written out for one user."""
    scores = values["items"] @ vector + values["bias"]
    weight = np.zeros(N_ITEMS)
    for age, item in enumerate(reversed(history)):
        decayed = 0.5 ** (age / config.half_life) if config.half_life else 1.0
        weight[item] = max(weight[item], decayed)
    lost = weight @ np.logaddexp(0.0, -scores)
    unseen = weight == 0
    rest = config.negatives / N_ITEMS * weight.sum()
    return (
        lost + rest * np.logaddexp(0.0, scores[unseen]).sum() + config.ridge / 2 * vector @ vector
    )


@pytest.mark.parametrize("half_life", [0.0, 3.0])
@pytest.mark.parametrize("ridge", [0.2, 5.0])
@pytest.mark.parametrize("negatives", [0.0, 6.0])
def test_fit_minimises_its_objective(half_life: float, ridge: float, negatives: float) -> None:
    config = MFConfig(dim=DIM, half_life=half_life, ridge=ridge, negatives=negatives)
    model = MatrixFactorization(n_items=N_ITEMS, config=config)
    histories = [[0, 3, 3, 9, 1, 0], [7], list(range(20)), []]
    table = Interactions.from_histories(histories, n_items=N_ITEMS)
    found = model.fit_users(tensors(), table)
    for vector, history in zip(found, histories, strict=True):
        best = minimize(objective, np.zeros(DIM), args=(tensors(), history, config), tol=1e-10)
        np.testing.assert_allclose(vector, best.x, atol=2e-3)
        nudged = objective(vector + 0.02, tensors(), history, config)
        assert nudged > objective(vector, tensors(), history, config)


@given(
    history=st.lists(st.integers(0, N_ITEMS - 1), max_size=30), scale=st.sampled_from([0.1, 1.0, 4])
)
@settings(deadline=None, max_examples=60)
def test_fit_is_never_worse_than_no_vector(history, scale) -> None:
    config = MFConfig(dim=DIM)
    model = MatrixFactorization(n_items=N_ITEMS, config=config)
    values = tensors(scale=scale)
    (vector,) = model.fit_users(values, Interactions.from_histories([history], n_items=N_ITEMS))
    none = objective(np.zeros(DIM), values, history, config)
    assert objective(vector, values, history, config) <= none + 1e-5


def test_recent_items_weigh_more() -> None:
    model = MatrixFactorization(n_items=N_ITEMS, config=MFConfig(dim=DIM, half_life=1.0))
    pair = Interactions.from_histories([[2, 8], [8, 2]], n_items=N_ITEMS)
    scores = model.score(tensors(), pair)
    assert scores[0, 8] > scores[1, 8]
    assert scores[1, 2] > scores[0, 2]
    alike = MatrixFactorization(n_items=N_ITEMS, config=MFConfig(dim=DIM, half_life=0.0))
    both = alike.score(tensors(), pair)
    np.testing.assert_allclose(both[0], both[1], rtol=1e-5)


def test_recency_weights_count_from_the_newest() -> None:
    weights = recency_weights(np.array([2, 0, 3]), half_life=2.0)
    expected = [0.5**0.5, 1.0, 0.5, 0.5**0.5, 1.0]
    np.testing.assert_allclose(weights, expected, rtol=1e-6)
    assert recency_weights(np.array([2, 1]), half_life=0.0).tolist() == [1.0] * 3
    assert recency_weights(np.array([0]), half_life=2.0).tolist() == []


def test_an_empty_history_is_scored_by_the_bias() -> None:
    model = MatrixFactorization(n_items=N_ITEMS, config=MFConfig(dim=DIM))
    values = tensors()
    scores = model.score(values, Interactions.from_histories([[], [1]], n_items=N_ITEMS))
    np.testing.assert_array_equal(scores[0], values["bias"])
    assert not np.allclose(scores[1], values["bias"])


def test_a_heavier_ridge_gives_a_shorter_vector() -> None:
    table = Interactions.from_histories([[1, 5, 9]], n_items=N_ITEMS)
    norms = [
        float(
            np.linalg.norm(
                MatrixFactorization(
                    n_items=N_ITEMS, config=MFConfig(dim=DIM, ridge=ridge)
                ).fit_users(tensors(), table)
            )
        )
        for ridge in (0.1, 1.0, 10.0, 1e6)
    ]
    assert norms == sorted(norms, reverse=True)
    assert norms[-1] < 1e-4 < norms[0]


def test_rows_do_not_depend_on_their_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    model = MatrixFactorization(n_items=N_ITEMS, config=MFConfig(dim=DIM))
    table = Interactions.from_histories([[u, u + 3] for u in range(9)], n_items=N_ITEMS)
    whole = model.score(tensors(), table)
    monkeypatch.setattr("shared.models.mf.BATCH", 4)
    np.testing.assert_allclose(model.score(tensors(), table), whole, rtol=1e-5, atol=1e-6)


def test_xavier_keeps_its_bounds() -> None:
    model = MatrixFactorization(n_items=200, config=MFConfig(dim=10, init="xavier"))
    items = model.initial(0)["items"]
    bound = np.sqrt(6 / 210)
    assert np.abs(items).max() <= bound
    assert np.abs(items).max() > 0.99 * bound
    assert abs(items.std() - bound / np.sqrt(3)) < 0.05 * bound


def test_normal_start_has_its_scale() -> None:
    config = MFConfig(dim=10, init="normal", init_scale=0.3, start_bias=-2.0)
    start = MatrixFactorization(n_items=400, config=config).initial(0)
    assert abs(start["items"].std() - 0.3) < 0.02  # 4,000 values: four standard errors are 0.014
    assert (start["bias"] == -2.0).all()


def test_start_depends_on_the_seed_alone() -> None:
    model = MatrixFactorization(n_items=N_ITEMS, config=MFConfig(dim=DIM, init="normal"))
    one, two, other = (model.initial(seed)["items"] for seed in (3, 3, 4))
    assert (one == two).all()
    assert (one != other).all()


@pytest.mark.parametrize("columns", [2, 9])
def test_content_start_is_the_public_content(columns: int) -> None:
    features = np.random.default_rng(1).normal(size=(N_ITEMS, columns))
    config = MFConfig(dim=DIM, init="content", content_scale=0.5)
    items = MatrixFactorization(n_items=N_ITEMS, config=config, features=features).initial(0)[
        "items"
    ]
    centred = features - features.mean(axis=0)
    used = min(DIM, columns)
    axes = items[:, :used] / 0.5
    values = np.sort(np.linalg.eigvalsh(centred.T @ centred))[::-1][:used]
    np.testing.assert_allclose(axes.T @ axes, np.diag(values), atol=1e-8)
    bare = MatrixFactorization(n_items=N_ITEMS, config=config).initial(0)["items"]
    assert (items[:, used:] == bare[:, used:]).all()


def test_bad_configs_are_refused() -> None:
    for name, value in [("dim", 0), ("init_scale", -1.0), ("ridge", np.nan), ("half_life", -1.0)]:
        with pytest.raises(ConfigError, match=f"model.{name}"):
            MFConfig(**{name: value})


def share_ranked_right(scores: np.ndarray, population: Interactions) -> float:
    """Users whose unseen items of their own half all rank before every item of the other."""
    open_ = scores.copy()
    open_[population.users, population.items] = np.inf
    users = np.arange(population.n_users)
    halves = open_.reshape(len(users), 2, -1)
    own, other = halves[users, users % 2], halves[users, 1 - users % 2]
    return float(np.mean(own.min(axis=1) > other.max(axis=1)))


@pytest.mark.parametrize("local_steps", [1, 4])
@pytest.mark.parametrize("seed", [0, 1])
def test_federated_factorisation_learns_two_tastes(
    population: Interactions, seed: int, local_steps: int
) -> None:
    """The oracle: a user's withheld items come first, and they are known in advance."""
    config = MFConfig(dim=2, init="normal", half_life=0.0)
    algorithm = Averaging(
        model=MatrixFactorization(n_items=population.n_items, config=config),
        config=AveragingConfig(
            local_steps=local_steps,
            examples=10.0,
            user_rate=4.0,
            local=OptimiserConfig(rate=1.0),
            server=OptimiserConfig(rate=2.0),
        ),
    )
    public = plan(algorithm, unit="none", rounds=30, expected_cohort=population.n_users)
    keys = np.arange(population.n_users)
    state, memory = algorithm.start(seed), algorithm.memory(keys, seed)
    untaught = algorithm.model.score(state.tensors, population)
    assert share_ranked_right(untaught, population) < 0.2
    for round_ in range(1, 31):
        users = Cohort(histories=population, keys=keys, memory=memory, round=round_, seed=seed)
        update, memory = algorithm.contribute(state, users, public)
        total = {name: rows.total() for name, rows in update.tensors.items()}
        state = algorithm.absorb(state, total, public)
    taught = algorithm.model.score(state.tensors, population)
    assert share_ranked_right(taught, population) == 1.0
