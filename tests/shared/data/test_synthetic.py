"""The made-up population: its size, and the three signals it must carry."""

import numpy as np
import pytest
from numpy.typing import NDArray

from shared.data.interactions import Interactions
from shared.data.queries import Split
from shared.data.splits import leave_last_out
from shared.data.synthetic import GENRES, SyntheticConfig, synthetic_population
from shared.errors import ConfigError


@pytest.fixture(scope="module")
def made() -> Interactions:
    """The population at its default size, seed 0."""
    events, content = synthetic_population(seed=0)
    assert len(content) == 1682
    assert {c for row in content.categories for c in row} == set(GENRES)
    assert len(set(content.titles)) == 1682
    assert events.times is not None
    return Interactions.from_events(
        users=events.users,
        items=events.items,
        n_users=len(events.user_ids),
        n_items=len(events.item_ids),
        times=events.times,
    )


def hit_rate(scores: NDArray[np.float64], made: Split) -> float:
    """Return hit rate at 10 among unseen items, ties against us."""
    known, rows = made.test.histories, np.arange(len(made.test))
    scores = scores.copy()
    scores[known.users, known.items] = -np.inf
    own = scores[rows, made.test.targets.items][:, None]
    return float(np.mean((scores >= own).sum(axis=1) - 1 < 10))


def test_the_size_is_that_of_movielens_100k(made: Interactions) -> None:
    assert (made.n_users, made.n_items, len(made)) == (943, 1682, 100_000)
    assert made.lengths.min() >= 20
    pairs = made.users * made.n_items + made.items
    assert len(np.unique(pairs)) == len(made)
    assert len(np.unique(made.items)) > 1600
    counts = np.sort(np.bincount(made.items))[::-1]
    assert 0.35 < counts[:168].sum() / len(made) < 0.55


def test_popularity_scores_well_below_those_who_know_more(made: Interactions) -> None:
    """Fixed seed, so no chance: popularity, co-occurrence, what follows what."""
    parts = leave_last_out(made)
    train, last = parts.train, parts.test.histories.items[parts.test.histories.offsets[1:] - 1]
    popularity = np.bincount(train.items, minlength=made.n_items).astype(np.float64)
    seen = np.zeros((made.n_users, made.n_items), dtype=np.float32)
    seen[train.users, train.items] = 1
    together = seen.T @ seen
    kin = together / np.sqrt(np.outer(popularity + 20, popularity + 20)) ** 1.2
    next_to = np.zeros((made.n_items, made.n_items))
    np.add.at(next_to, (train.items[:-1], train.items[1:]), np.diff(train.users) == 0)
    popular = hit_rate(np.tile(popularity, (made.n_users, 1)), parts)
    assert 0.05 < popular < 0.15
    assert hit_rate((seen @ kin).astype(np.float64), parts) > 1.2 * popular
    assert hit_rate(next_to[last] + 1e-4 * popularity, parts) > 1.3 * popular


def difference(drift: float) -> float:
    """Return the chi-square statistic between early and late counts of 200 items, fixed seed."""
    config = SyntheticConfig(users=300, items=200, events=12_000, drift=drift)
    events, _ = synthetic_population(config, seed=0)
    assert events.times is not None
    late = events.times > np.median(events.times)
    before, after = (np.bincount(events.items[part], minlength=200) for part in (~late, late))
    return float(np.sum((before - after) ** 2 / np.maximum(before + after, 1)))


def test_popularity_drifts() -> None:
    """Measured over four seeds: 123 to 163 without drift, 336 to 397 with it."""
    assert difference(0.0) < 200
    assert difference(0.6) > 300


def test_the_same_seed_gives_the_same_population() -> None:
    config = SyntheticConfig(users=9, items=40, events=90, least=4)
    first, again, other = (synthetic_population(config, seed=seed)[0] for seed in (1, 1, 2))
    assert first.items.tolist() == again.items.tolist() != other.items.tolist()
    assert first.times is not None
    assert again.times is not None
    assert first.times.tolist() == again.times.tolist()
    assert len(first) == 90


@pytest.mark.parametrize(
    "settings", [{"users": 0}, {"items": 10}, {"events": 5}, {"events": 10**9}, {"least": 0}]
)
def test_impossible_sizes_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        SyntheticConfig(**settings)  # type: ignore[arg-type]
