"""How many bytes a secure sum costs one device, from the forms of its messages."""

from functools import lru_cache

import numpy as np

from shared.privacy.secure_sum.graph import arranged
from shared.privacy.secure_sum.messages import (
    BOX,
    SIGNATURE,
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
from shared.privacy.secure_sum.session import TAG_BYTES
from shared.privacy.secure_sum.shamir import SHARE_BYTES

__all__ = ["traffic"]


@lru_cache(maxsize=64)
def traffic(*, devices: int, dimension: int, colluders: int, dropouts: int) -> tuple[int, int]:
    """Return the bytes that one device sends and receives when nobody drops out.

    Args:
        devices: Devices in the sum.
        dimension: Coordinates of a vector.
        colluders: Most devices that may work with the server.
        dropouts: Most devices that may fall silent.

    Returns:
        Bytes up and bytes down of the five phases, without the transport's framing.
    """
    everyone = tuple(range(devices))
    graph = arranged(devices=everyone, colluders=colluders, dropouts=dropouts, seed=b"traffic")
    near = graph.neighbours[0]
    tag, sign, words = bytes(TAG_BYTES), bytes(SIGNATURE), np.zeros(0, dtype=np.uint32)
    key = bytes(32)
    boxes = tuple((other, bytes(BOX)) for other in near)
    opened = tuple((other, bytes(SHARE_BYTES)) for other in near)
    advert = KeyAdvert(tag=tag, sender=0, mask=key, channel=key, commitment=key, signature=sign)
    up = (
        advert,
        SealedShares(tag=tag, sender=0, boxes=boxes),
        MaskedVector(tag=tag, sender=0, words=words),
        Vote(tag=tag, sender=0, signature=sign),
        Openings(tag=tag, sender=0, seeds=opened, keys=()),
    )
    body = len(advert.body()) + 4
    down = (
        KeyList(tag=tag, adverts=()),
        Delivery(tag=tag, receiver=0, sharers=everyone, boxes=boxes),
        Survivors(tag=tag, devices=everyone),
        Proof(tag=tag, votes=tuple((other, sign) for other in everyone)),
    )
    sent = sum(len(message.to_bytes()) for message in up) + 4 * dimension
    return sent, sum(len(message.to_bytes()) for message in down) + devices * (body + len(key))
