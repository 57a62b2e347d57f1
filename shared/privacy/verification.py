"""What a ledger says to somebody who does not trust it: checked, recomputed, compared, forecast.

Nothing here writes, and nothing takes a number from a plan: epsilon comes from the records alone,
by both accountants. `chain` says what a chain alone cannot show; `LIMITS` says it to the reader.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from shared.errors import RunError, VerificationError
from shared.privacy.accounting import TOLERANCE, Spend, epsilon_of, second_opinion
from shared.privacy.chain import Fault, Head, Record, Row, check
from shared.privacy.chainfile import ChainFile
from shared.privacy.charges import Band, Budget
from shared.privacy.statement import Statement

__all__ = [
    "LIMITS",
    "QUANTILES",
    "Reading",
    "Recount",
    "cross_check",
    "holds",
    "read_ledger",
    "recount",
    "rounds_left",
]

QUANTILES: Final = (0.0, 0.25, 0.5, 0.75, 0.9, 1.0)
MOST_ROUNDS: Final = 100_000
"""Where a forecast stops counting."""

DAMAGE: Final = (sqlite3.DatabaseError, UnicodeDecodeError)
"""What SQLite raises on a damaged file; its own message may hold the damage."""

LIMITS: Final = (
    "A changed, deleted, doubled or moved record is found by anyone who has the file.",
    "Records cut off at the end are found only by who kept a later head of the ledger: the result "
    "of the run, or a device that witnessed it.",
    "Whoever holds the ledger's key can write another history from the start; only a head or the "
    "public key, kept by somebody else, shows that.",
    "The ledger says what was reserved and sent; that the noise was really drawn is for an attack "
    "on the run to test, not for its ledger.",
)
"""What a check can and cannot find, and who can."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """A ledger file as it was read.

    Attributes:
        path: The file.
        statement: What its good records come to.
        digests: Digest of each good record, by its place.
        fault: The first bad record; None in a sound ledger.
    """

    path: Path
    statement: Statement = field(repr=False)
    digests: tuple[str, ...] = field(repr=False)
    fault: Fault | None

    @property
    def public_key(self) -> str | None:
        """Whose ledger it says it is."""
        found = self.statement.genesis.get("public_key")
        return None if found is None else str(found)


@dataclass(frozen=True, kw_only=True, slots=True)
class Recount:
    """Epsilon from the records, by two accountants.

    Attributes:
        delta: The failure probability.
        users: Users ever charged.
        epsilon: The largest of any user.
        second_opinion: The other accountant's upper bound on it.
        quantiles: Share of the users, and both opinions on the most that one of them spent.
        private: Whether every draw came from the operating system.
        bands: Users grouped by what they were charged, the least first.
    """

    delta: float
    users: int
    epsilon: float
    second_opinion: float
    quantiles: tuple[tuple[float, float, float], ...]
    private: bool
    bands: tuple[Band, ...] = field(repr=False)

    @property
    def agreed(self) -> bool:
        """Whether the two accountants agree on every quantile."""
        return all(abs(first - second) <= TOLERANCE for _, first, second in self.quantiles)


def read_ledger(path: Path) -> Reading:
    """Read and check a ledger, without a key and without writing.

    Raises:
        RunError: The file cannot be opened, or is no ledger.

    Guarantees:
        A flipped byte is found, or changes nothing that the ledger says.
        The first bad record is named.
    """
    statement = Statement()
    digests: list[str] = []
    with ChainFile(path, readonly=True) as file, file.failing_plainly():
        if not file.begun():
            raise RunError(f"{path} is empty; name a ledger or the directory of a run.")
        fault: Fault | None = None
        for row in _rows(file):
            good, fault = check([row], after=statement.last, public_key=_owner(statement))
            fault = fault or _counted(file, statement, good[0])
            if fault is not None:
                break
            digests.append(good[0].digest)
        fault = fault or _damage(file, len(digests))
    return Reading(path=path, statement=statement, digests=tuple(digests), fault=fault)


def recount(statement: Statement, *, delta: float) -> Recount:
    """Return epsilon of the most charged user and its distribution, by two accountants.

    Raises:
        ConfigError: delta is out of range.
        VerificationError: The second accountant has no answer.
    """
    bands = statement.charges.bands(delta=delta)
    users = sum(band.users for band in bands)
    places = [_band_at(bands, share * users) for share in QUANTILES] if bands else []
    opinions = [(band.epsilon, second_opinion(band.spends, delta=delta)) for band in places]
    return Recount(
        delta=delta,
        users=users,
        epsilon=opinions[-1][0] if opinions else 0.0,
        second_opinion=opinions[-1][1] if opinions else 0.0,
        quantiles=tuple((q, *pair) for q, pair in zip(QUANTILES, opinions, strict=False)),
        private=all(one.noise == "os" for one in statement.reservations.values()),
        bands=tuple(bands),
    )


def rounds_left(spent: Sequence[Spend], *, each: Spend, budget: Budget) -> int:
    """Return how many more rounds like `each` fit into a budget, at most `MOST_ROUNDS`.

    >>> each = Spend(noise_multiplier=5.0, sampling_rate=1.0, steps=1)
    >>> rounds_left((), each=each, budget=Budget(epsilon=3.85, delta=1e-5))
    20
    """

    def fits(times: int) -> bool:
        more = Spend(
            noise_multiplier=each.noise_multiplier,
            sampling_rate=each.sampling_rate,
            steps=times * each.steps,
        )
        return epsilon_of((*spent, more), delta=budget.delta) <= budget.epsilon

    low, high = 0, 1
    while high <= MOST_ROUNDS and fits(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return min(low, MOST_ROUNDS)


def holds(reading: Reading, head: Head) -> str | None:
    """Return why a head is not one of this ledger's, as the end of a sentence; None if it is."""
    if not head.sound or head.public_key != reading.public_key:
        return "is signed by another key than the ledger's"
    if head.seq >= len(reading.digests):
        return (
            f"is record {head.seq}, and the ledger ends with record {len(reading.digests) - 1}: "
            "its last records are gone"
        )
    if reading.digests[head.seq] != head.digest:
        return f"is not record {head.seq} of the ledger: it was written anew"
    return None


def cross_check(server: Reading, device: Reading) -> int:
    """Compare the heads that a device witnessed with the ledger they were said to be of.

    Returns:
        How many heads of this ledger the device holds.

    Raises:
        VerificationError: The device saw a record that the ledger does not have: somebody was
            shown another history.
    """
    seen = device.statement.witnessed.get(server.public_key or "", {})
    for seq, digest in sorted(seen.items()):
        if seq >= len(server.digests) or server.digests[seq] != digest:
            raise VerificationError(
                f"Ledger {server.path} was forked or cut: {device.path} witnessed another record "
                f"{seq}; keep both files."
            )
    return len(seen)


def _rows(file: ChainFile) -> Iterator[Row]:
    """Yield the records; one that the database cannot read is yielded as a damaged one."""
    query = "SELECT seq, body, signature FROM record ORDER BY seq"
    place = 0
    try:
        for seq, body, signature in file.connection.execute(query):
            yield Row(seq=seq, body=body, signature=signature)
            place = seq + 1
    except DAMAGE:
        yield Row(seq=place, body="", signature=b"")


def _counted(file: ChainFile, statement: Statement, record: Record) -> Fault | None:
    """Add a record to the statement, or return what contradicts the ones before it."""
    try:
        roster = file.roster(record.seq)
    except (*DAMAGE, TypeError):
        return Fault(seq=record.seq, why="has a roster that cannot be read")
    return statement.add(record, roster)


def _damage(file: ChainFile, records: int) -> Fault | None:
    """Return what is wrong with the file beside its records."""
    query = "SELECT min(seq) FROM roster WHERE seq NOT IN (SELECT seq FROM record)"
    try:
        (stray,) = file.connection.execute(query).fetchone()
        if stray is not None:
            return Fault(seq=stray, why="is missing, and its roster is there")
        (said,) = file.connection.execute("PRAGMA integrity_check(1)").fetchone()
    except DAMAGE as error:
        said = str(error)
    if said != "ok":
        return Fault(seq=records, why="or what lies behind it in the file is damaged")
    return None if records else Fault(seq=0, why="is missing: the ledger is empty")


def _owner(statement: Statement) -> str | None:
    found = statement.genesis.get("public_key")
    return None if found is None else str(found)


def _band_at(bands: Sequence[Band], rank: float) -> Band:
    """Return the band of the user at a rank in 0 .. users."""
    passed = 0
    for band in bands:
        passed += band.users
        if passed >= rank:
            return band
    return bands[-1]
