"""Parquet in through polars; without polars the install line is named."""

import sys
from pathlib import Path

import numpy as np
import pytest

from shared.data.events import NO_TIME, RawEvents
from shared.data.readers import read_events
from shared.errors import DataError, MissingExtraError


def table(events: RawEvents) -> list[tuple[object, ...]]:
    """Return plain rows (user, item, value, time, kind), None for a missing value."""
    assert events.times is not None
    return [
        (
            events.user_ids[events.users[row]],
            events.item_ids[events.items[row]],
            None if np.isnan(events.values[row]) else float(events.values[row]),
            int(events.times[row]),
            events.kind_names[events.kinds[row]],
        )
        for row in range(len(events))
    ]


def refusal(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        read_events(path)
    return str(caught.value)


def test_parquet_without_polars_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.parquet"
    path.write_bytes(b"PAR1....PAR1")
    monkeypatch.setitem(sys.modules, "polars", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'fedrec\[data\]'"):
        read_events(path)


def test_parquet_is_read(tmp_path: Path) -> None:
    pl = pytest.importorskip("polars")
    frame = pl.DataFrame(
        {
            "user_id": [3, 1, None],
            "item_id": ["b", "a", "b"],
            "rating": [1.5, None, 2.0],
            "timestamp": [1.7e9, float("nan"), 1e300],
            "event": ["view", None, "view"],
        }
    )
    frame.write_parquet(tmp_path / "x.parquet")
    events = read_events(tmp_path / "x.parquet")
    assert table(events) == [
        ("3", "b", 1.5, 1_700_000_000, "view"),
        ("1", "a", None, NO_TIME, "rating"),
        ("", "b", 2.0, 1 << 62, "view"),
    ]
    frame.with_columns(pl.lit("x").alias("rating")).write_parquet(tmp_path / "y.parquet")
    assert "value column is not numeric" in refusal(tmp_path / "y.parquet")
    frame.head(0).write_parquet(tmp_path / "z.parquet")
    assert "no events" in refusal(tmp_path / "z.parquet")


def test_parquet_times_become_seconds(tmp_path: Path) -> None:
    pl = pytest.importorskip("polars")
    frame = pl.DataFrame({"user": ["a"], "item": ["b"], "time": ["2020-01-01T00:00:10"]})
    frame = frame.with_columns(pl.col("time").str.to_datetime())
    frame.write_parquet(tmp_path / "x.parquet")
    assert table(read_events(tmp_path / "x.parquet"))[0][3] == 1577836810
