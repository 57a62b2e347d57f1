"""From raw events to usable ones, and a count of everything that was left out.

Order of steps: missing ids, missing or non-finite values, impossible times, kinds of weight 0,
ratings under the threshold, repeated (user, item) pairs, contribution bound, k-core. The result
is in the order (user, time, file order): events of one time keep the order of the file.

Guarantees:
    The report accounts for every row (`test_report_accounts_for_every_row`).
    Cleaning what is clean changes nothing (`test_cleaning_is_idempotent`).
    No user keeps more than `max_events` events (`test_contribution_bound_holds`).
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared.data.events import EVENT_WEIGHTS, NO_TIME, RawEvents
from shared.errors import ConfigError, DataError

__all__ = ["CleaningConfig", "CleaningReport", "clean", "event_weights"]

_YEAR_2100 = 4_102_444_800
_UNITS = ((10**17, 10**9, "nano"), (10**14, 10**6, "micro"), (10**11, 10**3, "milli"))

Flags = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, slots=True)
class CleaningConfig:
    """What counts as an event, and how many of them.

    Attributes:
        implicit_threshold: Least rating that counts; None counts all ratings, as the literature
            on implicit feedback does.
        drop_duplicates: Keep one event per (user, item): its earliest place in time, with the
            strongest of its kinds.
        max_events: Contribution bound: each user keeps the most recent events; None keeps all.
        core_users: Least number of events of a user; 0 keeps everyone.
        core_items: Least number of events of an item; 0 keeps everything. Both cores look at
            everyone's data, so a private run must set them on public data or leave them at 0.
        event_weights: Strength of each kind of event; 0 drops the kind.
    """

    implicit_threshold: float | None = None
    drop_duplicates: bool = True
    max_events: int | None = None
    core_users: int = 0
    core_items: int = 0
    event_weights: Mapping[str, float] = field(default_factory=lambda: dict(EVENT_WEIGHTS))

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ConfigError: A value is impossible.
        """
        if self.max_events is not None and self.max_events < 1:
            raise ConfigError(f"Expected max_events={self.max_events} of at least 1, or none.")
        if self.core_users < 0 or self.core_items < 0:
            raise ConfigError("Expected core_users and core_items of at least 0; 0 keeps all.")
        if self.implicit_threshold is not None and not np.isfinite(self.implicit_threshold):
            raise ConfigError("Expected a finite implicit_threshold, or none to count all.")
        if not all(np.isfinite(w) and w >= 0 for w in self.event_weights.values()):
            raise ConfigError("Expected event_weights of at least 0; 0 drops a kind.")


@dataclass(frozen=True, kw_only=True, slots=True)
class CleaningReport:
    """What was left out and why: counts over the whole population only.

    Attributes:
        events_in: Rows of the file.
        events_out: Events kept.
        users_in: Users named in the file.
        users_out: Users with an event left.
        items_in: Items named in the file.
        items_out: Items with an event left.
        dropped: Reason -> number of events dropped for it.
        notes: What was assumed or converted.
    """

    events_in: int
    events_out: int
    users_in: int
    users_out: int
    items_in: int
    items_out: int
    dropped: dict[str, int]
    notes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return the report as plain values for JSON."""
        return asdict(self)


def clean(raw: RawEvents, config: CleaningConfig) -> tuple[RawEvents, CleaningReport]:
    """Return usable events ordered by (user, time, file order), and what was left out.

    Times come out in seconds since 1970; ids keep their codes.

    Raises:
        DataError: A kind of event has no weight, or nothing is left.
    """
    events, note = _in_seconds(_ordered(raw))
    dropped: dict[str, int] = {}
    for reason, step in _STEPS.items():
        kept = step(events, config)
        dropped[reason] = len(events) - len(kept)
        events = kept
    if not len(events):
        reasons = ", ".join(f"{count} {reason}" for reason, count in dropped.items() if count)
        raise DataError(f"{raw.source}: cleaning left no event ({reasons}); relax it or mend them.")
    report = CleaningReport(
        events_in=len(raw),
        events_out=len(events),
        users_in=sum(1 for name in raw.user_ids if name),
        users_out=int(np.count_nonzero(np.bincount(events.users))),
        items_in=sum(1 for name in raw.item_ids if name),
        items_out=int(np.count_nonzero(np.bincount(events.items))),
        dropped=dropped,
        notes=(*raw.warnings, *note),
    )
    return events, report


def event_weights(events: RawEvents, config: CleaningConfig) -> NDArray[np.float32]:
    """Return float32 [events], the strength of each event by its kind.

    Raises:
        DataError: A kind has no weight in the configuration.
    """
    unknown = [name for name in events.kind_names if name not in config.event_weights]
    if unknown:
        named = ", ".join(repr(name[:40]) for name in unknown[:5])
        message = f"kinds of event without a weight: {named}; add event_weights (0 drops a kind)."
        raise DataError(f"{events.source}: {message}")
    table = np.array([config.event_weights[name] for name in events.kind_names], dtype=np.float32)
    return table[events.kinds]


def _ordered(events: RawEvents) -> RawEvents:
    if events.times is None:
        return events.take(np.argsort(events.users, kind="stable"))
    return events.take(np.lexsort((events.times, events.users)))


def _in_seconds(events: RawEvents) -> tuple[RawEvents, tuple[str, ...]]:
    """Convert finer times; the unit is read off the median, so a few wild rows cannot set it."""
    if events.times is None or not np.any(events.times > 0):
        return events, ()
    median = float(np.median(events.times[events.times > 0]))
    unit = next(((size, name) for bound, size, name in _UNITS if median >= bound), None)
    if unit is None:
        return events, ()
    times = np.where(events.times == NO_TIME, NO_TIME, events.times // unit[0])
    return replace(events, times=times), (f"Times in {unit[1]}seconds: converted to seconds.",)


def _with_ids(events: RawEvents, config: CleaningConfig) -> RawEvents:
    users = np.array([bool(name) for name in events.user_ids])
    items = np.array([bool(name) for name in events.item_ids])
    return events.take(users[events.users] & items[events.items])


def _is_rating(events: RawEvents) -> Flags:
    return np.array([name == "rating" for name in events.kind_names])[events.kinds]


def _with_values(events: RawEvents, config: CleaningConfig) -> RawEvents:
    return events.take(np.isfinite(events.values) | ~_is_rating(events))


def _with_times(events: RawEvents, config: CleaningConfig) -> RawEvents:
    if events.times is None:
        return events
    return events.take((events.times >= 0) & (events.times < _YEAR_2100))


def _with_weight(events: RawEvents, config: CleaningConfig) -> RawEvents:
    return events.take(event_weights(events, config) > 0)


def _over_threshold(events: RawEvents, config: CleaningConfig) -> RawEvents:
    if config.implicit_threshold is None:
        return events
    return events.take((events.values >= config.implicit_threshold) | ~_is_rating(events))


def _without_repeats(events: RawEvents, config: CleaningConfig) -> RawEvents:
    if not config.drop_duplicates:
        return events
    pairs = events.users * len(events.item_ids) + events.items
    _, first = np.unique(pairs, return_index=True)
    by_strength = np.lexsort((-event_weights(events, config), pairs))
    _, start = np.unique(pairs[by_strength], return_index=True)
    strongest = by_strength[start]
    kinds, values = events.kinds.copy(), events.values.copy()
    kinds[first], values[first] = events.kinds[strongest], events.values[strongest]
    return replace(events, kinds=kinds, values=values).take(np.sort(first))


def _bounded(events: RawEvents, config: CleaningConfig) -> RawEvents:
    if config.max_events is None:
        return events
    ends = np.cumsum(np.bincount(events.users, minlength=1))
    from_end = ends[events.users] - 1 - np.arange(len(events))
    return events.take(from_end < config.max_events)


def _core(events: RawEvents, config: CleaningConfig) -> RawEvents:
    """Drop thin users and items until none is left: dropping one can thin another."""
    while True:
        users = np.bincount(events.users, minlength=1)[events.users] >= config.core_users
        items = np.bincount(events.items, minlength=1)[events.items] >= config.core_items
        if np.all(users & items):
            return events
        events = events.take(users & items)


_STEPS: dict[str, Callable[[RawEvents, CleaningConfig], RawEvents]] = {
    "with a missing id": _with_ids,
    "with a missing or non-finite rating": _with_values,
    "with a missing or impossible time": _with_times,
    "of a kind with weight 0": _with_weight,
    "rated under the threshold": _over_threshold,
    "repeating a (user, item)": _without_repeats,
    "over the contribution bound": _bounded,
    "outside the k-core": _core,
}
