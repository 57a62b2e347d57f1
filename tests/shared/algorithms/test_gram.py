"""Gram statistics: a central fit without protection, a bounded and shrunk one with it."""

import numpy as np
import pytest
from classical import cohort, learned, norms, plan, total
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from shared.algorithms.base import State
from shared.algorithms.gram import Gram, GramConfig, gram_head_size
from shared.algorithms.methods import build, sized
from shared.data.interactions import Interactions
from shared.errors import ConfigError
from shared.models.ease import Ease, EaseModelConfig
from shared.models.linear import Linear
from shared.models.neighbours import ItemKNN, ItemKNNModelConfig
from shared.models.transitions import head_of
from shared.privacy.plan import PrivacyConfig, Trust, Unit
from shared.privacy.release import clip
from shared.randomness import noise_source
from simulations.baselines.ease import EaseConfig, fit_ease
from simulations.baselines.neighbours import ItemKNNConfig, fit_item_knn

Array = NDArray[np.float64]
ITEMS = 8
LINEAR = {"ease": (Ease, EaseModelConfig), "item-knn": (ItemKNN, ItemKNNModelConfig)}


def method(name: str = "ease", *, n_items: int = ITEMS, head: int = 0, **model: float) -> Gram:
    made = build(
        name, "gram", {"model.head": head, **{f"model.{k}": v for k, v in model.items()}}, n_items
    )
    assert isinstance(made, Gram)
    return made


def table_of(rows: list[list[int]], n_items: int = ITEMS) -> Interactions:
    return Interactions.from_histories(rows, n_items=n_items)


@pytest.mark.parametrize("ridge", [0.5, 100.0])
def test_plain_sums_give_the_ease_of_a_central_fit(
    population: Interactions, awkward: Interactions, ridge: float
) -> None:
    repeats = table_of([[3, 3, 1, 3], [], [5], [5, 0, 5]])
    for table in (population, awkward, repeats):
        algorithm = method(n_items=table.n_items, ridge=ridge)
        found = learned(algorithm, table, rounds=1)
        central = fit_ease(table, config=EaseConfig(ridge=ridge), seed=0)
        known = table.lengths > 0
        scores = algorithm.model.score(found.tensors, table)
        np.testing.assert_allclose(scores[known], central(table)[known], atol=1e-6)


@pytest.mark.parametrize(("neighbours", "shrinkage"), [(400, 0.0), (3, 2.5)])
def test_plain_sums_give_the_neighbours_of_a_central_fit(
    population: Interactions, awkward: Interactions, neighbours: int, shrinkage: float
) -> None:
    for table in (population, awkward):
        algorithm = method(
            "item-knn", n_items=table.n_items, neighbours=neighbours, shrinkage=shrinkage
        )
        found = learned(algorithm, table, rounds=1)
        config = ItemKNNConfig(neighbours=neighbours, shrinkage=shrinkage)
        central = fit_item_knn(table, config=config, seed=0)
        known = table.lengths > 0
        scores = algorithm.model.score(found.tensors, table)
        np.testing.assert_allclose(scores[known], central(table)[known], atol=1e-6)


@pytest.mark.parametrize(("head", "round_"), [(0, 1), (12, 1), (12, 2)])
def test_sums_do_not_depend_on_packing(population: Interactions, head: int, round_: int) -> None:
    algorithm = method(n_items=30, head=head)
    rounds = 2 if head else 1
    terms = plan(algorithm, rounds=rounds, users=40, sigma=float(head))
    tensors = {**algorithm.start(0).tensors, "counts": np.arange(30.0)}
    state = State(tensors=tensors, optimiser={}, round=round_ - 1)
    whole = total(
        algorithm.contribute(state, cohort(population, round_, algorithm=algorithm), terms)[0]
    )
    parts = [
        total(
            algorithm.contribute(
                state, cohort(population.select(users), round_, algorithm=algorithm), terms
            )[0]
        )
        for users in np.array_split(np.arange(40), 7)
    ]
    for name, value in whole.items():
        np.testing.assert_allclose(sum(part[name] for part in parts), value, atol=1e-10)


def test_pairs_of_the_head_equal_a_loop() -> None:
    rows = [[0, 1, 2, 0], [3, 7], [5], [], [2, 6, 1]]
    algorithm = method(head=4)
    counts = np.array([9.0, 8.0, 7.0, 6.0, 1.0, 1.0, 1.0, 1.0])
    state = State(tensors={"counts": counts}, optimiser={}, round=1)
    terms = plan(algorithm, rounds=2, users=5, sigma=1.0)
    update, _ = algorithm.contribute(state, cohort(table_of(rows), 2, algorithm=algorithm), terms)
    expected = np.zeros((4, 4))
    for row in rows:
        x = np.isin(np.arange(4), row).astype(np.float64)
        met = np.triu(np.outer(x, x), 1)
        expected += met / max(np.linalg.norm(met), 1e-12)
    cells = expected[np.triu_indices(4, 1)]
    np.testing.assert_allclose(total(update)["pairs"], cells, atol=1e-12)


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.lists(st.integers(0, ITEMS - 1), max_size=12), min_size=1, max_size=5),
    st.sampled_from([1, 2]),
)
def test_every_private_contribution_has_norm_clip_norm_or_zero(
    rows: list[list[int]], round_: int
) -> None:
    algorithm = method(head=5)
    terms = plan(algorithm, rounds=2, users=len(rows), sigma=1.0, norm=0.3)
    people = cohort(table_of(rows), round_, algorithm=algorithm)
    update, _ = algorithm.contribute(algorithm.start(0), people, terms)
    found = norms(update)
    assert np.all(np.isclose(found, 0.3) | (found == 0.0))
    for name, bounded in clip(update, clip_norm=0.3).tensors.items():
        np.testing.assert_allclose(bounded.values, update.tensors[name].values, rtol=1e-12)


def test_repeats_count_once() -> None:
    once, again = table_of([[0, 4, 2], [1, 2]]), table_of([[0, 4, 0, 2], [1, 2, 1, 1]])
    for head, rounds in ((0, 1), (5, 2)):
        algorithm = method(head=head)
        sigma = 1.0 if head else 0.0
        found = [
            learned(algorithm, table, rounds=rounds, sigma=sigma, noisy=False).tensors["weights"]
            for table in (once, again)
        ]
        np.testing.assert_array_equal(*found)


def test_clip_norm_does_not_change_the_weights(population: Interactions) -> None:
    algorithm = method(n_items=30, head=12)
    found = [
        learned(algorithm, population, rounds=2, sigma=1e-6, norm=norm).tensors["weights"]
        for norm in (1.0, 0.25)
    ]
    np.testing.assert_allclose(*found, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", sorted(LINEAR))
def test_without_signal_the_ranking_is_that_of_the_private_counts(
    population: Interactions, name: str
) -> None:
    """Noise that nothing stands out of: each item's score falls with its private count's rank.

    The largest singular value of 12 x 12 noise passes twice its limit with probability < 1e-9.
    """
    kind, config = LINEAR[name]
    model: Linear = kind(n_items=30, config=config(head=12))
    algorithm = Gram(model=model, config=GramConfig(edge=2.0))
    counts = learned(algorithm, population, rounds=2, sigma=0.5).tensors["counts"]
    level = np.maximum(counts, 0.05 * np.sort(counts)[-12:].mean())
    apart = np.flatnonzero(np.diff(np.sort(level)[::-1]) < 0)
    terms = plan(algorithm, rounds=2, users=40, sigma=1e5)
    for seed in range(5):
        draws = np.random.default_rng(seed).normal(size=algorithm.asked(2)["pairs"])
        before = State(
            tensors={**algorithm.start(0).tensors, "counts": counts}, optimiser={}, round=1
        )
        state = algorithm.absorb(before, {"pairs": terms.sum_deviation(2) * draws}, terms)
        scores = model.score(state.tensors, population)
        for user in range(40):
            # What a person knows says nothing of itself, and is not ranked.
            order = np.setdiff1d(head_of(counts, 30), population.history(user))
            order = order[np.argsort(-level[order], kind="stable")]
            distinct = np.diff(level[order]) < 0
            assert (np.diff(scores[user, order])[distinct] < 0).all()
    assert len(apart)


@pytest.mark.parametrize("name", sorted(LINEAR))
def test_two_tastes_are_told_apart_under_noise(population: Interactions, name: str) -> None:
    """Even users like the first half; the margin is 6 standard errors of these scores."""
    kind, config = LINEAR[name]
    model: Linear = kind(n_items=30, config=config(head=30))
    state = learned(Gram(model=model), population, rounds=2, sigma=0.5)
    scores = model.score(state.tensors, population)
    own = np.array([scores[u, (u % 2) * 15 :][:15].mean() for u in range(40)])
    other = np.array([scores[u, (1 - u % 2) * 15 :][:15].mean() for u in range(40)])
    assert (own > other).mean() > 0.9


def test_the_estimate_is_positive_semidefinite(population: Interactions) -> None:
    class Seen(Ease):
        def solve(self, gram: Array) -> Array:
            values = np.linalg.eigvalsh(gram)
            assert values.min() > -1e-9 * values.max()
            np.testing.assert_allclose(gram, gram.T)
            return Ease.solve(self, gram)

    algorithm = Gram(model=Seen(n_items=30, config=EaseModelConfig(head=20)))
    for sigma in (1e-6, 0.5, 50.0):
        state = learned(algorithm, population, rounds=2, sigma=sigma)
        assert np.isfinite(state.tensors["weights"]).all()


def test_nobody_with_two_items_still_ranks_by_count() -> None:
    algorithm = method(head=4)
    table = table_of([[3], [3], [5], [3], []])
    state = learned(algorithm, table, rounds=2, sigma=1e-9)
    scores = algorithm.model.score(state.tensors, table)
    assert np.isfinite(scores).all()
    assert scores[4].argmax() == 3


def test_rounds_and_budget() -> None:
    private, plain = method(head=3), method()
    assert private.shares(2) == (0.1, 0.9)
    assert plain.shares(1) == ()
    for algorithm, rounds in ((private, 1), (plain, 2)):
        with pytest.raises(ConfigError, match=r"training\.rounds"):
            algorithm.shares(rounds)
    assert [private.purpose(r) for r in (1, 2)] == ["counts", "train"]
    assert [set(private.sent(r)) for r in (1, 2)] == [set(), {"counts"}]
    assert private.asked(1) == {"counts": (8,)}
    assert private.asked(2) == {"pairs": (3,)}
    assert plain.asked(1) == {"gram": (36,)}


def test_only_whole_users_are_protected_and_only_with_a_head() -> None:
    algorithm = method()
    people = cohort(table_of([[1]]), 1, algorithm=algorithm)
    with pytest.raises(ConfigError, match="head"):
        algorithm.contribute(
            algorithm.start(0), people, plan(method(head=3), rounds=2, users=1, sigma=1.0)
        )
    with pytest.raises(ConfigError, match="whole users"):
        algorithm.contribute_per_interaction(
            algorithm.start(0), people, plan(algorithm, rounds=1, users=1), noise_source("off", 0)
        )


def test_the_head_follows_from_public_numbers() -> None:
    asked = PrivacyConfig(unit=Unit.USER, trust=Trust.CENTRAL, epsilon=3.0, delta=1e-5)
    for name in LINEAR:
        filled = sized(name, {"model.head": 0}, users=943, n_items=1682, privacy=asked)
        assert filled == {"model.head": gram_head_size(678.0, 1682)}
        own = {"model.head": 9}
        assert sized(name, own, users=943, n_items=1682, privacy=asked) == own
        few = sized(name, {}, users=943, n_items=50, privacy=asked)
        assert few == {"model.head": 50}
    assert sized("ease", {}, users=9, n_items=9, privacy=PrivacyConfig(unit=Unit.NONE)) == {}


@pytest.mark.parametrize("setting", [{"counts": 0.0}, {"counts": 1.0}, {"edge": -0.1}])
def test_impossible_settings_are_named(setting: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=f"algorithm.{next(iter(setting))}"):
        GramConfig(**setting)


def test_other_models_are_refused() -> None:
    with pytest.raises(ConfigError, match="learns model="):
        build("mf", "gram", {}, 5)
