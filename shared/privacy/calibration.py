"""From what a person asks for to the numbers of a run: delta, noise and the plan."""

import math
from typing import Final

from shared.errors import ConfigError
from shared.privacy.accounting import epsilon as epsilon_after
from shared.privacy.accounting import gaussian_epsilon
from shared.privacy.bands import sensitivity
from shared.privacy.bounds import count, number
from shared.privacy.plan import Plan, PrivacyConfig, Trust, Unit
from shared.privacy.secure_sum.graph import LEAST_DEVICES

__all__ = ["correlated_multiplier", "default_delta", "make_plan", "noise_multiplier"]

CLOSENESS: Final = 0.005
"""How far below its target a calibrated epsilon may lie (a share of it, under epsilon 1)."""

SLACK: Final = 1.0 + 1e-9
"""More noise than is needed, so that no order of summing up the columns exceeds the budget."""


def default_delta(users: int) -> float:
    """Return the largest power of ten at most 1 / (10 users^1.1), and never above 1e-5.

    >>> default_delta(943), default_delta(6040)
    (1e-05, 1e-06)

    Raises:
        ConfigError: `users` is not a whole number of at least 1.
    """
    power = math.floor(-math.log10(10.0 * count("users", users) ** 1.1))
    return float(f"1e{min(power, -5)}")


def noise_multiplier(*, epsilon: float, delta: float, sampling_rate: float, steps: int) -> float:
    """Return the least noise whose `steps` steps stay within (epsilon, delta).

    Args:
        epsilon: Target, for the add-or-remove relation.
        delta: Failure probability.
        sampling_rate: Probability that one unit enters one step.
        steps: Noised steps over the whole run.

    Raises:
        ConfigError: A number is not finite or out of range.

    Guarantees:
        The epsilon of the result is at most the target and within 0.005 of it.
    """
    target, delta = number("epsilon", epsilon), number("delta", delta)
    rate, total = number("sampling_rate", sampling_rate), count("steps", steps)
    # Without amplification more noise is needed, so this is an upper end for any rate.
    enough = math.sqrt(total) / _mu(target, delta)
    if rate == 1.0:
        return enough
    return _least_noise(target=target, delta=delta, rate=rate, steps=total, enough=enough)


def correlated_multiplier(
    *, epsilon: float, delta: float, rounds: int, separation: int, bands: int
) -> float:
    """Return the noise z, in clip norms, with which a whole run stays within (epsilon, delta).

    Args:
        epsilon: Target, add-or-remove.
        delta: Failure probability.
        rounds: Rounds of the run.
        separation: Least distance of two participations, enforced by the device.
        bands: Coefficients of a column, at most `separation`.

    Raises:
        ConfigError: As for `sensitivity`; or epsilon or delta is out of range.
    """
    single = noise_multiplier(epsilon=epsilon, delta=delta, sampling_rate=1.0, steps=1)
    return SLACK * single * sensitivity(rounds=rounds, separation=separation, bands=bands)


def make_plan(
    config: PrivacyConfig,
    *,
    users: int,
    rounds: int,
    cohort: int,
    participations: int,
    sampling_rate: float,
    steps_per_round: int,
    shares: tuple[float, ...] = (),
) -> Plan:
    """Return the plan that gives what `config` asks for.

    Args:
        config: The request.
        users: Size of the population (public).
        rounds: Rounds of the run.
        cohort: Users expected in one round; the public denominator.
        participations: Most rounds that one device takes part in.
        sampling_rate: Probability that one interaction enters one local step.
        steps_per_round: Local steps in one participation. Where a whole user is protected, one
            release leaves a device however it learned: rate and steps of the plan are 1.
        shares: Of the budget by round (`Plan.shares`).

    Where devices keep apart, `participations` is what they allow: the ceiling of rounds over
    separation.

    Raises:
        ConfigError: A number is out of range, the cohort exceeds the population or is too large
            for the separation, or delta is above 1/users.
    """
    count("cohort", cohort, most=count("users", users), why="ask for no more users than there are")
    if config.separation > 1:
        _check_cohort(cohort, users=users, separation=config.separation)
        participations = -(-count("rounds", rounds) // config.separation)
    if config.unit is Unit.USER:
        sampling_rate, steps_per_round = 1.0, 1
    delta, sigma, budget = 0.0, 0.0, math.inf
    if config.unit is not Unit.NONE:
        budget, delta = config.epsilon, _delta(config.delta, users)
        steps = count("participations", participations) * count("steps_per_round", steps_per_round)
        sigma = noise_multiplier(
            epsilon=budget, delta=delta, sampling_rate=sampling_rate, steps=steps
        )
    bands = config.bands or config.separation
    if bands > 1:
        sigma = correlated_multiplier(
            epsilon=budget,
            delta=delta,
            rounds=rounds,
            separation=config.separation,
            bands=bands,
        )
    # Without protection nothing is clipped, so no bound moves.
    moves = config.clip_quantile > 0.0 and config.unit is Unit.USER
    return Plan(
        unit=config.unit,
        trust=config.trust,
        epsilon=budget,
        delta=delta,
        clip_norm=config.clip_norm,
        noise_multiplier=sigma,
        sampling_rate=sampling_rate,
        steps_per_round=steps_per_round,
        participations=participations,
        rounds=rounds,
        expected_cohort=cohort,
        noise=config.noise,
        shares=() if config.unit is Unit.INTERACTION else shares,
        clip_quantile=config.clip_quantile if moves else 0.0,
        clip_share=config.clip_share if moves else 0.0,
        metrics_share=config.metrics_share,
        separation=config.separation,
        bands=bands,
        **_silent(config, cohort),
    )


def _check_cohort(cohort: int, *, users: int, separation: int) -> None:
    """Refuse a cohort after which too few users are left that may take part.

    Raises:
        ConfigError: The users do not last for `separation` rounds.
    """
    if cohort * separation > users:
        largest = math.floor(1e4 / separation) / 1e4
        raise ConfigError(
            f"Expected training.cohort <= {largest:g} with privacy.separation={separation}, found "
            f"{cohort} of {users} users: each of them sits out the {separation - 1} rounds after "
            "the one that it is in."
        )


def _silent(config: PrivacyConfig, cohort: int) -> dict[str, int]:
    """Return how many of a cohort may fall silent or work with the server.

    Colluders are rounded up, so that a small cohort never counts on everyone's honesty.

    Raises:
        ConfigError: Too few of the cohort are left for a sum that the server cannot take apart.
    """
    if config.trust is not Trust.DISTRIBUTED or config.unit is not Unit.USER:
        return {}
    dropouts = math.floor(config.dropouts * cohort)
    colluders = math.ceil(config.colluders * cohort)
    quorum = (cohort + colluders) // 2 + 1
    if cohort < LEAST_DEVICES or cohort - dropouts < quorum:
        raise ConfigError(
            f"Expected a cohort of {LEAST_DEVICES} or more of which {quorum} always answer with "
            f"trust=distributed, found {cohort} less {dropouts}; ask more users, or lower "
            "privacy.dropouts and privacy.colluders."
        )
    return {"dropouts": dropouts, "colluders": colluders}


def _delta(asked: float | None, users: int) -> float:
    """The delta asked for, or the rule's; above 1/users it would allow publishing one user."""
    if asked is None:
        return default_delta(users)
    if asked > 1.0 / users:
        raise ConfigError(
            f"Expected delta <= 1/users = {1.0 / users:.3g}, found {asked:g}; "
            f"leave it out for the default {default_delta(users):g}."
        )
    return asked


def _mu(target: float, delta: float) -> float:
    """Largest GDP parameter within the target, by bisection (kept on the safe side)."""
    low, high = 0.0, 1.0
    while gaussian_epsilon(high, delta) <= target:
        low, high = high, 2.0 * high
    while high - low > 1e-9 * high:
        middle = (low + high) / 2.0
        low, high = (middle, high) if gaussian_epsilon(middle, delta) <= target else (low, middle)
    return low


def _least_noise(*, target: float, delta: float, rate: float, steps: int, enough: float) -> float:
    """Search from an upper end that is always enough; log epsilon is nearly linear in log noise."""

    def spent(noise: float) -> float:
        return epsilon_after(noise_multiplier=noise, sampling_rate=rate, steps=steps, delta=delta)

    slack = CLOSENESS * min(1.0, target)
    little, above = enough, spent(enough)
    below = above
    while above <= target:
        enough, below = little, above
        little /= 2.0
        above = spent(little)
    while below < target - slack:
        floor = max(below, 1e-9)
        share = math.log((target - slack / 2.0) / floor) / math.log(above / floor)
        middle = enough * (little / enough) ** min(max(share, 0.1), 0.9)
        found = spent(middle)
        if found <= target:
            enough, below = middle, found
        else:
            little, above = middle, found
    return enough
