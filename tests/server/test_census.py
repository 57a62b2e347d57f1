"""Cohorts are dealt fairly, and the population is placed on its nodes."""

from itertools import islice

import numpy as np
import pytest
from counting import CATALOGUE, build, made_population
from hypothesis import given, settings
from hypothesis import strategies as st

from client.app import app
from server.census import Census, cohort_size, cohorts, greet, most_participations
from shared.errors import ConfigError, RunError
from simulations.grids import LocalGrid


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 40), st.data())
def test_nobody_is_asked_more_often_than_the_plan_says(users: int, data: st.DataObject) -> None:
    size = data.draw(st.integers(1, users))
    rounds = data.draw(st.integers(1, 30))
    times = np.zeros(users, dtype=int)
    for cohort in islice(cohorts(users=users, size=size, seed=3), rounds):
        assert len(np.unique(cohort)) == len(cohort) == size
        assert np.array_equal(cohort, np.sort(cohort))
        times[cohort] += 1
    most = most_participations(rounds=rounds, size=size, users=users)
    assert times.max() == most
    assert most <= rounds


def test_cohorts_are_shuffled_by_the_seed() -> None:
    def three(seed: int) -> list[list[int]]:
        return [c.tolist() for c in islice(cohorts(users=50, size=10, seed=seed), 3)]

    assert three(1) == three(1)
    assert three(1) != three(2)


@settings(deadline=None, max_examples=80)
@given(st.integers(1, 6), st.integers(1, 5), st.integers(0, 9), st.integers(1, 40))
def test_nobody_is_asked_twice_within_the_separation(
    separation: int, size: int, more: int, rounds: int
) -> None:
    """And everyone equally often, in the same rounds whenever the seed is the same."""
    users = separation * size + more
    words = {"users": users, "size": size, "separation": separation}
    last = np.full(users, -separation)
    times = np.zeros(users, dtype=int)
    again = cohorts(seed=3, **words)
    for turn, cohort in enumerate(islice(cohorts(seed=3, **words), rounds)):
        assert np.array_equal(cohort, next(again))
        assert len(np.unique(cohort)) == len(cohort) == size
        assert np.array_equal(cohort, np.sort(cohort))
        assert (turn - last[cohort] >= separation).all()
        last[cohort] = turn
        times[cohort] += 1
    assert times.max() == most_participations(rounds=rounds, size=size, users=users)
    assert times.max() <= -(-rounds // separation)
    assert times.max() - times.min() <= 1


def test_cohorts_that_lie_apart_are_shuffled_by_the_seed() -> None:
    def one(seed: int) -> list[int]:
        return next(cohorts(users=50, size=10, seed=seed, separation=5)).tolist()

    assert one(1) != one(2)
    assert one(1) != list(range(10))


def test_a_cohort_too_large_for_the_separation_is_refused() -> None:
    with pytest.raises(ConfigError, match="separation = 60, found 59"):
        cohorts(users=59, size=10, seed=1, separation=6)


@pytest.mark.parametrize(("share", "size"), [(1.0, 943), (0.3, 282), (1e-9, 1), (1 / 3, 314)])
def test_cohort_size_never_exceeds_the_share(share: float, size: int) -> None:
    assert cohort_size(users=943, share=share) == size


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=8), st.data())
def test_placing_keeps_every_user(sizes: list[int], data: st.DataObject) -> None:
    census = Census(
        nodes={10 * (n + 1): size for n, size in enumerate(sizes)}, n_items=3, catalogue="c"
    )
    users = census.users
    chosen = np.array(sorted(data.draw(st.sets(st.integers(0, users - 1), min_size=1))))
    starts = dict(zip(census.nodes, np.cumsum([0, *sizes[:-1]]), strict=True))
    placed = census.placed(chosen)
    assert all(len(p) and p.min() >= 0 and p.max() < census.nodes[n] for n, p in placed.items())
    back = np.sort(np.concatenate([p + starts[n] for n, p in placed.items()]))
    assert back.tolist() == chosen.tolist()


def test_greeting_counts_the_population() -> None:
    with LocalGrid(app, made_population(7).participants(3, build=build)) as grid:
        census = greet(grid, nodes=3)
        assert list(census.nodes.values()) == [3, 2, 2]
        assert (census.users, census.n_items, census.catalogue) == (7, 8, CATALOGUE)
        with pytest.raises(RunError, match="3 of 4 nodes"):
            greet(grid, nodes=4, deadline=0.05)


def test_different_catalogues_are_refused() -> None:
    participants = made_population(4).participants(2, build=build)
    participants[1].catalogue = "other"
    with LocalGrid(app, participants) as grid, pytest.raises(RunError, match="catalogue"):
        greet(grid)
