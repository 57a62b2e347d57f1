"""The record of what was spent: charged before the work, on disk before the charge is answered.

`reserve` comes before a device touches its data, `release` once its reply exists. A crash between
the two leaves a charge without a reply, never a reply without a charge: the record can only count
too much. Budgets hold for the file, so a new run name does not reset them.

An order whose reservation has no reply yet may be taken up again under it after a crash (`find`):
nothing left the device, provided that `release` always returns before the reply leaves.

One SQLite file with two append-only tables: the records of `chain`, whose meaning is `statement`'s,
and the rosters they commit to. The key that signs them lies beside the file. A ledger that no
longer checks takes no more charges. Several processes may each open one file, and several threads
may share one `Ledger`. A device keeps one, and a server keeps one, in the same way.
"""

import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from shared.errors import ConfigError, RunError, VerificationError
from shared.privacy.accounting import Spend
from shared.privacy.bounds import count
from shared.privacy.chain import ROOT, Head, Record, check, seal
from shared.privacy.chainfile import VERSION, ChainFile
from shared.privacy.charges import Budget, Spent
from shared.privacy.identity import Identity
from shared.privacy.statement import (
    PURPOSES,
    Order,
    Reservation,
    Roster,
    Statement,
    order_fields,
    spend_fields,
)
from shared.privacy.terms import ADJACENCY, RNG_POLICY, Terms, code_digest

__all__ = ["Ledger", "Reservation"]

Ints = NDArray[np.int64]

REASON: Final = re.compile(r"[a-z][a-z -]{0,39}")
"""What may stand as a reason: a few plain words, never a number, so never a datum."""


class Ledger:
    """One file of charges.

    Args:
        path: The file; its key is the file of the same name that ends in `.key`.
        terms: Under which a new file begins. Each reservation may carry its own.
        settings: Digest of the settings of the run that a new file belongs to.

    Guarantees:
        A reservation is on disk when `reserve` returns.
        Nobody is charged when `reserve` refuses.
        At any crash the file counts at least what was really spent.
        One reservation pays for one reply.
        A file that was tampered with takes no charge.
        No two charges of a user in one run lie closer than their separation, in any order.
    """

    def __init__(
        self, path: Path, *, terms: Terms | None = None, settings: str | None = None
    ) -> None:
        """Open the file, or begin it.

        Raises:
            RunError: It is not a ledger, cannot be read and written, or its key is missing.
            VerificationError: Its records do not check.
        """
        self._path = path
        self._statement = Statement()
        self._file = ChainFile(path)
        try:
            self._prepare(terms, settings)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; every answered charge is on disk already."""
        self._file.close()

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
        purpose: str = "train",
        terms: Terms | None = None,
        witness: Head | None = None,
        separation: int = 1,
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
            purpose: What the release is for, one of `PURPOSES`.
            terms: Public terms of the work.
            witness: The head of the ledger of whoever gave the order; it is kept.
            separation: Least distance in rounds of two charges of a user in one run, for one
                purpose; 1 allows every round. The wider one of the two charges counts.

        Returns:
            The reservation's id, for `release`.

        Raises:
            BudgetError: A participant would exceed the budget, or took part too few rounds away;
                the refusal is on record.
            ConfigError: The purpose is unknown, or the separation is no whole number from 1.
            RunError: The charge cannot be written; nothing was spent.
            VerificationError: This ledger does not check, or the witnessed one was forked or
                cut short since it was last seen; nothing was spent.
        """
        if purpose not in PURPOSES:
            raise ConfigError(f"Unknown purpose={purpose}; use one of {', '.join(PURPOSES)}.")
        roster = Roster(salt=os.urandom(16), users=np.asarray(participants, dtype=np.int64))
        asked = Reservation(
            id=-1,
            run=run,
            round=int(round),
            order_digest=order_digest,
            participants=roster.users,
            spend=spend,
            noise=noise,
            budget=budget,
            purpose=purpose,
            separation=count("separation", separation),
        )
        order = asked.order
        fields: dict[str, object] = {
            **order_fields(order),
            "purpose": purpose,
            "users": len(roster.users),
            "roster": roster.digest,
            "spend": spend_fields(spend),
            "budget": {"epsilon": budget.epsilon, "delta": budget.delta},
            "noise": noise,
            "separation": asked.separation,
            "terms": None if terms is None else terms.as_dict(),
            "witness": None if witness is None else witness.as_dict(),
        }
        with self._writing():
            if terms is not None and terms.as_dict() == self._statement.genesis["terms"]:
                fields["terms"] = None
            refusal = self._statement.refusal(asked, witness)
            if refusal is None:
                return self._append("reserve", fields, roster=roster)
            reason, error = refusal
            if order not in self._statement.refused:
                self._append("refused", {**fields, "reason": reason, "roster": None})
        raise error

    def release(
        self, reservation: int, *, reply_digest: str, realised: float | None = None
    ) -> None:
        """Note that the reply of a reservation exists; saying it again changes nothing.

        Args:
            reservation: Its id.
            reply_digest: Digest of the reply.
            realised: Noise multiplier that the reply really has, where that is known only now.
                Less than was reserved is charged as what it is; more changes nothing.

        Raises:
            BudgetError: The realised noise is too little for the budget; nothing may be sent.
            RunError: There is no such reservation, or it cannot pay for this reply.
        """
        with self._writing():
            paid = self._reservation(reservation)
            if paid.reply_digest == reply_digest:
                return
            if paid.reply_digest is not None or paid.aborted is not None:
                raise RunError(
                    f"Reservation {reservation} of ledger {self._path} already paid for another "
                    "reply or was given up; send that reply again, or reserve anew."
                )
            if realised is not None:
                self._statement.refuse_realised(paid, realised)
            self._append(
                "released",
                {"reservation": paid.id, "reply": reply_digest, "realised": realised},
            )

    def abort(self, reservation: int, *, reason: str, spent: bool = True) -> None:
        """Note that no reply will come of a reservation.

        Args:
            reservation: Its id.
            reason: A few plain words.
            spent: Whether anything may have left the device. Only False takes the charge back.

        Raises:
            ConfigError: The reason is anything but a few plain words.
            RunError: There is no such reservation, or it is settled.
        """
        if not REASON.fullmatch(reason):
            raise ConfigError("Expected a reason of a few plain words; name none of the data.")
        with self._writing():
            paid = self._reservation(reservation)
            if paid.reply_digest is not None or paid.aborted is not None:
                raise RunError(f"Reservation {reservation} of ledger {self._path} is settled.")
            fields = {"reservation": paid.id, "reason": reason, "spent": spent}
            self._append("aborted", fields)

    def note_audit(self, found: Mapping[str, object]) -> int:
        """Append what an attack on the run came to (`kind`, `lower_bound`, `verdict`, ...)."""
        with self._writing():
            return self._append("audit", {"found": dict(found)})

    def conclude(self, *, delta: float) -> Head:
        """Append that a run is over, with the largest epsilon of any user; return the head.

        Args:
            delta: The failure probability the epsilon is for; 0 where nothing is protected.
        """
        with self._writing():
            protected = delta > 0.0
            found = self._statement.charges.spent(delta=delta) if protected else None
            fields = {
                "epsilon": found.largest if found else None,
                "delta": delta if protected else None,
                "users": len(found.users) if found else 0,
                "private": bool(found and found.private and len(found.users)),
            }
            self._append("close", fields)
        return self.head()

    def head(self) -> Head:
        """Return the signed end of the chain, for whoever shall witness it."""
        with self._reading():
            last = self._last
            (row,) = self._file.rows(after=last.seq - 1)
        return Head(
            seq=last.seq,
            digest=last.digest,
            public_key=self._identity.public_key,
            signature=row.signature.hex(),
        )

    def find(
        self, *, run: str, round: int, order_digest: str, participants: Ints | None = None
    ) -> Reservation | None:
        """Return the charge for an order: the released one if there is one, else the latest.

        A charge that was given up is not returned.

        Args:
            run: Name of the run.
            round: Index of the round.
            order_digest: Digest of the order.
            participants: int64 [users]; needed where one order goes to several nodes.
        """
        order = Order(run=run, round=int(round), digest=order_digest)
        with self._reading() as statement:
            found = [one for one in statement.find(order) if one.aborted is None]
        if participants is not None:
            found = [one for one in found if np.array_equal(one.participants, participants)]
        released = [one for one in found if one.reply_digest is not None]
        kept = released or found
        return kept[-1] if kept else None

    def history(self) -> tuple[Reservation, ...]:
        """Return every charge, oldest first."""
        with self._reading() as statement:
            return tuple(statement.reservations.values())

    def spent(self, *, delta: float) -> Spent:
        """Return what each user spent, reservations included.

        Raises:
            ConfigError: delta is out of range.
        """
        with self._reading() as statement:
            return statement.charges.spent(delta=delta)

    def worst(self, *, delta: float) -> tuple[Spend, ...]:
        """Return the charges of a user who was charged most; none before anyone was.

        Raises:
            ConfigError: delta is out of range.
        """
        with self._reading() as statement:
            bands = statement.charges.bands(delta=delta)
        return bands[-1].spends if bands else ()

    @property
    def _last(self) -> Record:
        if self._statement.last is None:
            raise RunError(f"Ledger {self._path} has no first record; begin another one.")
        return self._statement.last

    def _reservation(self, seq: int) -> Reservation:
        found = self._statement.reservations.get(seq)
        if found is None:
            raise RunError(
                f"Ledger {self._path} has no reservation {seq}, so its reply must not leave; "
                "reserve before the work."
            )
        return found

    def _append(
        self, kind: str, fields: Mapping[str, object], *, roster: Roster | None = None
    ) -> int:
        """Write the next record inside a transaction; `_catch_up` counts it once it is there."""
        last = self._statement.last
        row = seal(
            {**fields, "kind": kind, "at": int(time.time())},
            seq=0 if last is None else last.seq + 1,
            prev=ROOT if last is None else last.digest,
            signer=self._identity,
        )
        self._file.insert(row, roster)
        return row.seq

    def _prepare(self, terms: Terms | None, settings: str | None) -> None:
        """Check whose file it is; begin an empty one."""
        self._file.sync_fully()
        key = self._path.with_suffix(".key")
        with self._file.transaction():
            if not self._file.begun():
                self._identity = Identity.make(key)
                self._begin(terms, settings)
            else:
                self._identity = Identity.load(key)
            self._catch_up()
        if self._statement.genesis["public_key"] != self._identity.public_key:
            raise RunError(f"Key {key} is not the key of ledger {self._path}; put it back.")

    def _begin(self, terms: Terms | None, settings: str | None) -> None:
        """Write the tables and the first record."""
        self._file.begin()
        self._append(
            "genesis",
            {
                "format": VERSION,
                "public_key": self._identity.public_key,
                "adjacency": ADJACENCY,
                "code": code_digest(),
                "rng": RNG_POLICY,
                "settings": settings,
                "terms": None if terms is None else terms.as_dict(),
            },
        )

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Hold the write lock with every record counted."""
        with self._file.transaction():
            self._catch_up()
            yield

    @contextmanager
    def _reading(self) -> Iterator[Statement]:
        """Hold the statement with every record counted."""
        with self._file.failing_plainly():
            self._catch_up()
            yield self._statement

    def _catch_up(self) -> None:
        """Count the records that any process wrote since the last look.

        Raises:
            VerificationError: One of them is bad; nothing is counted from there on.
        """
        last = self._statement.last
        rows = self._file.rows(after=-1 if last is None else last.seq)
        known = self._statement.genesis.get("public_key")
        records, fault = check(rows, after=last, public_key=known)
        for record in records:
            if wrong := self._statement.add(record, self._file.roster(record.seq)):
                fault = wrong
                break
        if fault is not None:
            raise VerificationError(
                f"Record {fault.seq} of ledger {self._path} {fault.why}; it takes no more charges. "
                "Keep the file for whoever audits it."
            )
