"""What a run leaves on disk between rounds: its journal and its checkpoints, kept in step."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from server.charging import Charging
from server.checkpoints import Checkpoint, Checkpoints
from server.journal import Journal, RoundReport
from shared.algorithms.base import State
from shared.errors import RunError
from shared.privacy.plan import Plan, Unit
from shared.protocol import state_digest

__all__ = ["Companions", "Record"]


Ints = NDArray[np.int64]


class Companions(Protocol):
    """Whoever shares the server's checkpoints: simulated devices, so that both go back together."""

    def snapshot(self) -> Mapping[str, NDArray[Any]]:
        """Return everything to be kept, by name."""
        ...

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Go back to a snapshot."""
        ...


class Record:
    """The journal and the checkpoints of one run directory.

    Args:
        directory: The run directory.
        settings: Digest of what may not change between a run and its resume.
        plan: The protection, for the reader of a checkpoint.
        companions: Who shares the checkpoints.
    """

    def __init__(
        self, directory: Path, *, settings: str, plan: Plan, companions: Companions | None
    ) -> None:
        self._journal = Journal(directory / "metrics.jsonl")
        self._checkpoints = Checkpoints(directory / "checkpoints")
        self._settings = settings
        self._plan = {name: str(value) for name, value in asdict(plan).items()}
        self._companions = companions
        self._charges = None
        if plan.unit is not Unit.NONE:
            self._charges = Charging(directory / "server-ledger.db", plan=plan, settings=settings)

    def close(self) -> None:
        """Close the server's ledger."""
        if self._charges is not None:
            self._charges.close()

    def charge(
        self, *, run: str, round: int, state: str, people: Ints, purpose: str, clip_norm: float
    ) -> str:
        """Charge a round before it is ordered; return the head that devices shall witness.

        Args:
            run: Name of the run.
            round: Index of the round.
            state: Digest of the global tensors that are sent.
            people: int64 [users], positions in the census of who is asked.
            purpose: What the round releases.
            clip_norm: Bound of one user's contribution in it.

        Raises:
            BudgetError: The population's budget is spent.
            RunError: The charge cannot be written.
        """
        if self._charges is None:
            return ""
        return self._charges.reserve(
            run=run, round=round, state=state, people=people, purpose=purpose, clip_norm=clip_norm
        )

    def settle(self, total: Mapping[str, NDArray[Any]], *, realised: float | None = None) -> None:
        """Note the sum that the last charge paid for, and the noise that it turned out to have.

        Raises:
            RunError: It cannot be written.
        """
        if self._charges is not None:
            self._charges.release(state_digest(total), realised=realised)

    def abandon(self, *, reason: str) -> None:
        """Note that nothing will come of the last charge, which stays spent.

        Raises:
            RunError: It cannot be written.
        """
        if self._charges is not None:
            self._charges.abandon(reason=reason)

    def abandoned(self, *, run: str, round: int) -> bool:
        """Whether a round was given up before."""
        return self._charges is not None and self._charges.abandoned(run=run, round=round)

    def resume(self) -> Checkpoint | None:
        """Go back to the newest checkpoint and drop what the journal says beyond it.

        Returns:
            The checkpoint, or None where the run never wrote one: it starts from the beginning.

        Raises:
            RunError: No checkpoint is whole, or it belongs to other settings.
        """
        kept = self._checkpoints.load(settings=self._settings)
        self._journal.rewind(0 if kept is None else kept.state.round)
        if kept is not None and self._companions is not None:
            self._companions.restore(kept.companions)
        return kept

    def begin(self, run: str, state: State) -> None:
        """Write the checkpoint before the first round: a resume keeps the name of the run.

        Raises:
            RunError: The directory already holds checkpoints of a run, or cannot be written.
        """
        if self._checkpoints.load(settings=self._settings) is not None:
            raise RunError(
                f"{self._checkpoints.directory} already holds a run; resume it or name another "
                "directory."
            )
        self.save(run, state)

    def keep(self, run: str, report: RoundReport, *, save: bool) -> None:
        """Write the journal line of a round, then, if `save`, its checkpoint.

        Raises:
            RunError: Either cannot be written.
        """
        self._journal.append(report.line())
        if save:
            self.save(run, report.state)

    def save(self, run: str, state: State) -> None:
        """Write a checkpoint between two rounds.

        Raises:
            RunError: It cannot be written.
        """
        shared = self._companions
        self._checkpoints.save(
            Checkpoint(
                run=run,
                settings=self._settings,
                plan=self._plan,
                state=state,
                companions={} if shared is None else shared.snapshot(),
            )
        )
