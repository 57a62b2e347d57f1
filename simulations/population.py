"""A data set as users, packed into Flower nodes.

The result of a run does not depend on the packing: a user's key is its index in the data set, on
whatever node it lives.
"""

import itertools
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from client.participant import Build, Participant, bounds
from client.replies import Replies
from shared.data.interactions import Interactions
from shared.errors import RunError

if TYPE_CHECKING:
    from shared.privacy.ledger import Ledger

__all__ = ["Population"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Population:
    """Users and their training histories.

    Attributes:
        histories: Training interactions, one row a user.
        keys: int64 [users], stable name of each user.
        catalogue: Digest of the vocabulary of items.
    """

    histories: Interactions = field(repr=False)
    keys: NDArray[np.int64] = field(repr=False)
    catalogue: str

    @classmethod
    def from_interactions(cls, histories: Interactions, *, catalogue: str) -> "Population":
        """Return the users of a table under their own indices."""
        keys = np.arange(histories.n_users, dtype=np.int64)
        return cls(histories=histories, keys=keys, catalogue=catalogue)

    def nodes(self, users_per_node: int = 0) -> int:
        """Return how many nodes a packing needs; 0 users a node means a node a core."""
        users = self.histories.n_users
        if users_per_node:
            return -(-users // users_per_node)
        return min(users, os.cpu_count() or 1)

    def participants(
        self,
        nodes: int,
        *,
        ledger: "Ledger | None" = None,
        replies: Path | None = None,
        build: Build | None = None,
    ) -> list[Participant]:
        """Return the participant of each node: contiguous shares of nearly equal size.

        Args:
            nodes: Number of nodes.
            ledger: Where all of them reserve their spend.
            replies: Directory for their newest replies, so that a resumed run resends them.
            build: Makes an algorithm of its public settings.
        """
        ends = bounds(self.histories.n_users, nodes)
        return [
            Participant(
                histories=self.histories.select(np.arange(low, high)),
                keys=self.keys[low:high],
                catalogue=self.catalogue,
                ledger=ledger,
                replies=None if replies is None else Replies(replies / f"{part:06d}"),
                simulated=True,
                build=build,
            )
            for part, (low, high) in enumerate(itertools.pairwise(ends))
        ]

    def save(self, path: Path) -> None:
        """Write the population for nodes in other processes (`Participant.from_file`).

        Raises:
            RunError: The file cannot be written.
        """
        fresh = path.with_suffix(".new")
        table = self.histories
        try:
            with fresh.open("wb") as file:
                np.savez(
                    file,
                    items=table.items,
                    offsets=table.offsets,
                    times=table.times,
                    weights=table.weights,
                    n_items=np.int64(table.n_items),
                    keys=self.keys,
                    catalogue=np.array(self.catalogue),
                )
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(path)
        except OSError as error:
            raise RunError(f"Cannot write {path}: {error.strerror}; free the disk.") from error

    @classmethod
    def load(cls, path: Path) -> "Population":
        """Read what `save` wrote.

        Raises:
            DataError: The file cannot be read as a population.
        """
        whole = Participant.from_file(path, part=0, parts=1)
        return cls(histories=whole.histories, keys=whole.keys, catalogue=whole.catalogue)
