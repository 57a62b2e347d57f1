"""Private training of a cohort in one round: each example is clipped, every row is noised.

What moved is kept apart from what it started from, so a released change has the grain of its own
noise. In (start + noise) - start the noise has the grain of the start: its low bits, or its
absence if the start is huge, would tell the touched rows from the others.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from shared.algorithms.base import Cohort
from shared.algorithms.examples import Batch, Slots
from shared.algorithms.local_training import Block, LocalTables, changed_rows, gradients
from shared.algorithms.optimisers import shrink
from shared.privacy.dpsgd import LazyNoise
from shared.privacy.gaussian import perturb
from shared.privacy.plan import Plan
from shared.privacy.release import Release
from shared.randomness import NoiseSource

__all__ = ["Descent", "descend_together", "release"]

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Descent:
    """What is given before the first private step of a round.

    Attributes:
        cohort: The users.
        start: Their vectors, and their copies of the rows they touch.
        slots: Which user and row each copy is.
        batches: The examples of each step.
        blocks: Scale in the joint clip, step length and penalties of "user", "items" and "bias".
        negative_weight: Weight of one negative in the loss of its example.
        plan: Clip norm and noise multiplier.
        noise: Source of protective draws.
    """

    cohort: Cohort = field(repr=False)
    start: LocalTables = field(repr=False)
    slots: Slots = field(repr=False)
    batches: Sequence[Batch] = field(repr=False)
    blocks: Mapping[str, Block]
    negative_weight: float
    plan: Plan
    noise: NoiseSource

    @property
    def keys(self) -> tuple[str | int, ...]:
        """Names the cohort's draws of this round for stand-in sources."""
        return ("device", self.cohort.round, *self.cohort.keys[:1].tolist())

    def deviation(self, name: str) -> float:
        """Return the standard deviation of one step's noise on a value of a block."""
        block = self.blocks[name]
        return block.rate / block.scale * self.plan.noise_multiplier * self.plan.clip_norm

    def debts(self) -> dict[str, LazyNoise]:
        """Return what the rows of each shared block owe: nothing is paid before the first step."""
        return {
            name: LazyNoise(
                rows=self.cohort.histories.n_items,
                index=self.slots.row,
                deviation=self.deviation(name),
                noise=self.noise,
            )
            for name in ("items", "bias")
        }


def descend_together(descent: Descent, debts: Mapping[str, LazyNoise]) -> LocalTables:
    """Take the noised steps of all users at once, the vectorised twin of `opacus_device`.

    Returns:
        The users' new vectors, and how far each copy of a row moved.
    """
    start, blocks = descent.start, descent.blocks
    moved = descent.start.unmoved()
    for step, batch in enumerate(descent.batches):
        if step:
            _pay_before_reading(descent, debts, moved, batch, steps_done=step)
        found = gradients(
            start.plus(moved) if step else start,
            descent.slots,
            batch,
            negative_weight=descent.negative_weight,
            blocks=blocks,
            clip_norm=descent.plan.clip_norm,
        )
        moved.items -= blocks["items"].rate * found["items"]
        moved.bias -= blocks["bias"].rate * found["bias"]
        draw = descent.noise.gaussian(moved.user.shape, *descent.keys, "user", step)
        moved.user -= blocks["user"].rate * found["user"] + descent.deviation("user") * draw
        moved.user = shrink(moved.user, l1=blocks["user"].l1, l2=blocks["user"].l2)
    return moved


def _pay_before_reading(
    descent: Descent,
    debts: Mapping[str, LazyNoise],
    moved: LocalTables,
    batch: Batch,
    *,
    steps_done: int,
) -> None:
    """Add the noise that the rows of the next batch owe."""
    read = np.unique(batch.slots)
    for name, debt in debts.items():
        keys = (*descent.keys, name, steps_done)
        debt.pay(moved.values()[name], read, steps_done=steps_done, keys=keys)


def release(descent: Descent, moved: LocalTables, debts: Mapping[str, LazyNoise]) -> Release:
    """Sum the changes over the users and add the noise that each row still owes."""
    users, steps = descent.cohort.histories.n_users, len(descent.batches)
    changes = changed_rows(moved, descent.slots, n_items=descent.cohort.histories.n_items)
    return perturb(
        {name: rows.total() for name, rows in changes.items()},
        variance={name: debt.whole(users=users, steps=steps) for name, debt in debts.items()},
        paid={"items": debts["items"].paid()[:, None], "bias": debts["bias"].paid()},
        users=users,
        noise=descent.noise,
        keys=(*descent.keys, "release"),
    )
