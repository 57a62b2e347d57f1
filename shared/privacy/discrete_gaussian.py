r"""The discrete Gaussian on the integers, sampled exactly: P(x) proportional to exp(-x^2/2s^2).

Rejection as in Canonne, Kamath & Steinke 2020, with a proposal that needs no logarithm. A strip v
is chosen with probability 2^-(v+1), a place u uniformly among the `width` integers of a strip, a
sign by a coin; y = u + width*v is kept with probability 2^v * exp(-y^2/2s^2). The width is at
least s*sqrt(2 ln 2), so that this is never above 1. About half of the proposals are kept.

Exactness is lazy. The comparison of a uniform real with 2^v * exp(-y^2/2s^2) is made in float64
on the first 53 bits of the uniform; the error of the right side is below 2^-49, and wherever the
two lie closer than 2^-45 the comparison is made again on integers and correctly rounded decimals,
with as many further bits of the uniform as it needs. The law is therefore the exact one, with
s^2 the exact rational square of the float `sigma`: nothing has to be added to delta.
"""

import math
from decimal import Decimal, localcontext
from fractions import Fraction
from typing import Final

import numpy as np
from numpy.typing import NDArray

from shared.errors import ConfigError
from shared.privacy.keystream import WordSource

__all__ = ["LARGEST_SIGMA", "SMALLEST_SIGMA", "discrete_gaussian"]

SMALLEST_SIGMA: Final = 0.01
"""Below it every sample is 0."""

LARGEST_SIGMA: Final = 1e6
"""Above it a strip no longer fits the 32 bits its place is drawn from with little waste."""

BLOCK: Final = 1 << 14
"""Proposals made at a time: their scratch stays in the processor's cache."""

WIDTH: Final = 1.1775
"""Strip width in units of sigma; just above sqrt(2 ln 2) = 1.17741."""

DOUBT: Final = 2.0**-45
"""Distance below which the float64 comparison is not trusted."""

LOW: Final = np.uint64(0xFFFFFFFF)
COIN: Final = np.uint64(31)
HALF: Final = np.uint64(32)


def discrete_gaussian(*, size: int, sigma: float, source: WordSource) -> NDArray[np.int64]:
    """Return independent exact samples of the discrete Gaussian centred at 0.

    Args:
        size: Number of samples.
        sigma: The parameter s, 0.01 <= s <= 1e6 (for s above 1 the standard deviation equals it to
            one part in 10^7); the variance used is its exact rational square.
        source: Uniform words; `keystream.OSWords` for protection.

    Returns:
        int64 [size].

    Raises:
        ConfigError: sigma is not finite or out of range.
        OSError: The operating system gives no entropy.

    Guarantees:
        discrete gaussian has the exact law: a doubtful comparison is settled on integers.
    """
    if not SMALLEST_SIGMA <= sigma <= LARGEST_SIGMA:
        raise ConfigError(
            f"Expected {SMALLEST_SIGMA:g} <= sigma <= {LARGEST_SIGMA:g} grid units, found {sigma}; "
            "choose another grid."
        )
    strips = _Strips(sigma)
    samples = np.empty(size, dtype=np.int64)
    filled = 0
    while filled < size:
        wanted = min(BLOCK, 2 * (size - filled) + 64)
        kept = strips.draw(wanted, source)[: size - filled]
        samples[filled : filled + len(kept)] = kept
        filled += len(kept)
    return samples


class _Strips:
    """The proposal of one sigma."""

    def __init__(self, sigma: float) -> None:
        self.twice_variance = 2 * Fraction(sigma) ** 2
        self.width = math.floor(WIDTH * sigma) + 1
        # Below this remainder a place would be drawn more often than others (Lemire 2019).
        self.unfair = np.uint64(2**32 % self.width)
        self.rate = float(1 / self.twice_variance)

    def draw(self, count: int, source: WordSource) -> NDArray[np.int64]:
        """Return the kept ones of `count` proposals."""
        bits = source.words(2 * count)
        shape, uniform = bits[:count], bits[count:]
        places = (shape & LOW) * np.uint64(self.width)
        upper = shape >> HALF
        run = (upper & np.uint64(0x7FFFFFFF)).astype(np.float64)
        strips = 31 - np.frexp(run)[1]
        sizes = (places >> HALF).astype(np.int64) + strips.astype(np.int64) * self.width
        exact = sizes.astype(np.float64)
        bound = np.exp(strips * math.log(2.0) - exact * exact * self.rate)
        gap = bound - (uniform >> np.uint64(11)).astype(np.float64) * 2.0**-53
        keep = gap > 0.0
        for doubtful in np.flatnonzero(np.abs(gap) <= DOUBT):
            sizes[doubtful], keep[doubtful] = self._settle(
                int(sizes[doubtful]), int(strips[doubtful]), int(uniform[doubtful]), source
            )
        negative = (upper >> COIN).astype(np.bool_)
        # Zero has one sign, or it would be twice as likely; a place has to be a fair draw.
        keep &= ((places & LOW) >= self.unfair) & ~(negative & (sizes == 0))
        return np.where(negative, -sizes, sizes)[keep]

    def _settle(self, size: int, strip: int, word: int, source: WordSource) -> tuple[int, bool]:
        """Return the size and whether uniform < 2^strip * exp(-size^2/2s^2), beyond doubt."""
        more = strip == 31  # The run of zeros filled all its bits, so it may go on.
        while more:
            run = int(source.words(1)[0])
            strip, size = _longer(strip, 64 - run.bit_length(), size, self.width)
            more = run == 0
        exponent, bits = size * size / self.twice_variance, 64
        while (answer := _below(word, bits, strip, exponent)) is None:
            word, bits = (word << 64) | int(source.words(1)[0]), bits + 64
        return size, answer


def _longer(strip: int, zeros: int, size: int, width: int) -> tuple[int, int]:
    return strip + zeros, size + zeros * width


def _below(word: int, bits: int, strip: int, exponent: Fraction) -> bool | None:
    """Compare (word + [0, 1)) / 2^bits with 2^strip * exp(-exponent); None if it needs more bits.

    Decimal division and exp are correctly rounded, so the relative error of the right side is
    below (exponent + 10) * 10^(2 - precision).
    """
    with localcontext() as context:
        context.prec = bits // 3 + 40
        plain = Decimal(exponent.numerator) / Decimal(exponent.denominator)
        right = (-plain).exp() * Decimal(2) ** (strip + bits)
        slack = right * (plain + 10) * Decimal(10) ** (2 - context.prec)
        if Decimal(word + 1) <= right - slack:
            return True
        return False if Decimal(word) >= right + slack else None
