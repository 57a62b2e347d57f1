r"""Noise that many devices add together, none of which has to be trusted alone.

Each device adds to its integers a discrete Gaussian N_Z(0, s^2) for each coordinate. What is
released is the sum of all contributions; m of the devices in it are honest.

The statement. Let a person's data be replaced by nothing (the device then contributes zeros and
its noise: zero-out adjacency). Let Delta be the norm bound of `quantisation.Grid`, d the number of
coordinates, r = 4. Then for every delta the sum is (epsilon + 2k, exp(k) * delta)-private, with
epsilon(delta) the exact curve of mu-GDP,

    mu = Delta / sqrt(m * s^2 - r^2),    k = d * (sum_j log((1+e_j)/(1-e_j)) + log((1+e)/(1-e))),
    e_j = 2.1 * exp(-2 pi^2 s^2 j/(j+1)) for j = 1 .. m-1,    e = 2.1 * exp(-2 pi^2 r^2).

T releases, chosen adaptively, compose to mu^2 = sum mu_t^2 and k = sum k_t. As s >= 4 is required,
k is below 10^-50 for any d*m below 10^12: it is far below the rounding error of epsilon, and left
out of it.

The argument, for one coordinate; G_v(x) = exp(-x^2/2v). By Poisson summation, for any real z and
any v >= 1, the sum of G_v(y - z) over all integers y lies in sqrt(2 pi v) * [1 - e, 1 + e] with
e = 2.1 * exp(-2 pi^2 v), whatever z is. (*)
1. Sum of shares (after Kairouz, Liu & Steinke 2021). Completing the square, the
   convolution of N_Z(0, j s^2) and N_Z(0, s^2) at x is G_{(j+1)s^2}(x) times a sum as in (*) with
   v = s^2 j/(j+1), times a constant. So its ratio to N_Z(0, (j+1) s^2), both having mass 1, lies
   within (1+e_j)/(1-e_j) of 1 either way; j = 1 .. m-1 gives N_Z(0, m s^2).
2. Discrete from continuous (after Peikert 2010). Draw Z from the *continuous* normal
   N(0, m s^2 - r^2), then an integer from the discrete Gaussian of parameter r centred at Z. By (*)
   with v = r^2 in the denominator, its law is within (1+e)/(1-e) of N_Z(0, m s^2) either way.
3. Shifting by the integer contributions x commutes with step 2: x + N_Z centred at Z is N_Z centred
   at x + Z. So up to a factor exp(k) of every probability, the release is post-processing of the
   continuous Gaussian mechanism x + N(0, m s^2 - r^2): mu-GDP with the mu above (Dong, Roth & Su
   2019). A law within exp(+-k) of an (epsilon, delta)-private one is (epsilon + 2k, e^k delta)-
   private. Reduction modulo 2^32 and scaling are post-processing; rounding came before Delta.

Against other accounting: zero-concentrated DP gives rho = Delta^2/(2 m s^2) (Canonne, Kamath &
Steinke 2020), the same noise at a looser epsilon (3.25 for 3.00 at delta 1e-5).

What it rests on: m counts honest devices whose noise is in the sum, so colluders are subtracted
from the survivors (`Session.minimum - Session.colluders` at least); the sum must really be all that
the server sees (`secure_sum`).
"""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from shared.errors import ConfigError, RunError
from shared.privacy.bounds import count, number
from shared.privacy.discrete_gaussian import LARGEST_SIGMA, discrete_gaussian
from shared.privacy.keystream import WordSource
from shared.privacy.quantisation import BITS, Grid, bits_needed, quantise, signed, wrap

__all__ = ["SMOOTHING", "NoiseShares", "smoothing_slack", "sum_slack"]

SMOOTHING: Final = 4.0
"""r: what is subtracted, squared, from the variance for the continuous noise to be dominated."""


def sum_slack(deviation: float, shares: int) -> float:
    """Bound the log-ratio of a sum of shares to one discrete Gaussian (step 1), a coordinate.

    Args:
        deviation: Parameter s of one share, grid units, at least sqrt(2).
        shares: Number of shares, m.
    """
    orders = np.arange(1, shares) / np.arange(2, shares + 1)
    errors = 2.1 * np.exp(-2.0 * np.pi**2 * deviation**2 * orders)
    return float(np.sum(np.log1p(errors) - np.log1p(-errors)))


def smoothing_slack(width: float) -> float:
    """Bound the log-ratio of a discrete Gaussian to a rounded continuous one (step 2).

    Args:
        width: r, grid units, at least 1.
    """
    error = 2.1 * math.exp(-2.0 * math.pi**2 * width**2)
    return math.log1p(error) - math.log1p(-error)


@dataclass(frozen=True, kw_only=True, slots=True)
class NoiseShares:
    """The public plan of noise in one masked sum.

    Attributes:
        grid: The lattice of contributions.
        noise_multiplier: What the sum has when exactly `minimum` honest devices are in it, in units
            of the grid's sensitivity: a Gaussian mechanism of this multiplier is at least as leaky.
        minimum: Fewest honest devices in the sum, colluders and dropouts subtracted.
        devices: Most devices in the sum.

    Raises:
        ConfigError: A number is out of range, the share is too small or too large for the grid, or
            the sum could wrap around.
    """

    grid: Grid
    noise_multiplier: float
    minimum: int
    devices: int

    def __post_init__(self) -> None:
        multiplier = number("noise_multiplier", self.noise_multiplier)
        object.__setattr__(self, "noise_multiplier", multiplier)
        object.__setattr__(self, "devices", count("devices", self.devices))
        why = "the honest survivors are among the devices"
        least = count("minimum", self.minimum, most=self.devices, why=why)
        object.__setattr__(self, "minimum", least)
        if not SMOOTHING <= self.deviation <= LARGEST_SIGMA:
            raise ConfigError(
                f"Expected a noise share of {SMOOTHING:g} to {LARGEST_SIGMA:g} grid units, found "
                f"{self.deviation:g}; change the grid's resolution."
            )
        bits = bits_needed(
            devices=self.devices,
            grid=self.grid,
            deviation=self.deviation * math.sqrt(self.devices),
        )
        if bits > BITS:
            raise ConfigError(
                f"Expected sums of at most {BITS} bits, found {bits}; use a coarser grid."
            )

    @property
    def deviation(self) -> float:
        """Parameter s of one device's share, grid units."""
        needed = (self.noise_multiplier * self.grid.sensitivity) ** 2 + SMOOTHING**2
        return math.sqrt(needed / self.minimum) * (1.0 + 1e-12)

    def realised(self, honest: int) -> float:
        """Return the noise multiplier of a sum with this many honest devices: the ledger's entry.

        Raises:
            RunError: There are fewer than the minimum.

        Guarantees:
            realised noise counts the shares: the variance grows with the honest devices.
        """
        if honest < self.minimum:
            raise RunError(
                f"Expected at least {self.minimum} honest devices in the sum, found {honest}: the "
                "noise would be below the plan, so the round is aborted."
            )
        variance = honest * self.deviation**2 - SMOOTHING**2
        return math.sqrt(variance) / self.grid.sensitivity

    def slack(self, honest: int) -> float:
        """Return k of the statement above: what the argument loses besides r^2."""
        lost = sum_slack(self.deviation, honest) + smoothing_slack(SMOOTHING)
        return self.grid.dimension * lost

    def contribution(
        self, values: NDArray[np.float64], *, source: WordSource
    ) -> NDArray[np.uint32]:
        """Clip, round and noise one device's contribution; what is masked next.

        Args:
            values: float64 [dimension], any norm.
            source: `keystream.OSWords` for protection.

        Returns:
            uint32 [dimension], modulo 2^32.

        Raises:
            ConfigError: The shape is another.
            OSError: The operating system gives no entropy.

        Guarantees:
            contribution noises every coordinate, touched or not.
        """
        integers = quantise(values, grid=self.grid, source=source)
        share = discrete_gaussian(size=len(integers), sigma=self.deviation, source=source)
        return wrap(integers + share)

    def estimate(self, total: NDArray[np.uint32]) -> NDArray[np.float64]:
        """Return the noised sum of contributions in their own unit, float64 [dimension]."""
        return np.asarray(signed(total) * self.grid.step, dtype=np.float64)
