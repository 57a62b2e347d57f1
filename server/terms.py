"""The terms of a run: what the settings come to for the population that is there."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from server.census import Census, cohort_size, most_participations
from shared.algorithms.base import Algorithm, check_alike
from shared.errors import ConfigError
from shared.privacy.adaptive_clip import shapes_with_bits
from shared.privacy.distributed import Layout, noise_shares
from shared.privacy.plan import Plan, Trust, Unit

if TYPE_CHECKING:
    from shared.config import Settings

__all__ = ["Features", "Method", "Terms", "settle"]

Features = NDArray[np.float64] | None

UNTOLD = frozenset({"model.encoder"})
"""Settings that devices need not know: a folder of the server's is no business of theirs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Method:
    """What is learned and how, as devices are told.

    Attributes:
        model: Name of the model.
        algorithm: Name of the learning method.
        settings: Public settings of both.
    """

    model: str
    algorithm: str
    settings: Mapping[str, object]


@dataclass(frozen=True, kw_only=True, slots=True)
class Terms:
    """What the loop waits for and how often it saves.

    Attributes:
        rounds: Rounds of the run.
        cohort: Users asked in one round.
        quorum: Share of those users whose replies must be accepted, in (0, 1].
        deadline: Seconds to wait for the replies of one round.
        checkpoint_every: Rounds between two checkpoints; the last round always has one.
    """

    rounds: int
    cohort: int
    quorum: float = 0.8
    deadline: float = 600.0
    checkpoint_every: int = 1


def settle(
    settings: "Settings", census: Census, features: Features = None
) -> tuple[Method, Algorithm, Terms, Plan]:
    """Return the method as devices are told, its server half, the terms and the plan.

    Args:
        settings: Of the run.
        census: The population that answered.
        features: float64 [n_items, any], public item content that the server's start may use.

    Raises:
        ConfigError: The settings cannot be had for this population.
    """
    from shared.algorithms.methods import build, check_unit, measured, sized
    from shared.privacy.calibration import make_plan

    check_unit(settings.algorithm.name, settings.privacy.unit)
    rooms = ("model.", "algorithm.")
    public = sized(
        settings.model.name,
        {k: v for k, v in settings.to_flat().items() if k.startswith(rooms)},
        users=census.users,
        n_items=census.n_items,
        privacy=settings.privacy,
    )
    told = {key: value for key, value in public.items() if key not in UNTOLD}
    method = Method(model=settings.model.name, algorithm=settings.algorithm.name, settings=told)
    terms, share = _terms(settings, census), settings.privacy.metrics_share
    learner = build(method.model, method.algorithm, public, census.n_items, features=features)
    algorithm = measured(learner, rounds=terms.rounds, share=share)
    plan = make_plan(
        settings.privacy,
        users=census.users,
        rounds=terms.rounds,
        cohort=terms.cohort,
        participations=most_participations(
            rounds=terms.rounds, size=terms.cohort, users=census.users
        ),
        sampling_rate=algorithm.sampling_rate,
        steps_per_round=algorithm.local_steps,
        shares=algorithm.shares(terms.rounds),
    )
    check_alike(algorithm, plan)
    if (plan.unit, plan.trust) == (Unit.USER, Trust.DISTRIBUTED):
        _check_sums(algorithm, terms, plan)
    return method, algorithm, terms, plan


def _check_sums(algorithm: Algorithm, terms: Terms, plan: Plan) -> None:
    """Refuse a distributed run that would fail only after its devices paid.

    Raises:
        ConfigError: The noise of a round does not fit the grid, or more devices may fall silent
            than the quorum allows.
    """
    for round_ in range(1, terms.rounds + 1):
        asked = shapes_with_bits(plan, algorithm.asked(round_))
        noise_shares(plan, round=round_, layout=Layout(shapes=asked))
    needed = math.ceil(terms.quorum * terms.cohort - 1e-9)
    if plan.minimum < needed:
        raise ConfigError(
            f"Expected a quorum that privacy.dropouts leaves, {plan.minimum} of {terms.cohort} "
            f"users, found {needed}; lower training.quorum or privacy.dropouts."
        )


def _terms(settings: "Settings", census: Census) -> Terms:
    training = settings.training
    return Terms(
        rounds=training.rounds + (settings.privacy.metrics_share > 0.0),
        cohort=cohort_size(users=census.users, share=training.cohort),
        quorum=training.quorum,
        deadline=training.deadline,
        checkpoint_every=training.checkpoint_every,
    )
