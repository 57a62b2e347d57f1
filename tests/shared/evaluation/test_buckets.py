"""Buckets part the queries, by what is known when the question is asked."""

import numpy as np
import pytest

from shared.data.interactions import Interactions
from shared.data.queries import Queries
from shared.evaluation.buckets import bucket_means, by_activity, by_popularity


def queries(histories, targets, n_items=10, users=None):
    return Queries(
        users=np.arange(len(histories)) if users is None else np.array(users),
        histories=Interactions.from_histories(histories, n_items=n_items),
        targets=Interactions.from_histories(targets, n_items=n_items),
    )


def test_activity_by_length_of_the_known_history():
    asked = queries([[0], [0, 1], [0, 1, 2], [0, 1, 2, 3]], [[5], [5], [5], [5]])
    found = by_activity(asked, buckets=2)
    assert found.of.tolist() == [0, 0, 1, 1]
    assert found.labels == ("1 to 2", "3 to 4")


def test_popularity_by_equal_shares_of_training_events():
    counts = np.array([50.0, 30.0, 10.0, 5.0, 5.0, 0.0])
    asked = queries([[0]] * 4, [[0], [1], [5], [2]], n_items=6)
    found = by_popularity(asked, counts, buckets=2)
    assert found.of.tolist() == [0, 1, 1, 1]
    assert found.labels == ("50 to 50", "0 to 30")


def test_several_targets_go_by_the_most_popular():
    counts = np.array([50.0, 30.0, 10.0])
    asked = queries([[1], [1]], [[2, 0], [2]], n_items=3)
    found = by_popularity(asked, counts, buckets=2)
    assert found.of.tolist() == [0, 1]
    assert found.labels == ("50 to 50", "10 to 10")


def test_the_buckets_means_add_up_to_the_mean():
    rng = np.random.default_rng(3)
    lengths = rng.integers(1, 9, size=50)
    asked = queries([list(range(n)) for n in lengths], [[9]] * 50)
    values = rng.random(50)
    for found in (by_activity(asked), by_popularity(asked, rng.random(10))):
        means = bucket_means(asked.users, values, found)
        assert sum(n for n, _ in means) == 50
        assert sum(n * m for n, m in means if n) / 50 == pytest.approx(values.mean())


def test_values_find_their_user_in_any_order():
    asked = queries([[0], [0, 1]], [[5], [5]], users=[7, 3])
    found = by_activity(asked, buckets=2)
    means = bucket_means(np.array([3, 7, 4]), np.array([0.3, 0.7, 9.0]), found)
    assert means == [(1, 0.7), (1, 0.3)]


def test_an_empty_bucket_has_no_mean():
    asked = queries([[0, 1], [0, 1]], [[5], [5]])
    found = by_activity(asked, buckets=3)
    assert sorted(found.labels) == ["2 to 2", "none", "none"]
    assert bucket_means(asked.users, np.ones(2), found).count((0, None)) == 2
