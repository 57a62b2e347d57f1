"""What travels in a secure sum: frozen messages, bytes of strict length and one spelling each.

Every message opens with its kind, the version and the tag of its session, so a message of another
round, another kind or another version is refused before anything else is read. Numbers are
little-endian; lists are sorted by device and name nobody twice.
"""

import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import ClassVar, Final, Self

import numpy as np
from numpy.typing import NDArray

from shared.errors import ProtocolError
from shared.privacy.secure_sum.keys import SEAL_BYTES
from shared.privacy.secure_sum.session import TAG_BYTES
from shared.privacy.secure_sum.shamir import SHARE_BYTES

__all__ = [
    "BOX",
    "SIGNATURE",
    "Delivery",
    "KeyAdvert",
    "KeyList",
    "MaskedVector",
    "Openings",
    "Proof",
    "SealedShares",
    "Survivors",
    "Vote",
]

VERSION: Final = 1
KEY, SIGNATURE, BOX = 32, 64, 2 * SHARE_BYTES + SEAL_BYTES

Pairs = tuple[tuple[int, bytes], ...]
"""(device, bytes of the length that the message fixes), sorted by device."""


class _Reader:
    """Takes a message apart; whatever is missing or left over is an error."""

    def __init__(self, raw: bytes, kind: int) -> None:
        self._raw, self._at = raw, 0
        if self.take(2) != bytes((kind, VERSION)):
            raise ProtocolError("Expected another kind or version of secure-sum message.")

    def take(self, size: int) -> bytes:
        part = self._raw[self._at : self._at + size]
        if len(part) != size:
            raise ProtocolError("Expected a longer secure-sum message; it was cut short.")
        self._at += size
        return part

    def number(self) -> int:
        return int.from_bytes(self.take(4), "little")

    def numbers(self) -> tuple[int, ...]:
        size = self.number()
        return struct.unpack(f"<{size}I", self.take(4 * size))

    def pairs(self, size: int) -> Pairs:
        body, width = self.take(self.number() * (4 + size)), 4 + size
        parts = (body[at : at + width] for at in range(0, len(body), width))
        return tuple((int.from_bytes(part[:4], "little"), part[4:]) for part in parts)

    def end(self) -> None:
        if self._at != len(self._raw):
            raise ProtocolError("Expected a shorter secure-sum message; bytes are left over.")


def _head(kind: int, tag: bytes) -> bytes:
    return bytes((kind, VERSION)) + tag


def _number(value: int) -> bytes:
    return value.to_bytes(4, "little")


def _numbers(values: tuple[int, ...]) -> bytes:
    return struct.pack(f"<{len(values) + 1}I", len(values), *values)


def _pairs(pairs: Pairs) -> bytes:
    parts = [_number(len(pairs))]
    for device, part in pairs:
        parts += (_number(device), part)
    return b"".join(parts)


def _check(*, fixed: Iterable[tuple[bytes, int]] = (), rising: Iterable[int] = ()) -> None:
    """Refuse a field of another length and a list that is unsorted or names a device twice."""
    if any(len(part) != size for part, size in fixed):
        raise ProtocolError("Expected fields of the lengths that a secure-sum message fixes.")
    if any(low >= high for low, high in pairwise(rising)):
        raise ProtocolError("Expected devices in rising order, none twice, in a secure sum.")


@dataclass(frozen=True, kw_only=True, slots=True)
class KeyAdvert:
    """Phase 1 up: fresh public keys and a commitment to the self-mask, signed by the device."""

    KIND: ClassVar[int] = 1
    SIZE: ClassVar[int] = 3 * KEY + SIGNATURE
    tag: bytes
    sender: int
    mask: bytes
    channel: bytes
    commitment: bytes
    signature: bytes

    def __post_init__(self) -> None:
        sizes = ((self.tag, TAG_BYTES), (self.mask, KEY), (self.channel, KEY))
        _check(fixed=(*sizes, (self.commitment, KEY), (self.signature, SIGNATURE)))

    def body(self) -> bytes:
        """Return all but the head and the sender."""
        return self.mask + self.channel + self.commitment + self.signature

    @classmethod
    def parsed(cls, tag: bytes, sender: int, body: bytes) -> Self:
        """Return the advert of a sender from its body."""
        cuts = (body[:KEY], body[KEY : 2 * KEY], body[2 * KEY : 3 * KEY], body[3 * KEY :])
        mask, channel, commitment, signature = cuts
        return cls(
            tag=tag,
            sender=sender,
            mask=mask,
            channel=channel,
            commitment=commitment,
            signature=signature,
        )

    def to_bytes(self) -> bytes:
        """Return the wire form."""
        return _head(self.KIND, self.tag) + _number(self.sender) + self.body()

    @classmethod
    def from_bytes(cls, raw: bytes) -> Self:
        """Read the wire form; ProtocolError if it is not one."""
        reader = _Reader(raw, cls.KIND)
        advert = cls.parsed(reader.take(TAG_BYTES), reader.number(), reader.take(cls.SIZE))
        reader.end()
        return advert


@dataclass(frozen=True, kw_only=True, slots=True)
class KeyList:
    """Phase 1 down, the same for all: every advert that came, sorted by sender."""

    KIND: ClassVar[int] = 2
    tag: bytes
    adverts: tuple[KeyAdvert, ...]

    def __post_init__(self) -> None:
        _check(fixed=((self.tag, TAG_BYTES),), rising=(a.sender for a in self.adverts))
        if any(advert.tag != self.tag for advert in self.adverts):
            raise ProtocolError("Expected keys of one session in one list.")

    def to_bytes(self) -> bytes:
        """Return the wire form."""
        pairs = tuple((advert.sender, advert.body()) for advert in self.adverts)
        return _head(self.KIND, self.tag) + _pairs(pairs)

    @classmethod
    def from_bytes(cls, raw: bytes) -> Self:
        """Read the wire form; ProtocolError if it is not one."""
        reader = _Reader(raw, cls.KIND)
        tag, pairs = reader.take(TAG_BYTES), reader.pairs(KeyAdvert.SIZE)
        reader.end()
        return cls(tag=tag, adverts=tuple(KeyAdvert.parsed(tag, *pair) for pair in pairs))


@dataclass(frozen=True, kw_only=True, slots=True)
class SealedShares:
    """Phase 2 up: for each neighbour a box with one share of the seed and one of the mask key."""

    KIND: ClassVar[int] = 3
    tag: bytes
    sender: int
    boxes: Pairs

    def __post_init__(self) -> None:
        fixed = ((self.tag, TAG_BYTES), *((box, BOX) for _, box in self.boxes))
        _check(fixed=fixed, rising=(device for device, _ in self.boxes))

    def to_bytes(self) -> bytes:
        """Return the wire form."""
        return _head(self.KIND, self.tag) + _number(self.sender) + _pairs(self.boxes)

    @classmethod
    def from_bytes(cls, raw: bytes) -> Self:
        """Read the wire form; ProtocolError if it is not one."""
        reader = _Reader(raw, cls.KIND)
        tag, sender, boxes = reader.take(TAG_BYTES), reader.number(), reader.pairs(BOX)
        reader.end()
        return cls(tag=tag, sender=sender, boxes=boxes)


@dataclass(frozen=True, kw_only=True, slots=True)
class Delivery:
    """Phase 2 down, one for each device: who shared at all, and the boxes for this device."""

    KIND: ClassVar[int] = 4
    tag: bytes
    receiver: int
    sharers: tuple[int, ...]
    boxes: Pairs

    def __post_init__(self) -> None:
        fixed = ((self.tag, TAG_BYTES), *((box, BOX) for _, box in self.boxes))
        _check(fixed=fixed, rising=self.sharers)
        _check(rising=(device for device, _ in self.boxes))

    def to_bytes(self) -> bytes:
        """Return the wire form."""
        head = _head(self.KIND, self.tag) + _number(self.receiver)
        return head + _numbers(self.sharers) + _pairs(self.boxes)

    @classmethod
    def from_bytes(cls, raw: bytes) -> Self:
        """Read the wire form; ProtocolError if it is not one."""
        reader = _Reader(raw, cls.KIND)
        tag, receiver, sharers = reader.take(TAG_BYTES), reader.number(), reader.numbers()
        boxes = reader.pairs(BOX)
        reader.end()
        return cls(tag=tag, receiver=receiver, sharers=sharers, boxes=boxes)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class MaskedVector:
    """Phase 3 up: uint32 [d], uniform to whoever does not know the masks."""

    KIND: ClassVar[int] = 5
    tag: bytes
    sender: int
    words: NDArray[np.uint32] = field(repr=False)

    def __post_init__(self) -> None:
        _check(fixed=((self.tag, TAG_BYTES),))
        if self.words.dtype != np.uint32 or self.words.ndim != 1:
            raise ProtocolError("Expected one flat vector of 32-bit words in a secure sum.")

    def to_bytes(self) -> bytes:
        """Return the wire form."""
        head = _head(self.KIND, self.tag) + _number(self.sender) + _number(self.words.size)
        return head + self.words.astype("<u4", copy=False).tobytes()

    @classmethod
    def from_bytes(cls, raw: bytes) -> Self:
        """Read the wire form; ProtocolError if it is not one."""
        reader = _Reader(raw, cls.KIND)
        tag, sender, body = (
            reader.take(TAG_BYTES),
            reader.number(),
            reader.take(4 * reader.number()),
        )
        reader.end()
        words = np.frombuffer(body, dtype="<u4").astype(np.uint32, copy=False)
        return cls(tag=tag, sender=sender, words=words)


@dataclass(frozen=True, kw_only=True, slots=True)
class Survivors:
    """Phase 3 down, the same for all: whose vectors are in the sum."""

    KIND: ClassVar[int] = 6
    tag: bytes
    devices: tuple[int, ...]

    def __post_init__(self) -> None:
        _check(fixed=((self.tag, TAG_BYTES),), rising=self.devices)

    def to_bytes(self) -> bytes:
        """Return the wire form."""
        return _head(self.KIND, self.tag) + _numbers(self.devices)

    @classmethod
    def from_bytes(cls, raw: bytes) -> Self:
        """Read the wire form; ProtocolError if it is not one."""
        reader = _Reader(raw, cls.KIND)
        tag, devices = reader.take(TAG_BYTES), reader.numbers()
        reader.end()
        return cls(tag=tag, devices=devices)


@dataclass(frozen=True, kw_only=True, slots=True)
class Vote:
    """Phase 4 up: the device's signature on what it saw (`session.agreement`)."""

    KIND: ClassVar[int] = 7
    tag: bytes
    sender: int
    signature: bytes

    def __post_init__(self) -> None:
        _check(fixed=((self.tag, TAG_BYTES), (self.signature, SIGNATURE)))

    def to_bytes(self) -> bytes:
        """Return the wire form."""
        return _head(self.KIND, self.tag) + _number(self.sender) + self.signature

    @classmethod
    def from_bytes(cls, raw: bytes) -> Self:
        """Read the wire form; ProtocolError if it is not one."""
        reader = _Reader(raw, cls.KIND)
        tag, sender, signature = reader.take(TAG_BYTES), reader.number(), reader.take(SIGNATURE)
        reader.end()
        return cls(tag=tag, sender=sender, signature=signature)


@dataclass(frozen=True, kw_only=True, slots=True)
class Proof:
    """Phase 4 down, the same for all: votes, as (device, signature)."""

    KIND: ClassVar[int] = 8
    tag: bytes
    votes: Pairs

    def __post_init__(self) -> None:
        fixed = ((self.tag, TAG_BYTES), *((vote, SIGNATURE) for _, vote in self.votes))
        _check(fixed=fixed, rising=(device for device, _ in self.votes))

    def to_bytes(self) -> bytes:
        """Return the wire form."""
        return _head(self.KIND, self.tag) + _pairs(self.votes)

    @classmethod
    def from_bytes(cls, raw: bytes) -> Self:
        """Read the wire form; ProtocolError if it is not one."""
        reader = _Reader(raw, cls.KIND)
        tag, votes = reader.take(TAG_BYTES), reader.pairs(SIGNATURE)
        reader.end()
        return cls(tag=tag, votes=votes)


@dataclass(frozen=True, kw_only=True, slots=True)
class Openings:
    """Phase 5 up: one share for each neighbour, of its seed *or* of its mask key.

    Attributes:
        tag: The session's tag.
        sender: Who held the shares.
        seeds: (survivor, share of its self-mask seed).
        keys: (dropout, share of its mask key).
    """

    KIND: ClassVar[int] = 9
    tag: bytes
    sender: int
    seeds: Pairs
    keys: Pairs

    def __post_init__(self) -> None:
        shares = ((share, SHARE_BYTES) for _, share in (*self.seeds, *self.keys))
        _check(fixed=((self.tag, TAG_BYTES), *shares), rising=(device for device, _ in self.seeds))
        _check(rising=(device for device, _ in self.keys))
        if {device for device, _ in self.seeds} & {device for device, _ in self.keys}:
            raise ProtocolError("Expected one kind of share of a device, never both.")

    def to_bytes(self) -> bytes:
        """Return the wire form."""
        head = _head(self.KIND, self.tag) + _number(self.sender)
        return head + _pairs(self.seeds) + _pairs(self.keys)

    @classmethod
    def from_bytes(cls, raw: bytes) -> Self:
        """Read the wire form; ProtocolError if it is not one."""
        reader = _Reader(raw, cls.KIND)
        tag, sender = reader.take(TAG_BYTES), reader.number()
        seeds, keys = reader.pairs(SHARE_BYTES), reader.pairs(SHARE_BYTES)
        reader.end()
        return cls(tag=tag, sender=sender, seeds=seeds, keys=keys)
