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
import operator
import os
from collections.abc import Callable
from typing import ClassVar, Final, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "NOISE_NAMES",
    "NoNoise",
    "NoiseSource",
    "OSNoise",
    "SeededNoise",
    "keyed_uniforms",
    "noise_source",
    "stream",
]

Floats = NDArray[np.float64]

NOISE_NAMES: Final = ("os", "seeded", "off")
"""Names that `noise_source` knows; only the first is private."""

BLOCK: Final = 1 << 15
"""Values made at a time: the scratch of one block stays in the processor's cache."""

ZEROS: Final = memoryview(bytes(8 * BLOCK))
"""What the cipher encrypts: its output is then the bare keystream."""


def stream(root: int, *keys: str | int) -> np.random.Generator:
    """Return the reproducible generator of one named purpose.

    Args:
        root: The experiment seed.
        *keys: The purpose, then whatever distinguishes its draws (round, user, fold).

    Raises:
        TypeError: A key is neither a string nor a whole number (two keys must not fall together).

    >>> int(stream(7, "split", 3).integers(1000)) == int(stream(7, "split", 3).integers(1000))
    True
    """
    plain = tuple(k if isinstance(k, str) else operator.index(k) for k in (root, *keys))
    digest = hashlib.sha256(repr(plain).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest, "little"))


def keyed_uniforms(root: int, purpose: str, *columns: "int | NDArray[np.int64]") -> Floats:
    """Return one reproducible uniform draw in [0, 1) for each row of whole-number columns.

    A draw depends on its own row alone: not on the order of rows, nor on which others there are.
    The columns are folded into a SplitMix64 state (Steele, Lea & Flood 2014) whose start is a
    digest of root and purpose. Never a source of protection.

    Args:
        root: The experiment seed.
        purpose: What is drawn.
        *columns: Whole numbers, or int64 arrays that broadcast together.

    Returns:
        float64 of the broadcast shape.
    """
    digest = hashlib.sha256(repr((operator.index(root), purpose)).encode()).digest()
    state = np.full((1,), int.from_bytes(digest[:8], "little"), dtype=np.uint64)
    for column in columns:
        words = np.atleast_1d(np.asarray(column, dtype=np.int64)).astype(np.uint64)
        state = _mixed(state ^ _mixed(words))
    return np.asarray((state >> np.uint64(11)).astype(np.float64) * 2.0**-53)


def _mixed(words: "NDArray[np.uint64]") -> "NDArray[np.uint64]":
    """Return the SplitMix64 output function of each word (sums wrap around)."""
    words = words + np.uint64(0x9E3779B97F4A7C15)
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(words ^ (words >> np.uint64(31)))


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
        Scratch memory does not grow with the shape: 8 bytes a value, and one block.
    """

    private: ClassVar[bool] = True

    def gaussian(self, shape: tuple[int, ...], *keys: str | int) -> Floats:
        """Return standard normal values (Box-Muller on the keystream).

        Raises:
            OSError: The operating system gives no entropy.
        """
        values = np.empty(shape)
        flat = values.reshape(-1)
        uniforms = _keystream()
        for start in range(0, flat.size, BLOCK):
            part = flat[start : start + BLOCK]
            half = (part.size + 1) // 2
            # 1 - u is exact and lies in [2^-53, 1], so its logarithm is finite.
            radius = np.sqrt(-2.0 * np.log(1.0 - uniforms(half)))
            angle = (2.0 * np.pi) * uniforms(half)
            np.multiply(radius, np.cos(angle), out=part[:half])
            np.multiply(radius[: part.size - half], np.sin(angle)[: part.size - half], part[half:])
        return values

    def coins(self, size: int, rate: float, *keys: str | int) -> NDArray[np.bool_]:
        """Return coins from the keystream; `rate` 1 takes everyone without drawing.

        Raises:
            ValueError: `rate` is no probability.
            OSError: The operating system gives no entropy.
        """
        if _probability(rate) == 1.0:
            return np.ones(size, dtype=np.bool_)
        heads = np.empty(size, dtype=np.bool_)
        uniforms = _keystream()
        for start in range(0, size, BLOCK):
            part = heads[start : start + BLOCK]
            np.less(uniforms(part.size), rate, out=part)
        return heads


def _keystream() -> Callable[[int], Floats]:
    """Return a source of uniforms in [0, 1) under a key of its own."""
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    try:
        key = os.urandom(32)
    except (OSError, NotImplementedError) as error:
        raise OSError(
            "The operating system gives no entropy for protective noise, so nothing is released; "
            "wait until its random source is ready and start again."
        ) from error
    cipher = Cipher(algorithms.AES256(key), modes.CTR(bytes(16))).encryptor()

    def uniforms(size: int) -> Floats:
        words = np.frombuffer(cipher.update(ZEROS[: 8 * size]), dtype=np.uint64)
        return (words >> np.uint64(11)).astype(np.float64) * 2.0**-53

    return uniforms


def _probability(rate: float) -> float:
    if not 0.0 <= rate <= 1.0:
        raise ValueError(f"Expected a coin's rate in 0 .. 1, found {rate}; mend the plan.")
    return rate


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
        return stream(self._seed, "stand-in coins", *keys).random(size) < _probability(rate)


class NoNoise(SeededNoise):
    """A stand-in without noise: coins are reproducible, Gaussians are zero."""

    def gaussian(self, shape: tuple[int, ...], *keys: str | int) -> Floats:
        """Return zeros."""
        return np.zeros(shape)


def noise_source(name: str, seed: int) -> NoiseSource:
    """Return the source called "os", "seeded" or "off"; the seed never reaches "os".

    Raises:
        ValueError: The name is unknown: a misspelt name must not turn the noise off.
    """
    if name == "os":
        return OSNoise()
    if name == "seeded":
        return SeededNoise(seed)
    if name == "off":
        return NoNoise(seed)
    raise ValueError(f"Unknown noise={name}; use one of {', '.join(NOISE_NAMES)}.")
