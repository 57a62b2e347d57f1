"""Two kinds of randomness that never share a source.

*Reproducible* draws (splits, initial weights, negatives, cohorts) come from `stream`, a generator
named by (seed, purpose, ...): the result does not depend on the order of calls or on packing.

*Protective* draws (noise and the coins of subsampling) come from a `NoiseSource`. `OSNoise` is the
only private one: its key is drawn from the operating system for each call, it has no seed
parameter, and it keeps no state that could be saved. `SeededNoise` and `NoNoise` stand in for it
in tests and debugging; a run that uses either is stamped `private: false`.

Source: Mironov 2012 (why floating-point noise leaks in its low bits), Box & Muller 1958.
"""

import hashlib
import os
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["NoNoise", "NoiseSource", "OSNoise", "SeededNoise", "noise_source", "stream"]

Floats = NDArray[np.float64]


def stream(root: int, *keys: str | int) -> np.random.Generator:
    """Return the reproducible generator of one named purpose.

    Args:
        root: The experiment seed.
        *keys: The purpose, then whatever distinguishes its draws (round, user, fold).

    >>> int(stream(7, "split", 3).integers(1000)) == int(stream(7, "split", 3).integers(1000))
    True
    """
    plain = tuple(int(k) if not isinstance(k, str) else k for k in (root, *keys))
    digest = hashlib.sha256(repr(plain).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest, "little"))


class NoiseSource(Protocol):
    """Where protective draws come from. `keys` name a draw and only stand-ins look at them."""

    private: ClassVar[bool]

    def gaussian(self, shape: tuple[int, ...], *keys: str | int) -> Floats:
        """Return standard normal values, float64, of the given shape."""
        ...

    def coins(self, size: int, rate: float, *keys: str | int) -> NDArray[np.bool_]:
        """Return `size` independent coins that are true with probability `rate`."""
        ...


class OSNoise:
    """Protective draws from a stream cipher keyed by the operating system, once per call.

    Guarantees:
        The key is 256 fresh bits of `os.urandom`, used for one call and kept nowhere.
        If the operating system gives no entropy the draw fails: nothing is released.
        Gaussians are computed in float64 from 53-bit uniforms (tail to 8.5 standard deviations).
    """

    private: ClassVar[bool] = True

    def gaussian(self, shape: tuple[int, ...], *keys: str | int) -> Floats:
        """Return standard normal values (Box-Muller on the keystream)."""
        size = int(np.prod(shape, dtype=np.int64))
        half = (size + 1) // 2
        uniforms = self._uniforms(2 * half)
        radius = np.sqrt(-2.0 * np.log1p(-uniforms[:half]))
        angle = (2.0 * np.pi) * uniforms[half:]
        values = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])
        return values[:size].reshape(shape)

    def coins(self, size: int, rate: float, *keys: str | int) -> NDArray[np.bool_]:
        """Return coins from the keystream; `rate` 1 takes everyone without drawing."""
        if rate >= 1.0:
            return np.ones(size, dtype=np.bool_)
        return self._uniforms(size) < rate

    @staticmethod
    def _uniforms(size: int) -> Floats:
        from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

        key = os.urandom(32)
        keystream = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()
        words = np.frombuffer(keystream.update(bytes(8 * size)), dtype=np.uint64)
        return (words >> np.uint64(11)).astype(np.float64) * 2.0**-53


class SeededNoise:
    """A stand-in that repeats itself: for tests and debugging, never private."""

    private: ClassVar[bool] = False

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def gaussian(self, shape: tuple[int, ...], *keys: str | int) -> Floats:
        """Return the reproducible normal draw named by `keys`."""
        return stream(self._seed, "stand-in noise", *keys).standard_normal(shape)

    def coins(self, size: int, rate: float, *keys: str | int) -> NDArray[np.bool_]:
        """Return the reproducible coins named by `keys`."""
        return stream(self._seed, "stand-in coins", *keys).random(size) < rate


class NoNoise(SeededNoise):
    """A stand-in without noise: coins are reproducible, Gaussians are zero."""

    def gaussian(self, shape: tuple[int, ...], *keys: str | int) -> Floats:
        """Return zeros."""
        return np.zeros(shape)


def noise_source(name: str, seed: int) -> NoiseSource:
    """Return the source called "os", "seeded" or "off"; the seed never reaches "os"."""
    if name == "os":
        return OSNoise()
    return SeededNoise(seed) if name == "seeded" else NoNoise(seed)
