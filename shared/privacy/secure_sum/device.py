"""The device's half of a secure sum: five answers, each given once, in order.

    advertise -> share -> mask -> vote -> unmask

A question asked again gets the same bytes; another question of the same phase, or one out of
order, is refused and changes nothing. A question whose content is wrong closes the device: its
secrets are dropped and the round goes on without it.
"""

from collections.abc import Callable
from typing import TypeVar, cast

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray

from shared.errors import ConfigError, ProtocolError, RunError
from shared.privacy.secure_sum.circle import Circle, advert_text, enough, signed_by_owner
from shared.privacy.secure_sum.keys import (
    DeviceKeys,
    agreed,
    commitment,
    derived,
    mask_key,
    open_sealed,
    seal,
    verified,
)
from shared.privacy.secure_sum.masks import add_mask, subtract_mask
from shared.privacy.secure_sum.messages import (
    Delivery,
    KeyAdvert,
    KeyList,
    MaskedVector,
    Openings,
    Proof,
    SealedShares,
    Survivors,
    Vote,
)
from shared.privacy.secure_sum.session import Session, agreement
from shared.privacy.secure_sum.shamir import SHARE_BYTES, split

__all__ = ["Device"]

Question = KeyList | Delivery | Survivors | Proof
Answer = TypeVar("Answer", KeyAdvert, SealedShares, MaskedVector, Vote, Openings)

PHASES = ("advertise", "share", "mask", "vote", "unmask")


class Device:
    """One device in one sum.

    A device takes part once in a session: who makes a second `Device` for the same run, round and
    identity lets it vote twice. The ledger of the device is what forbids that.

    Args:
        session: Public terms, from a source the device trusts (its own plan and roster).
        number: The device's place in the roster.
        identity: Its long-lived Ed25519 key.

    Raises:
        ConfigError: The identity is not the roster's of that number.

    Guarantees:
        device answers once: a repeated question gets the same bytes, another one is refused.
        device opens one kind: of a neighbour it reveals a share of the seed or of the mask key,
        never both.
        device needs a quorum: without `session.quorum` good votes on what it saw it opens nothing.
        masked vector is uniform to whoever knows neither the self-mask nor one pairwise mask.
    """

    def __init__(self, *, session: Session, number: int, identity: Ed25519PrivateKey) -> None:
        public = identity.public_key().public_bytes_raw()
        if not 0 <= number < len(session.roster) or session.roster[number] != public:
            raise ConfigError(
                "Expected the identity that the roster names; enrol the device first."
            )
        self._session, self._number, self._identity = session, number, identity
        self._keys: DeviceKeys | None = DeviceKeys()
        self._phase = 0
        self._last: tuple[Question | None, object] = (None, None)
        self._channels: dict[int, bytes] = {}
        self._held: dict[int, bytes] = {}
        self._sharers: tuple[int, ...] = ()
        self._survivors: tuple[int, ...] = ()

    def advertise(self) -> KeyAdvert:
        """Return fresh public keys, signed."""
        return self._once(0, None, self._advertise)

    def share(self, keys: KeyList) -> SealedShares:
        """Check the list of keys and seal shares of both secrets to the neighbours.

        Raises:
            ProtocolError: Out of order, or the list lacks or alters the device's own keys, or a
                neighbour's keys are not signed by the roster's identity.
            RunError: The list is shorter than the minimum.
        """
        return self._once(1, keys, lambda: self._share(keys))

    def mask(self, delivery: Delivery, vector: NDArray[np.uint32]) -> MaskedVector:
        """Return the vector under the self-mask and one mask for each neighbour that shared.

        Args:
            delivery: Who shared, and the boxes for this device.
            vector: uint32 [dimension], modulo 2^32.

        Raises:
            ProtocolError: Out of order, or the delivery contradicts itself or the list of keys.
            RunError: Too few devices, or too few neighbours, shared.
        """
        return self._once(2, delivery, lambda: self._mask(delivery, vector))

    def vote(self, survivors: Survivors) -> Vote:
        """Sign what was seen: keys, sharers and survivors.

        Raises:
            ProtocolError: Out of order, or a survivor never shared.
            RunError: There are fewer survivors than the minimum, or some are cut off.
        """
        return self._once(3, survivors, lambda: self._vote(survivors))

    def unmask(self, proof: Proof) -> Openings:
        """Open one share for each neighbour that shared.

        Raises:
            ProtocolError: Out of order.
            RunError: Too few devices voted for what this one saw.
        """
        return self._once(4, proof, lambda: self._unmask(proof))

    def _once(self, phase: int, request: Question | None, answer: Callable[[], Answer]) -> Answer:
        """Give the answer of a phase, or the same one again."""
        if request is not None and request.tag != self._session.tag:
            raise ProtocolError("Expected a message of this session; one of another was refused.")
        if phase == self._phase - 1 and request == self._last[0]:
            return cast("Answer", self._last[1])
        if self._keys is None or phase != self._phase:
            raise ProtocolError(_out_of_order(phase, self._phase, closed=self._keys is None))
        try:
            reply = answer()
        except Exception:
            self._close()
            raise
        self._last, self._phase = (request, reply), phase + 1
        if self._phase == len(PHASES):
            self._forget()
        return reply

    def _close(self) -> None:
        self._last, self._phase = (None, None), len(PHASES) + 1
        self._forget()

    def _forget(self) -> None:
        self._keys = None
        self._channels, self._held = {}, {}

    @property
    def _secrets(self) -> DeviceKeys:
        if self._keys is None:
            raise ProtocolError("Expected an open device; its secrets are gone.")
        return self._keys

    def _advertise(self) -> KeyAdvert:
        mask = self._secrets.mask.public_key().public_bytes_raw()
        channel = self._secrets.channel.public_key().public_bytes_raw()
        bound = commitment(self._secrets.seed)
        text = advert_text(
            self._session, sender=self._number, mask=mask, channel=channel, commitment=bound
        )
        self._advert = KeyAdvert(
            tag=self._session.tag,
            sender=self._number,
            mask=mask,
            channel=channel,
            commitment=bound,
            signature=self._identity.sign(text),
        )
        return self._advert

    def _share(self, keys: KeyList) -> SealedShares:
        circle = self._circle = Circle.of(self._session, keys)
        if circle.adverts.get(self._number) != self._advert:
            raise ProtocolError("Expected this device's own keys in the list; they were altered.")
        joined = circle.graph.neighbours[self._number]
        if not all(signed_by_owner(self._session, circle.adverts[other]) for other in joined):
            raise ProtocolError("Expected every neighbour's keys to be signed by its identity.")
        seeds = split(self._secrets.seed, holders=joined, threshold=circle.graph.threshold)
        private = self._secrets.mask.private_bytes_raw()
        parts = split(private, holders=joined, threshold=circle.graph.threshold)
        channel = self._secrets.channel
        self._channels = {o: agreed(channel, circle.adverts[o].channel) for o in joined}
        boxes = tuple((o, seal(self._box_key(o, sent=True), seeds[o] + parts[o])) for o in joined)
        return SealedShares(tag=self._session.tag, sender=self._number, boxes=boxes)

    def _box_key(self, other: int, *, sent: bool) -> bytes:
        first, second = (self._number, other) if sent else (other, self._number)
        return derived(
            self._channels[other],
            session=self._session.digest,
            purpose="share box",
            first=first,
            second=second,
        )

    def _mask(self, delivery: Delivery, vector: NDArray[np.uint32]) -> MaskedVector:
        peers = self._peers(delivery)
        if vector.dtype != np.uint32 or vector.shape != (self._session.dimension,):
            raise ConfigError(
                f"Expected a vector of {self._session.dimension} words of 32 bits in a secure sum."
            )
        for other, box in delivery.boxes:
            # A box that does not open is a share less; its sender's masks still cancel.
            text = open_sealed(self._box_key(other, sent=False), box)
            if text is not None:
                self._held[other] = text
        total = vector.copy()
        add_mask(total, self._secrets.seed)
        for other in peers:
            key = mask_key(
                self._secrets.mask,
                self._circle.adverts[other].mask,
                session=self._session.digest,
                pair={self._number, other},
            )
            (add_mask if self._number < other else subtract_mask)(total, key)
        return MaskedVector(tag=self._session.tag, sender=self._number, words=total)

    def _peers(self, delivery: Delivery) -> tuple[int, ...]:
        """Return the neighbours that shared, after checking the delivery."""
        sharers, adverts = set(delivery.sharers), self._circle.adverts
        enough(self._session, devices=len(sharers), what="shared their secrets")
        peers = tuple(o for o in self._circle.graph.neighbours[self._number] if o in sharers)
        consistent = (
            delivery.receiver == self._number
            and self._number in sharers
            and sharers <= adverts.keys()
            and tuple(other for other, _ in delivery.boxes) == peers
        )
        if not consistent:
            raise ProtocolError("Expected a box from each neighbour that shared and no other.")
        if len(peers) < self._circle.graph.threshold:
            raise RunError(
                "Expected more neighbours to share their secrets: the device stays out of the "
                "round; invite more devices."
            )
        self._sharers = delivery.sharers
        return peers

    def _vote(self, survivors: Survivors) -> Vote:
        self._circle.check_survivors(self._session, survivors.devices)
        if not set(survivors.devices) <= set(self._sharers):
            raise ProtocolError("Expected survivors among the devices that shared their secrets.")
        self._survivors = survivors.devices
        signature = self._identity.sign(self._agreement())
        return Vote(tag=self._session.tag, sender=self._number, signature=signature)

    def _agreement(self) -> bytes:
        return agreement(
            self._session,
            keys=self._circle.digest,
            sharers=self._sharers,
            survivors=self._survivors,
        )

    def _unmask(self, proof: Proof) -> Openings:
        seen, roster = self._agreement(), self._session.roster
        voters = [v for v in proof.votes if v[0] in self._circle.adverts]
        good = sum(verified(roster[device], seen, vote) for device, vote in voters)
        if good < self._session.quorum:
            raise RunError(
                f"Expected {self._session.quorum} devices to have seen the same round, found "
                f"{good}: nothing is opened; the server may show devices different lists."
            )
        alive = set(self._survivors)
        seeds = [(o, text[:SHARE_BYTES]) for o, text in self._held.items() if o in alive]
        keys = [(o, text[SHARE_BYTES:]) for o, text in self._held.items() if o not in alive]
        return Openings(
            tag=self._session.tag, sender=self._number, seeds=tuple(seeds), keys=tuple(keys)
        )


def _out_of_order(asked: int, expected: int, *, closed: bool) -> str:
    if closed:
        return "Expected nothing more: this device has finished or left the round."
    return f"Expected the phase {PHASES[expected]!r}, found {PHASES[asked]!r}; nothing was done."
