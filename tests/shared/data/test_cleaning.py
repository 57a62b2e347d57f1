"""What cleaning keeps, drops and reports."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.data.cleaning import CleaningConfig, CleaningReport, clean, event_weights
from shared.data.events import NO_TIME, RawEvents
from shared.errors import ConfigError, DataError

KINDS = ("view", "click", "purchase", "rating")
Row = tuple[int, int, float, str, int]


def events(rows: list[Row], *, times: bool = True) -> RawEvents:
    """Rows of (user, item, value, kind, time); user and item 0 are the missing id."""
    users, items, values, kinds, when = zip(*rows, strict=True)
    return RawEvents(
        users=np.array(users),
        items=np.array(items),
        user_ids=("", *"abcdefgh"),
        item_ids=("", *"ABCDEFGH"),
        values=np.array(values, dtype=np.float64),
        kinds=np.array([KINDS.index(kind) for kind in kinds]),
        kind_names=KINDS,
        times=np.array(when) if times else None,
        source="made",
    )


def rows_of(raw: RawEvents) -> list[Row]:
    assert raw.times is not None
    kinds = [raw.kind_names[kind] for kind in raw.kinds]
    columns = (raw.users.tolist(), raw.items.tolist(), raw.values.tolist(), kinds)
    return list(zip(*columns, raw.times.tolist(), strict=True))


def cleaned(rows: list[Row], **settings: object) -> tuple[list[Row], dict[str, int]]:
    kept, report = clean(events(rows), CleaningConfig(**settings))  # type: ignore[arg-type]
    return rows_of(kept), {reason: count for reason, count in report.dropped.items() if count}


row = st.tuples(
    st.integers(0, 4),
    st.integers(0, 5),
    st.sampled_from([1.0, 3.0, 5.0, float("nan"), float("inf")]),
    st.sampled_from(KINDS),
    st.sampled_from([NO_TIME, -5, 0, 7, 8, 10**9, 10**12]),
)
configs = st.builds(
    CleaningConfig,
    implicit_threshold=st.sampled_from([None, 3.0]),
    drop_duplicates=st.booleans(),
    max_events=st.sampled_from([None, 1, 3]),
    core_users=st.integers(0, 3),
    core_items=st.integers(0, 2),
    event_weights=st.sampled_from(
        [dict.fromkeys(KINDS, 1.0), dict(zip(KINDS, range(4), strict=True))]
    ),
)


def try_clean(raw: RawEvents, config: CleaningConfig) -> tuple[RawEvents, CleaningReport] | None:
    try:
        return clean(raw, config)
    except DataError as error:
        if "left no event" not in str(error):
            raise
        return None


@given(rows=st.lists(row, min_size=1, max_size=30), config=configs)
@settings(deadline=None, max_examples=150)
def test_report_accounts_for_every_row(rows: list[Row], config: CleaningConfig) -> None:
    done = try_clean(events(rows), config)
    if done is not None:
        kept, report = done
        assert report.events_in == len(rows) == len(kept) + sum(report.dropped.values())
        assert report.events_out == len(kept)
        assert report.users_out == len(set(kept.users.tolist()))
        assert report.as_dict()["items_out"] == len(set(kept.items.tolist()))


@given(rows=st.lists(row, min_size=1, max_size=30), config=configs)
@settings(deadline=None, max_examples=150)
def test_cleaning_is_idempotent(rows: list[Row], config: CleaningConfig) -> None:
    done = try_clean(events(rows), config)
    if done is not None:
        again, report = clean(done[0], config)
        assert str(rows_of(again)) == str(rows_of(done[0]))  # text, since nan != nan
        assert not any(report.dropped.values())


@given(rows=st.lists(row, min_size=1, max_size=40), bound=st.integers(1, 4), config=configs)
@settings(deadline=None, max_examples=80)
def test_contribution_bound_holds(rows: list[Row], bound: int, config: CleaningConfig) -> None:
    done = try_clean(events(rows), replace(config, max_events=bound))
    if done is not None:
        assert np.bincount(done[0].users).max() <= bound


def test_order_is_user_time_file() -> None:
    rows: list[Row] = [(2, 1, 1.0, "view", 5), (1, 3, 1.0, "view", 9), (1, 2, 1.0, "view", 4),
                       (2, 2, 1.0, "view", 5), (2, 3, 1.0, "view", 1)]  # fmt: skip
    assert [(user, item) for user, item, *_ in cleaned(rows)[0]] == [
        (1, 2), (1, 3), (2, 3), (2, 1), (2, 2),
    ]  # fmt: skip
    kept, _ = clean(events(rows, times=False), CleaningConfig())
    assert kept.items.tolist() == [3, 2, 1, 2, 3]
    assert kept.times is None


def test_every_reason_is_counted() -> None:
    rows: list[Row] = [
        (0, 1, 1.0, "view", 1),
        (1, 0, 1.0, "view", 1),
        (1, 1, float("nan"), "rating", 1),
        (1, 1, float("inf"), "rating", 1),
        (1, 2, float("nan"), "view", 1),
        (1, 3, 1.0, "view", NO_TIME),
        (1, 3, 1.0, "view", -1),
        (1, 3, 1.0, "view", 5_000_000_000),
        (1, 4, 2.0, "rating", 2),
        (1, 5, 4.0, "rating", 3),
        (1, 5, 4.0, "rating", 4),
        (1, 6, 1.0, "click", 5),
    ]
    kept, dropped = cleaned(
        rows,
        implicit_threshold=3.0,
        event_weights={"view": 1, "click": 0, "purchase": 1, "rating": 1},
    )
    assert [item for _, item, *_ in kept] == [2, 5]
    assert dropped == {
        "with a missing id": 2,
        "with a missing or non-finite rating": 2,
        "with a missing or impossible time": 3,
        "of a kind with weight 0": 1,
        "rated under the threshold": 1,
        "repeating a (user, item)": 1,
    }


def test_a_repeat_keeps_the_earliest_place_and_the_strongest_kind() -> None:
    rows: list[Row] = [(1, 1, 1.0, "purchase", 9), (1, 1, 1.0, "view", 3), (1, 2, 1.0, "view", 5),
                       (1, 1, 1.0, "click", 7)]  # fmt: skip
    kept, dropped = cleaned(rows)
    assert kept == [(1, 1, 1.0, "purchase", 3), (1, 2, 1.0, "view", 5)]
    assert dropped == {"repeating a (user, item)": 2}
    assert len(cleaned(rows, drop_duplicates=False)[0]) == 4


def test_the_bound_keeps_the_most_recent() -> None:
    rows: list[Row] = [(1, item, 1.0, "view", 10 - item) for item in (1, 2, 3, 4)]
    assert [item for _, item, *_ in cleaned(rows, max_events=2)[0]] == [2, 1]


def test_the_core_is_reached_by_repetition() -> None:
    pairs = [(1, 1), (1, 2), (2, 1), (2, 2), (3, 2), (3, 3), (4, 3)]
    rows: list[Row] = [(user, item, 1.0, "view", 1) for user, item in pairs]
    kept, dropped = cleaned(rows, core_users=2, core_items=2)
    assert [(user, item) for user, item, *_ in kept] == pairs[:4]
    assert dropped == {"outside the k-core": 3}


@pytest.mark.parametrize(("unit", "name"), [(10**3, "milli"), (10**6, "micro"), (10**9, "nano")])
def test_finer_times_become_seconds_and_keep_their_order(unit: int, name: str) -> None:
    second = 1_500_000_000 * unit
    rows: list[Row] = [(1, 1, 1.0, "view", second + 2), (1, 2, 1.0, "view", second + 1),
                       (1, 3, 1.0, "view", 77)]  # fmt: skip
    kept, report = clean(events(rows), CleaningConfig())
    assert kept.items.tolist() == [3, 2, 1]
    assert kept.times is not None
    assert kept.times.tolist() == [0, 1_500_000_000, 1_500_000_000]
    assert report.notes == (f"Times in {name}seconds: converted to seconds.",)


def test_weights_follow_the_kind() -> None:
    raw = events([(1, 1, 5.0, kind, 1) for kind in KINDS])
    assert event_weights(raw, CleaningConfig()).tolist() == [1.0, 2.0, 4.0, 1.0]
    with pytest.raises(DataError, match="without a weight: 'click'"):
        event_weights(raw, CleaningConfig(event_weights={"view": 1, "purchase": 1, "rating": 1}))


@pytest.mark.parametrize(
    "settings",
    [
        {"max_events": 0}, {"core_users": -1}, {"core_items": -1},
        {"implicit_threshold": float("nan")}, {"event_weights": {"view": -1.0}},
    ],
)  # fmt: skip
def test_impossible_settings_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        CleaningConfig(**settings)  # type: ignore[arg-type]
