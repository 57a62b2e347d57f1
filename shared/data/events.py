"""Events as a file holds them: raw columns, before cleaning and indexing."""

import math
import re
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from shared.errors import DataError

__all__ = ["EVENT_WEIGHTS", "MAX_ID", "NO_TIME", "EventColumns", "RawEvents", "is_id"]

EVENT_WEIGHTS: dict[str, float] = {"view": 1.0, "click": 2.0, "purchase": 4.0, "rating": 1.0}
"""Strength of each kind of event. A rating counts once, whatever its value, as in the literature;
`CleaningConfig.implicit_threshold` can ask for more. Weight 0 drops a kind."""

NO_TIME = int(np.iinfo(np.int64).min)
"""Marks an event without a time in a column of times."""

MAX_ID = 256
_MAX_KINDS = 64
_FAR = 1 << 62
_MISSING = frozenset({"", "nan", "na", "n/a", "null", "none"})
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_WHOLE = re.compile(r"[0-9]{1,18}")
_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")

Ints = NDArray[np.int64]
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class RawEvents:
    """One event a row, in file order unless a function says otherwise.

    Attributes:
        users: int64 [events], position of each event's user in `user_ids`.
        items: int64 [events], position of each event's item in `item_ids`.
        user_ids: Distinct names; "" is a missing one.
        item_ids: Distinct names; "" is a missing one.
        values: float64 [events], rating or other value; 1.0 where the file has none, NaN where a
            cell is missing.
        kinds: int64 [events], position of each event's kind in `kind_names`.
        kind_names: Distinct kinds, lower case.
        times: int64 [events] as in the file, `NO_TIME` where missing; None where the file has
            no times and its order is the order of events.
        source: Name of the file or generator.
        warnings: What the reader assumed.
    """

    users: Ints = field(repr=False)
    items: Ints = field(repr=False)
    user_ids: tuple[str, ...] = field(repr=False)
    item_ids: tuple[str, ...] = field(repr=False)
    values: NDArray[np.float64] = field(repr=False)
    kinds: Ints = field(repr=False)
    kind_names: tuple[str, ...]
    times: Ints | None = field(repr=False)
    source: str
    warnings: tuple[str, ...] = ()

    def __len__(self) -> int:
        """Return the number of events."""
        return len(self.users)

    def take(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> Self:
        """Return the given rows, in the given order."""
        return replace(
            self,
            users=self.users[rows],
            items=self.items[rows],
            values=self.values[rows],
            kinds=self.kinds[rows],
            times=None if self.times is None else self.times[rows],
        )


class EventColumns:
    """Columns under construction from text cells, one event at a time."""

    def __init__(self, path: Path, *, integer_ids: bool = False) -> None:
        self._path = path
        self._read_id = _integer_id if integer_ids else _text_id
        self._users: dict[str, int] = {}
        self._items: dict[str, int] = {}
        self._kinds: dict[str, int] = {}
        self._kind_texts: dict[str, int] = {}
        self._columns = tuple(array("q") for _ in range(4))
        self._values = array("d")

    def add(
        self, line: int, user: str, item: str, value: str | None, time: str | None, kind: str | None
    ) -> None:
        """Append one event; a cell is None where the file has no such column.

        Raises:
            DataError: A cell cannot be what its column says.
        """
        users, items, kinds, times = self._columns
        kind = kind or ("view" if value is None else "rating")
        user_code, item_code = self._users.get(user), self._items.get(item)
        kind_code = self._kind_texts.get(kind)
        users.append(self._new(self._users, user, line, "user") if user_code is None else user_code)
        items.append(self._new(self._items, item, line, "item") if item_code is None else item_code)
        kinds.append(self._kind(kind, line) if kind_code is None else kind_code)
        times.append(0 if time is None else self._cell(_time, time, line, "time"))
        self._values.append(1.0 if value is None else self._cell(_value, value, line, "value"))

    def finish(self, *, has_times: bool, warnings: tuple[str, ...] = ()) -> RawEvents:
        """Return the table.

        Raises:
            DataError: No event was added.
        """
        if not self._values:
            raise DataError(
                f"{self._path}: the file holds no events; give one with an event a line."
            )
        users, items, kinds, times = (
            np.frombuffer(column, dtype=np.int64) for column in self._columns
        )
        return RawEvents(
            users=users,
            items=items,
            user_ids=tuple(self._users),
            item_ids=tuple(self._items),
            values=np.frombuffer(self._values, dtype=np.float64),
            kinds=kinds,
            kind_names=tuple(self._kinds),
            times=times if has_times else None,
            source=self._path.name,
            warnings=warnings,
        )

    def _new(self, codes: dict[str, int], text: str, line: int, role: str) -> int:
        return codes.setdefault(self._cell(self._read_id, text, line, role), len(codes))

    def _kind(self, text: str, line: int) -> int:
        name = self._cell(_text_id, text, line, "kind").lower()
        code = self._kinds.setdefault(name, len(self._kinds))
        self._kind_texts[text] = code
        if code >= _MAX_KINDS:
            message = f"over {_MAX_KINDS} kinds of event; check which column holds the kind."
            raise DataError(f"{self._path}:{line}: {message}")
        return code

    def _cell(self, parse: Callable[[str], T], text: str, line: int, role: str) -> T:
        try:
            return parse(text)
        except (ValueError, OverflowError) as error:
            message = f"the {role} is not {_EXPECTED[parse]}; mend or remove the line."
            raise DataError(f"{self._path}:{line}: {message}") from error


def is_id(text: str) -> bool:
    """Return whether a text can name a user or an item: short, no control characters."""
    return len(text) <= MAX_ID and not _CONTROL.search(text)


def _integer_id(text: str) -> str:
    if not _WHOLE.fullmatch(text):
        raise ValueError("not an integer")
    return str(int(text))


def _text_id(text: str) -> str:
    if not is_id(text):
        raise ValueError("not an id")
    return text


def _value(text: str) -> float:
    if text.lower() in _MISSING:
        return math.nan
    if "_" in text:
        raise ValueError("not a number")
    return float(text)


def _time(text: str) -> int:
    if _INTEGER.fullmatch(text):
        return int(text)
    if text.lower() in _MISSING:
        return NO_TIME
    try:
        seconds = _value(text)
    except ValueError:
        moment = datetime.fromisoformat(text)
        seconds = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    return math.floor(min(max(seconds, -_FAR), _FAR))


_EXPECTED: dict[Callable[[str], object], str] = {
    _integer_id: "an integer from 0",
    _text_id: f"an id (at most {MAX_ID} characters, no control characters)",
    _value: "a number",
    _time: "a time (a number since 1970, or ISO 8601)",
}
