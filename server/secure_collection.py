"""What a round collects under distributed trust: the sum of masked vectors, and nothing else.

Five exchanges with every device that is still there (`shared.privacy.secure_sum`). A device that
is silent, refuses or sends what cannot be believed is left behind; the sum is opened if enough are
left, or the round is aborted with nothing revealed.

Guarantees:
    A message counts for the device whose node sent it, whatever number it names.
"""

import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, Message, RecordDict
from flwr.serverapp import Grid

from server.census import read_message
from server.collection import Collected
from shared.errors import ProtocolError
from shared.privacy.distributed import Layout
from shared.privacy.secure_sum.messages import (
    KeyAdvert,
    MaskedVector,
    Openings,
    SealedShares,
    Vote,
)
from shared.privacy.secure_sum.server import Server
from shared.protocol import (
    PHASES,
    Order,
    Refusal,
    Step,
    invitation_records,
    message_bytes,
    read_step,
    session_of,
    step_records,
)

__all__ = ["collect_masked"]

log = logging.getLogger("fedrec.server")

ANSWERS: dict[str, Any] = dict(
    zip(PHASES, (KeyAdvert, SealedShares, MaskedVector, Vote, Openings), strict=True)
)


def collect_masked(
    grid: Grid,
    orders: Mapping[int, Order],
    *,
    identities: Mapping[int, bytes],
    layout: Layout,
    packed: ArrayRecord,
    deadline: float,
) -> Collected:
    """Run one secure sum and return it, in grid units modulo 2^32.

    Args:
        grid: The Flower grid.
        orders: By node; each node is one device.
        identities: Ed25519 public key of each node.
        layout: Of a contribution.
        packed: The tensors that all orders share.
        deadline: Seconds to wait in each phase.

    Raises:
        ConfigError: There are too few devices for the plan.
        RunError: The sum is aborted: too few devices were left in a phase.
    """
    devices = tuple(orders)
    roster = tuple(identities[node] for node in devices)
    session = session_of(next(iter(orders.values())), roster, layout=layout)
    exchange = _Exchange(grid=grid, devices=devices, server=Server(session), deadline=deadline)
    order = next(iter(orders.values()))
    invitations = {n: invitation_records(o, roster, packed=packed) for n, o in orders.items()}
    exchange.ask("keys", invitations)
    if exchange.refused_by_all:
        return exchange.collected({name: np.zeros(s) for name, s in layout.shapes.items()}, 0)
    keys = exchange.server.keys()
    exchange.ask("share", exchange.steps(order, "share", keys))
    deliveries = exchange.server.deliveries()
    mine = {devices[number]: sent for number, sent in deliveries.items()}
    exchange.ask("mask", exchange.steps(order, "mask", mine))
    survivors = exchange.server.survivors()
    exchange.ask("vote", exchange.steps(order, "vote", survivors))
    proof = exchange.server.proof()
    exchange.ask("open", exchange.steps(order, "open", proof))
    words = exchange.server.total()
    total = layout.split(words.astype(np.float64))
    return exchange.collected(total, len(survivors.devices))


@dataclass(kw_only=True, slots=True, eq=False)
class _Exchange:
    """The phases of one sum over a grid: who is still there, what was sent."""

    grid: Grid
    devices: tuple[int, ...]
    server: Server = field(repr=False)
    deadline: float
    faults: Counter[str] = field(default_factory=Counter)
    there: list[int] = field(default_factory=list)
    up: int = 0
    down: int = 0

    def __post_init__(self) -> None:
        self.there = list(self.devices)

    @property
    def refused_by_all(self) -> bool:
        """Whether nobody is there because everyone's budget is spent."""
        return not self.there and set(self.faults) == {"refused-budget"}

    def steps(self, order: Order, phase: str, said: Any) -> dict[int, RecordDict]:
        """Return what each device that is there is told: one thing for all, or each its own."""
        each = said if isinstance(said, dict) else dict.fromkeys(self.there, said)
        done: dict[int, bytes] = {}

        def records(node: int) -> RecordDict:
            told = each[node]
            if id(told) not in done:
                done[id(told)] = told.to_bytes()
            raw = done[id(told)]
            step = Step(run=order.run, round=order.round, phase=phase, message=raw)
            return step_records(step)

        return {node: records(node) for node in self.there if node in each}

    def ask(self, phase: str, questions: Mapping[int, RecordDict]) -> None:
        """Ask one phase of everyone who is there; who does not answer well is left behind."""
        if questions:
            self.down += message_bytes(next(iter(questions.values())))
        answered: dict[int, None] = {}
        faults: Counter[str] = Counter()
        up = 0
        replies = self.grid.send_and_receive(_messages(phase, questions), timeout=self.deadline)
        for message in replies:
            node = message.metadata.src_node_id
            fault = "stranger" if node not in questions else self._take(phase, node, message)
            if fault:
                faults[fault] += 1
                log.warning("Secure sum, phase %s: node %d: %s.", phase, node, fault)
            else:
                answered[node] = None
                up = message_bytes(message.content)
        self.up += up
        self.there = list(answered)
        if silent := len(questions) - len(answered) - sum(faults.values()):
            faults["missing"] = max(0, silent)
        self.faults += faults

    def _take(self, phase: str, node: int, message: Message) -> str | None:
        """Hand one answer to the sum; return the reason code if it was not believed."""
        step = read_message(message, read_step)
        if isinstance(step, str):
            return step
        if isinstance(step, Refusal):
            return f"refused-{step.reason}"
        try:
            said = ANSWERS[phase].from_bytes(step.message)
            if step.phase != phase or self.devices[said.sender] != node:
                return "sender"
            self.server.receive(said)
        except (ProtocolError, IndexError):
            return "sum"
        return None

    def collected(self, total: Mapping[str, Any], users: int) -> Collected:
        """Return what the round came to."""
        return Collected(
            total=total,
            users=users,
            accepted=users,
            quarantined=self.faults,
            bytes_up=self.up,
            bytes_down=self.down,
        )


def _messages(phase: str, questions: Mapping[int, RecordDict]) -> Iterator[Message]:
    for node, content in questions.items():
        yield Message(content, dst_node_id=node, message_type=f"train.{phase}", group_id=phase)
