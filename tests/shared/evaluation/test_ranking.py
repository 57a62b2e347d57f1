import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.data.interactions import Interactions
from shared.data.queries import Queries
from shared.evaluation import ranking
from shared.evaluation.ranking import MISS

SCORE = st.sampled_from([0.0, 0.5, 1.0, -2.0, np.nan, np.inf, -np.inf])


def queries(histories, targets, *, n_items, users=None):
    return Queries(
        users=np.arange(len(histories)) if users is None else np.asarray(users),
        histories=Interactions.from_histories(histories, n_items=n_items),
        targets=Interactions.from_histories(targets, n_items=n_items),
    )


def naive_rank(scores, known, targets, target):
    """Rank by building the list: other candidates first among equals, then targets in order."""

    def place(item):
        value = -np.inf if np.isnan(scores[item]) else scores[item]
        return (-value, item in targets, item)

    ordered = sorted((i for i in range(len(scores)) if i not in known), key=place)
    hopeless = target in known or np.isnan(scores[target]) or scores[target] == -np.inf
    return MISS if hopeless else ordered.index(target)


@st.composite
def cases(draw):
    n_items = draw(st.integers(2, 9))
    rows = draw(st.integers(1, 4))
    item = st.integers(0, n_items - 1)
    histories = [draw(st.lists(item, max_size=4)) for _ in range(rows)]
    targets = [draw(st.lists(item, min_size=1, max_size=4)) for _ in range(rows)]
    scores = draw(st.lists(SCORE, min_size=rows * n_items, max_size=rows * n_items))
    return np.array(scores).reshape(rows, n_items), queries(histories, targets, n_items=n_items)


@given(case=cases())
@settings(deadline=None, max_examples=200)
def test_rank_full_equals_the_naive_list(case):
    scores, asked = case
    targets = ranking.target_matrix(asked.targets)
    found = ranking.rank_full(scores, asked.histories, targets)
    for row in range(len(asked)):
        wanted = set(asked.targets.history(row).tolist())
        known = set(asked.histories.history(row).tolist())
        assert targets[row][targets[row] >= 0].tolist() == sorted(wanted)
        for target, rank in zip(targets[row], found[row], strict=True):
            if target < 0:
                assert rank == -1
            else:
                assert rank == naive_rank(scores[row], known, wanted, target)


@given(case=cases())
@settings(deadline=None, max_examples=100)
def test_rank_sampled_of_all_unseen_items_is_the_full_rank(case):
    scores, asked = case
    n_items = scores.shape[1]
    targets = ranking.target_matrix(asked.targets)
    drawn = ranking.sample_candidates(asked, n=n_items, seed=1)
    full = ranking.rank_full(scores, asked.histories, targets)
    sampled = ranking.rank_sampled(scores, drawn, targets)
    fresh = [
        not set(asked.targets.history(r).tolist()) & set(asked.histories.history(r).tolist())
        for r in range(len(asked))
    ]
    assert np.array_equal(full[fresh], sampled[fresh])


@given(case=cases(), k=st.integers(1, 12))
@settings(deadline=None, max_examples=100)
def test_top_k_equals_a_stable_sort(case, k):
    scores, asked = case
    found = ranking.top_k(scores, asked.histories, k)
    for row in range(len(asked)):
        known = set(asked.histories.history(row).tolist())
        usable = [
            i
            for i, s in enumerate(scores[row])
            if i not in known and not np.isnan(s) and s > -np.inf
        ]
        expected = sorted(usable, key=lambda i: (-scores[row, i], i))[:k]
        assert found[row].tolist() == expected + [-1] * (k - len(expected))


def test_arguments_are_left_alone():
    scores = np.array([[np.nan, 1.0, 2.0]])
    asked = queries([[1]], [[2]], n_items=3)
    ranking.rank_full(scores, asked.histories, ranking.target_matrix(asked.targets))
    ranking.top_k(scores, asked.histories, 2)
    np.testing.assert_array_equal(scores, [[np.nan, 1.0, 2.0]])


def test_constant_scorer_hits_nothing():
    asked = queries([[0], [1]], [[5], [6]], n_items=30)
    targets = ranking.target_matrix(asked.targets)
    full = ranking.rank_full(np.zeros((2, 30)), asked.histories, targets)
    assert full.ravel().tolist() == [28, 28]
    drawn = ranking.sample_candidates(asked, n=20, seed=0)
    assert ranking.rank_sampled(np.zeros((2, 30)), drawn, targets).ravel().tolist() == [20, 20]


def test_nan_target_is_a_miss():
    # Two candidates only: a rank of "last" would still be within the first 10.
    asked = queries([[0]], [[1]], n_items=3)
    targets = ranking.target_matrix(asked.targets)
    scores = np.array([[0.0, np.nan, np.nan]])
    assert ranking.rank_full(scores, asked.histories, targets).tolist() == [[MISS]]
    assert ranking.rank_sampled(scores, np.array([[2]]), targets).tolist() == [[MISS]]


def test_known_target_is_a_miss():
    asked = queries([[1, 2]], [[1]], n_items=4)
    targets = ranking.target_matrix(asked.targets)
    assert ranking.rank_full(np.ones((1, 4)), asked.histories, targets).tolist() == [[MISS]]


def test_repeated_target_counts_once():
    asked = queries([[0]], [[3, 3, 1]], n_items=5)
    assert ranking.target_matrix(asked.targets).tolist() == [[1, 3]]


def test_blocks_do_not_change_the_ranks():
    rng = np.random.default_rng(0)
    rows, n_items = 700, 40
    scores = rng.integers(0, 12, size=(rows, n_items)).astype(float)
    asked = queries(
        [[int(rng.integers(20))] for _ in range(rows)],
        [[20 + int(rng.integers(20))] for _ in range(rows)],
        n_items=n_items,
    )
    targets = ranking.target_matrix(asked.targets)
    found = ranking.rank_full(scores, asked.histories, targets)
    for row in (0, 511, 512, 699):
        known = set(asked.histories.history(row).tolist())
        wanted = {int(targets[row, 0])}
        assert found[row, 0] == naive_rank(scores[row], known, wanted, targets[row, 0])


def test_sampled_candidates_are_unseen_and_distinct():
    asked = queries([[0, 1, 2], [3]], [[4], [5]], n_items=50)
    drawn = ranking.sample_candidates(asked, n=20, seed=3)
    for row in range(2):
        met = {*asked.histories.history(row).tolist(), *asked.targets.history(row).tolist()}
        assert len(set(drawn[row].tolist())) == 20
        assert not met & set(drawn[row].tolist())


def test_a_user_with_few_unseen_items_gets_them_all():
    drawn = ranking.sample_candidates(queries([[0, 1]], [[2]], n_items=5), n=4, seed=0)
    assert sorted(drawn[0].tolist()) == [-1, -1, 3, 4]


def test_one_draw_per_seed():
    histories = [[u % 7, 7 + u % 5] for u in range(12)]
    targets = [[20 + u] for u in range(12)]
    whole = ranking.sample_candidates(queries(histories, targets, n_items=60), n=9, seed=5)
    some = [7, 2, 11]
    part = queries([histories[u] for u in some], [targets[u] for u in some], n_items=60, users=some)
    assert np.array_equal(whole[some], ranking.sample_candidates(part, n=9, seed=5))
    assert not np.array_equal(whole[some], ranking.sample_candidates(part, n=9, seed=6))
    assert not np.array_equal(whole[some], ranking.sample_candidates(part, n=9, seed=5, draw=1))


@pytest.mark.statistical
def test_sampled_candidates_are_uniform():
    # False alarm below 1e-6: chi-square with 38 degrees of freedom exceeds 102 with p < 1e-7, and
    # drawing without replacement spreads less than that.
    rows, n = 2000, 5
    asked = queries([[0]] * rows, [[1]] * rows, n_items=41)
    drawn = ranking.sample_candidates(asked, n=n, seed=11)
    counts = np.bincount(drawn.ravel(), minlength=41)
    assert counts[:2].tolist() == [0, 0]
    expected = rows * n / 39
    assert np.sum((counts[2:] - expected) ** 2 / expected) < 102
    skewed = np.where(drawn < 12, 2 + drawn % 5, drawn)  # a sampler with favourites is caught
    counts = np.bincount(skewed.ravel(), minlength=41)
    assert np.sum((counts[2:] - expected) ** 2 / expected) > 102
