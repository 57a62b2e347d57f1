"""The Gaussian mechanism on a sum: the one place where a noised sum becomes a `Release`.

`perturb` makes sure that every value is noised; its caller bounds the sensitivity and names the
variance. `privatise` and `privatise_total` are its two callers for whole users, told apart by who
adds the noise: each device to its own contribution (`trust = local`), or a trusted server once to
the sum (`trust = central`).

Neighbours are populations that differ by one user's data, in one and replaced by nothing in the
other (the zero-out form of add-or-remove): a user's contribution is then a vector of norm at most
`clip_norm` here and zero there, so the sensitivity is `clip_norm` in both modes. A device under
local trust always sends something, so its guarantee hides whether the person's history was behind
it, not that the device took part. Hiding which of two whole histories was behind it (replace-one)
is a stronger claim of twice the sensitivity, and is not made. No sampling is claimed to amplify.

Sources: Dwork & Roth 2014, appendix A; McMahan, Ramage, Talwar & Zhang 2018.
"""

from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from shared.errors import ConfigError, RunError
from shared.privacy.plan import Plan, Trust, Unit
from shared.privacy.release import ClippedUpdate, Release, check_clip, check_entrusted
from shared.randomness import NoiseSource

__all__ = ["ROUNDING", "perturb", "privatise", "privatise_total"]

ROUNDING: Final = 1.0 + 2.0**-20
"""By how much a contribution's norm may exceed the bound after rounding to float32."""

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


def privatise(
    clipped: ClippedUpdate,
    plan: Plan,
    noise: NoiseSource,
    *,
    round: int = 1,
    keys: tuple[str | int, ...] = (),
) -> Release:
    """Let every device add the whole noise to its own clipped contribution (trust local).

    Each device adds Gaussian noise of standard deviation `multiplier(round) * clip_norm` to every
    value of every tensor. Only a cohort's sum leaves, and a sum of n independent Gaussians is one
    Gaussian of n times the variance: a packed cohort makes that one draw.

    Args:
        clipped: Contributions clipped at the plan's bound.
        plan: Protects a user, with trust local.
        noise: Source of the draws.
        round: Whose multiplier is meant, from 1.
        keys: Names the draw for stand-in sources.

    Raises:
        ConfigError: The plan protects another unit, trusts another party or clips elsewhere.

    Guarantees:
        privatise noises every value: with `users` times the variance of one device.
    """
    if (plan.unit, plan.trust) != (Unit.USER, Trust.LOCAL):
        raise ConfigError(
            "Expected unit=user with trust=local for noise on the device, found "
            f"unit={plan.unit} with trust={plan.trust}."
        )
    check_clip(clipped, plan)
    sums = {name: rows.total() for name, rows in clipped.tensors.items()}
    variance = clipped.users * (plan.multiplier(round) * plan.clip_norm) ** 2
    return perturb(
        sums,
        variance=dict.fromkeys(sums, variance),
        users=clipped.users,
        noise=noise,
        keys=keys,
    )


def privatise_total(
    total: Mapping[str, Array],
    *,
    users: int,
    plan: Plan,
    noise: NoiseSource,
    round: int = 1,
    keys: tuple[str | int, ...] = (),
) -> Release:
    """Let a trusted server add the noise, once, to the sum of a round (trust central).

    The standard deviation is `multiplier(round) * clip_norm`, and `ROUNDING` times that, because
    contributions are rounded on their way, before the noise.

    Args:
        total: Name -> float64 sum of validated clipped contributions.
        users: Users in the sum.
        plan: Protects a user, with trust central.
        noise: Source of the draws.
        round: Whose multiplier is meant, from 1.
        keys: Names the draw for stand-in sources.

    Raises:
        ConfigError: The plan protects another unit or trusts another party; or there is no user.
        RunError: A sum is not finite.

    Guarantees:
        privatise total noises once: the variance does not depend on the users in the sum.
    """
    check_entrusted(plan)
    variance = (plan.multiplier(round) * plan.clip_norm * ROUNDING) ** 2
    return perturb(
        total, variance=dict.fromkeys(total, variance), users=users, noise=noise, keys=keys
    )


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
