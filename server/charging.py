"""The server's own ledger: what the population spends, charged before a round is ordered.

It is apart from the devices' ledgers and kept in the same way. Its head goes out with every order,
so that devices witness it: a server cannot later show another history than the one they saw.

A round that is played again after a crash is the same work: devices answer it with the replies
they stored, so it is charged once. Where the server itself adds the noise, that holds until the
round was settled, which is after its model was kept: played again from an older checkpoint it
would be noised anew, a second release that is charged again. Devices that keep a separation have
no second charge for a round: there the ledger refuses, and the run ends.
"""

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from shared.privacy.chain import canonical, sha
from shared.privacy.plan import Plan, Trust, Unit

if TYPE_CHECKING:
    from shared.privacy.statement import Reservation

__all__ = ["Charging"]

Ints = NDArray[np.int64]


class Charging:
    """The charges of one protected run.

    Args:
        path: The server's ledger.
        plan: The protection.
        settings: Digest of what may not change between a run and its resume.

    Guarantees:
        A round is charged before it is ordered, and a repeated one is charged once.
        A settled round that this server noised is charged again when it is repeated.

    Raises:
        RunError: The ledger cannot be used.
        VerificationError: The ledger does not check.
    """

    def __init__(self, path: Path, *, plan: Plan, settings: str) -> None:
        from shared.privacy.ledger import Ledger
        from shared.privacy.terms import Terms

        self._plan = plan
        self._noises = plan.unit is Unit.USER and plan.trust is Trust.CENTRAL
        self._terms = Terms.from_plan(plan)
        # What keeps the directory from being made keeps the ledger from being opened, and says so.
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
        self._ledger = Ledger(path, terms=self._terms, settings=settings)
        self._paid: Reservation | None = None

    def close(self) -> None:
        """Close the ledger."""
        self._ledger.close()

    def reserve(
        self, *, run: str, round: int, state: str, people: Ints, purpose: str, clip_norm: float
    ) -> str:
        """Charge a round, unless it is one that was charged before; return the ledger's head.

        Raises:
            BudgetError: Somebody asked would exceed the budget.
            RunError: The charge cannot be written.
        """
        digest = sha(canonical({"state": state, "people": people.tolist()}))
        order: dict[str, Any] = {"run": run, "round": round, "order_digest": digest}
        self._paid = self._ledger.find(**order)
        if self._paid is None or (self._noises and self._paid.reply_digest is not None):
            self._ledger.reserve(
                **order,
                participants=people,
                spend=self._plan.spend(round),
                purpose=purpose,
                budget=self._plan.budget,
                noise=self._plan.noise,
                terms=replace(self._terms, clip_norm=clip_norm),
                separation=self._plan.separation,
            )
            self._paid = self._ledger.find(**order)
        return canonical(self._ledger.head().as_dict())

    def release(self, reply_digest: str, *, realised: float | None = None) -> None:
        """Note the sum that the last charge paid for, the first time, and its noise multiplier.

        Raises:
            RunError: It cannot be written.
        """
        if self._paid is not None and self._paid.reply_digest is None:
            self._ledger.release(self._paid.id, reply_digest=reply_digest, realised=realised)
        self._paid = None

    def abandon(self, *, reason: str) -> None:
        """Note that nothing will come of the last charge, which stays spent.

        Raises:
            RunError: It cannot be written.
        """
        if self._paid is not None:
            self._ledger.abort(self._paid.id, reason=reason)
        self._paid = None

    def abandoned(self, *, run: str, round: int) -> bool:
        """Whether every charge for a round was given up."""
        found = [one for one in self._ledger.history() if (one.run, one.round) == (run, round)]
        return bool(found) and all(one.aborted is not None for one in found)
