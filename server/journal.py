"""The journal of a run: one JSON line a round, appended and synced, readable after any crash."""

import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path

from shared.algorithms.base import State
from shared.errors import RunError

__all__ = ["Journal", "Observer", "RoundReport"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class RoundReport:
    """What an observer sees after a round.

    Attributes:
        round: Rounds absorbed.
        rounds: Rounds of the run.
        state: The server's state.
        epsilon: Spent so far by the device that took part most often; inf without protection.
        users: Users in the sum.
        replies: Replies in the sum.
        quarantined: How many nodes gave which reason code.
        seconds: Wall time of the round.
        bytes_up: Payload of one device's reply.
        bytes_down: Payload of one device's order.
        notes: Public numbers that the observer adds to the journal line (a validation score).
    """

    round: int
    rounds: int
    state: State = field(repr=False)
    epsilon: float
    users: int
    replies: int
    quarantined: Mapping[str, int]
    seconds: float
    bytes_up: int
    bytes_down: int
    notes: dict[str, float] = field(default_factory=dict)

    def line(self) -> dict[str, object]:
        """Return the journal line: every public number, not the state."""
        named = (f.name for f in fields(self) if f.name not in {"state", "notes", "quarantined"})
        line: dict[str, object] = {name: getattr(self, name) for name in named}
        if math.isinf(self.epsilon):
            line["epsilon"] = None
        return line | {"quarantined": dict(self.quarantined), **self.notes}


Observer = Callable[[RoundReport], bool]


class Journal:
    """Lines of `metrics.jsonl`, each an object with at least the key `round`.

    Guarantees:
        A line is on disk when `append` returns.
        A torn last line, left by a crash, is dropped when the journal is opened again.

    Args:
        path: The file; created when the first line is written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, line: Mapping[str, object]) -> None:
        """Write one line and sync it.

        Raises:
            RunError: The file cannot be written.
        """
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line, sort_keys=True) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise RunError(f"Cannot write {self.path}: {error.strerror}; free the disk.") from error

    def read(self) -> list[dict[str, object]]:
        """Return every whole line; a torn last one is left out.

        Raises:
            RunError: A line before the last is no JSON object.
        """
        if not self.path.exists():
            return []
        *whole, _torn = self.path.read_bytes().split(b"\n")
        return [self._parsed(line, number) for number, line in enumerate(whole, 1)]

    def _parsed(self, line: bytes, number: int) -> dict[str, object]:
        try:
            found = json.loads(line)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise RunError(f"{self.path} line {number} is no JSON object; restore the file.")
        return found

    def rewind(self, rounds: int) -> None:
        """Drop the lines after `rounds` and a torn last line, atomically.

        Raises:
            RunError: The file is damaged or cannot be written.
        """
        kept = [line for line in self.read() if _round(line) <= rounds]
        if not self.path.exists():
            return
        fresh = self.path.with_suffix(".new")
        try:
            with fresh.open("w", encoding="utf-8") as file:
                file.writelines(json.dumps(line, sort_keys=True) + "\n" for line in kept)
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(self.path)
        except OSError as error:
            raise RunError(f"Cannot write {self.path}: {error.strerror}; free the disk.") from error


def _round(line: Mapping[str, object]) -> int:
    found = line.get("round")
    return found if isinstance(found, int) else 0
