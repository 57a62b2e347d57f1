"""Shamir's scheme over a prime field that holds any 256 bits (Shamir 1979).

The library at hand shares 128-bit secrets only, a bit at a time; this is the textbook scheme on
Python's integers, with coefficients from the operating system.
"""

import math
import secrets
from collections.abc import Mapping, Sequence
from typing import Final

from shared.errors import ProtocolError

__all__ = ["SECRET_BYTES", "SHARE_BYTES", "join", "split"]

PRIME: Final = 2**256 + 297
"""The least prime above 2^256."""

SECRET_BYTES: Final = 32
SHARE_BYTES: Final = 33


def split(secret: bytes, *, holders: Sequence[int], threshold: int) -> dict[int, bytes]:
    """Return one share of 33 bytes for each holder.

    Args:
        secret: 32 bytes.
        holders: Different device numbers >= 0 (a share's place is its holder's number + 1).
        threshold: Shares that give the secret back, 1 <= threshold <= holders.

    Guarantees:
        fewer shares than the threshold say nothing: the coefficients are uniform in the field.
    """
    if len(secret) != SECRET_BYTES or not 1 <= threshold <= len(set(holders)):
        raise ValueError("Expected a secret of 32 bytes and no higher threshold than holders.")
    coefficients = [secrets.randbelow(PRIME) for _ in range(threshold - 1)]
    coefficients.append(int.from_bytes(secret, "little"))
    return {holder: _value(coefficients, holder + 1) for holder in holders}


def _value(coefficients: Sequence[int], place: int) -> bytes:
    """The polynomial's value; one reduction at the end is cheaper than one for each term."""
    value = 0
    for coefficient in coefficients:
        value = value * place + coefficient
    return (value % PRIME).to_bytes(SHARE_BYTES, "little")


def join(shares: Mapping[int, bytes]) -> bytes:
    """Return the secret of exactly as many shares as the threshold (Lagrange at 0).

    Args:
        shares: Holder's number -> its share.

    Raises:
        ProtocolError: The shares do not lie on a polynomial with a 32-byte secret.
    """
    places = [holder + 1 for holder in shares]
    total = 0
    for place, share in zip(places, shares.values(), strict=True):
        others = [other for other in places if other != place]
        above = math.prod(others)
        below = math.prod(other - place for other in others)
        total += int.from_bytes(share, "little") * above * pow(below, -1, PRIME)
    secret = total % PRIME
    if secret >> (8 * SECRET_BYTES):
        raise ProtocolError("Expected shares of one 32-byte secret; the round is aborted.")
    return secret.to_bytes(SECRET_BYTES, "little")
