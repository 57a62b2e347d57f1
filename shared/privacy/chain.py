"""A chain of records: each names the digest of the one before it, and its own digest is signed.

A record is canonical JSON (sorted keys, no spaces, no NaN) with its place `seq`, the SHA-256 `prev`
of the record before it and its `kind`. The signature of a record is that of the head the chain had
when it was written, so a change is found at the record that was changed, and nobody without the key
can mend the chain behind it.

What `check` cannot see: a chain whose last records are gone is a whole, shorter chain, and whoever
holds the key can write another one from the start. Only a head kept elsewhere shows either (the
result of a run, a device that witnessed it): that is what `Head` is for.

Source: Haber & Stornetta 1991 (linked records); RFC 8032 (Ed25519).
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Protocol, Self

from shared.errors import VerificationError

__all__ = ["ROOT", "Fault", "Head", "Record", "Row", "Signer", "canonical", "check", "seal", "sha"]

ROOT: Final = "0" * 64
"""What the first record names as the digest before it."""

CONTEXT: Final = b"fedrec ledger head 1\0"
"""Keeps a signature of a head from being taken for one of anything else."""


class Signer(Protocol):
    """Who signs: `identity.Identity`."""

    @property
    def public_key(self) -> str:
        """Hex of the public key."""
        ...

    def sign(self, message: bytes) -> bytes:
        """Return the signature of a message."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Head:
    """The end of a chain at some moment, as its owner signed it.

    Attributes:
        seq: Place of the last record, from 0.
        digest: SHA-256 (hex) of the last record, and through it of all before it.
        public_key: Ed25519 public key (hex) of the chain's owner.
        signature: Ed25519 signature (hex) of the digest.
    """

    seq: int
    digest: str
    public_key: str
    signature: str

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> Self:
        """Read what `as_dict` wrote.

        Raises:
            VerificationError: It is not a head.
        """
        try:
            head = cls(**found)
        except TypeError:
            head = None
        if head is None or not isinstance(head.seq, int) or not _texts(head):
            raise VerificationError("What should be a ledger's head is none; ask for it again.")
        return head

    def as_dict(self) -> dict[str, Any]:
        """Return the fields, for JSON."""
        return asdict(self)

    @property
    def sound(self) -> bool:
        """Whether the signature is the owner's."""
        try:
            signature = bytes.fromhex(self.signature)
        except ValueError:
            return False
        return _signed(self.public_key, self.digest, signature)


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A record as it is stored.

    Attributes:
        seq: Its place.
        body: Canonical JSON.
        signature: Ed25519 signature of the body's digest.
    """

    seq: int
    body: str
    signature: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """A record that was checked against its chain.

    Attributes:
        seq: Its place.
        kind: What it is ("genesis", "reserve", "released", ...).
        digest: SHA-256 (hex) of its canonical JSON.
        fields: Everything in it.
    """

    seq: int
    kind: str
    digest: str
    fields: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """The first bad record of a chain.

    Attributes:
        seq: Its place.
        why: What is wrong with it, as the end of a sentence.
    """

    seq: int
    why: str


def canonical(value: Mapping[str, object]) -> str:
    """Return canonical JSON: equal content, equal bytes.

    Raises:
        ValueError: A number is not finite.

    >>> canonical({"b": 1, "a": 0.5})
    '{"a":0.5,"b":1}'
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def sha(data: bytes | str) -> str:
    """Return the SHA-256 of bytes or text, hex."""
    return hashlib.sha256(data.encode() if isinstance(data, str) else data).hexdigest()


def seal(fields: Mapping[str, object], *, seq: int, prev: str, signer: Signer) -> Row:
    """Make the next record of a chain.

    Args:
        fields: What it says; with its `kind`.
        seq: Its place.
        prev: Digest of the record before it.
        signer: The chain's owner.
    """
    body = canonical({**fields, "seq": seq, "prev": prev})
    return Row(seq=seq, body=body, signature=signer.sign(_message(sha(body))))


def check(
    rows: Iterable[Row], *, after: Record | None = None, public_key: str | None = None
) -> tuple[list[Record], Fault | None]:
    """Follow a chain and stop at its first bad record.

    Args:
        rows: Stored records, in the order of their place.
        after: The last record that is known to be good; the whole chain is followed without.
        public_key: Whose chain it has to be; without one, whoever the first record names.

    Returns:
        The good records before the fault, and the fault if there is one.

    Guarantees:
        A record that was altered, deleted, doubled or moved is named by its place.
        A chain under another key is refused where the key is known.
    """
    good: list[Record] = []
    for row in rows:
        expected = 0 if after is None else after.seq + 1
        if row.seq != expected:
            return good, Fault(seq=expected, why="is missing or has another one in its place")
        found = _read(row, ROOT if after is None else after.digest)
        if isinstance(found, Fault):
            return good, found
        public_key = public_key or str(found.fields.get("public_key"))
        if not _signed(public_key, found.digest, row.signature):
            why = "was altered, or signed by another key than the ledger's"
            return good, Fault(seq=row.seq, why=why)
        good.append(found)
        after = found
    return good, None


def _read(row: Row, prev: str) -> Record | Fault:
    """Return the record of a row that stands where it says, behind what it says."""
    try:
        fields = json.loads(row.body)
        whole = isinstance(fields, dict) and canonical(fields) == row.body
    except (ValueError, TypeError, RecursionError):
        whole = False
    if not whole or not isinstance(row.signature, bytes):
        return Fault(seq=row.seq, why="is damaged: it is no canonical JSON")
    if fields.get("seq") != row.seq or isinstance(fields.get("seq"), bool):
        return Fault(seq=row.seq, why="is another record, moved or doubled")
    kind = fields.get("kind")
    if not isinstance(kind, str) or (row.seq == 0) != (kind == "genesis"):
        return Fault(seq=row.seq, why="is of a kind that cannot stand there")
    if fields.get("prev") != prev:
        return Fault(seq=row.seq, why="does not follow the record before it")
    return Record(seq=row.seq, kind=kind, digest=sha(row.body), fields=fields)


def _message(digest: str) -> bytes:
    return CONTEXT + digest.encode()


def _signed(public_key: str, digest: str, signature: bytes) -> bool:
    from shared.privacy.identity import verified

    return verified(public_key, _message(digest), signature)


def _texts(head: Head) -> bool:
    return all(isinstance(t, str) for t in (head.digest, head.public_key, head.signature))
