"""Least squares by turns: the sweeps of a central fit, and bounded, shrunk right-hand sides."""

from dataclasses import replace

import numpy as np
import pytest
from classical import cohort, learned, norms, plan, total
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.algorithms.base import State
from shared.algorithms.gram import gram_head_size
from shared.algorithms.ials import Ials, IalsConfig
from shared.algorithms.methods import build, sized
from shared.data.interactions import Interactions
from shared.errors import ConfigError
from shared.models.transitions import head_of
from shared.privacy.plan import PrivacyConfig, Trust, Unit
from shared.privacy.release import clip
from shared.randomness import noise_source, stream
from simulations.baselines.ials import IalsConfig as CentralConfig
from simulations.baselines.ials import fit_ials

ITEMS, DIM = 8, 3


def method(*, n_items: int = ITEMS, head: int = 0, **algorithm: float) -> Ials:
    public = {
        "model.dim": DIM,
        "model.half_life": 0.0,
        "model.init": "normal",
        "algorithm.head": head,
        **{f"algorithm.{name}": value for name, value in algorithm.items()},
    }
    made = build("mf", "ials", public, n_items)
    assert isinstance(made, Ials)
    return made


def table_of(rows: list[list[int]], n_items: int = ITEMS) -> Interactions:
    return Interactions.from_histories(rows, n_items=n_items)


def test_plain_rounds_are_the_sweeps_of_a_central_fit(
    population: Interactions, awkward: Interactions
) -> None:
    repeats = table_of([[3, 3, 1, 3], [], [5], [5, 0, 5]])
    for table in (population, awkward, repeats):
        algorithm = method(n_items=table.n_items)
        shape = (table.n_items, DIM)
        items = 0.1 / np.sqrt(DIM) * stream(6, "ials").standard_normal(shape)
        start = State(
            tensors={"items": items, "bias": np.zeros(table.n_items)}, optimiser={}, round=0
        )
        found = learned(algorithm, table, rounds=4, start=start)
        central = fit_ials(table, config=CentralConfig(dim=DIM, sweeps=4), seed=6)
        scores = algorithm.model.score(found.tensors, table)
        np.testing.assert_allclose(scores, central(table), atol=2e-5)


@pytest.mark.parametrize(("head", "round_"), [(0, 2), (12, 1), (12, 2)])
def test_sums_do_not_depend_on_packing(population: Interactions, head: int, round_: int) -> None:
    algorithm = method(n_items=30, head=head)
    terms = plan(algorithm, rounds=3, users=40, sigma=float(head))
    start = {**algorithm.start(0).tensors, "bias": np.linspace(0.0, 1e-6, 30)}
    state = State(tensors=start, optimiser={}, round=round_ - 1)

    def sums(users: np.ndarray) -> dict[str, np.ndarray]:
        people = cohort(population.select(users), round_, algorithm=algorithm)
        return total(algorithm.contribute(state, people, terms)[0])

    whole = sums(np.arange(40))
    parts = [sums(users) for users in np.array_split(np.arange(40), 7)]
    for name, value in whole.items():
        np.testing.assert_allclose(sum(part[name] for part in parts), value, atol=1e-9)


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.lists(st.integers(0, ITEMS - 1), max_size=12), min_size=1, max_size=5),
    st.sampled_from([1, 2, 3]),
)
def test_every_private_contribution_has_norm_clip_norm_or_zero(
    rows: list[list[int]], round_: int
) -> None:
    algorithm = method(head=5)
    terms = plan(algorithm, rounds=3, users=len(rows), sigma=1.0, norm=0.3)
    people = cohort(table_of(rows), round_, algorithm=algorithm)
    update, _ = algorithm.contribute(algorithm.start(0), people, terms)
    found = norms(update)
    assert np.all(np.isclose(found, 0.3) | (found == 0.0))
    for name, bounded in clip(update, clip_norm=0.3).tensors.items():
        np.testing.assert_allclose(bounded.values, update.tensors[name].values, rtol=1e-12)


def test_repeats_count_once() -> None:
    once, again = table_of([[0, 4, 2], [1, 2]]), table_of([[0, 4, 0, 2], [1, 2, 1, 1]])
    for head, sigma in ((0, 0.0), (5, 1.0)):
        algorithm = method(head=head)
        found = [
            learned(algorithm, table, rounds=3, sigma=sigma, noisy=False).tensors["items"]
            for table in (once, again)
        ]
        np.testing.assert_array_equal(*found)


def test_clip_norm_does_not_change_the_items(population: Interactions) -> None:
    algorithm = method(n_items=30, head=12)
    found = [
        learned(algorithm, population, rounds=3, sigma=1e-6, norm=norm).tensors["items"]
        for norm in (1.0, 0.25)
    ]
    np.testing.assert_allclose(*found, rtol=1e-3, atol=1e-5)


def test_without_signal_the_ranking_is_that_of_the_private_counts(
    population: Interactions,
) -> None:
    """Noise that nothing stands out of: each item's score falls with its private count's rank.

    The largest singular value of 12 x 3 noise passes thrice its limit with probability < 1e-9.
    """
    algorithm = method(n_items=30, head=12, edge=3.0)
    terms = plan(algorithm, rounds=2, users=40, sigma=0.5)
    people = cohort(population, 1, algorithm=algorithm)
    update, _ = algorithm.contribute(algorithm.start(0), people, terms)
    counted = algorithm.absorb(algorithm.start(0), total(update), terms)
    counts = counted.optimiser["counts"]
    head = head_of(counts, 12)
    apart = np.flatnonzero(np.diff(counts[head_of(counts, 30)]) < 0)
    noisy = plan(algorithm, rounds=2, users=40, sigma=1e5)
    for seed in range(5):
        draws = np.random.default_rng(seed).normal(size=algorithm.asked(2)["items"])
        state = algorithm.absorb(counted, {"items": noisy.sum_deviation(2) * draws}, noisy)
        scores = algorithm.model.score(state.tensors, population)[:, head_of(counts, 30)]
        assert (np.diff(scores, axis=1)[:, apart] < 0).all()
    assert len(apart) > len(head)


def test_two_tastes_are_told_apart_under_noise(population: Interactions) -> None:
    """The public start knows the halves; right-hand sides under noise keep them apart."""
    features = np.zeros((30, 2))
    features[:15, 0] = features[15:, 1] = 1.0
    public = {"model.dim": 3, "model.half_life": 0.0, "algorithm.head": 30}
    algorithm = build("mf", "ials", public, 30, features=features)
    state = learned(algorithm, population, rounds=2, sigma=0.5)
    scores = algorithm.model.score(state.tensors, population)
    own = np.array([scores[u, (u % 2) * 15 :][:15].mean() for u in range(40)])
    other = np.array([scores[u, (1 - u % 2) * 15 :][:15].mean() for u in range(40)])
    assert (own > other).mean() > 0.9


def test_nobody_with_items_of_the_head_still_ranks_by_count() -> None:
    algorithm = method(head=2)
    table = table_of([[3], [3], [5], [5], [3], [1], []])
    state = learned(algorithm, table, rounds=2, sigma=1e-9)
    scores = algorithm.model.score(state.tensors, table)
    assert np.isfinite(scores).all()
    assert np.argsort(-scores[6])[:3].tolist() == [3, 5, 1]


def test_vectors_stay_on_the_device(population: Interactions) -> None:
    algorithm = method(n_items=30)
    people = cohort(population, 1, algorithm=algorithm)
    terms = plan(algorithm, rounds=1, users=40)
    state = algorithm.start(0)
    update, memory = algorithm.contribute(state, people, terms)
    assert set(update.tensors) == {"items", "users"}
    expected = algorithm.model.fit_users(state.tensors, population)
    np.testing.assert_allclose(memory["user"], expected, atol=1e-12)


def test_rounds_and_budget() -> None:
    private, plain = method(head=4), method()
    np.testing.assert_allclose(private.shares(3), [0.1, 0.45, 0.45])
    assert plain.shares(5) == ()
    with pytest.raises(ConfigError, match=r"training\.rounds"):
        private.shares(1)
    assert [private.purpose(r) for r in (1, 2, 3)] == ["counts", "train", "train"]
    assert [set(private.sent(r)) for r in (1, 2)] == [set(), {"items", "bias"}]
    assert [private.asked(r) for r in (1, 2)] == [{"counts": (8,)}, {"items": (4, 3)}]
    assert plain.asked(1) == {"items": (8, 10), "users": (3, 3)}
    assert method(head=99).asked(2) == {"items": (8, 3)}


def test_only_whole_users_are_protected_and_only_with_a_head() -> None:
    algorithm = method()
    people = cohort(table_of([[1]]), 1, algorithm=algorithm)
    terms = plan(method(head=3), rounds=2, users=1, sigma=1.0)
    with pytest.raises(ConfigError, match="head"):
        algorithm.contribute(algorithm.start(0), people, terms)
    with pytest.raises(ConfigError, match="whole users"):
        algorithm.contribute_per_interaction(
            algorithm.start(0), people, replace(terms, noise="off"), noise_source("off", 0)
        )


def test_the_head_follows_from_public_numbers() -> None:
    asked = PrivacyConfig(unit=Unit.USER, trust=Trust.CENTRAL, epsilon=3.0, delta=1e-5)
    flat: dict[str, object] = {"algorithm.name": "ials", "algorithm.head": 0}
    filled = sized("mf", flat, users=943, n_items=1682, privacy=asked)
    assert filled == {**flat, "algorithm.head": gram_head_size(678.0, 1682)}
    own = {**flat, "algorithm.head": 9}
    assert sized("mf", own, users=943, n_items=1682, privacy=asked) == own
    averaged: dict[str, object] = {"algorithm.name": "averaging"}
    assert sized("mf", averaged, users=943, n_items=1682, privacy=asked) == averaged


@pytest.mark.parametrize(
    "setting", [{"head": 1}, {"counts": 0.0}, {"edge": -0.1}, {"damping": float("nan")}]
)
def test_impossible_settings_are_named(setting: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=f"algorithm.{next(iter(setting))}"):
        IalsConfig(**setting)  # type: ignore[arg-type]


def test_users_are_fitted_by_squares_and_other_models_refused() -> None:
    assert method().model.config.fit == "squares"
    with pytest.raises(ConfigError, match="learns model="):
        build("popularity", "ials", {}, 5)
