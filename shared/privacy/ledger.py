"""The record of what was spent: charged before the work, on disk before the charge is answered.

`reserve` comes before a device touches its data, `release` once its reply exists. A crash between
the two leaves a charge without a reply, never a reply without a charge: the record can only count
too much. Budgets hold for the file, so a new run name does not reset them.

An order whose reservation has no reply yet may be taken up again under it after a crash (`find`):
nothing left the device, provided that `release` always returns before the reply leaves.

One SQLite file with two append-only tables. Several processes may each open it, and several threads
may share one `Ledger`.
"""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from shared.errors import RunError
from shared.privacy.accounting import Spend
from shared.privacy.charges import Budget, Charges, Spent

__all__ = ["Ledger", "Reservation"]

Ints = NDArray[np.int64]
Row = tuple[int, str, int, str, bytes, float, float, int, str, str | None]

APPLICATION: Final = 0x66656472
VERSION: Final = 1
PATIENCE: Final = 30.0
"""Seconds to wait for another writer of the same file."""

SCHEMA: Final = """
CREATE TABLE reservation(
    id INTEGER PRIMARY KEY,
    run TEXT NOT NULL,
    round INTEGER NOT NULL,
    order_digest TEXT NOT NULL,
    participants BLOB NOT NULL,
    noise_multiplier REAL NOT NULL CHECK (noise_multiplier > 0),
    sampling_rate REAL NOT NULL CHECK (sampling_rate > 0 AND sampling_rate <= 1),
    steps INTEGER NOT NULL CHECK (steps > 0),
    noise TEXT NOT NULL
) STRICT;
CREATE INDEX reservation_order ON reservation(run, round, order_digest);
CREATE TABLE release(
    reservation INTEGER PRIMARY KEY REFERENCES reservation(id),
    reply_digest TEXT NOT NULL
) STRICT;
"""

SELECT: Final = """
SELECT id, run, round, order_digest, participants, noise_multiplier, sampling_rate, steps, noise,
       reply_digest
FROM reservation LEFT JOIN release ON release.reservation = reservation.id
"""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Reservation:
    """One charge, and the reply it paid for once there is one.

    Attributes:
        id: Its place in the file, from 1.
        run: Name of the run.
        round: Index of the round.
        order_digest: Digest of the order that asked for the work.
        participants: int64 [users], keys of the users who were charged.
        spend: What each of them was charged.
        noise: Source of the protective draws ("os", "seeded", "off").
        reply_digest: Digest of the reply; None while it is only reserved.
    """

    id: int
    run: str
    round: int
    order_digest: str
    participants: Ints = field(repr=False)
    spend: Spend
    noise: str
    reply_digest: str | None


class Ledger:
    """One file of charges.

    Guarantees:
        A reservation is on disk when `reserve` returns.
        Nothing is written when `reserve` refuses.
        At any crash the file counts at least what was really spent.
        One reservation pays for one reply.
    """

    def __init__(self, path: Path) -> None:
        """Open the file, or begin it.

        Raises:
            RunError: It is not a ledger, or cannot be read and written.
        """
        self._path = path
        self._lock = threading.RLock()
        self._charges = Charges()
        self._seen = 0
        with self._failing_plainly():
            self._connection = sqlite3.connect(
                path, timeout=PATIENCE, isolation_level=None, check_same_thread=False
            )
        try:
            self._prepare()
        except BaseException:
            self._connection.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; every answered charge is on disk already."""
        self._connection.close()

    def reserve(
        self,
        *,
        run: str,
        round: int,
        order_digest: str,
        participants: Ints,
        spend: Spend,
        budget: Budget,
        noise: str,
    ) -> int:
        """Charge every participant before the work, or refuse all of them.

        Args:
            run: Name of the run.
            round: Index of the round.
            order_digest: Digest of the order; with `run` and `round` it names the work.
            participants: int64 [users], keys of the users; a key that occurs twice pays twice.
            spend: What each pays.
            budget: The most that any of them may have spent afterwards.
            noise: Source of the protective draws ("os", "seeded", "off").

        Returns:
            The reservation's id, for `release`.

        Raises:
            BudgetError: A participant would exceed the budget; nothing was written.
            RunError: The charge cannot be written; nothing was spent.
        """
        keys = np.asarray(participants, dtype="<i8")
        row = (run, int(round), order_digest, keys.tobytes())
        with self._transaction():
            self._catch_up()
            self._charges.refuse_beyond(budget, participants=keys, spend=spend)
            cursor = self._connection.execute(
                "INSERT INTO reservation(run, round, order_digest, participants, noise_multiplier,"
                " sampling_rate, steps, noise) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (*row, spend.noise_multiplier, spend.sampling_rate, spend.steps, noise),
            )
        return int(cursor.lastrowid or 0)

    def release(self, reservation: int, *, reply_digest: str) -> None:
        """Note that the reply of a reservation exists; saying it again changes nothing.

        Raises:
            RunError: There is no such reservation, or it already paid for another reply.
        """
        with self._transaction():
            found = self._connection.execute(SELECT + "WHERE id = ?", (reservation,)).fetchone()
            if found is None:
                raise RunError(
                    f"Ledger {self._path} has no reservation {reservation}, so its reply must not "
                    "leave; reserve before the work."
                )
            if found[-1] not in (None, reply_digest):
                raise RunError(
                    f"Reservation {reservation} of ledger {self._path} already paid for another "
                    "reply; send that one again, or reserve anew."
                )
            self._connection.execute(
                "INSERT OR IGNORE INTO release VALUES (?, ?)", (reservation, reply_digest)
            )

    def find(
        self, *, run: str, round: int, order_digest: str, participants: Ints | None = None
    ) -> Reservation | None:
        """Return the charge for an order: the released one if there is one, else the latest.

        Args:
            run: Name of the run.
            round: Index of the round.
            order_digest: Digest of the order.
            participants: int64 [users]; needed where one order goes to several nodes.
        """
        keys = None if participants is None else np.asarray(participants, dtype="<i8").tobytes()
        with self._failing_plainly():
            row = self._connection.execute(
                SELECT + "WHERE run = ? AND round = ? AND order_digest = ?"
                " AND (? IS NULL OR participants = ?)"
                " ORDER BY reply_digest IS NULL, id DESC LIMIT 1",
                (run, int(round), order_digest, keys, keys),
            ).fetchone()
        return None if row is None else _reservation(row)

    def history(self) -> tuple[Reservation, ...]:
        """Return every charge, oldest first."""
        with self._failing_plainly():
            rows = self._connection.execute(SELECT + "ORDER BY id").fetchall()
        return tuple(_reservation(row) for row in rows)

    def spent(self, *, delta: float) -> Spent:
        """Return what each user spent, reservations included.

        Raises:
            ConfigError: delta is out of range.
        """
        with self._failing_plainly():
            self._catch_up()
            return self._charges.spent(delta=delta)

    def _prepare(self) -> None:
        """Check whose file it is; begin an empty one."""
        with self._failing_plainly():
            # EXTRA also syncs the directory, without which a power cut can undo a commit.
            self._connection.execute("PRAGMA synchronous = EXTRA")
        with self._transaction():
            if self._pragma("application_id") == APPLICATION:
                self._check_version()
            elif self._connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
                raise RunError(f"{self._path} is a database but no ledger; choose another path.")
            else:
                for statement in filter(str.strip, SCHEMA.split(";")):
                    self._connection.execute(statement)
                self._connection.execute(f"PRAGMA application_id = {APPLICATION}")
                self._connection.execute(f"PRAGMA user_version = {VERSION}")

    def _check_version(self) -> None:
        found = self._pragma("user_version")
        if found != VERSION:
            raise RunError(
                f"Ledger {self._path} has format {found} and this version reads {VERSION}; "
                "use the version of fedrec that wrote it."
            )

    def _pragma(self, name: str) -> int:
        return int(self._connection.execute(f"PRAGMA {name}").fetchone()[0])

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """Hold the write lock; commit at the end, or leave the file as it was."""
        with self._failing_plainly():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    @contextmanager
    def _failing_plainly(self) -> Iterator[None]:
        """Let one thread in at a time, and turn the file's faults into one sentence."""
        try:
            with self._lock:
                yield
        except sqlite3.Error as error:
            raise RunError(
                f"Cannot use ledger {self._path} ({error}), so nothing is spent; check the path, "
                "its permissions and the free space."
            ) from error

    def _catch_up(self) -> None:
        """Fold in the charges that any process wrote since the last look."""
        rows = self._connection.execute(
            "SELECT id, participants, noise_multiplier, sampling_rate, steps, noise"
            " FROM reservation WHERE id > ? ORDER BY id",
            (self._seen,),
        )
        for number, blob, sigma, rate, steps, noise in rows:
            spend = Spend(noise_multiplier=sigma, sampling_rate=rate, steps=steps)
            self._charges.add(np.frombuffer(blob, dtype="<i8"), spend, private=noise == "os")
            self._seen = number


def _reservation(row: Row) -> Reservation:
    spend = Spend(noise_multiplier=row[5], sampling_rate=row[6], steps=row[7])
    return Reservation(
        id=row[0],
        run=row[1],
        round=row[2],
        order_digest=row[3],
        participants=np.frombuffer(row[4], dtype="<i8").astype(np.int64),
        spend=spend,
        noise=row[8],
        reply_digest=row[9],
    )
