"""What follows from the list of keys, the same for the server and every device."""

import hashlib
import struct
from dataclasses import dataclass

from shared.errors import ProtocolError, RunError
from shared.privacy.secure_sum.graph import Graph, arranged
from shared.privacy.secure_sum.keys import verified
from shared.privacy.secure_sum.messages import KeyAdvert, KeyList
from shared.privacy.secure_sum.session import Session

__all__ = ["Circle", "advert_text", "enough", "signed_by_owner"]


def advert_text(
    session: Session, *, sender: int, mask: bytes, channel: bytes, commitment: bytes
) -> bytes:
    """Return what a device signs with its keys."""
    text = b"fedrec secure sum keys" + session.digest + struct.pack("<I", sender)
    return text + mask + channel + commitment


def signed_by_owner(session: Session, advert: KeyAdvert) -> bool:
    """Return whether the roster's device of that number signed these keys."""
    text = advert_text(
        session,
        sender=advert.sender,
        mask=advert.mask,
        channel=advert.channel,
        commitment=advert.commitment,
    )
    known = advert.sender < len(session.roster)
    return known and verified(session.roster[advert.sender], text, advert.signature)


def enough(session: Session, *, devices: int, what: str) -> None:
    """Abort the round if too few devices are left.

    Raises:
        RunError: There are fewer than the session's minimum.
    """
    if devices < session.minimum:
        raise RunError(
            f"Expected {session.minimum} or more devices that {what}, found {devices}: the round "
            "is aborted and nothing is revealed; invite more devices."
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Circle:
    """Keys and neighbours of one list.

    Attributes:
        adverts: Device -> its keys.
        digest: SHA-256 of the list: what votes cover and what orders the ring.
        graph: Who masks with whom.
    """

    adverts: dict[int, KeyAdvert]
    digest: bytes
    graph: Graph

    @classmethod
    def of(cls, session: Session, keys: KeyList) -> "Circle":
        """Return the circle of a list.

        Raises:
            RunError: The list is shorter than the minimum.
            ProtocolError: It names a device that is not on the roster.
        """
        enough(session, devices=len(keys.adverts), what="sent keys")
        numbers = tuple(advert.sender for advert in keys.adverts)
        if numbers[-1] >= len(session.roster):
            raise ProtocolError("Expected keys of devices on the roster; enrol the device first.")
        digest = hashlib.sha256(session.digest + keys.to_bytes()).digest()
        graph = arranged(
            devices=numbers,
            colluders=min(session.colluders, len(numbers)),
            dropouts=min(session.dropouts, len(numbers)),
            seed=digest,
        )
        adverts = {advert.sender: advert for advert in keys.adverts}
        return cls(adverts=adverts, digest=digest, graph=graph)

    def check_survivors(self, session: Session, survivors: tuple[int, ...]) -> None:
        """Abort the round if too few survived, or if the others would cut some of them off.

        Raises:
            RunError: The sum would be over fewer devices than was agreed.
        """
        enough(session, devices=len(survivors), what="sent a vector")
        if not self.graph.holds(survivors):
            raise RunError(
                "Expected survivors all around the ring of neighbours: the round is aborted and "
                "nothing is revealed; start it again."
            )
