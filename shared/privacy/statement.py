"""What the records of a ledger come to: charges, replies, refusals, heads of others that were seen.

The same reading serves the ledger, which asks it before each charge, and whoever verifies one.

    kind      says                                     charges
    genesis   whose ledger, under which terms          -
    reserve   these users pay this before the work     everyone on its roster
    released  the reply it paid for exists             the difference, if less noise was realised
    aborted   no reply will come of it                 takes it back only if nothing left the device
    refused   an order was turned down                 -
    audit     an attack was tried, and what it gave    -
    close     a run is over                            -
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from shared.errors import BudgetError, ConfigError, VerificationError
from shared.privacy.accounting import Spend
from shared.privacy.chain import Fault, Head, Record, sha
from shared.privacy.charges import Budget, Charges

__all__ = [
    "PURPOSES",
    "Order",
    "Reservation",
    "Roster",
    "Statement",
    "order_fields",
    "spend_fields",
]

Ints = NDArray[np.int64]

PURPOSES: Final = ("train", "counts", "metrics", "clip-quantile", "echo")
"""What a release is for; each of them is charged. An echo repeats an earlier contribution."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """The name of a piece of work.

    Attributes:
        run: Name of the run.
        round: Index of the round.
        digest: Digest of the order that asks for it.
    """

    run: str
    round: int
    digest: str


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Roster:
    """Who was charged, behind a salted commitment: the chain may be shown without it.

    Attributes:
        salt: 16 random bytes.
        users: int64 [users], keys of the users.
    """

    salt: bytes = field(repr=False)
    users: Ints = field(repr=False)

    @property
    def blob(self) -> bytes:
        """The keys as little-endian bytes."""
        return np.asarray(self.users, dtype="<i8").tobytes()

    @property
    def digest(self) -> str:
        """What the record of the charge holds of it."""
        return sha(self.salt + self.blob)

    @classmethod
    def from_bytes(cls, salt: bytes, blob: bytes) -> "Roster":
        """Read what is stored."""
        whole = blob[: len(blob) // 8 * 8]
        return cls(salt=salt, users=np.frombuffer(whole, dtype="<i8").astype(np.int64))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Reservation:
    """One charge, and what became of it.

    Attributes:
        id: Its place in the chain.
        run: Name of the run.
        round: Index of the round.
        order_digest: Digest of the order that asked for the work.
        participants: int64 [users], keys of the users who were charged.
        spend: What each of them was charged.
        noise: Source of the protective draws ("os", "seeded", "off").
        budget: The most that each may have spent with it.
        purpose: What it is for, one of `PURPOSES`.
        separation: Least distance in rounds to another charge of the same user, run and purpose.
        reply_digest: Digest of the reply it paid for; None while there is none.
        aborted: Why no reply will come of it; None otherwise.
    """

    id: int
    run: str
    round: int
    order_digest: str
    participants: Ints = field(repr=False)
    spend: Spend
    noise: str
    budget: Budget
    purpose: str = "train"
    separation: int = 1
    reply_digest: str | None = None
    aborted: str | None = None

    @property
    def order(self) -> Order:
        """The work it is for."""
        return Order(run=self.run, round=self.round, digest=self.order_digest)

    @property
    def sequence(self) -> tuple[str, str]:
        """Run and purpose: the rounds that share one sequence of noise."""
        return self.run, self.purpose


class Statement:
    """The records of one chain, added up in their order."""

    def __init__(self) -> None:
        self.charges = Charges()
        self.genesis: Mapping[str, Any] = {}
        self.last: Record | None = None
        self.kinds: dict[str, int] = {}
        self.reservations: dict[int, Reservation] = {}
        self.refused: set[Order] = set()
        self.witnessed: dict[str, dict[int, str]] = {}
        self.audits: list[Mapping[str, Any]] = []
        self.times: tuple[int, int] | None = None
        self._orders: dict[Order, list[int]] = {}
        self._rounds: dict[tuple[str, str], dict[int, list[int]]] = {}
        self._widest: dict[tuple[str, str], int] = {}
        self._terms: dict[int, Mapping[str, Any]] = {}

    def add(self, record: Record, roster: Roster | None = None) -> Fault | None:
        """Count one more record, unless it contradicts the records before it, or its roster.

        Args:
            record: The next one of the chain.
            roster: Who is charged, for a reservation.

        Returns:
            What is wrong with it; it is not counted then.
        """
        fields = record.fields
        try:
            self._count(record, fields, roster)
        except _Contradiction as error:
            return Fault(seq=record.seq, why=str(error))
        except (KeyError, TypeError, ValueError, ConfigError, VerificationError):
            return Fault(seq=record.seq, why="does not hold what its kind needs")
        self.kinds[record.kind] = self.kinds.get(record.kind, 0) + 1
        self.last = record
        return None

    def terms(self, reservation: int | None = None) -> Mapping[str, Any]:
        """Return the terms of a reservation, else of the ledger; empty where nobody said them."""
        own = None if reservation is None else self._terms.get(reservation)
        return own or self.genesis.get("terms") or {}

    def find(self, order: Order) -> list[Reservation]:
        """Return the charges for an order, oldest first."""
        return [self.reservations[seq] for seq in self._orders.get(order, ())]

    def forked(self, head: Head) -> bool:
        """Whether a head contradicts what its owner showed before: another record there, or less.

        A longer chain is believed here; `verification.cross_check` looks into it.
        """
        seen = self.witnessed.get(head.public_key, {})
        return bool(seen) and (
            head.seq < max(seen) or seen.get(head.seq, head.digest) != head.digest
        )

    def refusal(
        self, asked: Reservation, witness: Head | None
    ) -> tuple[str, BudgetError | VerificationError] | None:
        """Return in a word, and as the error to raise, why a charge may not be taken.

        Args:
            asked: The charge as it would stand here.
            witness: The head of the ledger of whoever gave the order.
        """
        if witness is not None and (not witness.sound or self.forked(witness)):
            return "fork", VerificationError(
                f"Round refused: the server's ledger at record {witness.seq} is not the one this "
                "device saw before; keep both files and ask the operator."
            )
        if self._too_close(asked):
            return "separation", BudgetError(
                f"Round {asked.round} refused: a device would take part twice within fewer rounds "
                "than its run is accounted for; ask it in a later round."
            )
        try:
            self.charges.refuse_beyond(
                asked.budget, participants=asked.participants, spend=asked.spend
            )
        except BudgetError as error:
            return "budget", error
        return None

    def refuse_realised(self, paid: Reservation, realised: float) -> None:
        """Check that the budget of a reservation can carry less noise than was reserved.

        Raises:
            BudgetError: It cannot.
        """
        if realised >= paid.spend.noise_multiplier:
            return
        spend = replace(paid.spend, noise_multiplier=realised)
        self.charges.take_back(paid.participants, paid.spend)
        try:
            self.charges.refuse_beyond(paid.budget, participants=paid.participants, spend=spend)
        finally:
            self.charges.add(paid.participants, paid.spend, private=paid.noise == "os")

    def _too_close(self, asked: Reservation) -> bool:
        """Whether anyone would be charged twice within the separation, by either charge's terms."""
        widest = max(asked.separation, self._widest.get(asked.sequence, 1))
        if widest == 1:
            return False
        if asked.separation > 1 and len(np.unique(asked.participants)) < len(asked.participants):
            return True
        rounds = self._rounds.get(asked.sequence, {})
        near = [turn for turn in rounds if abs(asked.round - turn) < widest]
        found = [self.reservations[seq] for turn in near for seq in rounds[turn]]
        return any(
            max(asked.separation, one.separation) > max(1, abs(asked.round - one.round))
            and bool(np.isin(asked.participants, one.participants).any())
            for one in found
        )

    def _count(self, record: Record, fields: Mapping[str, Any], roster: Roster | None) -> None:
        if record.kind == "genesis":
            self.genesis = fields
        elif record.kind == "reserve":
            self._reserve(record, fields, roster)
        elif record.kind in {"released", "aborted"}:
            self._settle(record, fields)
        elif record.kind == "refused":
            self.refused.add(_order(fields))
        elif record.kind == "audit":
            self.audits.append(fields["found"])

    def _reserve(self, record: Record, fields: Mapping[str, Any], roster: Roster | None) -> None:
        if roster is None or roster.digest != fields["roster"]:
            raise _Contradiction("names other users than its roster")
        order, spend = _order(fields), Spend(**fields["spend"])
        charged = Reservation(
            id=record.seq,
            run=order.run,
            round=order.round,
            order_digest=order.digest,
            participants=roster.users,
            spend=spend,
            noise=fields["noise"],
            budget=Budget(**fields["budget"]),
            purpose=fields["purpose"],
            # Ledgers from before there was correlated noise do not say it.
            separation=int(fields.get("separation", 1)),
        )
        if self._too_close(charged):
            raise _Contradiction("charges a user again within the separation of the run")
        self.charges.add(roster.users, spend, private=fields["noise"] == "os")
        self._orders.setdefault(order, []).append(record.seq)
        self.times = (fields["at"] if self.times is None else self.times[0], fields["at"])
        # Only a head that was believed: one that was refused is evidence, no history to hold on to.
        if fields["witness"] is not None:
            head = Head.from_dict(fields["witness"])
            self.witnessed.setdefault(head.public_key, {})[head.seq] = head.digest
        if fields["terms"] is not None:
            self._terms[record.seq] = dict(fields["terms"])
        self.reservations[record.seq] = charged
        rounds = self._rounds.setdefault(charged.sequence, {})
        rounds.setdefault(charged.round, []).append(record.seq)
        widest = max(charged.separation, self._widest.get(charged.sequence, 1))
        self._widest[charged.sequence] = widest

    def _settle(self, record: Record, fields: Mapping[str, Any]) -> None:
        paid = self.reservations[fields["reservation"]]
        if paid.reply_digest is not None or paid.aborted is not None:
            raise _Contradiction("settles a reservation for a second time")
        users = paid.participants
        if record.kind == "aborted":
            settled = replace(paid, aborted=fields["reason"])
            if not fields["spent"]:
                self.charges.take_back(users, paid.spend)
                self._rounds[paid.sequence][paid.round].remove(paid.id)
        else:
            settled = replace(paid, reply_digest=fields["reply"])
            realised = fields["realised"]
            if realised is not None and realised < paid.spend.noise_multiplier:
                spend = replace(paid.spend, noise_multiplier=realised)
                self.charges.take_back(users, paid.spend)
                self.charges.add(users, spend, private=paid.noise == "os")
                settled = replace(settled, spend=spend)
        self.reservations[paid.id] = settled


def order_fields(order: Order) -> dict[str, object]:
    """Return an order as a record holds it."""
    return {"run": order.run, "round": order.round, "order": order.digest}


def spend_fields(spend: Spend) -> dict[str, object]:
    """Return a spend as a record holds it."""
    return asdict(spend)


def _order(fields: Mapping[str, Any]) -> Order:
    return Order(run=fields["run"], round=fields["round"], digest=fields["order"])


class _Contradiction(Exception):
    """A record that the ones before it, or its roster, do not allow; why, as the end of one."""
