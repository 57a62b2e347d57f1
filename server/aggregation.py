"""Validation of replies and their sum: nothing a device sends can harm more than its own reply.

Weights do not exist on the wire and the number of users is the server's own, so a device cannot
weigh itself. A bad reply is quarantined with a reason code and the round goes on.

Guarantees:
    The total is the sum of exactly the accepted replies; a quarantined one leaves no trace in it.
    Where the server adds the noise, no reply weighs more than its users' clip norms together.
    One reply a node: a second one is dropped, whatever the first one was.
    An exact-zero total is a total like any other; nothing is divided by it.

Source: facts on poisoned aggregators (Baruch et al. 2019; MC1-MC5 of the fault catalogue).
"""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shared.privacy.gaussian import ROUNDING
from shared.privacy.plan import Trust, Unit
from shared.protocol import Order, Refusal, Reply, wire_type

__all__ = ["MAGNITUDE", "Expected", "Tally"]

MAGNITUDE = 1e6
"""Largest absolute value of one coordinate of one user's contribution that is believed."""

WORD = 2.0**31
"""The same of a sum modulo 2^32, whoever is in it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Expected:
    """What a valid reply to one order looks like.

    Attributes:
        run: Name of the run.
        round: Index of the round.
        order: Digest of the order.
        users: Users who were asked.
        kind: Number type of the tensors.
        shapes: Name and shape of every tensor; no other is allowed.
        norm: Largest L2 norm of the whole reply, where it is clipped and not noised; else inf.
        whole: Whether values are grid units modulo 2^32: whole numbers, represented around 0.
    """

    run: str
    round: int
    order: str
    users: int
    kind: np.dtype[np.floating]
    shapes: Mapping[str, tuple[int, ...]]
    norm: float = math.inf
    whole: bool = False

    @classmethod
    def from_order(cls, order: Order, shapes: Mapping[str, tuple[int, ...]]) -> "Expected":
        """Return what answers `order`: sums of these shapes."""
        return cls(
            run=order.run,
            round=order.round,
            order=order.digest,
            users=len(order.participants),
            kind=wire_type(order.plan),
            shapes=shapes,
            norm=_largest_norm(order),
            whole=(order.plan.unit, order.plan.trust) == (Unit.USER, Trust.DISTRIBUTED),
        )

    def fault(self, reply: Reply) -> str | None:
        """Return the reason code for which the reply is not believed, or None."""
        if reply.run != self.run or reply.round != self.round:
            return "replayed"
        if reply.order != self.order:
            return "order"
        if reply.users != self.users:
            return "users"
        if set(reply.tensors) != set(self.shapes):
            return "names"
        values = _values(self, reply)
        if fault := next(filter(None, map(self._tensor_fault, self.shapes, values)), None):
            return fault
        squares = sum(float(np.square(value, dtype=np.float64).sum()) for value in values)
        return "norm" if math.sqrt(squares) > self.norm else None

    def _tensor_fault(self, name: str, value: NDArray[np.floating]) -> str | None:
        if value.shape != self.shapes[name]:
            return "shape"
        if value.dtype != self.kind:
            return "dtype"
        if not value.size:
            return None
        peak = float(np.abs(value).max())
        if not np.isfinite(peak):
            return "not-finite"
        if self.whole and not np.array_equal(value, np.rint(value)):
            return "grid"
        largest = WORD if self.whole else MAGNITUDE * self.users
        return "magnitude" if peak > largest else None


def _values(expected: Expected, reply: Reply) -> list[NDArray[np.floating]]:
    return [reply.tensors[name] for name in expected.shapes]


def _largest_norm(order: Order) -> float:
    """The bound of a clipped sum; a noised or unprotected one has none."""
    plan = order.plan
    if (plan.unit, plan.trust) != (Unit.USER, Trust.CENTRAL):
        return math.inf
    return len(order.participants) * plan.clip_norm * ROUNDING


class Tally:
    """The sum of one round, reply by reply, in float64.

    Args:
        expected: What each node was asked, by node id.

    Attributes:
        total: float64 sums over the accepted users, by tensor name.
        users: Users in the total.
        accepted: Nodes whose reply is in the total.
        quarantined: How many nodes gave which reason code.
    """

    def __init__(self, expected: Mapping[int, Expected]) -> None:
        shapes = next(iter(expected.values())).shapes if expected else {}
        self.total = {name: np.zeros(shape) for name, shape in shapes.items()}
        self.users = 0
        self.accepted = 0
        self.quarantined: Counter[str] = Counter()
        self._waiting = dict(expected)
        self._seen: set[int] = set()

    def receive(self, node: int, answer: Reply | Refusal | str) -> str | None:
        """Take one node's answer.

        Args:
            node: Flower id of the node that sent it.
            answer: What it sent, or the reason code for which it could not be read.

        Returns:
            The reason code if the answer was not accepted.
        """
        fault = self._judge(node, answer)
        if fault:
            self.quarantined[fault] += 1
        return fault

    def _judge(self, node: int, answer: Reply | Refusal | str) -> str | None:
        if node in self._seen:
            return "duplicate"
        expected = self._waiting.pop(node, None)
        if expected is None:
            return "stranger"
        self._seen.add(node)
        if isinstance(answer, str):
            return answer
        if isinstance(answer, Refusal):
            return f"refused-{answer.reason}"
        if fault := expected.fault(answer):
            return fault
        for name, value in answer.tensors.items():
            self.total[name] += value
        self.users += expected.users
        self.accepted += 1
        return None

    def close(self) -> None:
        """Count the nodes that never answered as missing."""
        if self._waiting:
            self.quarantined["missing"] += len(self._waiting)
        self._waiting.clear()

    @property
    def exhausted(self) -> bool:
        """Whether every node that was asked refused for its budget."""
        return not self.accepted and set(self.quarantined) == {"refused-budget"}
