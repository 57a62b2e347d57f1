"""Protocols: partitions, what a history may hold, and the tie rule."""

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.data.interactions import Interactions
from shared.data.queries import Queries, Split
from shared.data.splits import SPLITS, by_time, leave_last_out, split, strong, user_folds
from shared.errors import ConfigError, DataError

N_ITEMS = 12


@st.composite
def populations(draw: st.DrawFn) -> Interactions:
    """Three to eight users, distinct items each, times with many ties."""
    lengths = draw(st.lists(st.integers(0, 8), min_size=3, max_size=8))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    items = [item for n in lengths for item in rng.permutation(N_ITEMS)[:n]]
    return Interactions.from_events(
        users=np.repeat(np.arange(len(lengths)), lengths),
        items=np.array(items, dtype=np.int64),
        n_users=len(lengths),
        n_items=N_ITEMS,
        times=1000 + rng.integers(0, 10, len(items)),
    )


def tried(population: Interactions, protocol: str) -> Split | None:
    try:
        return split(population, protocol, 3)
    except DataError:
        return None


def queries(made: Queries) -> Iterator[tuple[int, Interactions, Interactions]]:
    for place, user in enumerate(made.users.tolist()):
        at = np.array([place])
        yield user, made.histories.select(at), made.targets.select(at)


@pytest.mark.parametrize("protocol", SPLITS)
@given(population=populations())
@settings(deadline=None, max_examples=80)
def test_every_query_is_answerable(protocol: str, population: Interactions) -> None:
    made = tried(population, protocol)
    if made is None:
        return
    assert made.protocol == protocol
    assert made.train.n_users == population.n_users
    for part in (made.validation, made.test):
        assert len(part) == part.histories.n_users == part.targets.n_users > 0
        for user, history, target in queries(part):
            assert len(history) > 0
            assert len(target) > 0
            assert not set(history.items) & set(target.items)
            assert set(history.items) | set(target.items) <= set(population.history(user))


@pytest.mark.parametrize("protocol", ["leave-last-out", "by-time"])
@given(population=populations())
@settings(deadline=None, max_examples=80)
def test_nothing_future_in_a_history(protocol: str, population: Interactions) -> None:
    made = tried(population, protocol)
    if made is None:
        return
    for part in (made.validation, made.test):
        for user, history, target in queries(part):
            whole = population.history(user).tolist()
            assert history.times.max() <= target.times.min()
            assert max(map(whole.index, history.items)) < min(map(whole.index, target.items))


@pytest.mark.parametrize("protocol", ["leave-last-out", "by-time"])
@given(population=populations())
@settings(deadline=None, max_examples=80)
def test_test_history_is_train_and_validation(protocol: str, population: Interactions) -> None:
    made = tried(population, protocol)
    if made is None:
        return
    asked = {user: target.items.tolist() for user, _, target in queries(made.validation)}
    for user, history, _ in queries(made.test):
        train = made.train.history(user).tolist()
        held = history.items.tolist()[len(train) :]
        assert history.items.tolist()[: len(train)] == train
        assert held == (asked.get(user, held) if train else held)


@given(population=populations())
@settings(deadline=None, max_examples=80)
def test_leave_last_out_is_a_partition(population: Interactions) -> None:
    made = tried(population, "leave-last-out")
    if made is None:
        assert population.lengths.max() < 3
        return
    assert made.test.users.tolist() == np.flatnonzero(population.lengths >= 3).tolist()
    held = {}
    for part in (made.test, made.validation):
        for user, _, target in queries(part):
            held[user] = target.items.tolist() + held.get(user, [])
    for user in range(population.n_users):
        parts = made.train.history(user).tolist() + held.get(user, [])
        assert parts == population.history(user).tolist()
        assert len(held.get(user, [])) == (2 if len(parts) >= 3 else 0)


def test_equal_times_keep_file_order() -> None:
    population = Interactions.from_events(
        users=np.array([0, 0, 0, 0]),
        items=np.array([3, 2, 1, 0]),
        n_users=1,
        n_items=4,
        times=np.array([5, 9, 9, 9]),
    )
    made = leave_last_out(population)
    assert made.train.history(0).tolist() == [3, 2]
    assert made.validation.targets.history(0).tolist() == [1]
    assert made.test.histories.history(0).tolist() == [3, 2, 1]
    assert made.test.targets.history(0).tolist() == [0]


def test_a_repeated_item_is_not_asked_twice() -> None:
    population = Interactions.from_histories([[0, 1, 2, 0], [0, 1, 2, 3]], n_items=4)
    made = leave_last_out(population)
    assert made.test.users.tolist() == [1]
    assert made.validation.users.tolist() == [0, 1]


def test_by_time_cuts_everyone_at_the_same_moments() -> None:
    mixed = Interactions.from_events(
        users=np.tile([0, 1], 10),
        items=np.repeat(np.arange(10), 2),
        n_users=2,
        n_items=10,
        times=np.arange(20) + 100,
    )
    made = by_time(mixed, validation=0.2, test=0.3)
    assert made.train.times.max() == 109
    assert [made.validation.targets.times.min(), made.validation.targets.times.max()] == [110, 113]
    assert made.test.targets.times.min() == 114
    assert made.test.histories.lengths.tolist() == [7, 7]


def test_by_time_asks_nobody_who_has_no_past() -> None:
    population = Interactions.from_events(
        users=np.repeat([0, 1], 10),
        items=np.tile(np.arange(10), 2),
        n_users=2,
        n_items=10,
        times=np.arange(20) + 100,
    )
    with pytest.raises(DataError, match="No user"):
        by_time(population, validation=0.2, test=0.3)


def test_by_time_refuses_data_without_times(population: Interactions) -> None:
    with pytest.raises(DataError, match="needs times"):
        split(population, "by-time", 0)


def test_strong_holds_out_whole_users(population: Interactions) -> None:
    made = strong(population, 1, holdout=0.2, fold_in=0.5)
    assert len(made.test) == len(made.validation) == 8
    asked = np.concatenate([made.test.users, made.validation.users])
    assert len(set(asked.tolist())) == 16
    assert not made.train.lengths[asked].any()
    others = np.setdiff1d(np.arange(population.n_users), asked)
    assert (made.train.lengths[others] == population.lengths[others]).all()
    for user, history, target in queries(made.test):
        assert len(history) == population.lengths[user] // 2
        assert len(history) + len(target) == population.lengths[user]
        whole = population.history(user).tolist()
        assert sorted(map(whole.index, history.items)) == list(map(whole.index, history.items))
    again, other = strong(population, 1, holdout=0.2), strong(population, 2, holdout=0.2)
    assert again.test.users.tolist() == made.test.users.tolist() != other.test.users.tolist()


@pytest.mark.parametrize("k", [2, 3, 7])
def test_user_folds_part_the_population(k: int, population: Interactions) -> None:
    folds = list(user_folds(population, k, 5))
    assert len(folds) == k
    assert sorted(np.concatenate(folds).tolist()) == list(range(population.n_users))
    assert max(map(len, folds)) - min(map(len, folds)) <= 1
    assert [f.tolist() for f in user_folds(population, k, 5)] == [f.tolist() for f in folds]


def test_impossible_settings_of_splits_are_refused(
    population: Interactions, awkward: Interactions
) -> None:
    for make in (
        lambda: split(population, "lucky", 0),
        lambda: by_time(population, validation=0.5, test=0.5),
        lambda: strong(population, 0, holdout=0.5),
        lambda: strong(population, 0, fold_in=1.0),
        lambda: user_folds(population, 1, 0),
    ):
        with pytest.raises(ConfigError):
            make()
    with pytest.raises(DataError, match="Too few users"):
        strong(awkward, 0, holdout=0.45)
    with pytest.raises(DataError, match="No user"):
        leave_last_out(awkward.select(np.array([0, 1, 3])))
