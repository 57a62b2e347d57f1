"""Delimited text to events: a fast path for clean numeric files, a careful one for the rest.

Guarantee: both paths give the same table (`test_fast_path_equals_careful_path`).
"""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shared.data.columns import EVENT_NAMES, ColumnMap, find_columns
from shared.data.events import EventColumns, RawEvents
from shared.data.lines import blocks, rows
from shared.errors import DataError

__all__ = ["SEPARATORS", "Layout", "headed_layout", "is_header", "read_layout", "sniff_separator"]

SEPARATORS = ("::", "\t", ",", ";", "|")

_ID = rb"(?:0|[1-9][0-9]{0,14})"
_NUMBER = rb"[0-9]{1,15}(?:\.[0-9]{1,15})?"


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """How a delimited file is laid out.

    Attributes:
        separator: What stands between cells; "" means any run of blanks.
        width: Cells a line.
        places: Role ("user", "item", "value", "time", "kind") -> position.
        header: Whether the first line names the columns.
        integer_ids: Whether the format is known to hold integer ids from 0.
        encoding: Of the text.
        warnings: What was assumed.
    """

    separator: str
    width: int
    places: dict[str, int]
    header: bool = False
    integer_ids: bool = False
    encoding: str = "utf-8"
    warnings: tuple[str, ...] = ()


def read_layout(path: Path, layout: Layout) -> RawEvents:
    """Return the events of a delimited file.

    Raises:
        DataError: A line does not follow the layout; the message names file and line.
    """
    numbers = _numbers(path, layout)
    if numbers is None or not len(numbers):
        return _careful(path, layout)
    places = layout.places
    user_ids, users = np.unique(numbers[:, places["user"]], return_inverse=True)
    item_ids, items = np.unique(numbers[:, places["item"]], return_inverse=True)
    has_values, has_times = "value" in places, "time" in places
    return RawEvents(
        users=users.astype(np.int64),
        items=items.astype(np.int64),
        user_ids=tuple(map(str, user_ids.astype(np.int64).tolist())),
        item_ids=tuple(map(str, item_ids.astype(np.int64).tolist())),
        values=numbers[:, places["value"]].copy() if has_values else np.ones(len(numbers)),
        kinds=np.zeros(len(numbers), dtype=np.int64),
        kind_names=("rating" if has_values else "view",),
        times=numbers[:, places["time"]].astype(np.int64) if has_times else None,
        source=path.name,
        warnings=layout.warnings,
    )


def headed_layout(
    path: Path, names: list[str], *, separator: str, columns: ColumnMap, encoding: str
) -> Layout:
    """Return the layout of a file whose first line names its columns."""
    places = find_columns(
        names,
        wanted=columns.wanted(),
        usual=EVENT_NAMES,
        needed=("user", "item"),
        where=f"{path}:1",
    )
    return Layout(
        separator=separator, width=len(names), places=places, header=True, encoding=encoding
    )


def is_header(cells: list[str]) -> bool:
    """Return whether a first line names columns: no cell of it is a number."""
    return not any(re.fullmatch(r"[+-]?[0-9]+(\.[0-9]*)?", cell) for cell in cells)


def sniff_separator(line: str, candidates: tuple[str, ...] = SEPARATORS) -> str:
    """Return the candidate that occurs most often in a line, "" if none does."""
    counts = {candidate: line.count(candidate) for candidate in candidates}
    best = max(candidates, key=lambda candidate: counts[candidate])
    return best if counts[best] else ""


def _numbers(path: Path, layout: Layout) -> NDArray[np.float64] | None:
    """Return float64 [events, width] if every line is plainly numeric, else None."""
    if "kind" in layout.places:
        return None
    grammar, separator = _grammar(layout), layout.separator.encode()
    parts = []
    for first, block in blocks(path):
        body = block.partition(b"\n")[2] if layout.header and first == 1 else block
        if not grammar.fullmatch(body):
            return None
        if separator:
            body = body.replace(separator, b" ")
        if body:
            parts.append(np.fromstring(body.decode("ascii"), dtype=np.float64, sep=" "))
    return np.concatenate(parts).reshape(-1, layout.width) if parts else None


def _grammar(layout: Layout) -> re.Pattern[bytes]:
    ids = {layout.places["user"], layout.places["item"]}
    cells = [_ID if place in ids else _NUMBER for place in range(layout.width)]
    separator = re.escape(layout.separator).encode() or rb"[ \t]{1,8}"
    return re.compile(rb"(?:" + separator.join(cells) + rb"\r?\n)*+")


def _careful(path: Path, layout: Layout) -> RawEvents:
    table = EventColumns(path, integer_ids=layout.integer_ids)
    user, item = layout.places["user"], layout.places["item"]
    value, time, kind = (layout.places.get(role) for role in ("value", "time", "kind"))
    lines = rows(path, separator=layout.separator, encoding=layout.encoding)
    if layout.header:
        next(lines, None)
    for line, cells in lines:
        if len(cells) != layout.width:
            message = (
                f"found {len(cells)} columns, expected {layout.width}; mend or remove the line."
            )
            raise DataError(f"{path}:{line}: {message}")
        table.add(
            line,
            cells[user],
            cells[item],
            None if value is None else cells[value],
            None if time is None else cells[time],
            None if kind is None else cells[kind],
        )
    return table.finish(has_times=time is not None, warnings=layout.warnings)
