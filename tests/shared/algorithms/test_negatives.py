from inspect import signature

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.algorithms.negatives import uniform_items, unmet_items
from shared.data.interactions import Interactions
from shared.data.queries import Queries
from shared.evaluation.protocols import EvaluationConfig, evaluate
from shared.randomness import keyed_uniforms, stream

HISTORIES = st.lists(st.lists(st.integers(0, 6), max_size=9), min_size=1, max_size=6)


def drawn_for(training, sizes, *, names=None, seed=0):
    """`sizes[u]` unmet items of each user u, drawn by the name of the user."""
    owner = np.repeat(np.arange(len(sizes)), sizes)
    place = np.arange(len(owner)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    called = owner if names is None else np.asarray(names)[owner]
    chances = keyed_uniforms(seed, "negatives", called, place)
    return unmet_items(chances, owner=owner, training=training)


@given(histories=HISTORIES, size=st.integers(0, 40), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=100)
def test_only_training_items_are_avoided(histories, size, seed):
    training = Interactions.from_histories(histories, n_items=8)
    drawn = drawn_for(training, np.full(len(histories), size), seed=seed)
    assert drawn.dtype == np.int64
    for history, row in zip(histories, drawn.reshape(len(histories), size), strict=True):
        assert set(row.tolist()) <= set(range(8)) - set(history)


@given(history=st.sets(st.integers(0, 8), max_size=8), grain=st.integers(1, 7))
@settings(deadline=None, max_examples=100)
def test_every_unmet_item_has_an_equal_part_of_the_chances(history, grain):
    training = Interactions.from_histories([[0], sorted(history)], n_items=9)
    unmet = sorted(set(range(9)) - history)
    chances = (np.arange(grain * len(unmet)) + 0.5) / (grain * len(unmet))
    owner = np.ones(len(chances), dtype=np.int64)
    drawn = unmet_items(chances, owner=owner, training=training)
    assert drawn.tolist() == np.repeat(unmet, grain).tolist()


@pytest.mark.parametrize("chance", [0.0, np.nextafter(1.0, 0.0)])
def test_the_ends_of_the_chances_stay_inside(chance):
    n_items = 3_000_017
    training = Interactions.from_histories([[0, n_items - 1]], n_items=n_items)
    ends = np.array([chance])
    outside = unmet_items(ends, owner=np.zeros(1, dtype=np.int64), training=training)
    assert outside.tolist() == [1 if chance == 0.0 else n_items - 2]
    assert uniform_items(ends, n_items=n_items).tolist() == [0 if chance == 0.0 else n_items - 1]


def test_packing_does_not_change_the_draws():
    histories = [[0, 3], [], [5, 1, 2], [7]]
    sizes = np.array([3, 0, 9, 4])
    training = Interactions.from_histories(histories, n_items=9)
    whole = drawn_for(training, sizes)
    parts = [
        drawn_for(training.select(np.array([u])), sizes[[u]], names=[u]).tolist() for u in range(4)
    ]
    assert [item for part in parts for item in part] == whole.tolist()
    assert drawn_for(training, sizes, seed=1).tolist() != whole.tolist()


def test_held_out_item_can_be_drawn():
    # A miss of one of 4 items in 2,000 uniform draws has probability 4 * (3/4)^2000.
    training = Interactions.from_histories([[0, 1, 2, 3], [4, 5, 6]], n_items=8)
    held_out = [7, 0]
    outside = drawn_for(training, np.array([2000, 2000]))
    anywhere = uniform_items(keyed_uniforms(0, "negatives", np.arange(2000)), n_items=8)
    for user in range(2):
        row = outside[2000 * user : 2000 * (user + 1)]
        assert set(row.tolist()) == set(range(8)) - set(training.history(user).tolist())
        assert held_out[user] in row
        assert held_out[user] in anywhere


@pytest.mark.statistical
def test_draws_are_uniform_outside_the_training_items():
    # Chi-square, 37 degrees of freedom: above 101 with p < 1e-7.
    training = Interactions.from_histories([[0, 39], [1, 2, 3]], n_items=40)
    drawn = drawn_for(training, np.array([20_000, 0]))
    counts = np.bincount(drawn, minlength=40)[1:39]
    expected = 20_000 / 38
    assert np.sum((counts - expected) ** 2 / expected) < 101
    counts[:5] = np.array([1.15, 1.15, 1.15, 0.8, 0.8]) * counts[:5]  # 15-20 % favour is caught
    assert np.sum((counts - expected) ** 2 / expected) > 101


def test_draws_ignore_data():
    assert list(signature(uniform_items).parameters) == ["chances", "n_items"]
    chances = np.array([[0.0, 0.34], [0.99, 0.67]])
    assert uniform_items(chances, n_items=3).tolist() == [[0, 1], [2, 2]]
    many = keyed_uniforms(1, "n", np.arange(200))
    assert set(uniform_items(many, n_items=3).tolist()) == {0, 1, 2}


def test_a_user_who_met_everything_draws_from_the_whole_catalogue():
    training = Interactions.from_histories([[0, 1, 1, 0], [0]], n_items=2)
    drawn = drawn_for(training, np.array([60, 3]))
    assert set(drawn[:60].tolist()) == {0, 1}
    assert drawn[60:].tolist() == [1, 1, 1]


def counter_only_hit_rate(sampler, *, rounds=50, users=200, n_items=400, length=20):
    """Score every item by minus its times as this user's negative: no collaboration at all."""
    rng = np.random.default_rng(0)
    rows = [rng.choice(n_items, size=length + 2, replace=False).tolist() for _ in range(users)]
    known = Interactions.from_histories([r[:length] for r in rows], n_items=n_items)
    everything = Interactions.from_histories(rows, n_items=n_items)
    sizes = np.full(users, 4 * length)
    counts = np.zeros(users * n_items)
    owners = np.repeat(np.arange(users), sizes)
    for round_ in range(rounds):
        drawn = sampler(known, everything, sizes, round_)
        counts += np.bincount(owners * n_items + drawn, minlength=len(counts))
    scores = -counts.reshape(users, n_items)
    queries = Queries(
        users=np.arange(users),
        histories=Interactions.from_histories([r[:-1] for r in rows], n_items=n_items),
        targets=Interactions.from_histories([r[-1:] for r in rows], n_items=n_items),
    )
    config = EvaluationConfig(batch=users, extra=())
    return evaluate(lambda _: scores, queries, config=config, seed=0).metrics


def leaky(known, everything, sizes, round_):
    """The published fault: items outside training AND validation AND test."""
    return drawn_for(everything, sizes, seed=round_)


def honest(known, everything, sizes, round_):
    return drawn_for(known, sizes, seed=round_)


def uniform(known, everything, sizes, round_):
    chances = stream(round_, "uniform").random(int(sizes.sum()))
    return uniform_items(chances, n_items=known.n_items)


def test_a_leaky_sampler_is_detected():
    assert counter_only_hit_rate(leaky)["sampled_hit_rate@10"] > 0.9


@pytest.mark.statistical
@pytest.mark.parametrize("sampler", [honest, uniform])
def test_a_counter_with_honest_negatives_scores_at_chance(sampler):
    # 200 coins of rate 0.10 (ties only lower it); 5 standard errors: false alarm < 1e-6.
    found = counter_only_hit_rate(sampler)["sampled_hit_rate@10"]
    assert found < 0.10 + 5 * np.sqrt(0.1 * 0.9 / 200)
    assert found > 0.01
