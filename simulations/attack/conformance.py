"""The first layer, for who sees everything: is each step of the mechanism what the plan says?"""

import itertools
import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from shared.privacy.gaussian import ROUNDING
from shared.privacy.plan import Trust, Unit
from simulations.attack.checks import RISK, Check, scale_check
from simulations.attack.noise import SUM, Residual, residuals
from simulations.attack.rehearsal import Rehearsal
from simulations.attack.statistics import inclusion

__all__ = ["conformance"]

Array = NDArray[np.float64]

FAINT = 1e-3
"""A value nearer than this to what it hides, in deviations of the noise, counts as bare."""

SLACK = 1e-5
"""What single precision may add to a norm."""


def conformance(rehearsal: Rehearsal) -> list[Check]:
    """Return the checks of the first layer."""
    noise = residuals(rehearsal)
    whole = rehearsal.plan.unit is Unit.USER
    return [
        _went_through(rehearsal),
        _source(rehearsal),
        _norms(rehearsal, noise) if whole else _sensitivity(rehearsal),
        scale_check("noise variance", {_key(r, i): r.values for i, r in enumerate(noise)}),
        _coverage(noise),
        _correlation(noise),
        _participation(rehearsal),
        *([] if whole else [_sampling(rehearsal)]),
        _budget(rehearsal),
    ]


def _key(residual: Residual, place: int) -> str:
    return residual.label if residual.source == SUM else f"{residual.label} ({place})"


def _went_through(rehearsal: Rehearsal) -> Check:
    fault = rehearsal.transcript.fault
    found = fault or f"{len(rehearsal.transcript.totals)} rounds went through"
    return Check(name="run", ok=fault is None, found=found)


def _source(rehearsal: Rehearsal) -> Check:
    """The noise comes from the operating system: anyone could repeat another."""
    noise = rehearsal.plan.noise
    return Check(name="noise source", ok=noise == "os", found=f"noise={noise}")


def _norms(rehearsal: Rehearsal, noise: Sequence[Residual]) -> Check:
    """No contribution weighs more than the clip norm, on the wire or in the sum."""
    plan, worst = rehearsal.plan, 0.0
    if plan.trust is Trust.CENTRAL:
        for (round_, _), message in rehearsal.transcript.messages.items():
            bound = message.users * rehearsal.clip_norm(round_)
            worst = max(worst, message.norm / bound)
        found = f"a reply weighs up to {worst:.4g} clip norms a user"
        return Check(name="norm", ok=worst <= ROUNDING * (1.0 + SLACK), found=found)
    return _planted_norms(rehearsal, noise)


def _planted_norms(rehearsal: Rehearsal, noise: Sequence[Residual]) -> Check:
    """Where no clipped contribution is seen bare: what is too much where canaries lie."""
    from scipy.special import ndtri

    peaks = []
    for residual in noise:
        shapes = {name: value.shape for name, value in residual.tensors.items()}
        where, row, column = rehearsal.canaries.cells(shapes)
        there = residual.tensors[where].reshape(shapes[where][0], -1)[row, column]
        peaks.append(float(np.abs(there).max()))
    if not peaks:
        return Check(name="norm", ok=None, found="nothing was released to look at")
    limit = float(-ndtri(RISK / (2 * len(peaks) * rehearsal.canaries.planted)))
    found = f"{max(peaks):.3g} deviations of noise at most beside the clip norm (of {limit:.3g})"
    return Check(name="norm", ok=max(peaks) <= limit, found=found)


def _sensitivity(rehearsal: Rehearsal) -> Check:
    """One interaction moves a release by no more than the noise was calibrated for."""
    plan, clues = rehearsal.plan, rehearsal.transcript.clues
    if not clues:
        return Check(name="norm", ok=None, found="no canary device took part")
    bound = {t: math.sqrt(plan.steps_per_round) / plan.multiplier(t) for t, _ in clues}
    worst = max(clue.largest[0] / bound[t] for (t, _), clue in clues.items())
    found = f"one interaction moves a release by {worst:.4g} of what the noise is for"
    return Check(name="norm", ok=worst <= 1.0 + SLACK, found=found)


def _coverage(noise: Sequence[Residual]) -> Check:
    """No row is left without noise."""
    from scipy.stats import binom

    tests, bare, rows = 0, 0, 0
    wrong = False
    tables = [value for r in noise for value in r.tensors.values()]
    for value in tables:
        faint = (np.abs(value.reshape(len(value), -1)) < FAINT).all(axis=1)
        chance = math.erf(FAINT / math.sqrt(2.0)) ** math.prod(value.shape[1:])
        seen = int(faint.sum())
        wrong |= bool(seen and binom.sf(seen - 1, len(value), chance) < RISK / len(tables))
        tests, bare, rows = tests + 1, bare + seen, rows + len(value)
    if not tests:
        return Check(name="row coverage", ok=None, found="nothing was released to look at")
    return Check(
        name="row coverage", ok=not wrong, found=f"{bare} of {rows:,} rows almost without noise"
    )


def _correlation(noise: Sequence[Residual]) -> Check:
    """The noise of one release says nothing of the noise of another."""
    from scipy.special import ndtri

    found: dict[str, list[float]] = {"rounds": [], "devices": []}
    for one, other in itertools.combinations(noise, 2):
        kind = _relation(one, other)
        names = [n for n in one.tensors if _shape(one, n) == _shape(other, n)]
        if kind is not None and names:
            found[kind].append(_together(one, other, names))
    pairs = [value for values in found.values() for value in values]
    if not pairs:
        return Check(name="correlation", ok=None, found="one release only: nothing to compare")
    limit = float(-ndtri(RISK / (2 * len(pairs))))
    worst = max(pairs)
    which = " and ".join(name for name, values in found.items() if values)
    said = f"{worst:.3g} deviations at most in {len(pairs)} pairs of {which} (of {limit:.3g})"
    return Check(name="correlation", ok=worst <= limit, found=said)


def _relation(one: Residual, other: Residual) -> str | None:
    """What two releases share: one source in two rounds, or one round of two devices.

    A sum holds the noise of its devices, so it is not compared with them.
    """
    if one.source == other.source:
        return "rounds"
    same_round = one.round == other.round
    return "devices" if same_round and SUM not in (one.source, other.source) else None


def _shape(residual: Residual, name: str) -> tuple[int, ...] | None:
    return residual.tensors[name].shape if name in residual.tensors else None


def _together(one: Residual, other: Residual, names: Sequence[str]) -> float:
    """Return the correlation of two noises, in standard deviations of it by chance."""
    x = np.concatenate([one.tensors[n].reshape(-1) for n in names])
    y = np.concatenate([other.tensors[n].reshape(-1) for n in names])
    weight = math.sqrt(float(x @ x) * float(y @ y))
    return abs(float(x @ y)) / weight * math.sqrt(len(x)) if weight else 0.0


def _participation(rehearsal: Rehearsal) -> Check:
    """Nobody contributes more often than planned, nor without being charged."""
    took = Counter(key for keys in rehearsal.transcript.people.values() for key in keys)
    most = max(took.values(), default=0)
    free = sum(1 for key, times in took.items() if rehearsal.charged.get(key, 0) < times)
    found = f"at most {most} of {rehearsal.plan.participations} times, {free} users not charged"
    return Check(
        name="participation", ok=most <= rehearsal.plan.participations and not free, found=found
    )


def _sampling(rehearsal: Rehearsal) -> Check:
    """The coin lets an interaction in as often as it is accounted."""
    from scipy.special import ndtri

    rate = rehearsal.plan.sampling_rate
    seen = inclusion(rehearsal)
    if seen is None:
        return Check(name="sampling", ok=None, found="no canary interaction was seen")
    share, error = seen
    limit = float(-ndtri(RISK / 2)) * error + 0.1 * rate
    found = f"an interaction counts {share:.3f} times a step, accounted {rate:g} (+- {limit:.2g})"
    return Check(name="sampling", ok=abs(share - rate) <= limit, found=found)


def _budget(rehearsal: Rehearsal) -> Check:
    agreed = rehearsal.overdrawn
    if agreed is None:
        return Check(name="budget", ok=None, found="nobody could be asked once too often")
    found = (
        f"asked once too often, {' and '.join(agreed)} went on" if agreed else "one more refused"
    )
    return Check(name="budget", ok=not agreed, found=found)
