"""Rounds of Gram statistics and least squares without a grid: sums, known noise, steps."""

import numpy as np
from numpy.typing import NDArray

from shared.algorithms.base import Algorithm, Cohort, State
from shared.data.interactions import Interactions
from shared.privacy.plan import Plan, Trust, Unit
from shared.privacy.release import LocalUpdate

Array = NDArray[np.float64]


def plan(
    algorithm: Algorithm,
    *,
    rounds: int,
    users: int,
    sigma: float = 0.0,
    norm: float = 1.0,
) -> Plan:
    """A plan for whole users where there is noise (`sigma`), else without protection."""
    private = sigma > 0.0
    return Plan(
        unit=Unit.USER if private else Unit.NONE,
        trust=Trust.CENTRAL,
        epsilon=1.0 if private else np.inf,
        delta=1e-5 if private else 0.0,
        clip_norm=norm,
        noise_multiplier=sigma,
        sampling_rate=1.0,
        steps_per_round=1,
        participations=rounds,
        rounds=rounds,
        expected_cohort=users,
        noise="off",
        shares=algorithm.shares(rounds),
    )


def cohort(histories: Interactions, round: int, *, algorithm: Algorithm, first: int = 0) -> Cohort:
    keys = np.arange(first, first + histories.n_users)
    memory = algorithm.memory(keys, 0)
    return Cohort(histories=histories, keys=keys, memory=memory, round=round, seed=0)


def total(update: LocalUpdate) -> dict[str, Array]:
    return {name: rows.total() for name, rows in update.tensors.items()}


def norms(update: LocalUpdate) -> Array:
    """Each user's norm over all tensors."""
    squares = np.zeros(update.users)
    for rows in update.tensors.values():
        weights = np.square(rows.values).sum(axis=tuple(range(1, rows.values.ndim)))
        squares += np.bincount(rows.owner, weights=weights, minlength=update.users)
    return np.sqrt(squares)


def learned(
    algorithm: Algorithm,
    table: Interactions,
    *,
    rounds: int,
    sigma: float = 0.0,
    norm: float = 1.0,
    noisy: bool = True,
    start: State | None = None,
) -> State:
    """All rounds, with Gaussian noise on the sums where the plan has some and `noisy` is set."""
    rng = np.random.default_rng(0)
    terms = plan(algorithm, rounds=rounds, users=table.n_users, sigma=sigma, norm=norm)
    state = algorithm.start(0) if start is None else start
    for round_ in range(1, rounds + 1):
        update, _ = algorithm.contribute(state, cohort(table, round_, algorithm=algorithm), terms)
        sums = total(update)
        assert {n: v.shape for n, v in sums.items()} == dict(algorithm.asked(round_))
        if sigma and noisy:
            deviation = terms.sum_deviation(round_)
            sums = {n: v + deviation * rng.normal(size=v.shape) for n, v in sums.items()}
        state = algorithm.absorb(state, sums, terms)
    return state
