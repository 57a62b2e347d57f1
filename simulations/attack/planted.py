"""The second layer: canaries made to show one fault each, seen in releases alone."""

import math

import numpy as np
from numpy.typing import NDArray

from shared.privacy.plan import Trust, Unit
from simulations.attack.checks import Check, scale_check, upper_check
from simulations.attack.noise import claimed_deviation
from simulations.attack.rehearsal import Rehearsal
from simulations.attack.statistics import readings

__all__ = ["planted"]

Array = NDArray[np.float64]


def planted(rehearsal: Rehearsal) -> list[Check]:
    """Return the checks of the second layer."""
    if rehearsal.plan.unit is Unit.INTERACTION:
        return [_huge_gradient(rehearsal)]
    canaries = rehearsal.canaries
    outside = _outside(rehearsal)
    return [
        _weight(rehearsal, "huge norm", canaries.big, canaries.size),
        _weight(rehearsal, "long history", canaries.long, canaries.size + 1),
        scale_check("planted items", {f"round {t}": v for t, v in outside.items() if v.size}),
        _alternating(outside),
    ]


def _huge_gradient(rehearsal: Rehearsal) -> Check:
    """An interaction of a user whose vector is huge moves no more than any other."""
    plan, clues = rehearsal.plan, rehearsal.transcript.clues
    if not clues:
        return Check(name="huge norm", ok=None, found="no canary device took part")
    bound = {t: math.sqrt(plan.steps_per_round) / plan.multiplier(t) for t, _ in clues}
    worst = max(max(clue.largest) / bound[t] for (t, _), clue in clues.items())
    found = f"one interaction with a huge gradient moves {worst:.4g} of what the noise is for"
    return Check(name="huge norm", ok=worst <= 1.0 + 1e-5, found=found)


def _weight(rehearsal: Rehearsal, name: str, key: int, number: int) -> Check:
    """Check that a special user weighs no more than the clip norm along its coordinate."""
    plan, seen = rehearsal.plan, rehearsal.transcript
    excess, variance, wire, rounds = 0.0, 0.0, 0.0, 0
    for round_, total in sorted(seen.totals.items()):
        message = seen.messages.get((round_, key))
        if message is None:
            continue
        where, row, column = rehearsal.canaries.cells({n: v.shape for n, v in total.items()})
        value = total[where].reshape(len(total[where]), -1)[row[number], column[number]]
        value = message.cell if rehearsal.alone else float(value)
        bound = rehearsal.clip_norm(round_)
        wire = max(wire, message.norm / bound if plan.trust is Trust.CENTRAL else 0.0)
        excess += value / bound - 1.0
        variance += (claimed_deviation(rehearsal, round_) / bound) ** 2
        rounds += 1
    if not rounds:
        return Check(name=name, ok=None, found="this user never took part")
    if wire > 1.0 + 1e-5:
        return Check(name=name, ok=False, found=f"weighs {wire:.4g} clip norms")
    weight, error = 1.0 + excess / rounds, math.sqrt(variance) / rounds
    return upper_check(
        name,
        np.array([excess / math.sqrt(variance)]),
        found=f"weighs {weight:.3g} +- {error:.2g} clip norms; deviations above one",
    )


def _outside(rehearsal: Rehearsal) -> dict[int, Array]:
    """Return by round what lies where canaries would be that are out: noise, where all is well."""
    out = ~rehearsal.canaries.included
    return {
        round_: (np.where(out, values, 0.0) / claimed_deviation(rehearsal, round_))[out & there]
        for round_, (values, there) in readings(rehearsal).items()
    }


def _alternating(outside: dict[int, Array]) -> Check:
    """The difference of two rounds is as noisy as both: noise used twice would cancel."""
    rounds = sorted(outside)
    pairs = {
        f"the difference of rounds {a} and {b}": (outside[a] - outside[b]) / math.sqrt(2.0)
        for a, b in zip(rounds[::2], rounds[1::2], strict=False)
        if len(outside[a]) == len(outside[b]) > 0
    }
    if not pairs:
        return Check(name="alternating sign", ok=None, found="one round only: nothing to compare")
    return scale_check("alternating sign", pairs)
