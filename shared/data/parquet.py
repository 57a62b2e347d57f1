"""Parquet to events through polars (extra `[data]`)."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared.data.columns import EVENT_NAMES, ColumnMap, find_columns
from shared.data.events import NO_TIME, RawEvents, is_id
from shared.data.lines import whole
from shared.errors import DataError, MissingExtraError

__all__ = ["read_parquet"]


def read_parquet(path: Path, columns: ColumnMap) -> RawEvents:
    """Return the events of a Parquet file; ids are integers or text.

    Raises:
        DataError: The file is damaged, empty, or a column has the wrong type.
        MissingExtraError: polars is not installed.
    """
    if whole(path, 4) != b"PAR1":
        raise DataError(f"{path}: this is not a Parquet file; check its name or write it again.")
    table, places = _load(path, columns)
    if not table.height:
        raise DataError(f"{path}: the file holds no events; give one with an event a row.")
    user_ids, users = _ids(path, table[places["user"]], "user")
    item_ids, items = _ids(path, table[places["item"]], "item")
    default = "rating" if "value" in places else "view"
    kind_names, kinds = (
        _ids(path, table[places["kind"]].fill_null(default), "kind")
        if "kind" in places
        else ((default,), np.zeros(table.height, dtype=np.int64))
    )
    return RawEvents(
        users=users,
        items=items,
        user_ids=user_ids,
        item_ids=item_ids,
        values=_values(path, table, places),
        kinds=kinds,
        kind_names=tuple(name.lower() for name in kind_names),
        times=_times(path, table[places["time"]]) if "time" in places else None,
        source=path.name,
    )


def _load(path: Path, columns: ColumnMap) -> tuple[Any, dict[str, str]]:
    try:
        import polars as pl
    except ImportError as error:
        message = "Parquet needs polars, which is not installed; run pip install 'fedrec[data]'."
        raise MissingExtraError(f"{path}: {message}") from error
    try:
        found = list(pl.read_parquet_schema(path))
        places = find_columns(
            found,
            wanted=columns.wanted(),
            usual=EVENT_NAMES,
            needed=("user", "item"),
            where=str(path),
        )
        names = {role: found[place] for role, place in places.items()}
        return pl.read_parquet(path, columns=list(names.values()), use_statistics=False), names
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        message = "the Parquet data is damaged or of an unknown kind; write the file again."
        raise DataError(f"{path}: {message}") from error


def _ids(path: Path, column: Any, role: str) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    import polars as pl

    if not (column.dtype.is_integer() or column.dtype in {pl.String, pl.Categorical, pl.Enum}):
        raise DataError(f"{path}: the {role} column is not text or integers; convert it first.")
    text = column.cast(pl.String).fill_null("")
    names = text.unique().sort().to_list()
    if not all(map(is_id, names)):
        message = f"a {role} is too long or holds control characters; mend the ids first."
        raise DataError(f"{path}: {message}")
    return tuple(names), text.rank("dense").cast(pl.Int64).to_numpy() - 1


def _values(path: Path, table: Any, places: dict[str, str]) -> NDArray[np.float64]:
    import polars as pl

    if "value" not in places:
        return np.ones(table.height)
    column = table[places["value"]]
    if not column.dtype.is_numeric():
        raise DataError(f"{path}: the value column is not numeric; convert it first.")
    return np.array(column.cast(pl.Float64).fill_null(float("nan")).to_numpy())


def _times(path: Path, column: Any) -> NDArray[np.int64]:
    import polars as pl

    if column.dtype == pl.Datetime or column.dtype == pl.Date:
        column = column.dt.epoch("s")
    if not column.dtype.is_numeric():
        raise DataError(f"{path}: the time column is not a number or a date; convert it first.")
    if column.dtype.is_float():
        column = column.fill_nan(None).clip(-(2**62), 2**62).floor()
    return np.array(column.cast(pl.Int64, strict=False).fill_null(NO_TIME).to_numpy())
