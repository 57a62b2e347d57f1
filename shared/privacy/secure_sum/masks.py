"""Keystreams on vectors: added by one device, taken off by its neighbour or by the server.

AES-256 in counter mode under a key used once, so the counter starts at zero. A block at a time, so
that keystream and sum stay in the processor's cache.
"""

from typing import Final

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

__all__ = ["add_mask", "subtract_mask"]

BLOCK: Final = 1 << 16
"""Bytes of keystream made at a time."""

ZEROS: Final = memoryview(bytes(BLOCK))
NONCE: Final = bytes(16)


def add_mask(total: NDArray[np.uint32], key: bytes) -> None:
    """Add the keystream of a 32-byte key to uint32 [d], modulo 2^32, in place.

    Guarantees:
        masks cancel: adding and subtracting the mask of one key changes no bit.
    """
    _apply(np.add, total, key)


def subtract_mask(total: NDArray[np.uint32], key: bytes) -> None:
    """Take the keystream of a 32-byte key from uint32 [d], modulo 2^32, in place."""
    _apply(np.subtract, total, key)


def _apply(operation: np.ufunc, total: NDArray[np.uint32], key: bytes) -> None:
    cipher = Cipher(algorithms.AES256(key), modes.CTR(NONCE)).encryptor()
    scratch = np.empty(BLOCK + 16, dtype=np.uint8)  # The cipher asks for room of one block more.
    room, stream = scratch.data, scratch[:BLOCK].view("<u4")
    for start in range(0, total.size, BLOCK // 4):
        part = total[start : start + BLOCK // 4]
        cipher.update_into(ZEROS[: 4 * part.size], room)
        operation(part, stream[: part.size], out=part)
