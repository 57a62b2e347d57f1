"""The noise of a rehearsal by itself: releases minus what they hide, in its claimed deviations."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from shared.privacy.bands import coefficients
from shared.privacy.plan import Unit
from simulations.attack.rehearsal import Rehearsal
from simulations.attack.transcript import flat

__all__ = ["SUM", "Residual", "claimed_deviation", "residuals"]

Array = NDArray[np.float64]

SUM = -1
"""Stands for the sum of a round where a device's key would stand."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Residual:
    """The noise of one release.

    Attributes:
        round: Of the release, from 1.
        source: Key of the first user behind a message, or `SUM`.
        tensors: Name -> noise divided by its claimed standard deviation.
    """

    round: int
    source: int
    tensors: Mapping[str, Array] = field(repr=False)

    @property
    def values(self) -> Array:
        """All of it in one row."""
        return flat(self.tensors)

    @property
    def label(self) -> str:
        """Where it was seen, without naming anyone."""
        place = "the sum" if self.source == SUM else "a device's message"
        return f"{place} of round {self.round}"


def claimed_deviation(rehearsal: Rehearsal, round_: int) -> float:
    """Return the standard deviation that the plan claims for what the attacker reads."""
    plan = rehearsal.transcript.plans.get(round_, rehearsal.plan)
    whole = plan.sum_deviation(round_)
    return whole / math.sqrt(plan.expected_cohort) if rehearsal.alone else whole


def residuals(rehearsal: Rehearsal) -> list[Residual]:
    """Return the noise of every release whose content the auditor knows.

    Whole users: each round's sum, and under local trust a few devices' messages too. Interactions:
    the messages of devices without any history.
    """
    if rehearsal.plan.unit is Unit.INTERACTION:
        return _silent(rehearsal)
    return _sums(rehearsal) + (_devices(rehearsal) if rehearsal.alone else [])


def _sums(rehearsal: Rehearsal) -> list[Residual]:
    seen, found = rehearsal.transcript, []
    noises = {
        round_: {name: value - seen.clean[round_][name] for name, value in total.items()}
        for round_, total in seen.totals.items()
    }
    for round_ in sorted(noises):
        plan = seen.plans[round_]
        fresh = _fresh(noises, round_, bands=plan.bands)
        deviation = plan.multiplier(round_) * plan.clip_norm
        deviation = deviation if plan.bands > 1 else plan.sum_deviation(round_)
        noise = {name: value / deviation for name, value in fresh.items()}
        found.append(Residual(round=round_, source=SUM, tensors=noise))
    return found


def _fresh(
    noises: Mapping[int, Mapping[str, Array]], round_: int, *, bands: int
) -> dict[str, Array]:
    """Return the independent noise of a round whose noise takes back some of the rounds before."""
    found = dict(noises[round_])
    for lag, weight in enumerate(coefficients(bands).tolist()):
        if lag and round_ - lag in noises:
            before = noises[round_ - lag]
            found = {name: value + weight * before[name] for name, value in found.items()}
    return found


def _devices(rehearsal: Rehearsal) -> list[Residual]:
    """Return the noise of devices whose one contribution is known: the planted ones."""
    canaries, found = rehearsal.canaries, []
    for (round_, first), message in sorted(rehearsal.transcript.messages.items()):
        if message.tensors is None:
            continue
        number = int(canaries.number(np.array([first]))[0])
        shapes = {name: value.shape for name, value in message.tensors.items()}
        where, row, column = canaries.cells(shapes)
        bound = rehearsal.clip_norm(round_)
        amount = canaries.values(round_, bound)[number]
        noise = {name: np.array(value) for name, value in message.tensors.items()}
        place = noise[where].reshape(len(noise[where]), -1)
        place[row[number], column[number]] -= np.clip(amount, -bound, bound)
        deviation = claimed_deviation(rehearsal, round_)
        found.append(
            Residual(
                round=round_,
                source=first,
                tensors={name: value / deviation for name, value in noise.items()},
            )
        )
    return found


def _silent(rehearsal: Rehearsal) -> list[Residual]:
    """Return the messages of devices without history: they are noise and nothing else."""
    seen, canaries, found = rehearsal.transcript, rehearsal.canaries, []
    for (round_, first), message in sorted(seen.messages.items()):
        clue = next((c for (r, _), c in sorted(seen.clues.items()) if r == round_), None)
        empty = canaries.silent <= first < int(canaries.devices[0])
        if message.tensors is None or clue is None or not empty:
            continue
        scale = math.sqrt(message.users)
        noise = {n: v / (scale * clue.deviation[n]) for n, v in message.tensors.items()}
        found.append(Residual(round=round_, source=first, tensors=noise))
    return found
