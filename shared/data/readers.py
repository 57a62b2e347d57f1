"""Interaction files in: MovieLens, RecBole, "user item" text, CSV, TSV, JSONL and Parquet.

Each entry of `READERS` turns one kind of file into `RawEvents`; `read_events` finds the entry by
the name of the file, or else by its first bytes. Gzip is undone on the way, except in Parquet.

Guarantee: any file gives a valid table or one `DataError` that names file and line, and no message
holds a cell of the file (`test_any_bytes_give_a_table_or_one_error`).
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from shared.data.columns import EVENT_NAMES, ColumnMap, find_columns
from shared.data.delimited import (
    Layout,
    headed_layout,
    is_header,
    read_layout,
    sniff_separator,
)
from shared.data.events import EventColumns, RawEvents
from shared.data.lines import first_line, lines, resolve_encoding, rows, whole
from shared.data.parquet import read_parquet
from shared.errors import DataError

__all__ = ["FOLDER_FILES", "READERS", "Request", "find_format", "read_events", "resolve_folder"]

FOLDER_FILES = ("u.data", "ratings.dat", "ratings.csv", "ml-1m.txt")
"""Event files looked for in a folder, in this order, then the only `*.inter`; also with `.gz`."""

_LATEST = ["userId", "movieId", "rating", "timestamp"]
_RATED = {"user": 0, "item": 1, "value": 2, "time": 3}


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What the caller knows about a file.

    Attributes:
        columns: Where the columns are; of use to the formats with named columns.
        separator: Between cells; None means sniff.
        header: Whether the first line names the columns; None means sniff.
        encoding: Of the text.
    """

    columns: ColumnMap = field(default_factory=ColumnMap)
    separator: str | None = None
    header: bool | None = None
    encoding: str = "utf-8"


def read_events(
    path: str | Path,
    *,
    columns: ColumnMap | None = None,
    format: str | None = None,
    separator: str | None = None,
    header: bool | None = None,
    encoding: str = "utf-8",
) -> RawEvents:
    """Return the events of a file, or of the event file of a folder, in file order.

    Args:
        path: A file, or a folder that holds one of `FOLDER_FILES` or a single `*.inter`.
        columns: Where the columns are (CSV, TSV, JSONL, Parquet, `.inter`).
        format: A name of `READERS`; None means find it.
        separator: Between cells of delimited text; None means sniff.
        header: Whether delimited text names its columns; None means sniff.
        encoding: Of the text; it must keep ASCII as it is.

    Raises:
        DataError: The file cannot be used; file, line and way out are named.
        MissingExtraError: A Parquet file without the extra `[data]`.
    """
    file = resolve_folder(Path(path))
    name = format or find_format(file)
    if name not in READERS:
        raise DataError(f"The format {name!r} is unknown; use one of {', '.join(READERS)}.")
    request = Request(
        columns=columns or ColumnMap(),
        separator=separator,
        header=header,
        encoding=resolve_encoding(encoding),
    )
    return READERS[name](file, request)


def resolve_folder(path: Path) -> Path:
    """Return the event file of a folder; any other path comes back as it is.

    Raises:
        DataError: The folder holds no event file, or several `*.inter`.
    """
    if not path.is_dir():
        return path
    for name in FOLDER_FILES:
        for file in (path / name, path / f"{name}.gz"):
            if file.is_file():
                return file
    atomic = sorted(path.glob("*.inter"))
    if len(atomic) == 1:
        return atomic[0]
    looked = ", ".join((*FOLDER_FILES, "a single *.inter"))
    raise DataError(f"{path}: the folder holds none of {looked}; give the event file itself.")


def find_format(path: Path) -> str:
    """Return the name in `READERS` for a file: by its name, else by its first line.

    Raises:
        DataError: The file cannot be read or is empty.
    """
    name = path.name.lower().removesuffix(".gz")
    if name in _NAMES:
        return _NAMES[name]
    suffix = name.rpartition(".")[2]
    if suffix in _SUFFIXES:
        return _SUFFIXES[suffix]
    if whole(path, 4) == b"PAR1":
        return "parquet"
    line = first_line(path, "latin-1")
    if line.startswith(("{", "[")):
        return "jsonl"
    if line.count("::") == 3:
        return "movielens-1m"
    return "delimited" if sniff_separator(line) else "pairs"


def _movielens_100k(path: Path, request: Request) -> RawEvents:
    layout = Layout(separator="\t", width=4, places=_RATED, integer_ids=True)
    return read_layout(path, replace(layout, encoding=request.encoding))


def _movielens_1m(path: Path, request: Request) -> RawEvents:
    layout = Layout(separator="::", width=4, places=_RATED, integer_ids=True)
    return read_layout(path, replace(layout, encoding=request.encoding))


def _pairs(path: Path, request: Request) -> RawEvents:
    note = "No times: each user's lines are taken to be in time order."
    layout = Layout(separator="", width=2, places={"user": 0, "item": 1}, integer_ids=True)
    return read_layout(path, replace(layout, encoding=request.encoding, warnings=(note,)))


def _recbole(path: Path, request: Request) -> RawEvents:
    names = first_line(path, request.encoding).split("\t")
    plain = [name.strip().partition(":")[0] for name in names]
    layout = headed_layout(
        path, plain, separator="\t", columns=request.columns, encoding=request.encoding
    )
    return read_layout(path, layout)


def _delimited(path: Path, request: Request) -> RawEvents:
    line = first_line(path, request.encoding)
    separator = sniff_separator(line) if request.separator is None else request.separator
    _, names = next(rows(path, separator=separator, encoding=request.encoding), (1, [""]))
    if request.header is False or (request.header is None and not is_header(names)):
        return read_layout(path, _headless(path, names, separator, request))
    layout = headed_layout(
        path, names, separator=separator, columns=request.columns, encoding=request.encoding
    )
    return read_layout(path, replace(layout, integer_ids=names == _LATEST))


def _headless(path: Path, cells: list[str], separator: str, request: Request) -> Layout:
    """Return the layout of a file without column names: the map's positions, or the usual order."""
    width, wanted = len(cells), request.columns.wanted()
    given = {role: place for role, place in wanted.items() if isinstance(place, int)}
    if any(isinstance(place, str) and place for place in wanted.values()):
        message = "the first line holds a number, so no column names; use positions from 0."
        raise DataError(f"{path}:1: {message}")
    places = given or {role: place for role, place in _RATED.items() if place < width}
    if not {"user", "item"} <= places.keys() or not all(0 <= p < width for p in places.values()):
        message = f"found {width} columns, needed user and item; map both to positions from 0."
        raise DataError(f"{path}:1: {message}")
    order = ", ".join(sorted(places, key=lambda role: places[role]))
    note = f"No header: the columns are taken to be {order}."
    return Layout(
        separator=separator,
        width=width,
        places=places,
        encoding=request.encoding,
        warnings=() if given else (note,),
    )


def _jsonl(path: Path, request: Request) -> RawEvents:
    table, places = EventColumns(path), dict[str, str]()
    for number, line in enumerate(lines(path, request.encoding), start=1):
        if not line.strip():
            continue
        event = _json_object(path, number, line)
        if not places:
            places = _keys(path, number, list(event), request.columns)
        cell = {role: _json_cell(path, number, role, event, key) for role, key in places.items()}
        table.add(
            number,
            cell["user"],
            cell["item"],
            cell.get("value"),
            cell.get("time"),
            cell.get("kind"),
        )
    return table.finish(has_times="time" in places)


def _json_object(path: Path, number: int, line: str) -> dict[str, object]:
    try:
        event = json.loads(line)
    except (ValueError, RecursionError) as error:
        message = "the line is not JSON; write one JSON object a line."
        raise DataError(f"{path}:{number}: {message}") from error
    if not isinstance(event, dict):
        raise DataError(f"{path}:{number}: the line is not a JSON object; write one object a line.")
    return event


def _keys(path: Path, number: int, found: list[str], columns: ColumnMap) -> dict[str, str]:
    places = find_columns(
        found,
        wanted=columns.wanted(),
        usual=EVENT_NAMES,
        needed=("user", "item"),
        where=f"{path}:{number}",
    )
    return {role: found[place] for role, place in places.items()}


def _json_cell(path: Path, number: int, role: str, event: dict[str, object], key: str) -> str:
    value = event.get(key)
    if value is None:
        return ""
    plain = (str, int) if role in {"user", "item", "kind"} else (str, int, float)
    if isinstance(value, bool) or not isinstance(value, plain):
        message = f"the {role} is of the wrong JSON type; write ids as text or integers."
        raise DataError(f"{path}:{number}: {message}")
    return str(value).strip()


def _parquet(path: Path, request: Request) -> RawEvents:
    return read_parquet(path, request.columns)


READERS: dict[str, Callable[[Path, Request], RawEvents]] = {
    "movielens-100k": _movielens_100k,
    "movielens-1m": _movielens_1m,
    "pairs": _pairs,
    "recbole": _recbole,
    "delimited": _delimited,
    "jsonl": _jsonl,
    "parquet": _parquet,
}

_NAMES = {"u.data": "movielens-100k", "ratings.dat": "movielens-1m"}
_SUFFIXES = {
    "inter": "recbole",
    "csv": "delimited",
    "tsv": "delimited",
    "jsonl": "jsonl",
    "ndjson": "jsonl",
    "parquet": "parquet",
}
