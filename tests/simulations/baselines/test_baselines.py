"""Central baselines: the contract of all, and each one's own mathematics."""

from dataclasses import replace

import numpy as np
import pytest

from shared.data.interactions import Interactions
from shared.data.queries import Queries, Split
from shared.data.splits import leave_last_out
from shared.errors import ConfigError
from shared.evaluation.protocols import EvaluationConfig, evaluate
from shared.randomness import stream
from simulations.baselines.bpr import BprConfig
from simulations.baselines.choice import choose, stochastic
from simulations.baselines.ease import EaseConfig, fit_ease
from simulations.baselines.ials import IalsConfig, _solve
from simulations.baselines.incidence import gram, incidence
from simulations.baselines.neighbours import ItemKNNConfig, fit_item_knn
from simulations.baselines.sasrec import SasrecConfig, fit_sasrec
from simulations.baselines.zoo import BASELINES, GRIDS

TINY = {
    "ials": IalsConfig(dim=4, sweeps=6),
    "bpr": BprConfig(dim=8, epochs=20, batch=64, rate=0.05, l2=0.001),
    "sasrec": SasrecConfig(dim=16, window=8, epochs=10, rate=0.01, batch=16),
}


def tiny(name, train, seed=0):
    kind, fit = BASELINES[name]
    return fit(train, config=TINY.get(name, kind()), seed=seed)


@pytest.mark.parametrize("name", sorted(BASELINES))
def test_contract(name, population, awkward):
    for histories in (population, awkward):
        score = tiny(name, histories)
        values = score(histories)
        assert values.shape == (histories.n_users, histories.n_items)
        assert values.dtype == np.float64
        assert np.isfinite(values).all()
        again = tiny(name, histories)(histories)
        assert np.array_equal(values, again)


@pytest.mark.parametrize("name", sorted(set(BASELINES) - {"popularity"}))
def test_a_new_user_is_scored_from_the_history_alone(name, population):
    """Two tastes: someone who trained nothing is offered the rest of their own half."""
    half = population.n_items // 2
    score = tiny(name, population.select(np.arange(30)))
    values = score(population.select(np.arange(30, 40)))
    for user, row in zip(range(30, 40), values, strict=True):
        unseen = np.setdiff1d(np.arange(population.n_items), population.history(user))
        own, other = (row[unseen[unseen // half == taste]] for taste in (user % 2, 1 - user % 2))
        assert own.mean() > other.mean()


@pytest.mark.parametrize("name", sorted(BASELINES))
def test_stochastic_says_whether_the_seed_matters(name, population):
    one, other = (tiny(name, population, seed=seed)(population) for seed in (0, 1))
    assert np.array_equal(one, other) is not stochastic(name)


def test_grids_hold_settings_of_their_baseline():
    for name, grid in GRIDS.items():
        assert len(grid) > 1
        assert all(type(config) is BASELINES[name][0] for config in grid)


def test_test_queries_choose_nothing(population):
    split = leave_last_out(population)
    other = Interactions.from_histories([[0]] * len(split.test), n_items=population.n_items)
    swapped = Split(
        protocol=split.protocol,
        train=split.train,
        validation=split.validation,
        test=Queries(users=split.test.users, histories=split.test.histories, targets=other),
    )
    for name in GRIDS:
        one, two = (choose(name, parts, seed=0) for parts in (split, swapped))
        assert one.settings == two.settings
        assert np.array_equal(one.score(population), two.score(population))


def test_validation_chooses(population, monkeypatch):
    """Of three settings the one that scores best on validation is taken, wherever it stands."""
    split = leave_last_out(population)
    config = EvaluationConfig(full=("ndcg@10",), sampled=(), extra=())
    values = {
        k: evaluate(
            fit_item_knn(split.train, config=ItemKNNConfig(neighbours=k), seed=0),
            split.validation,
            config=config,
            seed=0,
        ).metrics["ndcg@10"]
        for k in (1, 8, 29)
    }
    assert len(set(values.values())) == 3
    best = max(values, key=values.__getitem__)
    for order in ((1, 8, 29), (29, 8, 1)):
        grid = tuple(ItemKNNConfig(neighbours=k) for k in order)
        monkeypatch.setitem(GRIDS, "item-knn", grid)
        found = choose("item-knn", split, seed=0)
        assert (found.settings["neighbours"], found.tried) == (best, 3)


def test_unknown_baseline(population):
    with pytest.raises(ConfigError, match="item-knn"):
        choose("knn", leave_last_out(population), seed=0)


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        (ItemKNNConfig, {"neighbours": 0}),
        (EaseConfig, {"ridge": 0.0}),
        (IalsConfig, {"unobserved": -1.0}),
        (BprConfig, {"rate": 0.0}),
        (SasrecConfig, {"heads": 3}),
        (SasrecConfig, {"window": 1}),
    ],
)
def test_impossible_settings(kind, wrong):
    with pytest.raises(ConfigError):
        kind(**wrong)


def test_gram_counts_users(awkward, monkeypatch):
    expected = incidence(awkward).T @ incidence(awkward)
    assert np.array_equal(gram(awkward), expected)
    monkeypatch.setattr("simulations.baselines.incidence._BLOCK", 3)
    assert np.array_equal(gram(awkward), expected)


def test_item_knn_against_a_loop(population):
    k, shrinkage = 5, 2.0
    config = ItemKNNConfig(neighbours=k, shrinkage=shrinkage)
    values = fit_item_knn(population, config=config, seed=0)(population)
    x = incidence(population)
    for j in range(population.n_items):
        near = {
            i: (x[:, i] @ x[:, j])
            / (np.sqrt((x[:, i] @ x[:, i]) * (x[:, j] @ x[:, j])) + shrinkage)
            for i in range(population.n_items)
            if i != j
        }
        edge = sorted(near.values())[-k]
        column = [s if s >= edge else 0.0 for s in (near.get(i, -1.0) for i in range(len(x[0])))]
        assert values[:, j] == pytest.approx(x @ np.array(column))


def test_ease_is_the_least_squares_solution(population):
    """Column j solves the ridge regression of item j on all others."""
    values = fit_ease(population, config=EaseConfig(ridge=7.0), seed=0)(population)
    x = incidence(population)
    for j in (0, 13, 29):
        others = np.delete(x, j, axis=1)
        left = others.T @ others + 7.0 * np.eye(len(others[0]))
        weights = np.linalg.solve(left, others.T @ x[:, j])
        assert values[:, j] == pytest.approx(others @ weights)


def test_ials_folds_in_the_minimiser(population):
    """No small step away from a solved vector lowers the objective in the module's docstring."""
    config = IalsConfig(dim=3, unobserved=0.2, ridge=0.1, growth=0.5)
    items = stream(0, "table").standard_normal((30, 3))
    history = population.history(0)

    def objective(vector):
        scores = items @ vector
        size = (len(history) + config.unobserved * 30) ** config.growth
        return (
            np.sum((1 - scores[history]) ** 2)
            + config.unobserved * np.sum(scores**2)
            + config.ridge * size * vector @ vector
        )

    found = _solve(population.select(np.array([0])), items, config)[0]
    for direction in np.vstack([np.eye(3), -np.eye(3)]):
        assert objective(found + 1e-3 * direction) > objective(found)


def test_sasrec_learns_order():
    cycle = [[(start + step) % 12 for step in range(9)] for start in range(12)] * 4
    train = Interactions.from_histories(cycle, n_items=12)
    asked = Interactions.from_histories([[5, 4, 3], [3, 4, 5]], n_items=12)
    config = replace(TINY["sasrec"], epochs=40, dropout=0.0)
    values = fit_sasrec(train, config=config, seed=0)(asked)
    assert values.argmax(axis=1).tolist() == [4, 6]


def test_sasrec_reads_the_last_window_only():
    cycle = [[(start + step) % 12 for step in range(20)] for start in range(12)]
    train = Interactions.from_histories(cycle, n_items=12)
    score = fit_sasrec(train, config=replace(TINY["sasrec"], epochs=2), seed=0)
    tail = [3, 1, 4, 1, 5, 9, 2, 6]
    one, two = score(Interactions.from_histories([[7, 7, *tail], tail], n_items=12))
    assert one == pytest.approx(two, abs=1e-5)
