"""The server's half of a secure sum: collect, close a phase, answer; at the end the sum.

    receive(KeyAdvert)...    keys()        -> the same KeyList for all
    receive(SealedShares)... deliveries()  -> a Delivery for each sharer
    receive(MaskedVector)... survivors()   -> the same Survivors for all
    receive(Vote)...         proof()       -> the same Proof for all
    receive(Openings)...     total()       -> the sum modulo 2^32

A bad message is refused and changes nothing, so the round goes on without its sender. Vectors are
added as they come: memory does not grow with the number of devices, but for their shares. Keys and
votes carry signatures; that a vector, a box or an opening comes from the device it names is for the
transport to say (a false one spoils the sum or ends the round, and reveals nothing).
"""

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from numpy.typing import NDArray

from shared.errors import ProtocolError, RunError
from shared.privacy.secure_sum.circle import Circle, enough, signed_by_owner
from shared.privacy.secure_sum.keys import agreed, commitment, mask_key, verified
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
from shared.privacy.secure_sum.shamir import join

__all__ = ["Server"]

Message = KeyAdvert | SealedShares | MaskedVector | Vote | Openings
KINDS: tuple[type[Message], ...] = (KeyAdvert, SealedShares, MaskedVector, Vote, Openings)


class Server:
    """The server in one sum.

    Args:
        session: Public terms.

    Guarantees:
        total is the plain sum: modulo 2^32, bit for bit, over exactly the survivors.
        server refuses without change: a forged, late, early, foreign or second message.
        server aborts below the thresholds: no sum, not even a partial one, is returned.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._phase = 0
        self._taken: tuple[dict[int, bytes], ...] = tuple({} for _ in KINDS)
        self._adverts: dict[int, KeyAdvert] = {}
        self._boxes: dict[int, dict[int, bytes]] = {}
        self._sum = np.zeros(session.dimension, dtype=np.uint32)
        self._votes: dict[int, bytes] = {}
        self._openings: dict[int, Openings] = {}
        self._sharers: tuple[int, ...] = ()
        self._survivors: tuple[int, ...] = ()

    def receive(self, message: Message) -> None:
        """Take one device's message of the present phase; the same one again is ignored.

        Raises:
            ProtocolError: It is of another session or phase, not allowed from its sender, badly
                signed or addressed, or another message than the sender's first.
        """
        if type(message) not in KINDS:
            raise ProtocolError("Expected a message that devices send in a secure sum.")
        phase, sender = KINDS.index(type(message)), message.sender
        if message.tag != self._session.tag:
            raise ProtocolError("Expected a message of this session; one of another was refused.")
        if phase != self._phase:
            raise ProtocolError("Expected a message of the present phase; it was early or late.")
        if sender not in self._allowed():
            raise ProtocolError("Expected a message of a device that took part so far.")
        taken, digest = self._taken[phase], hashlib.sha256(message.to_bytes()).digest()
        if taken.get(sender, digest) != digest:
            raise ProtocolError("Expected one message of a device in a phase; the second differs.")
        if sender in taken:
            return
        takers: tuple[Callable[[Any], None], ...] = (
            self._take_keys,
            self._take_boxes,
            self._take_vector,
            self._take_vote,
            self._take_openings,
        )
        takers[phase](message)
        taken[sender] = digest

    def _allowed(self) -> Mapping[int, object] | range | tuple[int, ...]:
        """Who may speak: the roster, then who sent keys, then who shared."""
        if self._phase == 0:
            return range(len(self._session.roster))
        return self._adverts if self._phase == 1 else self._sharers

    def _take_keys(self, advert: KeyAdvert) -> None:
        if not signed_by_owner(self._session, advert):
            raise ProtocolError("Expected keys signed by the identity on the roster.")
        # A point of low order would close every neighbour: one device could end the round.
        for key in (advert.mask, advert.channel):
            agreed(X25519PrivateKey.generate(), key)
        self._adverts[advert.sender] = advert

    def _take_boxes(self, shares: SealedShares) -> None:
        if (
            tuple(device for device, _ in shares.boxes)
            != self._circle.graph.neighbours[shares.sender]
        ):
            raise ProtocolError("Expected one box for each neighbour and for no one else.")
        self._boxes[shares.sender] = dict(shares.boxes)

    def _take_vector(self, vector: MaskedVector) -> None:
        if vector.words.size != self._session.dimension:
            raise ProtocolError(f"Expected a vector of {self._session.dimension} words.")
        self._sum += vector.words

    def _take_vote(self, vote: Vote) -> None:
        if not verified(self._session.roster[vote.sender], self._seen, vote.signature):
            raise ProtocolError("Expected a vote on the lists that were sent; it was not counted.")
        self._votes[vote.sender] = vote.signature

    def _take_openings(self, openings: Openings) -> None:
        near, sharers = set(self._circle.graph.neighbours[openings.sender]), set(self._sharers)
        alive = set(self._survivors)
        seeds = {device for device, _ in openings.seeds}
        keys = {device for device, _ in openings.keys}
        if not (seeds <= near & alive and keys <= (near & sharers) - alive):
            raise ProtocolError("Expected shares of neighbours, each of the kind that was asked.")
        self._openings[openings.sender] = openings

    def keys(self) -> KeyList:
        """Close the first phase.

        Raises:
            RunError: Fewer devices than the minimum sent keys.
        """
        self._closing(0)
        adverts = tuple(self._adverts[device] for device in sorted(self._adverts))
        listed = KeyList(tag=self._session.tag, adverts=adverts)
        self._circle = Circle.of(self._session, listed)
        self._phase = 1
        return listed

    def deliveries(self) -> dict[int, Delivery]:
        """Close the second phase; return each sharer's boxes.

        Raises:
            RunError: Fewer devices than the minimum shared.
        """
        self._closing(1)
        enough(self._session, devices=len(self._boxes), what="shared their secrets")
        self._sharers = tuple(sorted(self._boxes))
        self._phase = 2
        return {device: self._delivery(device) for device in self._sharers}

    def _delivery(self, receiver: int) -> Delivery:
        near = self._circle.graph.neighbours[receiver]
        senders = [device for device in near if device in self._boxes]
        return Delivery(
            tag=self._session.tag,
            receiver=receiver,
            sharers=self._sharers,
            boxes=tuple((device, self._boxes[device][receiver]) for device in senders),
        )

    def survivors(self) -> Survivors:
        """Close the third phase.

        Raises:
            RunError: Fewer devices than the minimum sent a vector, or some are cut off.
        """
        self._closing(2)
        self._survivors = tuple(sorted(self._taken[2]))
        self._circle.check_survivors(self._session, self._survivors)
        self._seen = agreement(
            self._session,
            keys=self._circle.digest,
            sharers=self._sharers,
            survivors=self._survivors,
        )
        self._phase = 3
        return Survivors(tag=self._session.tag, devices=self._survivors)

    def proof(self) -> Proof:
        """Close the fourth phase.

        Raises:
            RunError: Fewer devices than the quorum voted.
        """
        self._closing(3)
        if len(self._votes) < self._session.quorum:
            raise RunError(
                f"Expected {self._session.quorum} votes, found {len(self._votes)}: the round is "
                "aborted and nothing is revealed; invite more devices."
            )
        self._phase = 4
        return Proof(tag=self._session.tag, votes=tuple(sorted(self._votes.items())))

    def total(self) -> NDArray[np.uint32]:
        """Close the last phase; return uint32 [dimension], the survivors' sum modulo 2^32.

        Raises:
            RunError: Of some device too few good shares were opened.
        """
        self._closing(4)
        self._phase = 5
        seeds = self._collected("seeds", self._survivors)
        dropped = tuple(device for device in self._sharers if device not in set(self._survivors))
        keys = self._collected("keys", dropped)
        for device, shares in seeds.items():
            bound = self._circle.adverts[device].commitment
            subtract_mask(self._sum, self._secret(shares, _matches_commitment, bound))
        for device, shares in keys.items():
            public = self._circle.adverts[device].mask
            self._take_off(device, self._secret(shares, _matches_key, public))
        return self._sum

    def _collected(self, kind: str, devices: tuple[int, ...]) -> dict[int, dict[int, bytes]]:
        """Return device -> holder -> share; the round ends here if one has too few."""
        shares: dict[int, dict[int, bytes]] = {device: {} for device in devices}
        for holder, openings in self._openings.items():
            for device, share in getattr(openings, kind):
                shares[device][holder] = share
        if any(len(held) < self._circle.graph.threshold for held in shares.values()):
            raise RunError(_too_few_shares())
        return shares

    def _secret(
        self, shares: dict[int, bytes], matches: Callable[[bytes, bytes], bool], public: bytes
    ) -> bytes:
        """Return the secret that fits its public side, trying other holders after a bad share."""
        holders = sorted(shares)
        for turn in range(len(holders)):
            chosen = (holders[turn:] + holders[:turn])[: self._circle.graph.threshold]
            try:
                secret = join({holder: shares[holder] for holder in chosen})
            except ProtocolError:
                continue
            if matches(secret, public):
                return secret
        raise RunError(_too_few_shares())

    def _take_off(self, dropped: int, private: bytes) -> None:
        """Take the masks that survivors share with a dropout off the sum."""
        key, alive = X25519PrivateKey.from_private_bytes(private), set(self._survivors)
        for other in self._circle.graph.neighbours[dropped]:
            if other not in alive:
                continue
            public = self._circle.adverts[other].mask
            mask = mask_key(key, public, session=self._session.digest, pair={dropped, other})
            (subtract_mask if other < dropped else add_mask)(self._sum, mask)

    def _closing(self, phase: int) -> None:
        if phase != self._phase:
            raise ProtocolError("Expected the phases of a secure sum in order; nothing was done.")


def _matches_commitment(seed: bytes, public: bytes) -> bool:
    return commitment(seed) == public


def _matches_key(private: bytes, public: bytes) -> bool:
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw() == public


def _too_few_shares() -> str:
    return (
        "Expected more good shares of every device's masks: the round is aborted and no sum is "
        "revealed; start it again, with more devices."
    )
