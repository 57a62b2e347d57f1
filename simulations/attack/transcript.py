"""What was seen of an attacked run: contributions, messages and sums, by round."""

import threading
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from shared.privacy.plan import Plan, Unit
from shared.privacy.release import LocalUpdate, Rows
from shared.protocol import Order, Reply

__all__ = ["Clue", "Message", "Transcript", "flat"]

Array = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Clue:
    """What the code says of a device with canary interactions in one round, noise aside.

    Attributes:
        deviation: Standard deviation of the noise on each value that one device sends.
        moves: Name -> what each of its canaries moves on its own item's row, float64
            [canaries, ...].
        largest: Norms of what one interaction moves, in standard deviations of the noise.
    """

    deviation: Mapping[str, Array] = field(repr=False)
    moves: Mapping[str, Array] = field(repr=False)
    largest: list[float]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Message:
    """A reply on the wire.

    Attributes:
        users: Users it is from.
        norm: Its L2 norm over all tensors.
        tensors: What it said, where the node is one that the attacker keeps whole.
        cell: The value at the coordinate of the canary that the node hosts alone.
    """

    users: int
    norm: float
    tensors: Mapping[str, Array] | None = field(repr=False)
    cell: float = 0.0


class Transcript:
    """Notes of one run; nodes write at the same time.

    Attributes:
        clean: Round -> sum of the contributions, clipped by a second implementation.
        totals: Round -> the released sum that the server learned from, without what rode along.
        plans: Round -> the plan of that round: the clip norm may move.
        people: Round -> keys of everyone who contributed, in no order.
        clues: (round, device) -> `Clue`.
        messages: (round, first key of the node) -> `Message`.
        orders: First key of the node -> the last order to it.
        fault: Why the run broke off; None if it went through.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._closed = False
        self.clean: dict[int, dict[str, Array]] = defaultdict(dict)
        self.totals: dict[int, dict[str, Array]] = {}
        self.plans: dict[int, Plan] = {}
        self.people: dict[int, list[int]] = defaultdict(list)
        self.clues: dict[tuple[int, int], Clue] = {}
        self.messages: dict[tuple[int, int], Message] = {}
        self.orders: dict[int, Order] = {}
        self.fault: str | None = None

    def close(self) -> None:
        """Take no more notes: what follows is no part of the run."""
        self._closed = True

    def took_part(self, round_: int, keys: Ints) -> None:
        """Note who contributes."""
        with self._lock:
            if not self._closed:
                self.people[round_] += keys.tolist()

    def contributed(
        self, round_: int, keys: Ints, update: LocalUpdate, *, clip_norm: float
    ) -> None:
        """Note who contributes, and the sum of what they should weigh after the clip."""
        self.took_part(round_, keys)
        factors = _factors(update, clip_norm)
        with self._lock:
            if self._closed:
                return
            for name, rows in update.tensors.items():
                total = self.clean[round_].setdefault(name, np.zeros(rows.shape))
                weights = factors[rows.owner].reshape(-1, *[1] * (rows.values.ndim - 1))
                np.add.at(total, rows.index, weights * rows.values)

    def clued(self, round_: int, device: int, clue: Clue) -> None:
        """Note what the code says of a canary device."""
        with self._lock:
            if not self._closed:
                self.clues[round_, device] = clue

    def released(self, round_: int, total: Mapping[str, Array], plan: Plan) -> None:
        """Note the sum that the server learns from; a round without contributions has none."""
        if round_ not in self.clean and plan.unit is Unit.USER:
            return
        self.plans[round_] = plan
        self.totals[round_] = {name: np.array(value) for name, value in total.items()}

    def replied(
        self,
        reply: Reply,
        *,
        first: int,
        main: Mapping[str, Array],
        whole: bool,
        cell: tuple[str, int, int] | None,
    ) -> None:
        """Note a message on its way to the server; `main` is it without what rides along."""
        squares = sum(float(np.square(v, dtype=np.float64).sum()) for v in reply.tensors.values())
        value = 0.0
        if cell is not None:
            name, row, column = cell
            value = float(main[name].reshape(main[name].shape[0], -1)[row, column])
        self.messages[reply.round, first] = Message(
            users=reply.users,
            norm=float(np.sqrt(squares)),
            tensors=main if whole else None,
            cell=value,
        )


def flat(tensors: Mapping[str, Array]) -> Array:
    """Return all values in one row, tensors in the order of their names."""
    return np.concatenate([tensors[name].reshape(-1) for name in sorted(tensors)])


def _factors(update: LocalUpdate, clip_norm: float) -> Array:
    """Return what the clip multiplies each user by, written a second time on purpose."""
    squares = np.zeros(update.users)
    for rows in update.tensors.values():
        np.add.at(squares, rows.owner, _squares(rows))
    with np.errstate(divide="ignore"):
        return np.asarray(np.minimum(1.0, clip_norm / np.sqrt(squares)))


def _squares(rows: Rows) -> Array:
    values = rows.values.reshape(len(rows.owner), -1) if len(rows.owner) else np.zeros((0, 1))
    return np.asarray(np.square(values).sum(axis=1))
