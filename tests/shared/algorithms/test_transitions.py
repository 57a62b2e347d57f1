"""The closed forms against plain solves; private contributions; what rules decide."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from shared.algorithms.base import Cohort, State
from shared.algorithms.methods import build, sized
from shared.algorithms.spectra import content_vectors
from shared.algorithms.transitions import Transitions, TransitionsTraining, head_size
from shared.data.interactions import Interactions
from shared.errors import ConfigError
from shared.models.transitions import TransitionsConfig, TransitionsModel, head_of
from shared.privacy.plan import Plan, PrivacyConfig, Trust, Unit
from shared.privacy.release import LocalUpdate, clip
from shared.randomness import noise_source

Array = NDArray[np.float64]
ITEMS = 8


def method(head: int = 0, *, features: Array | None = None, **training: Any) -> Transitions:
    model = TransitionsModel(n_items=ITEMS, config=TransitionsConfig(head=head), features=features)
    return Transitions(model=model, config=TransitionsTraining(**training))


def plan(algorithm: Transitions, *, sigma: float = 1.0, users: int = 4, norm: float = 1.0) -> Plan:
    private = algorithm.model.config.head > 0
    rounds = 2 if private else 1
    return Plan(
        unit=Unit.USER if private else Unit.NONE,
        trust=Trust.CENTRAL,
        epsilon=1.0 if private else np.inf,
        delta=1e-5 if private else 0.0,
        clip_norm=norm,
        noise_multiplier=sigma if private else 0.0,
        sampling_rate=1.0,
        steps_per_round=1,
        participations=rounds,
        rounds=rounds,
        expected_cohort=users,
        noise="off",
        shares=algorithm.shares(rounds),
    )


def cohort(histories: list[list[int]] | Interactions, round: int) -> Cohort:
    table = histories
    if isinstance(table, list):
        table = Interactions.from_histories(table, n_items=ITEMS)
    keys = np.arange(table.n_users)
    return Cohort(histories=table, keys=keys, memory={}, round=round, seed=0)


def total(update: LocalUpdate) -> dict[str, Array]:
    return {name: rows.total() for name, rows in update.tensors.items()}


def learned(algorithm: Transitions, table: Interactions, *, sigma: float, seed: int = 0) -> State:
    """Both rounds (or the one) with Gaussian noise of a known seed on the sums."""
    rng = np.random.default_rng(seed)
    protection = plan(algorithm, sigma=sigma, users=table.n_users)
    state = algorithm.start(0)
    for round_ in range(1, protection.rounds + 1):
        update, _ = algorithm.contribute(state, cohort(table, round_), protection)
        sums = total(update)
        if algorithm.model.config.head:
            deviation = protection.sum_deviation(round_)
            sums = {n: v + deviation * rng.normal(size=v.shape) for n, v in sums.items()}
        assert {n: v.shape for n, v in sums.items()} == dict(algorithm.asked(round_))
        state = algorithm.absorb(state, sums, protection)
    return state


def test_closed_form_equals_a_central_solve() -> None:
    """Regress what comes next on decayed histories that end in events that teach nothing."""
    rows = [[0, 3, 1, 5], [2, 4], [7], [], [6, 1, 0, 3, 2]]
    algorithm = method(ridge=2.0, support=0.0)
    blocks, target = algorithm.model.config.blocks, algorithm.config.target
    gram = np.zeros((3 * ITEMS, 3 * ITEMS))
    cross = np.zeros((3 * ITEMS, ITEMS))
    for row in rows:
        for t in range(len(row) + 600):
            state = np.zeros((3, ITEMS))
            following = np.zeros(ITEMS)
            for place, item in enumerate(row):
                if place <= t:
                    state[:, item] = [g ** (t - place) for g in blocks]
                else:
                    following[item] = target ** (place - t - 1)
            gram += np.outer(state.ravel(), state.ravel())
            cross += np.outer(state.ravel(), following)
    expected = np.linalg.solve(gram + 2.0 * np.eye(3 * ITEMS), cross)
    table = Interactions.from_histories(rows, n_items=ITEMS)
    found = learned(algorithm, table, sigma=0.0).tensors["weights"]
    np.testing.assert_allclose(found, expected, atol=2e-4)


def test_packing_does_not_matter(population: Interactions) -> None:
    for algorithm in (
        Transitions(model=TransitionsModel(n_items=30)),
        Transitions(model=TransitionsModel(n_items=30, config=TransitionsConfig(head=12))),
    ):
        rounds = 2 if algorithm.model.config.head else 1
        protection = plan(algorithm)
        state = algorithm.start(0)
        state = State(tensors={**state.tensors, "counts": np.arange(30.0)}, optimiser={}, round=0)
        whole, _ = algorithm.contribute(state, cohort(population, rounds), protection)
        together: dict[str, Array] = {}
        for users in np.array_split(np.arange(population.n_users), 7):
            part, _ = algorithm.contribute(
                state, cohort(population.select(users), rounds), protection
            )
            together = {n: together.get(n, 0.0) + v for n, v in total(part).items()}
        for name, value in total(whole).items():
            np.testing.assert_allclose(together[name], value, atol=1e-10)


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.lists(st.integers(0, ITEMS - 1), max_size=12), min_size=1, max_size=5),
    st.sampled_from(["yes", "no"]),
    st.sampled_from([1, 2]),
)
def test_every_private_contribution_has_clip_norm_or_zero(
    rows: list[list[int]], order: str, round_: int
) -> None:
    algorithm = method(head=5, order=order)
    state = algorithm.start(0)
    update, _ = algorithm.contribute(state, cohort(rows, round_), plan(algorithm, norm=0.3))
    (part,) = update.tensors.values()
    weights = np.square(part.values).sum(axis=tuple(range(1, part.values.ndim)))
    norms = np.sqrt(np.bincount(part.owner, weights=weights, minlength=len(rows)))
    assert np.all(np.isclose(norms, 0.3) | (norms == 0.0))
    clipped = clip(update, clip_norm=0.3)
    for name, rows_ in clipped.tensors.items():
        np.testing.assert_allclose(rows_.values, update.tensors[name].values, rtol=1e-12)


def test_clip_norm_does_not_change_the_weights(population: Interactions) -> None:
    model = TransitionsModel(n_items=30, config=TransitionsConfig(head=12))
    algorithm = Transitions(model=model)
    found = []
    for norm in (1.0, 0.25):
        protection = plan(algorithm, sigma=1e-6, users=40, norm=norm)
        state = algorithm.start(0)
        for round_ in (1, 2):
            update, _ = algorithm.contribute(state, cohort(population, round_), protection)
            state = algorithm.absorb(state, total(update), protection)
        found.append(state.tensors["weights"])
    np.testing.assert_allclose(found[0], found[1], rtol=1e-5)


@pytest.mark.parametrize("order", ["yes", "no"])
def test_without_signal_the_ranking_is_that_of_the_private_counts(
    population: Interactions, order: str
) -> None:
    """Noise that nothing stands out of: each item's score falls with its private count's rank.

    The largest singular value of a noise block, 2 x 2 the smallest, passes three times its limit
    with probability < 1e-6.
    """
    features = np.random.default_rng(8).normal(size=(30, 2))
    config = TransitionsConfig(head=12)
    model = TransitionsModel(n_items=30, config=config, features=features)
    algorithm = Transitions(model=model, config=TransitionsTraining(order=order, edge=3.0))
    counts = learned(algorithm, population, sigma=0.5).tensors["counts"]
    level = np.sort(np.maximum(counts, 0.05 * np.sort(counts)[-12:].mean()))[::-1]
    apart = np.flatnonzero(np.diff(level) < 0)
    protection = plan(algorithm, sigma=1e5, users=40)
    for seed in range(5):
        draws = np.random.default_rng(seed).normal(size=algorithm.asked(2)["pairs"])
        sums = {"pairs": protection.sum_deviation(2) * draws}
        before = State(
            tensors={**algorithm.start(0).tensors, "counts": counts}, optimiser={}, round=1
        )
        state = algorithm.absorb(before, sums, protection)
        assert not state.tensors["content"].any()
        scores = model.score(state.tensors, population)[:, head_of(counts, 30)]
        assert (np.diff(scores, axis=1)[:, apart] < 0).all()


def test_no_pairs_at_all_still_rank_by_count() -> None:
    algorithm = method(head=4)
    table = Interactions.from_histories([[3], [3], [5], [3], [1]], n_items=ITEMS)
    state = learned(algorithm, table, sigma=1e-9)
    scores = algorithm.model.score(state.tensors, table)
    assert np.isfinite(scores).all()


def test_transitions_are_recovered_and_order_only_where_it_is_asked() -> None:
    """Everyone goes 0 -> 1 -> 2 or 4 -> 5 -> 6: after 1 comes 2, and 0 no less without order."""
    rows = [[0, 1, 2], [4, 5, 6]] * 200
    table = Interactions.from_histories(rows, n_items=ITEMS)
    asked = Interactions.from_histories([[1], [5]], n_items=ITEMS)
    for order in ("yes", "no"):
        algorithm = method(head=7, order=order)
        state = learned(algorithm, table, sigma=0.5)
        scores = algorithm.model.score(state.tensors, asked)
        assert scores[0, 2] > max(scores[0, 4:7])
        assert scores[1, 6] > max(scores[1, 0:3])
        ahead = scores[0, 2] - scores[0, 0]
        assert (ahead > 0.2 * abs(scores[0, 2])) == (order == "yes")


def test_public_content_reaches_the_weights(population: Interactions) -> None:
    features = np.zeros((30, 2))
    features[:15, 0] = features[15:, 1] = 1.0
    found = []
    for content in (None, features):
        config = TransitionsConfig(head=30, content=0.0)
        model = TransitionsModel(n_items=30, config=config, features=content)
        algorithm = Transitions(model=model, config=TransitionsTraining(edge=1.0))
        state = learned(algorithm, population, sigma=4.0)
        scores = model.score(state.tensors, population)
        own = np.array([scores[u, (u % 2) * 15 : (u % 2) * 15 + 15].mean() for u in range(40)])
        other = np.array([scores[u, 15 - (u % 2) * 15 :][:15].mean() for u in range(40)])
        found.append(float((own - other).mean() / scores.std()))
    assert found[1] > found[0] + 0.2


def test_content_of_the_head_travels_in_its_order(population: Interactions) -> None:
    features = np.random.default_rng(8).normal(size=(30, 3))
    model = TransitionsModel(n_items=30, config=TransitionsConfig(head=9), features=features)
    tensors = learned(Transitions(model=model), population, sigma=1e-3).tensors
    expected = content_vectors(features[head_of(tensors["counts"], 9)], 9)
    np.testing.assert_array_equal(tensors["content"], expected)
    bare = TransitionsModel(n_items=30, config=TransitionsConfig(head=9))
    assert not learned(Transitions(model=bare), population, sigma=1e-3).tensors["content"].any()


def test_rounds_and_budget() -> None:
    assert method(head=3).shares(2) == (0.1, 0.9)
    assert method().shares(1) == ()
    for algorithm, rounds in ((method(head=3), 1), (method(), 2)):
        with pytest.raises(ConfigError, match=r"training\.rounds"):
            algorithm.shares(rounds)
    algorithm = method(head=3)
    assert [algorithm.purpose(r) for r in (1, 2)] == ["counts", "train"]
    assert [set(algorithm.sent(r)) for r in (1, 2)] == [set(), {"counts"}]
    assert algorithm.asked(2) == {"pairs": (3, 1)}
    assert method(head=3, order="yes").asked(2) == {"pairs": (3, 2)}


def test_users_are_not_protected_without_a_head() -> None:
    algorithm = method()
    with pytest.raises(ConfigError, match="head"):
        algorithm.contribute(algorithm.start(0), cohort([[1]], 1), plan(method(head=3)))
    with pytest.raises(ConfigError, match="whole users"):
        algorithm.contribute_per_interaction(
            algorithm.start(0), cohort([[1]], 1), plan(method()), noise_source("off", 0)
        )


def test_the_rule_sees_public_numbers_and_leaves_what_is_set() -> None:
    asked = PrivacyConfig(unit=Unit.USER, trust=Trust.CENTRAL, epsilon=3.0, delta=1e-5)
    flat: dict[str, object] = {"model.head": 0, "algorithm.order": "auto"}
    filled = sized("transitions", flat, users=943, n_items=1682, privacy=asked)
    assert filled == {"model.head": 197, "algorithm.order": "no"}
    few = sized("transitions", flat, users=943, n_items=50, privacy=asked)
    assert few["model.head"] == 50
    local = PrivacyConfig(unit=Unit.USER, trust=Trust.LOCAL, epsilon=3.0, delta=1e-5)
    weak = sized("transitions", flat, users=943, n_items=1682, privacy=local)
    assert weak["model.head"] == head_size(np.sqrt(943) * 0.719, 1682) < 50
    own = {"model.head": 9, "algorithm.order": "yes"}
    assert sized("transitions", own, users=943, n_items=1682, privacy=asked) == own
    assert sized("mf", {}, users=9, n_items=9, privacy=asked) == {}
    open_ = PrivacyConfig(unit=Unit.NONE)
    assert sized("transitions", flat, users=9, n_items=9, privacy=open_) == flat


@pytest.mark.parametrize(
    "setting",
    [{"ridge": 0.0}, {"counts": 0.0}, {"counts": 1.0}, {"discount": -0.1}, {"overlap": -1.0}],
)
def test_impossible_settings_are_named(setting: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=f"algorithm.{next(iter(setting))}"):
        TransitionsTraining(**setting)


def test_target_must_differ_from_the_decays() -> None:
    with pytest.raises(ConfigError, match="target"):
        build("transitions", "transitions", {"algorithm.target": 0.8}, 5)
