"""The Gaussian mechanism on a sum: the one place where a noised sum becomes a `Release`.

The caller bounds the sensitivity and names the variance; this file makes sure that every value is
noised. Source: Dwork & Roth 2014, appendix A.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from shared.errors import ConfigError, RunError
from shared.privacy.release import Release
from shared.randomness import NoiseSource

__all__ = ["perturb"]

Array = NDArray[np.float64]


def perturb(
    sums: Mapping[str, Array],
    *,
    variance: Mapping[str, Array | float],
    users: int,
    noise: NoiseSource,
    keys: tuple[str | int, ...] = (),
    paid: Mapping[str, Array] | None = None,
) -> Release:
    """Add Gaussian noise to every value of every tensor and release the result.

    Args:
        sums: Name -> float64 sum over the cohort of contributions whose sensitivity is bounded.
        variance: Name -> variance of the noise in the unit of the sum squared: one number, or an
            array that broadcasts to the tensor (a row's own variance is [rows, 1]).
        users: Users in the cohort.
        noise: Source of the draws.
        keys: Names the draw for stand-in sources.
        paid: Part of the variance that is in the sum already (steps of local training that were
            noised as they were taken), broadcasting like `variance`; only the rest is added.

    Raises:
        ConfigError: A variance is missing, surplus, not finite or not positive, or does not
            broadcast to its tensor; or there is no user.
        RunError: A sum is not finite.

    Guarantees:
        perturb noises every row: no value leaves without noise of the named variance.
        perturb stamps stand-ins: `private` is false unless the noise came from the system.
    """
    if users < 1:
        raise ConfigError(f"Expected users={users} >= 1 in a released sum.")
    if set(sums) != set(variance):
        raise ConfigError(
            f"Expected a noise variance for each of {sorted(sums)}, found {sorted(variance)}."
        )
    noised = {}
    for name, total in sums.items():
        there = 0.0 if paid is None else paid[name]
        deviation = _deviation(name, variance[name], there, shape=total.shape)
        if not np.isfinite(total).all():
            raise RunError(f"Expected a finite sum in tensor {name!r}: nothing was released.")
        noised[name] = total + deviation * noise.gaussian(total.shape, *keys, name)
    return Release(tensors=noised, users=users, private=noise.private)


def _deviation(
    name: str, variance: Array | float, paid: Array | float, *, shape: tuple[int, ...]
) -> Array:
    """Return the standard deviations, float64 of a shape that broadcasts to exactly `shape`."""
    values = np.asarray(variance, dtype=np.float64)
    if not (np.isfinite(values).all() and (values > 0.0).all()):
        raise ConfigError(f"Expected a finite noise variance > 0 for every row of {name!r}.")
    try:
        np.broadcast_to(values, shape)
    except ValueError:
        raise ConfigError(
            f"Expected a noise variance for {name!r} that broadcasts to {shape}, "
            f"found shape {values.shape}."
        ) from None
    rest = values - paid
    if (rest < -1e-9 * values).any():
        raise ConfigError(f"Expected at most the whole noise variance of {name!r} to be paid.")
    return np.sqrt(np.maximum(rest, 0.0))
