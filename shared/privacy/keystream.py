"""Uniform 64-bit words for protective noise, from a stream cipher keyed by the operating system.

Integer noise needs uniform bits, not normal values, so this is the integer sibling of
`shared.randomness.OSNoise`: 256 fresh bits of `os.urandom` for each call, no seed, no state.
A stand-in has `private = False`, and a run that uses one is stamped so.

Source: NIST SP 800-38A (counter mode); AES-256 of the `cryptography` package.
"""

import os
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from shared.randomness import stream

__all__ = ["OSWords", "StandInWords", "WordSource"]


class WordSource(Protocol):
    """Where uniform words come from."""

    private: ClassVar[bool]

    def words(self, size: int) -> NDArray[np.uint64]:
        """Return `size` independent uniform words."""
        ...


class OSWords:
    """Protective words: a keystream under a key of its own for each call.

    Guarantees:
        os words never repeat: two calls share no key.
        os words fail closed: without entropy from the system nothing is drawn.
    """

    private: ClassVar[bool] = True

    def words(self, size: int) -> NDArray[np.uint64]:
        """Return uint64 [size].

        Raises:
            OSError: The operating system gives no entropy.
        """
        from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

        try:
            key = os.urandom(32)
        except (OSError, NotImplementedError) as error:
            raise OSError(
                "The operating system gives no entropy for protective noise, so nothing is "
                "released; wait until its random source is ready and start again."
            ) from error
        cipher = Cipher(algorithms.AES256(key), modes.CTR(bytes(16))).encryptor()
        return np.frombuffer(cipher.update(bytes(8 * size)), dtype=np.uint64)


class StandInWords:
    """Words that repeat themselves: for tests and debugging, never private.

    Args:
        seed: The experiment seed.
        *keys: Name the draw.
    """

    private: ClassVar[bool] = False

    def __init__(self, seed: int, *keys: str | int) -> None:
        self._generator = stream(seed, "stand-in words", *keys)

    def words(self, size: int) -> NDArray[np.uint64]:
        """Return uint64 [size]."""
        return self._generator.integers(0, 2**64, size, dtype=np.uint64)
