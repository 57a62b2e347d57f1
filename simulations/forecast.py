"""What a run will cost before it runs: its plan, and the plans beside it.

Only the number of users and items of the data set is used; nothing is learned, spent or written.
"""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from server.census import Census
from server.terms import settle
from shared.algorithms.base import Algorithm
from shared.config import Settings
from shared.data.splits import split
from shared.errors import ConfigError, VerificationError
from shared.privacy.accounting import agree
from shared.privacy.distributed import Layout
from shared.privacy.plan import Plan, Trust, Unit
from shared.privacy.secure_sum.traffic import traffic
from shared.protocol import wire_type
from simulations.display import Display
from simulations.run import load_dataset

__all__ = ["forecast"]


def forecast(*, settings: Settings, display: Display) -> dict[str, Any]:
    """Return the plan of a run, and its alternatives.

    Args:
        settings: Of the run.
        display: Where notices about the data are shown.

    Returns:
        "users" and "items" that would learn, "plan", and "alternatives" by name: the other trust
        modes that are available, half and twice the rounds. Each is the fields of a `Plan`, the
        two accountants' epsilon, the bytes of tensors that one device sends and receives, and
        "noise_of_mean": standard deviation of a round's noise in the mean contribution, in clip
        norms, and "noise_of_iterate", that of the means of all rounds so far: its rms over the
        rounds.

    Raises:
        InputError: Settings or data cannot be used.
        VerificationError: The two accountants disagree on the plan.
    """
    census = _census(settings, display)
    beside = {name: _attempt(other, census) for name, other in _alternatives(settings)}
    return {
        "users": census.users,
        "items": census.n_items,
        "model": settings.model.name,
        "algorithm": settings.algorithm.name,
        "plan": _outlook(settings, census),
        "alternatives": {name: found for name, found in beside.items() if found is not None},
    }


def _census(settings: Settings, display: Display) -> Census:
    dataset = load_dataset(settings, display)
    train = split(dataset.interactions, settings.protocol, settings.seed).train
    return Census(nodes={1: train.n_users}, n_items=train.n_items, catalogue=dataset.items.digest)


def _alternatives(settings: Settings) -> Iterator[tuple[str, Settings]]:
    """Yield the settings beside these by name; those that cannot be had are left out."""
    rounds = settings.training.rounds
    for other in dict.fromkeys((max(1, rounds // 2), 2 * rounds)):
        if other != rounds:
            training = replace(settings.training, rounds=other)
            yield f"rounds={other}", replace(settings, training=training)
    for trust in Trust:
        if trust is settings.privacy.trust or settings.privacy.unit is Unit.NONE:
            continue
        try:
            privacy = replace(settings.privacy, trust=trust)
        except ConfigError:
            continue
        yield f"trust={trust}", replace(settings, privacy=privacy)


def _attempt(settings: Settings, census: Census) -> dict[str, Any] | None:
    """Return an alternative's outlook, or None where it has none."""
    try:
        return _outlook(settings, census)
    except (ConfigError, VerificationError):
        return None


def _outlook(settings: Settings, census: Census) -> dict[str, Any]:
    _, algorithm, _, plan = settle(settings, census)
    outlook: dict[str, Any] = {
        "unit": str(plan.unit),
        "trust": str(plan.trust),
        "rounds": plan.rounds,
        "participations": plan.participations,
        "cohort": plan.expected_cohort,
        "steps_per_round": plan.steps_per_round,
        "sampling_rate": plan.sampling_rate,
        "clip_norm": plan.clip_norm,
        "noise_multiplier": plan.noise_multiplier,
        "noise_of_mean": _noise_of_mean(plan),
        "separation": plan.separation,
        "bands": plan.bands,
        "noise_of_iterate": _noise_of_iterate(plan),
        **_bytes(algorithm, plan),
    }
    claim = {"delta": None, "epsilon": None, "second_opinion": None, "adjacency": None}
    if plan.unit is not Unit.NONE:
        agreed = agree((plan.total_spend,), delta=plan.delta)
        claim = {name: getattr(agreed, name) for name in claim}
    return outlook | claim


def _noise_of_mean(plan: Plan) -> float:
    """Return the noise of the average round's mean, in clip norms."""
    average = replace(plan, shares=())
    return average.sum_deviation(1) / (plan.expected_cohort * plan.clip_norm)


def _noise_of_iterate(plan: Plan) -> float:
    """Return the rms over rounds of the noise in the mean contributions added up so far."""
    variances = [plan.weighted_deviation([1.0] * t) ** 2 for t in range(1, plan.rounds + 1)]
    rms = math.sqrt(sum(variances) / plan.rounds)
    return rms / (plan.expected_cohort * plan.clip_norm)


def _bytes(algorithm: Algorithm, plan: Plan) -> dict[str, int]:
    """Return the bytes of one device over the run; the model travels as float32."""
    up = down = 0
    # Rounds that a device sits out are like those it takes part in, on average.
    for round_ in range(1, plan.rounds + 1):
        asked = Layout(shapes=algorithm.asked(round_)).dimension
        down += 4 * Layout(shapes=algorithm.sent(round_)).dimension
        if (plan.unit, plan.trust) == (Unit.USER, Trust.DISTRIBUTED):
            sent, received = traffic(
                devices=plan.expected_cohort,
                dimension=asked,
                colluders=plan.colluders,
                dropouts=plan.dropouts,
            )
            up, down = up + sent, down + received
        else:
            up += asked * wire_type(plan).itemsize
    share = plan.participations / plan.rounds
    return {"bytes_up_per_user": round(up * share), "bytes_down_per_user": round(down * share)}
