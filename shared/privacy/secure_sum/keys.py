"""Fresh keys of one device for one sum, what they agree on in pairs, and its signatures.

Two X25519 pairs: the mask pair gives the pairwise masks and is itself shared, so that a dropout's
masks can be taken off; the channel pair seals the shares and is never revealed. Each agreement
goes through HKDF-SHA256 whose info names the session, the purpose and the two devices.
"""

import hashlib
import secrets
import struct
from functools import lru_cache

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from shared.errors import ProtocolError

__all__ = [
    "SEAL_BYTES",
    "DeviceKeys",
    "agreed",
    "commitment",
    "derived",
    "mask_key",
    "open_sealed",
    "seal",
    "verified",
]

SEAL_BYTES = 16
"""What sealing adds to a text."""

ONCE = bytes(12)
"""Nonce of the boxes: each key seals one box."""


class DeviceKeys:
    """Secrets of one device for one sum: two private keys and the seed of its self-mask."""

    __slots__ = ("channel", "mask", "seed")

    def __init__(self) -> None:
        self.channel = X25519PrivateKey.generate()
        self.mask = X25519PrivateKey.generate()
        self.seed = secrets.token_bytes(32)


def commitment(seed: bytes) -> bytes:
    """Return what binds a device to its self-mask before anyone sees it."""
    return hashlib.sha256(b"fedrec self-mask" + seed).digest()


def agreed(private: X25519PrivateKey, public: bytes) -> bytes:
    """Return the X25519 secret of a private key and another's public one.

    Raises:
        ProtocolError: The public key is a point of low order.
    """
    try:
        return private.exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError as error:
        raise ProtocolError(
            "Expected a valid X25519 key of a neighbour; leave the device out and start again."
        ) from error


def derived(secret: bytes, *, session: bytes, purpose: str, first: int, second: int) -> bytes:
    """Return the 32-byte key of one purpose: HKDF-SHA256 of what two devices agreed on.

    Args:
        secret: Their X25519 secret.
        session: Digest of the session.
        purpose: What the key is for.
        first: The device that both ends name first.
        second: The device that both ends name second.
    """
    info = session + struct.pack("<2I", first, second) + purpose.encode()
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=info).derive(secret)


def mask_key(private: X25519PrivateKey, public: bytes, *, session: bytes, pair: set[int]) -> bytes:
    """Return the key of the mask that two devices share; the lower number adds it."""
    first, second = sorted(pair)
    secret = agreed(private, public)
    return derived(secret, session=session, purpose="pair mask", first=first, second=second)


def seal(key: bytes, text: bytes) -> bytes:
    """Encrypt and authenticate under a key that seals nothing else."""
    return ChaCha20Poly1305(key).encrypt(ONCE, text, None)


def open_sealed(key: bytes, box: bytes) -> bytes | None:
    """Return what was sealed, or None if the box was not made with this key."""
    try:
        return ChaCha20Poly1305(key).decrypt(ONCE, box, None)
    except InvalidTag:
        return None


@lru_cache(maxsize=1 << 14)
def verified(identity: bytes, message: bytes, signature: bytes) -> bool:
    """Return whether an Ed25519 signature is good.

    Cached: where one process holds many devices, each signature is checked once for all of them.
    """
    try:
        Ed25519PublicKey.from_public_bytes(identity).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True
