"""What a round collects: orders go out, replies come back, are checked and summed."""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from flwr.app import ArrayRecord, Message, MessageType
from flwr.serverapp import Grid
from numpy.typing import NDArray

from server.aggregation import Expected, Tally
from server.census import read_message
from shared.protocol import Order, message_bytes, order_records, read_reply

__all__ = ["Collected", "collect"]

log = logging.getLogger("fedrec.server")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Collected:
    """The replies of one round, summed.

    Attributes:
        total: float64 sums over the users, by tensor name.
        users: Users in the total.
        accepted: Nodes whose reply is in the total.
        quarantined: How many nodes gave which reason code.
        bytes_up: Payload that one device sends.
        bytes_down: Payload that one device receives.
        realised: Noise multiplier of the total, where it depends on who answered.
    """

    total: Mapping[str, NDArray[np.float64]] = field(repr=False)
    users: int
    accepted: int
    quarantined: Mapping[str, int]
    bytes_up: int = 0
    bytes_down: int = 0
    realised: float | None = None

    @property
    def exhausted(self) -> bool:
        """Whether every node that was asked refused for its budget."""
        return not self.accepted and set(self.quarantined) == {"refused-budget"}

    @property
    def reasons(self) -> str:
        """How many nodes gave which reason code, in words."""
        return ", ".join(f"{count} {reason}" for reason, count in sorted(self.quarantined.items()))


def collect(
    grid: Grid,
    orders: Mapping[int, Order],
    *,
    shapes: Mapping[str, tuple[int, ...]],
    packed: ArrayRecord,
    deadline: float,
) -> Collected:
    """Send the orders of one round and sum what comes back.

    Args:
        grid: The Flower grid.
        orders: By node.
        shapes: Of the tensors of a reply.
        packed: The tensors that all orders share.
        deadline: Seconds to wait.
    """
    tally = Tally({node: Expected.from_order(order, shapes) for node, order in orders.items()})
    up = 0
    for message in grid.send_and_receive(_messages(orders, packed), timeout=deadline):
        node = message.metadata.src_node_id
        if fault := tally.receive(node, read_message(message, read_reply)):
            log.warning("A round's reply of node %d: %s.", node, fault)
        else:
            up = message_bytes(message.content)
    tally.close()
    one = replace(next(iter(orders.values())), participants=np.zeros(1, dtype=np.int64))
    return Collected(
        total=tally.total,
        users=tally.users,
        accepted=tally.accepted,
        quarantined=tally.quarantined,
        bytes_up=up,
        bytes_down=message_bytes(order_records(one, packed=packed)),
    )


def _messages(orders: Mapping[int, Order], packed: ArrayRecord) -> Iterator[Message]:
    for node, order in orders.items():
        yield Message(
            order_records(order, packed=packed),
            dst_node_id=node,
            message_type=MessageType.TRAIN,
            group_id=str(order.round),
        )
