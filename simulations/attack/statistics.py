"""The third layer, for who sees releases alone: what do the canaries' scores prove of epsilon?

A score is the sum over rounds of what a release says along a canary's direction, weighed as for
the likeliest guess and scaled so that a canary that is out scores like a standard normal value.
"""

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from shared.privacy.accounting import epsilon_of, gaussian_epsilon
from shared.privacy.auditing import (
    METHODS,
    Scores,
    epsilon_estimate,
    lower_bounds,
    mu_estimate,
)
from shared.privacy.plan import Unit
from simulations.attack.checks import RISK, Check
from simulations.attack.noise import claimed_deviation
from simulations.attack.rehearsal import Rehearsal

__all__ = ["CONFIDENCE", "Statistics", "inclusion", "readings", "statistics"]

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]

CONFIDENCE = 0.95
"""Of the lower bounds that are reported; an alarm needs a bound at 1 - RISK."""

THRESHOLDS = 20


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Statistics:
    """What the scores say.

    Attributes:
        claim: The epsilon that the plan accounts.
        delta: The failure probability of all of them.
        estimate: Point estimate, all canaries together.
        bounds: Method -> its lower bound at 95 %.
        lower_bound: The largest of the three at 95 % together.
        method: Which one that is.
        canaries: How many canaries were scored.
        checks: The findings.
    """

    claim: float
    delta: float
    estimate: float | None
    bounds: dict[str, float]
    lower_bound: float | None
    method: str | None
    canaries: int
    checks: list[Check] = field(repr=False)


def statistics(rehearsal: Rehearsal) -> Statistics:
    """Return the third layer."""
    plan = rehearsal.plan
    claim = epsilon_of((plan.total_spend,), delta=plan.delta)
    scores, shift, there = _scores(rehearsal)
    included, turning = rehearsal.canaries.included[there], rehearsal.canaries.alternating[there]
    if min(included.sum(), (~included).sum()) < 2:
        why = Check(name="canaries", ok=None, found="too few canaries took part to be scored")
        return Statistics(
            claim=claim,
            delta=plan.delta,
            estimate=None,
            bounds={},
            lower_bound=None,
            method=None,
            canaries=0,
            checks=[why],
        )
    sets = [_set(scores, included, turning == kind) for kind in np.unique(turning)]
    thresholds = np.linspace(-1.5, shift + 1.5, THRESHOLDS).tolist()

    def bounds(risk: float) -> dict[str, float]:
        return lower_bounds(sets, thresholds=thresholds, delta=plan.delta, risk=risk)

    together = bounds((1.0 - CONFIDENCE) / len(METHODS))
    method = max(together, key=lambda name: together[name])
    sure = max(bounds(RISK / len(METHODS)).values())
    return Statistics(
        claim=claim,
        delta=plan.delta,
        estimate=epsilon_estimate(_set(scores, included, there[there]), delta=plan.delta),
        bounds=bounds(1.0 - CONFIDENCE),
        lower_bound=together[method],
        method=method,
        canaries=len(scores),
        checks=[
            _bound_check(sure, together[method], claim),
            _estimate_check(sets, claim, plan.delta),
        ],
    )


def _set(scores: Array, included: Flags, chosen: Flags) -> Scores:
    return Scores(inside=scores[included & chosen], outside=scores[~included & chosen])


def _bound_check(sure: float, lower: float, claim: float) -> Check:
    found = f"at least {lower:.3f} (95 %), {sure:.3f} (all but one in a million), claim {claim:.3f}"
    if lower > claim >= sure:
        found += "; above the claim at 95 %: attack again with another seed"
    return Check(name="lower bound", ok=sure <= claim, found=found)


def _estimate_check(sets: list[Scores], claim: float, delta: float) -> Check:
    """The distance of the groups must not be more than the claim allows, chance aside."""
    from scipy.special import ndtri

    allowed = _mu_of(claim, delta)
    worst, limit = 0.0, math.inf
    for one in sets:
        error = math.sqrt(
            1.0 / len(one.inside) + 1.0 / len(one.outside) + allowed**2 / (2.0 * one.size)
        )
        most = allowed - float(ndtri(RISK / len(sets))) * error
        found = mu_estimate(one)
        if found - most > worst - limit:
            worst, limit = found, most
    said = f"scores are {worst:.3g} deviations apart, of at most {limit:.3g}"
    return Check(name="estimate", ok=worst <= limit, found=said)


def _mu_of(claim: float, delta: float) -> float:
    """Return the mu of Gaussian DP whose epsilon is the claim."""
    from scipy.optimize import brentq

    return float(brentq(lambda mu: gaussian_epsilon(mu, delta) - claim, 1e-9, 1e3, xtol=1e-9))


def _scores(rehearsal: Rehearsal) -> tuple[Array, float, Flags]:
    """Return the scores of canaries that took part, what being in adds to one, and which did."""
    if rehearsal.plan.unit is Unit.INTERACTION:
        return _interaction_scores(rehearsal)
    size = rehearsal.canaries.size
    total, weight = np.zeros(size), np.zeros(size)
    for round_, (values, there) in readings(rehearsal).items():
        deviation = claimed_deviation(rehearsal, round_)
        shift = rehearsal.clip_norm(round_) / deviation
        signs = rehearsal.canaries.signs(round_)
        total += np.where(there, signs * values / deviation * shift, 0.0)
        weight += np.where(there, shift**2, 0.0)
    took = weight > 0.0
    root = np.sqrt(weight[took])
    return total[took] / root, float(np.median(root)) if took.any() else 0.0, took


def readings(rehearsal: Rehearsal) -> dict[int, tuple[Array, Flags]]:
    """Return by round what the attacker reads at each canary's coordinate, and who took part."""
    canaries, seen = rehearsal.canaries, rehearsal.transcript
    found = {}
    for round_, total in sorted(seen.totals.items()):
        people = np.array(seen.people[round_], dtype=np.int64)
        there = np.isin(canaries.first + np.arange(canaries.size), people)
        if rehearsal.alone:
            keys = canaries.first + np.arange(canaries.size)
            messages = [seen.messages.get((round_, int(key))) for key in keys]
            values = np.array([0.0 if m is None else m.cell for m in messages])
            there &= np.array([m is not None for m in messages])
        else:
            where, row, column = canaries.cells({n: v.shape for n, v in total.items()})
            values = total[where].reshape(len(total[where]), -1)[row, column][: canaries.size]
        found[round_] = (values, there)
    return found


def _interaction_scores(rehearsal: Rehearsal) -> tuple[Array, float, Flags]:
    """Return matched filters: what each canary's row holds of what the canary would move."""
    along, weight, _ = _matched(rehearsal)
    took = weight.sum(axis=0) > 0.0
    root = np.sqrt(weight.sum(axis=0)[took])
    shift = float(np.median(root)) * rehearsal.plan.sampling_rate if took.any() else 0.0
    return along.sum(axis=0)[took] / root, shift, took


def _matched(rehearsal: Rehearsal) -> tuple[Array, Array, list[int]]:
    """Return float64 [rounds, canaries]: the filter's value, and its variance, by round."""
    canaries, seen = rehearsal.canaries, rehearsal.transcript
    rounds = sorted(seen.totals)
    along, weight = np.zeros((2, len(rounds), canaries.size))
    for (round_, device), clue in seen.clues.items():
        message = seen.messages.get((round_, device))
        if round_ not in rounds or message is None or message.tensors is None:
            continue
        held = canaries.items_of(device)
        items, place = canaries.planted_item(held), rounds.index(round_)
        for name, moves in clue.moves.items():
            deviation = np.broadcast_to(clue.deviation[name], message.tensors[name].shape)[items]
            filtered = (moves / deviation).reshape(len(held), -1)
            noisy = (message.tensors[name][items] / deviation).reshape(len(held), -1)
            along[place, held] += (filtered * noisy).sum(axis=1)
            weight[place, held] += np.square(filtered).sum(axis=1)
    return along, weight, rounds


def inclusion(rehearsal: Rehearsal) -> tuple[float, float] | None:
    """Return how often a canary interaction counts in a step, and the standard error.

    Canaries that are out tell what other interactions' negatives put on a planted row.
    """
    along, weight, _ = _matched(rehearsal)
    included, rate = rehearsal.canaries.included, rehearsal.plan.sampling_rate
    inside, outside = weight[:, included], weight[:, ~included]
    if not inside.sum() or not outside.sum():
        return None
    share = along[:, included].sum() / inside.sum() - along[:, ~included].sum() / outside.sum()
    coins = float(np.square(inside).sum()) / float(inside.sum()) ** 2 * rate * (1.0 - rate)
    error = math.sqrt(1.0 / float(inside.sum()) + 1.0 / float(outside.sum()) + coins)
    return float(share), error
