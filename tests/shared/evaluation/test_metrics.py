import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.evaluation import metrics
from shared.evaluation.ranking import MISS

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "metrics.json").read_text())


def padded(rows):
    width = max(map(len, rows))
    return np.array([row + [-1] * (width - len(row)) for row in rows], dtype=np.int64)


@pytest.mark.parametrize("name", sorted(GOLDEN["values"]))
def test_metrics_equal_an_independent_library(name):
    metric, cut = name.split("@")
    ranks = padded(GOLDEN["ranks"])
    found = metrics.METRICS[metric](ranks, int(cut))
    n = (ranks >= 0).sum(axis=1)
    rescale = n / np.minimum(int(cut), n) if metric in ("recall", "map") else 1.0
    np.testing.assert_allclose(found, np.array(GOLDEN["values"][name]) * rescale, atol=1e-9)
    assert np.ptp(found) > 0


@pytest.mark.parametrize("name", sorted(metrics.METRICS))
@given(data=st.data())
@settings(deadline=None, max_examples=30)
def test_metrics_are_bounded_and_ignore_order_and_padding(name, data):
    row = st.lists(st.integers(0, 30), min_size=1, max_size=8, unique=True)
    rows = data.draw(st.lists(row, min_size=1, max_size=5))
    k = data.draw(st.integers(1, 40))
    measure = metrics.METRICS[name]
    found = measure(padded(rows), k)
    assert ((found >= 0) & (found <= 1 + 1e-12)).all()
    turned = np.pad(padded(rows)[:, ::-1], ((0, 0), (2, 1)), constant_values=-1)
    np.testing.assert_allclose(measure(turned, k), found, atol=1e-12)


@pytest.mark.parametrize("name", sorted(metrics.METRICS))
@pytest.mark.parametrize("k", [1, 3, 10])
def test_metrics_of_the_best_and_the_worst_ranking(name, k):
    best, worst = np.arange(10)[None], np.full((1, 10), MISS)
    assert metrics.METRICS[name](best, k) == pytest.approx(1.0)
    assert metrics.METRICS[name](worst, k) == 0.0


def test_a_query_without_targets_scores_zero():
    for measure in metrics.METRICS.values():
        assert measure(np.full((2, 3), -1), 10).tolist() == [0.0, 0.0]
        assert measure(np.zeros((0, 0), dtype=np.int64), 10).tolist() == []


def test_f1_by_hand():
    # 4 targets, 2 of them in the first 5: precision 2/5, recall 2/4.
    ranks = np.array([[1, 4, 5, 9]])
    assert metrics.f1(ranks, 5) == pytest.approx(2 * 0.4 * 0.5 / 0.9)
    # 4 targets, k = 2: recall counts min(k, n) = 2 as reachable.
    assert metrics.f1(ranks, 2) == pytest.approx(0.5)


def test_coverage_by_hand():
    lists = np.array([[0, 1, 2], [2, 1, -1]])
    assert metrics.coverage(lists, n_items=12) == pytest.approx(3 / 12)


def test_novelty_by_hand():
    # Events 5, 1, 0 plus one each: shares 6/9, 2/9, 1/9.
    lists = np.array([[0, 1], [2, -1], [-1, -1]])
    expected = [(np.log2(9 / 6) + np.log2(9 / 2)) / 2, np.log2(9), 0.0]
    found = metrics.novelty(lists, popularity=np.array([5.0, 1.0, 0.0]))
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_novelty_accepts_noised_counts_below_zero():
    found = metrics.novelty(np.array([[0, 1]]), popularity=np.array([-3.0, 4.0]))
    assert np.isfinite(found).all()


def test_popularity_buckets_hold_equal_shares_of_events():
    # 12 events: item 3 alone fills the first third, items 0 and 1 begin in the second.
    counts = np.array([3.0, 2.0, 1.0, 5.0, 1.0, 0.0])
    assert metrics.popularity_buckets(counts).tolist() == [1, 2, 2, 0, 2, 2]
    assert metrics.popularity_buckets(np.zeros(3)).tolist() == [0, 0, 0]


def test_activity_buckets_keep_equal_lengths_together():
    assert metrics.activity_buckets(np.array([9, 1, 1, 1, 5, 6])).tolist() == [2, 0, 0, 0, 1, 2]
    assert metrics.activity_buckets(np.array([4, 4, 4])).tolist() == [0, 0, 0]
    assert metrics.activity_buckets(np.zeros(0, dtype=np.int64)).tolist() == []


def test_recall_by_bucket_by_hand():
    ranks = np.array([[0, 7, -1], [3, -1, -1]])
    bucket = np.array([[0, 1, 0], [1, 0, 0]])
    found = metrics.recall_by_bucket(ranks, bucket, 5)
    # Bucket 0: query 0 finds 1 of 1. Bucket 1: 0 of 1 and 1 of 1. Bucket 2: nobody asks.
    np.testing.assert_allclose(found, [1.0, 0.5, np.nan])
