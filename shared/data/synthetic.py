"""A made-up population that stands in for MovieLens-100K: seeded, free of any real person.

Every event is a race between all items the user has not met: an item's rate is its Zipf-like
popularity, times the user's taste for its genres, times its fashion on that day (drift), times a
bonus if it follows what the user took last (sequence).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shared.data.content import ItemContent
from shared.data.events import RawEvents
from shared.errors import ConfigError
from shared.randomness import stream

__all__ = ["GENRES", "SyntheticConfig", "synthetic_population"]

GENRES = (
    "adventure", "biography", "comedy", "crime", "documentary", "drama", "family", "fantasy",
    "history", "horror", "music", "mystery", "noir", "romance", "science", "sport", "war",
    "western",
)  # fmt: skip

_DAY = 86_400
_START = 1_600_000_000
_FOLLOWERS = 12

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class SyntheticConfig:
    """Size and character of the population.

    Attributes:
        users: Number of users.
        items: Number of items.
        events: Number of events in all.
        least: Least number of events of a user.
        days: Length of the period.
        zipf: Exponent of popularity by rank (with an offset that flattens the head).
        taste: Strength of the users' tastes for genres.
        follow: Factor on the rate of an item that follows the last one.
        drift: Strength of fashions that come and go.
    """

    users: int = 943
    items: int = 1682
    events: int = 100_000
    least: int = 20
    days: int = 210
    zipf: float = 1.8
    taste: float = 1.5
    follow: float = 25.0
    drift: float = 0.6

    def __post_init__(self) -> None:
        """Check that the sizes fit each other.

        Raises:
            ConfigError: They do not.
        """
        if self.users < 1 or self.items < 2 * _FOLLOWERS or self.least < 1 or self.days < 1:
            raise ConfigError(f"Expected a user, {2 * _FOLLOWERS} items, an event a user, a day.")
        if not self.users * self.least <= self.events <= self.users * (self.items // 2):
            raise ConfigError("Expected events in users * least .. users * items / 2.")


def synthetic_population(
    config: SyntheticConfig | None = None, *, seed: int = 0
) -> tuple[RawEvents, ItemContent]:
    """Return events in time order within each user, and the items' titles and genres."""
    config = config or SyntheticConfig()
    rng = stream(seed, "synthetic population")
    genres = _genres(config, rng)
    lengths = _lengths(config, rng)
    users, items, times = _walk(config, genres, lengths, rng)
    item_ids = tuple(str(item + 1) for item in range(config.items))
    events = RawEvents(
        users=users,
        items=items,
        user_ids=tuple(str(user + 1) for user in range(config.users)),
        item_ids=item_ids,
        values=np.ones(len(users)),
        kinds=np.zeros(len(users), dtype=np.int64),
        kind_names=("view",),
        times=times,
        source="synthetic",
        warnings=("SYNTHETIC: a made-up population, no real person's data.",),
    )
    categories = tuple(tuple(GENRES[g] for g in np.flatnonzero(row)) for row in genres)
    titles = tuple(
        f"Made-up {row[0]} no. {item}" for item, row in zip(item_ids, categories, strict=True)
    )
    return events, ItemContent(ids=item_ids, titles=titles, categories=categories)


def _genres(config: SyntheticConfig, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Return bool [items, genres] with one to three genres an item, some genres far more common."""
    common = np.log(1 / np.arange(1, len(GENRES) + 1) ** 0.7)
    keys = common + rng.gumbel(size=(config.items, len(GENRES)))
    ranks = np.argsort(np.argsort(-keys, axis=1), axis=1)
    return ranks < rng.choice([1, 2, 3], p=[0.45, 0.35, 0.2], size=(config.items, 1))


def _lengths(config: SyntheticConfig, rng: np.random.Generator) -> Ints:
    """Return events of each user: `least` plus a log-normal share, summing to `events`."""
    bound = config.items // 2
    lengths = np.full(config.users, config.least, dtype=np.int64)
    shares = rng.lognormal(0.0, 1.1, config.users)
    while (left := config.events - int(lengths.sum())) > 0:
        shares = np.where(lengths < bound, shares, 0.0)
        lengths = np.minimum(lengths + rng.multinomial(left, shares / shares.sum()), bound)
    return lengths


def _walk(
    config: SyntheticConfig,
    genres: NDArray[np.bool_],
    lengths: Ints,
    rng: np.random.Generator,
) -> tuple[Ints, Ints, Ints]:
    """Return users, items and times of all events; step s serves everyone with over s events."""
    rates = _base_rates(config, genres, rng)
    followers = _followers(config, genres, rng)
    fashion = _fashion(config, rng)
    times = _times(config, lengths, rng)
    taken = [np.empty(0, dtype=np.int64)] * 3
    parts = [taken]
    last = np.full(config.users, -1, dtype=np.int64)
    for step in range(int(lengths.max())):
        active = np.flatnonzero(lengths > step)
        when = times[active, step]
        race = rates[active] * fashion[(when - _START) // _DAY]
        known = last[active] >= 0
        rows = np.flatnonzero(known)[:, None]
        race[rows, followers[last[active[known]]]] *= np.float32(config.follow)
        race /= rng.standard_exponential(race.shape, dtype=np.float32) + np.float32(1e-20)
        chosen = race.argmax(axis=1)
        rates[active, chosen] = 0
        last[active] = chosen
        parts.append([active, chosen, when])
    users, items, moments = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.lexsort((np.arange(len(users)), users))
    return users[order], items[order], moments[order]


def _base_rates(
    config: SyntheticConfig, genres: NDArray[np.bool_], rng: np.random.Generator
) -> Floats:
    """Return float32 [users, items], popularity times taste."""
    ranks = rng.permutation(config.items) + 1
    popularity = -config.zipf * np.log(ranks + config.items / 40)
    tastes = rng.normal(0.0, config.taste, (config.users, len(GENRES)))
    affinity = tastes @ genres.T / np.sqrt(genres.sum(axis=1))
    logits = popularity + affinity
    rates: Floats = np.exp(logits - logits.max(axis=1, keepdims=True)).astype(np.float32)
    return rates


def _followers(
    config: SyntheticConfig, genres: NDArray[np.bool_], rng: np.random.Generator
) -> Ints:
    """Return int64 [items, _FOLLOWERS], what tends to come after each item: mostly its kin."""
    kin = genres.astype(np.float32) @ genres.T.astype(np.float32)
    keys = 1.5 * kin + rng.gumbel(size=kin.shape).astype(np.float32)
    np.fill_diagonal(keys, -np.inf)
    return np.argpartition(-keys, _FOLLOWERS, axis=1)[:, :_FOLLOWERS].astype(np.int64)


def _fashion(config: SyntheticConfig, rng: np.random.Generator) -> Floats:
    """Return float32 [days, items], a slow wave for each item."""
    days = np.arange(config.days + 1)[:, None] / config.days
    phase = rng.random(config.items)
    return np.exp(config.drift * np.cos(2 * np.pi * (days - phase))).astype(np.float32)


def _times(config: SyntheticConfig, lengths: Ints, rng: np.random.Generator) -> Ints:
    """Return int64 [users, longest]: sessions of minutes, parted now and then by days."""
    shape = (config.users, int(lengths.max()))
    pauses = rng.exponential(40.0, shape) * (rng.random(shape) < 0.5)
    pauses += rng.exponential(4.0 * _DAY, shape) * (rng.random(shape) < 0.02)
    start = rng.random((config.users, 1)) * config.days * _DAY
    times = _START + (start + np.cumsum(pauses, axis=1)).astype(np.int64)
    return np.minimum(times, _START + config.days * _DAY)
