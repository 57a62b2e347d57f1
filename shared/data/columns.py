"""Which column means what: a map given by the caller, or the usual names."""

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

from shared.errors import DataError

__all__ = ["EVENT_NAMES", "ColumnMap", "find_columns"]

EVENT_NAMES: dict[str, tuple[str, ...]] = {
    "user": ("user", "userid", "uid", "visitorid", "customerid", "reviewerid", "memberid"),
    "item": ("item", "itemid", "iid", "movieid", "productid", "asin", "articleid", "bookid"),
    "value": ("value", "rating", "score", "stars", "overall"),
    "time": ("time", "timestamp", "ts", "datetime", "date", "unixreviewtime", "createdat"),
    "kind": ("kind", "event", "eventtype", "action", "behavior", "behaviour"),
}
"""The usual names of each column, in order of preference, lower case, letters and digits only."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ColumnMap:
    """Where the columns of an event table are.

    Each is a column name, a position from 0, None (look for the usual names) or "" (leave out).

    Attributes:
        user: Who; needed.
        item: What; needed.
        value: A rating or other strength.
        time: Seconds (or milli-, micro-, nanoseconds) since 1970, or ISO 8601 text.
        kind: What happened: view, click, purchase, rating.
    """

    user: str | int | None = None
    item: str | int | None = None
    value: str | int | None = None
    time: str | int | None = None
    kind: str | int | None = None

    def wanted(self) -> dict[str, str | int | None]:
        """Return the map as role -> name, position or None."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def find_columns(
    found: Sequence[str],
    *,
    wanted: Mapping[str, str | int | None],
    usual: Mapping[str, tuple[str, ...]],
    needed: Sequence[str],
    where: str,
) -> dict[str, int]:
    """Return role -> position for every role that has a column.

    Args:
        found: Column names in file order.
        wanted: Role -> column name, position, None (usual names) or "" (leave out).
        usual: Role -> usual names.
        needed: Roles that must have a column.
        where: File and line, for the message.

    Raises:
        DataError: A needed or named column is missing, or two roles share one column; the message
            lists what was found, what is needed and the nearest names.

    Guarantees:
        a line that is no header is not repeated in an error: its cells may be a person's data.
    """
    places = {role: _place(found, name, usual[role]) for role, name in wanted.items()}
    missing = [
        role
        for role, place in places.items()
        if place is None and (role in needed or wanted[role] not in {None, ""})
    ]
    if missing:
        raise DataError(_missing(found, wanted, usual, missing, needed, where))
    chosen = {role: place for role, place in places.items() if place is not None}
    if len(set(chosen.values())) < len(chosen):
        raise DataError(f"{where}: two roles share one column; give each its own in the map.")
    return chosen


def _place(found: Sequence[str], name: str | int | None, usual: tuple[str, ...]) -> int | None:
    if isinstance(name, int):
        return name if 0 <= name < len(found) else None
    if name is not None:
        return found.index(name) if name and name in found else None
    plain = [_plain(column) for column in found]
    return next((plain.index(candidate) for candidate in usual if candidate in plain), None)


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _missing(
    found: Sequence[str],
    wanted: Mapping[str, str | int | None],
    usual: Mapping[str, tuple[str, ...]],
    missing: Sequence[str],
    needed: Sequence[str],
    where: str,
) -> str:
    # A line without one usual name may hold no names but people's data: it is not repeated.
    names = {name for names in usual.values() for name in names}
    named = [name for name in wanted.values() if isinstance(name, str) and name]
    header = any(_plain(column) in names or column in named for column in found)
    shown = f"found {_listed(found)}" if header else f"found {len(found)} columns of unknown names"
    hints = []
    for role in missing:
        asked = wanted[role]
        aims = [_plain(asked)] if isinstance(asked, str) and asked else list(usual[role])
        close = [c for c in found if difflib.get_close_matches(_plain(c), aims, n=1, cutoff=0.6)]
        near = close if header else []
        label = f"{role} ({asked!r})" if asked not in {None, ""} else role
        hints.append(f"{label} (nearest: {_listed(near)})" if near else label)
    return (
        f"{where}: no column for {' and '.join(hints)}; {shown}; "
        f"needed {' and '.join(needed)}; name them in a column map."
    )


def _listed(names: Sequence[str]) -> str:
    shown = [repr(name[:40]) for name in names[:20]]
    return ", ".join(shown) + (", …" if len(names) > 20 else "")
