"""The public terms of one secure sum, which every signature and every key covers."""

import hashlib
import struct
from dataclasses import dataclass, field
from functools import cached_property

from shared.errors import ConfigError
from shared.privacy.bounds import count
from shared.privacy.secure_sum.graph import LEAST_DEVICES

__all__ = ["TAG_BYTES", "Session", "agreement"]

TAG_BYTES = 16
"""Bytes of the session digest that open every message: a replay of another round is seen."""


@dataclass(frozen=True, kw_only=True)
class Session:
    """The terms of one sum.

    Attributes:
        run: Name of the run.
        round: Number of the round; a device takes part once in a (run, round).
        roster: Ed25519 public keys of the enrolled devices invited, 32 bytes each; a device is
            known by its place here.
        dimension: Coordinates of a vector.
        minimum: Fewest vectors in the sum.
        colluders: Most devices of the roster that may work with the server.
        dropouts: Most devices that may fall silent between sharing and unmasking without an abort
            (beyond it the round may abort; nothing is revealed either way).
        terms: Digest of whatever else is agreed (plan, catalogue, state); may be empty.

    Raises:
        ConfigError: A number is out of range, or the minimum is below the quorum of votes.
    """

    run: str
    round: int
    roster: tuple[bytes, ...] = field(repr=False)
    dimension: int
    minimum: int
    colluders: int
    dropouts: int
    terms: bytes = b""

    def __post_init__(self) -> None:
        devices = len(self.roster)
        if len(set(self.roster)) != devices or any(len(key) != 32 for key in self.roster):
            raise ConfigError(
                "Expected a roster of different 32-byte keys; enrol each device once."
            )
        if devices < LEAST_DEVICES:
            raise ConfigError(f"Expected {LEAST_DEVICES} or more devices, found {devices}; wait.")
        count("dimension", self.dimension)
        count("round", self.round + 1)
        for name in ("colluders", "dropouts"):
            if not 0 <= getattr(self, name) < devices / 2:
                raise ConfigError(f"Expected {name} below half of the {devices} devices.")
        count("minimum", self.minimum, most=devices, why="invite more devices")
        if self.minimum < self.quorum:
            raise ConfigError(
                f"Expected minimum >= {self.quorum}, the votes needed among {devices} devices with "
                f"{self.colluders} colluders, found {self.minimum}; raise it."
            )

    @property
    def quorum(self) -> int:
        """Votes on one agreement that leave no room for a second: above (n + colluders) / 2."""
        return (len(self.roster) + self.colluders) // 2 + 1

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of all terms: the context of every signature and every key."""
        numbers = (self.round, self.dimension, self.minimum, self.colluders, self.dropouts)
        parts = (self.run.encode(), struct.pack("<5Q", *numbers), self.terms, *self.roster)
        digest = hashlib.sha256(b"fedrec secure sum 1")
        for part in parts:
            digest.update(struct.pack("<I", len(part)) + part)
        return digest.digest()

    @property
    def tag(self) -> bytes:
        """The first bytes of every message of this session."""
        return self.digest[:TAG_BYTES]


def agreement(
    session: Session, *, keys: bytes, sharers: tuple[int, ...], survivors: tuple[int, ...]
) -> bytes:
    """Return what a vote signs: terms, digest of the key list, who shared, who is in the sum."""
    digest = hashlib.sha256(b"fedrec agreement" + session.digest + keys)
    for numbers in (sharers, survivors):
        digest.update(struct.pack(f"<I{len(numbers)}I", len(numbers), *numbers))
    return digest.digest()
