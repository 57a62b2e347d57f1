"""One distinct interaction is in one example of a step, and knows nothing of the others."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, chi2

from shared.algorithms import examples
from shared.algorithms.base import Cohort
from shared.algorithms.examples import draw_batches
from shared.data.interactions import Interactions
from shared.randomness import NoNoise, OSNoise

N_ITEMS = 12
HISTORIES = st.lists(st.lists(st.integers(0, N_ITEMS - 2), max_size=14), min_size=1, max_size=4)


def cohort(histories, *, n_items=N_ITEMS, keys=None, round=1, seed=0) -> Cohort:
    names = np.arange(len(histories)) if keys is None else np.asarray(keys)
    table = Interactions.from_histories(histories, n_items=n_items)
    return Cohort(histories=table, keys=names, memory={}, round=round, seed=seed)


def drawn(users: Cohort, *, rate=0.6, steps=2, negatives=3, private=True, noise=None):
    """The examples of each step: {(key of the user, positive): its negatives}."""
    source = (noise or NoNoise(0)) if private else None
    slots, batches = draw_batches(users, steps=steps, rate=rate, negatives=negatives, noise=source)
    pairs = slots.owner * users.histories.n_items + slots.row
    assert (np.diff(pairs) > 0).all()
    found = []
    for batch in batches:
        rows = slots.row[batch.slots]
        assert (slots.owner[batch.slots] == batch.owner[:, None]).all()
        names = [(int(users.keys[u]), int(r[0])) for u, r in zip(batch.owner, rows, strict=True)]
        assert len(set(names)) == len(names)
        found.append(dict(zip(names, rows[:, 1:].tolist(), strict=True)))
    return found


@given(histories=HISTORIES, private=st.booleans(), seed=st.integers(0, 50))
@settings(deadline=None, max_examples=80)
def test_one_interaction_is_one_example(histories, private, seed) -> None:
    users = cohort(histories, seed=seed)
    expected = {(u, item) for u, history in enumerate(histories) for item in history}
    for step in drawn(users, rate=1.0, private=private):
        assert set(step) == expected
    for step in drawn(users, rate=0.5, private=private):
        assert set(step) <= expected


@given(histories=HISTORIES, which=st.integers(0, 1000), seed=st.integers(0, 50))
@settings(deadline=None, max_examples=80)
def test_leaving_one_interaction_out_changes_no_other_example(histories, which, seed) -> None:
    pairs = sorted({(u, item) for u, history in enumerate(histories) for item in history})
    if not pairs:
        return
    user, gone = pairs[which % len(pairs)]
    fewer = [list(history) for history in histories]
    fewer[user] = [item for item in fewer[user] if item != gone]
    for whole, rest in zip(
        drawn(cohort(histories, seed=seed)), drawn(cohort(fewer, seed=seed)), strict=True
    ):
        whole.pop((user, gone), None)
        assert rest == whole


def test_outside_private_runs_negatives_do_know_the_history() -> None:
    """So the test above can fail: the plain draw avoids training items and is not private."""
    histories = [list(range(9))]
    (whole,) = drawn(cohort(histories), rate=1.0, steps=1, private=False)
    (rest,) = drawn(cohort([histories[0][1:]]), rate=1.0, steps=1, private=False)
    whole.pop((0, 0))
    assert rest != whole


@given(histories=HISTORIES, private=st.booleans(), round_=st.integers(1, 9))
@settings(deadline=None, max_examples=60)
def test_packing_does_not_change_the_examples(histories, private, round_) -> None:
    keys = 7 * np.arange(len(histories)) + 3
    whole = drawn(cohort(histories, keys=keys, round=round_), private=private)
    apart = [
        drawn(cohort([h], keys=[k], round=round_), private=private)
        for h, k in zip(histories, keys, strict=True)
    ]
    for step, found in enumerate(whole):
        joined: dict = {}
        for one in apart:
            joined |= one[step]
        assert joined == found


def test_both_ways_of_numbering_slots_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    users = cohort([[0, 3, 3, 9], [], [5], [1, 2]])
    dense = draw_batches(users, steps=3, rate=0.6, negatives=3, noise=None)
    monkeypatch.setattr(examples, "DENSE_PAIRS", 0)
    sparse = draw_batches(users, steps=3, rate=0.6, negatives=3, noise=None)
    np.testing.assert_array_equal(dense[0].owner, sparse[0].owner)
    np.testing.assert_array_equal(dense[0].row, sparse[0].row)
    for one, other in zip(dense[1], sparse[1], strict=True):
        np.testing.assert_array_equal(one.slots, other.slots)


def test_rounds_steps_seeds_and_users_draw_anew() -> None:
    history = list(range(N_ITEMS - 1))
    base = drawn(cohort([history]), rate=1.0)
    named = {
        "step": base[1],
        "round": drawn(cohort([history], round=2), rate=1.0)[0],
        "seed": drawn(cohort([history], seed=1), rate=1.0)[0],
        "user": drawn(cohort([history], keys=[5]), rate=1.0)[0],
    }
    for other in named.values():
        assert list(other.values()) != list(base[0].values())


@pytest.mark.statistical
def test_protective_coins_have_the_public_rate() -> None:
    """Exact binomial, 24,000 coins: false alarm 1e-6 a check; 3 points off are caught."""
    users = cohort([list(range(300))] * 40, n_items=400)
    _, batches = draw_batches(users, steps=2, rate=0.3, negatives=1, noise=OSNoise())
    heads = sum(len(batch.owner) for batch in batches)
    assert binomtest(heads, 24_000, 0.3).pvalue > 1e-6
    assert binomtest(heads, 24_000, 0.33).pvalue < 1e-6
    assert binomtest(heads, 24_000, 0.27).pvalue < 1e-6


def test_protective_coins_do_not_come_from_the_seed() -> None:
    """A false alarm needs 300 equal pairs of fair coins: 2^-300."""
    users = cohort([list(range(300))], n_items=400)
    coins = [set(drawn(users, rate=0.5, steps=1, noise=OSNoise())[0]) for _ in range(2)]
    assert coins[0] != coins[1]
    seeded = [set(drawn(users, rate=0.5, steps=1, noise=NoNoise(0))[0]) for _ in range(2)]
    assert seeded[0] == seeded[1]


@pytest.mark.statistical
def test_private_negatives_are_uniform_over_the_whole_catalogue() -> None:
    """Chi-square, 39 degrees of freedom (false alarm 1e-6); the user's own items are drawn too."""
    history = list(range(30))
    users = cohort([history] * 60, n_items=40)
    (step,) = drawn(users, rate=1.0, steps=1, negatives=10)
    counts = np.bincount(np.concatenate(list(step.values())), minlength=40)
    expected = counts.sum() / 40
    assert chi2.sf(np.sum((counts - expected) ** 2 / expected), 39) > 1e-6
    assert counts[:30].min() > 0
    favoured = counts * np.where(np.arange(40) < 10, 1.15, 0.95)
    assert chi2.sf(np.sum((favoured - expected) ** 2 / expected), 39) < 1e-6


def test_plain_negatives_avoid_training_items_only() -> None:
    """Item 7 is held out: it misses 900 uniform draws of 10 items with probability 1e-41."""
    users = cohort([[0, 1, 2]] * 100, n_items=13)
    (step,) = drawn(users, rate=1.0, steps=1, private=False)
    found = set(np.concatenate(list(step.values())).tolist())
    assert found == set(range(3, 13))
