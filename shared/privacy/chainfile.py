"""The file under a ledger: two append-only tables of SQLite, each commit on disk when it returns.

A record that is here was whole when it came: a process that stops at any moment leaves the file as
it was before its transaction. What the rows mean, and whether they check, is no matter of this one.
"""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final, Self

from shared.errors import RunError
from shared.privacy.chain import Row
from shared.privacy.statement import Roster

__all__ = ["VERSION", "ChainFile"]

APPLICATION: Final = 0x66656472
VERSION: Final = 2
PATIENCE: Final = 30.0
"""Seconds to wait for another writer of the same file."""

SCHEMA: Final = """
CREATE TABLE record(
    seq INTEGER PRIMARY KEY,
    body TEXT NOT NULL,
    signature BLOB NOT NULL
) STRICT;
CREATE TABLE roster(
    seq INTEGER PRIMARY KEY REFERENCES record(seq),
    salt BLOB NOT NULL,
    users BLOB NOT NULL
) STRICT;
"""


class ChainFile:
    """One file of records and rosters.

    Args:
        path: The file.
        readonly: Never write; the file has to be there.

    Guarantees:
        A transaction is on disk when it is left, or the file is as it was.

    Raises:
        RunError: The file cannot be opened.
    """

    def __init__(self, path: Path, *, readonly: bool = False) -> None:
        self.path = path
        self._lock = threading.RLock()
        place = f"{path.absolute().as_uri()}?mode={'ro' if readonly else 'rwc'}"
        with self.failing_plainly():
            self.connection = sqlite3.connect(
                place, uri=True, timeout=PATIENCE, isolation_level=None, check_same_thread=False
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self.connection.close()

    def sync_fully(self) -> None:
        """Wait for the disk at each commit."""
        with self.failing_plainly():
            # EXTRA also syncs the directory, without which a power cut can undo a commit.
            self.connection.execute("PRAGMA synchronous = EXTRA")

    def begun(self) -> bool:
        """Return whether the file is a ledger already, rather than empty.

        Raises:
            RunError: It is something else, or of another format.
        """
        if self._pragma("application_id") == APPLICATION:
            found = self._pragma("user_version")
            if found != VERSION:
                raise RunError(
                    f"Ledger {self.path} has format {found} and this version reads {VERSION}; "
                    "use the version of fedrec that wrote it."
                )
            return True
        if self.connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
            raise RunError(f"{self.path} is a database but no ledger; choose another path.")
        return False

    def begin(self) -> None:
        """Make the tables, inside a transaction."""
        for statement in filter(str.strip, SCHEMA.split(";")):
            self.connection.execute(statement)
        self.connection.execute(f"PRAGMA application_id = {APPLICATION}")
        self.connection.execute(f"PRAGMA user_version = {VERSION}")

    def insert(self, row: Row, roster: Roster | None) -> None:
        """Add a record and its roster, inside a transaction."""
        insert = self.connection.execute
        insert("INSERT INTO record VALUES (?, ?, ?)", (row.seq, row.body, row.signature))
        if roster is not None:
            insert("INSERT INTO roster VALUES (?, ?, ?)", (row.seq, roster.salt, roster.blob))

    def rows(self, *, after: int = -1) -> list[Row]:
        """Return the records behind a place, in order."""
        with closing(
            self.connection.execute(
                "SELECT seq, body, signature FROM record WHERE seq > ? ORDER BY seq", (after,)
            )
        ) as found:
            return [Row(seq=seq, body=body, signature=signature) for seq, body, signature in found]

    def roster(self, seq: int) -> Roster | None:
        """Return who a record charges."""
        found = self.connection.execute(
            "SELECT salt, users FROM roster WHERE seq = ?", (seq,)
        ).fetchone()
        return None if found is None else Roster.from_bytes(*found)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Hold the write lock; commit at the end, or leave the file as it was."""
        with self.failing_plainly():
            self.connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self.connection.execute("COMMIT")
            except BaseException:
                if self.connection.in_transaction:
                    self.connection.execute("ROLLBACK")
                raise

    @contextmanager
    def failing_plainly(self) -> Iterator[None]:
        """Let one thread in at a time, and turn the file's faults into one sentence."""
        try:
            with self._lock:
                yield
        except (sqlite3.Error, UnicodeDecodeError) as error:
            raise RunError(
                f"Cannot use ledger {self.path} ({error}), so nothing is spent; check the path, "
                "its permissions and the free space."
            ) from error

    def _pragma(self, name: str) -> int:
        return int(self.connection.execute(f"PRAGMA {name}").fetchone()[0])
