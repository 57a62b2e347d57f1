"""What is known about items apart from who used them: titles and categories."""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shared.data.columns import find_columns
from shared.data.delimited import sniff_separator
from shared.data.events import is_id
from shared.data.lines import first_line, lines, resolve_encoding, rows
from shared.data.vocabulary import Vocabulary
from shared.errors import DataError

__all__ = ["YEAR", "ItemColumns", "ItemContent", "find_items", "read_items"]

_USUAL: dict[str, tuple[str, ...]] = {
    "item": ("item", "itemid", "id", "movieid", "productid", "asin", "articleid", "bookid"),
    "title": ("title", "movietitle", "name", "itemname", "booktitle", "text", "description"),
    "year": ("year", "releaseyear"),
    "categories": ("categories", "category", "genres", "genre", "tags", "class"),
}
_COMPANIONS: dict[str, tuple[str, ...]] = {
    "u.data": ("u.item", "ml-100k.item"),
    "ratings.dat": ("movies.dat",),
    "ratings.csv": ("movies.csv",),
    "ml-1m.txt": ("items.tsv",),
}
_ML100K_GENRES = (
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary",
    "Drama", "Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi",
    "Thriller", "War", "Western",
)  # fmt: skip
_NO_CATEGORY = frozenset({"", "unknown", "(no genres listed)"})
YEAR = re.compile(r"\((\d{4})\)\s*$")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]+")

Item = tuple[int, str, str, list[str]]


@dataclass(frozen=True, kw_only=True, slots=True)
class ItemColumns:
    """Where the columns of an item table are: a name, a position, None (usual names) or "" (none).

    Attributes:
        item: The id; needed.
        title: Text shown to people.
        year: Year of release; appended to a title that does not end with one, as MovieLens does.
        categories: Categories, separated by `|`, or else by commas (by blanks in RecBole files).
    """

    item: str | int | None = None
    title: str | int | None = None
    year: str | int | None = None
    categories: str | int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ItemContent:
    """Titles and categories of items, one row an item.

    Attributes:
        ids: Item ids.
        titles: Title of each item, "" where unknown.
        categories: Categories of each item, () where unknown.
    """

    ids: tuple[str, ...] = field(repr=False)
    titles: tuple[str, ...] = field(repr=False)
    categories: tuple[tuple[str, ...], ...] = field(repr=False)

    def __len__(self) -> int:
        """Return the number of items."""
        return len(self.ids)

    def align(self, items: Vocabulary) -> "ItemContent":
        """Return the content in the order of `items`; items without content get none."""
        place = {name: row for row, name in enumerate(self.ids)}
        found = [place.get(name) for name in items.ids]
        return ItemContent(
            ids=items.ids,
            titles=tuple("" if row is None else self.titles[row] for row in found),
            categories=tuple(() if row is None else self.categories[row] for row in found),
        )

    def membership(self) -> tuple[tuple[str, ...], NDArray[np.bool_]]:
        """Return the category names, sorted, and bool [items, categories]."""
        names = sorted({name for row in self.categories for name in row})
        place = {name: column for column, name in enumerate(names)}
        table = np.zeros((len(self.ids), len(names)), dtype=np.bool_)
        for row, categories in enumerate(self.categories):
            table[row, [place[name] for name in categories]] = True
        return tuple(names), table


def read_items(
    path: str | Path, *, columns: ItemColumns | None = None, encoding: str | None = None
) -> ItemContent:
    """Return the content of an item file; of a repeated id the first row counts.

    Reads `u.item`, `movies.dat`, RecBole `.item`, JSONL, and CSV or TSV with column names.

    Args:
        path: The file.
        columns: Where the columns are, for files with column names.
        encoding: Of the text; None means UTF-8, and Latin-1 for `u.item` and `movies.dat`.

    Raises:
        DataError: The file cannot be used; file, line and way out are named.
    """
    file = Path(path)
    name = file.name.lower().removesuffix(".gz")
    reader, usual = _READERS.get(name) or _READERS.get(file.suffix.lower()) or (_table, "utf-8")
    titles: dict[str, str] = {}
    categories: dict[str, tuple[str, ...]] = {}
    for line, item, title, found in reader(
        file, columns or ItemColumns(), resolve_encoding(encoding or usual)
    ):
        if not item or not is_id(item):
            message = "the item is empty, too long or holds control characters; mend the line."
            raise DataError(f"{file}:{line}: {message}")
        plain = (_CONTROL.sub(" ", category).strip() for category in found)
        titles.setdefault(item, _CONTROL.sub(" ", title).strip())
        kept = dict.fromkeys(category for category in plain if category not in _NO_CATEGORY)
        categories.setdefault(item, tuple(kept))
    if not titles:
        raise DataError(f"{file}: the file holds no items; give one with an item a line.")
    return ItemContent(
        ids=tuple(titles), titles=tuple(titles.values()), categories=tuple(categories.values())
    )


def find_items(events: Path) -> Path | None:
    """Return the item file that belongs to an event file and lies beside it, if there is one."""
    name = events.name.removesuffix(".gz")
    names = _COMPANIONS.get(name, ())
    if name.endswith(".inter"):
        names = (name.removesuffix(".inter") + ".item",)
    beside = (events.parent / found for item in names for found in (item, f"{item}.gz"))
    return next((file for file in beside if file.is_file()), None)


def _u_item(path: Path, columns: ItemColumns, encoding: str) -> Iterator[Item]:
    for line, cells in rows(path, separator="|", encoding=encoding):
        flags = cells[5:]
        if len(flags) != len(_ML100K_GENRES) or not set(flags) <= {"0", "1"}:
            message = "the line does not follow u.item: 5 cells, then 19 genre flags of 0 or 1."
            raise DataError(f"{path}:{line}: {message}")
        genres = [name for name, flag in zip(_ML100K_GENRES, flags, strict=True) if flag == "1"]
        yield line, cells[0], cells[1], genres


def _movies_dat(path: Path, columns: ItemColumns, encoding: str) -> Iterator[Item]:
    for line, cells in rows(path, separator="::", encoding=encoding):
        if len(cells) != 3:
            message = f"found {len(cells)} columns, expected 3 (item::title::genres)."
            raise DataError(f"{path}:{line}: {message}")
        yield line, cells[0], cells[1], cells[2].split("|")


def _table(path: Path, columns: ItemColumns, encoding: str) -> Iterator[Item]:
    header = first_line(path, encoding)
    if header.startswith("{"):
        yield from _objects(path, columns, encoding)
        return
    separator = sniff_separator(header, ("\t", ",", ";"))
    if not separator:
        message = "no tab, comma or semicolon; give a table with an id and other columns."
        raise DataError(f"{path}:1: {message}")
    lines_of = rows(path, separator=separator, encoding=encoding)
    _, names = next(lines_of, (1, [""]))
    typed = all(":" in name for name in names)
    places = _places(path, [name.partition(":")[0] for name in names] if typed else names, columns)
    for line, cells in lines_of:
        if len(cells) != len(names):
            message = f"found {len(cells)} columns, expected {len(names)}; mend or remove the line."
            raise DataError(f"{path}:{line}: {message}")
        title = cells[places["title"]] if "title" in places else ""
        title = _dated(title, cells[places["year"]] if "year" in places else "")
        listed = cells[places["categories"]] if "categories" in places else ""
        yield line, cells[places["item"]], title, listed.split() if typed else _listed(listed)


def _objects(path: Path, columns: ItemColumns, encoding: str) -> Iterator[Item]:
    for number, line in enumerate(lines(path, encoding), start=1):
        if not line.strip():
            continue
        try:
            item = json.loads(line)
        except (ValueError, RecursionError) as error:
            message = "the line is not JSON; write one JSON object a line."
            raise DataError(f"{path}:{number}: {message}") from error
        if not isinstance(item, dict):
            raise DataError(f"{path}:{number}: the line is not a JSON object; write one a line.")
        names = list(item)
        place = _places(path, names, columns, number)
        cell = {role: item[names[column]] for role, column in place.items()}
        listed = cell.get("categories") or ""
        categories = [str(c) for c in listed] if isinstance(listed, list) else _listed(str(listed))
        if isinstance(cell["item"], bool) or not isinstance(cell["item"], str | int):
            message = "the item is of the wrong JSON type; write ids as text or integers."
            raise DataError(f"{path}:{number}: {message}")
        title = _dated(str(cell.get("title") or ""), str(cell.get("year") or ""))
        yield number, str(cell["item"]), title, categories


def _places(path: Path, names: list[str], columns: ItemColumns, line: int = 1) -> dict[str, int]:
    return find_columns(
        names,
        wanted={
            "item": columns.item, "title": columns.title, "year": columns.year,
            "categories": columns.categories,
        },
        usual=_USUAL,
        needed=("item",),
        where=f"{path}:{line}",
    )  # fmt: skip


def _dated(title: str, year: str) -> str:
    plain = year.strip()
    if not plain.isdecimal() or YEAR.search(title):
        return title
    return f"{title} ({plain})"


def _listed(text: str) -> list[str]:
    return text.split("|") if "|" in text else text.split(",")


_READERS: dict[str, tuple[Callable[[Path, ItemColumns, str], Iterator[Item]], str]] = {
    "u.item": (_u_item, "latin-1"),
    "movies.dat": (_movies_dat, "latin-1"),
    ".jsonl": (_objects, "utf-8"),
    ".ndjson": (_objects, "utf-8"),
}
