"""Evaluation protocols: what devices learn from, what they are asked, what they may know.

Guarantees:
    No history holds an event later than any of its targets, except under `strong`, which holds
    out at random (`test_nothing_future_in_a_history`).
    Test histories are training plus validation (`test_test_history_is_train_and_validation`).
    Under leave-last-out every event is in training, a validation target or a test target, once
    (`test_leave_last_out_is_a_partition`).

Events of equal time keep their order in the table, which is the order of the file: the tie rule is
worth up to 0.02 of a hit rate on MovieLens-100K, so it is part of the protocol.
"""

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from shared.data.interactions import Interactions
from shared.data.queries import Queries, Split
from shared.errors import ConfigError, DataError
from shared.randomness import stream

__all__ = ["SPLITS", "by_time", "leave_last_out", "split", "strong", "user_folds"]

Flags = NDArray[np.bool_]
Ints = NDArray[np.int64]


def leave_last_out(interactions: Interactions) -> Split:
    """Hold out each user's last event for test and the one before it for validation.

    Training is the rest; the test history includes the validation event. Users with fewer than 3
    events are trained on whole and asked nothing. Source: Kang & McAuley 2018 (SASRec).

    Raises:
        DataError: No user has 3 events.
    """
    from_end = np.repeat(interactions.offsets[1:], interactions.lengths) - np.arange(
        1, len(interactions) + 1
    )
    askable = interactions.lengths >= 3
    held = np.repeat(askable, interactions.lengths)
    users = np.flatnonzero(askable)
    train = _keep(interactions, ~held | (from_end >= 2))
    known = _keep(interactions, ~held | (from_end >= 1))
    return Split(
        protocol="leave-last-out",
        train=train,
        validation=_queries(users, train, _keep(interactions, held & (from_end == 1))),
        test=_queries(users, known, _keep(interactions, held & (from_end == 0))),
    )


def by_time(interactions: Interactions, *, validation: float = 0.1, test: float = 0.1) -> Split:
    """Cut everyone's events at two common moments: train, then validation, then test.

    Events of one time are never parted: those at the very moment of a cut come after it. A user is
    asked at a moment if they have events before it and new items after it. Source: Ji et al. 2023
    (data leakage across time).

    Args:
        interactions: The population, with real times.
        validation: Share of events for validation.
        test: Share of events for test.

    Raises:
        ConfigError: The shares leave nothing for training.
        DataError: The events have no times, or no user can be asked.
    """
    if not (validation > 0 and test > 0 and validation + test < 1):
        raise ConfigError("Expected by-time shares over 0 with a sum under 1.")
    times = np.sort(interactions.times)
    if np.array_equal(times, np.arange(len(times))):
        raise DataError("The by-time protocol needs times, the data has none; use another one.")
    places = [round(share * len(times)) for share in (1 - validation - test, 1 - test)]
    asked_at = times[np.minimum(places, len(times) - 1)]
    early, late = (interactions.times < moment for moment in asked_at)
    users = np.arange(interactions.n_users)
    train, known = _keep(interactions, early), _keep(interactions, late)
    return Split(
        protocol="by-time",
        train=train,
        validation=_queries(users, train, _keep(interactions, late & ~early)),
        test=_queries(users, known, _keep(interactions, ~late)),
    )


def strong(
    interactions: Interactions, seed: int, *, holdout: float = 0.1, fold_in: float = 0.8
) -> Split:
    """Hold out whole users: they train nothing and are asked with a part of their items known.

    A share `holdout` of the users each for validation and for test; of their events a random
    share `fold_in` is known (in time order) and the rest is asked. Users with one event only
    train. Source: Liang et al. 2018 (Mult-VAE).

    Raises:
        ConfigError: A share is impossible.
        DataError: Too few users to hold any out.
    """
    if not (0 < holdout < 0.5 and 0 < fold_in < 1):
        raise ConfigError("Expected holdout in (0, 0.5) and fold_in in (0, 1).")
    eligible = np.flatnonzero(interactions.lengths >= 2)
    count = max(1, round(holdout * interactions.n_users))
    if len(eligible) < 2 * count:
        raise DataError("Too few users with 2 events to hold any out; use leave-last-out.")
    chosen = stream(seed, "strong", "users").permutation(eligible)
    parts = {"validation": np.sort(chosen[:count]), "test": np.sort(chosen[count : 2 * count])}
    known = _fold_in(interactions, seed, fold_in)
    held_out = np.isin(np.arange(interactions.n_users), np.concatenate(list(parts.values())))
    trains = np.repeat(~held_out, interactions.lengths)
    histories, targets = _keep(interactions, known), _keep(interactions, ~known)
    return Split(
        protocol="strong",
        train=_keep(interactions, trains),
        validation=_queries(parts["validation"], histories, targets),
        test=_queries(parts["test"], histories, targets),
    )


def user_folds(interactions: Interactions, k: int, seed: int) -> Iterator[Ints]:
    """Yield k arrays of user indices that part the population at random, sizes within one.

    Raises:
        ConfigError: k is not in 2 .. users.
    """
    if not 2 <= k <= interactions.n_users:
        raise ConfigError(f"Expected k={k} folds in 2 .. {interactions.n_users} (the users).")
    order = stream(seed, "folds", k).permutation(interactions.n_users)
    return (np.sort(fold).astype(np.int64) for fold in np.array_split(order, k))


def split(interactions: Interactions, protocol: str, seed: int) -> Split:
    """Return the split of a named protocol.

    Raises:
        ConfigError: The protocol is not in `SPLITS`.
        DataError: The data cannot be split so.
    """
    if protocol not in SPLITS:
        raise ConfigError(f"The protocol {protocol!r} is unknown; use {', '.join(SPLITS)}.")
    return SPLITS[protocol](interactions, seed)


def _keep(interactions: Interactions, rows: Flags) -> Interactions:
    """Return the flagged events of every user."""
    counts = np.concatenate([[0], np.cumsum(rows)])
    return Interactions(
        items=interactions.items[rows],
        offsets=counts[interactions.offsets].astype(np.int64),
        times=interactions.times[rows],
        weights=interactions.weights[rows],
        n_items=interactions.n_items,
    )


def _queries(users: Ints, known: Interactions, held: Interactions) -> Queries:
    """Ask each of `users` for held-out items they do not know yet, if they know anything."""
    events = held.users * held.n_items + held.items
    fresh = np.zeros(len(held), dtype=np.bool_)
    fresh[np.unique(events, return_index=True)[1]] = True
    fresh &= ~_contained(events, np.sort(known.users * known.n_items + known.items))
    targets = _keep(held, fresh)
    asked = users[(targets.lengths[users] > 0) & (known.lengths[users] > 0)]
    if not len(asked):
        raise DataError("No user has enough events to be asked; give longer histories.")
    return Queries(
        users=asked.astype(np.int64), histories=known.select(asked), targets=targets.select(asked)
    )


def _contained(values: Ints, ordered: Ints) -> Flags:
    """Flag the values that occur in `ordered`; far faster on large tables than numpy's own."""
    if not len(ordered):
        return np.zeros(len(values), dtype=np.bool_)
    places = np.searchsorted(ordered, values)
    found: Flags = ordered[np.minimum(places, len(ordered) - 1)] == values
    return found


def _fold_in(interactions: Interactions, seed: int, share: float) -> Flags:
    """Flag each user's known events: a random share, at least one and not all."""
    lengths = interactions.lengths
    count = np.clip(np.floor(share * lengths), 1, np.maximum(lengths - 1, 1)).astype(np.int64)
    order = np.lexsort(
        (stream(seed, "strong", "events").random(len(interactions)), interactions.users)
    )
    rank = np.arange(len(interactions)) - np.repeat(interactions.offsets[:-1], lengths)
    known = np.zeros(len(interactions), dtype=np.bool_)
    known[order] = rank < np.repeat(count, lengths)
    return known


SPLITS: dict[str, Callable[[Interactions, int], Split]] = {
    "leave-last-out": lambda interactions, seed: leave_last_out(interactions),
    "by-time": lambda interactions, seed: by_time(interactions),
    "strong": strong,
}
