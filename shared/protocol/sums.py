"""The exchange of a secure sum: an invitation with the order, then one message a phase each way.

What the messages of the phases hold is `shared.privacy.secure_sum.messages`' own strict form; here
they are bytes under the name of their run, round and phase. Each phase is a Flower message type,
`train.<phase>`.
"""

from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
from flwr.app import ArrayRecord, RecordDict

from shared.errors import ProtocolError
from shared.privacy.distributed import Layout
from shared.privacy.secure_sum.session import Session
from shared.protocol.orders import Order, order_records, read_order
from shared.protocol.records import SCHEMA, config, config_fields, only
from shared.protocol.replies import Refusal, read_refusal

__all__ = [
    "PHASES",
    "Step",
    "invitation_records",
    "read_invitation",
    "read_step",
    "session_of",
    "step_records",
]

PHASES: Final = ("keys", "share", "mask", "vote", "open")
"""What a device is asked for, in order; each is the action of a Flower message type."""

KEY_BYTES: Final = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One message of a phase, up or down.

    Attributes:
        run: Name of the run.
        round: Index of the round.
        phase: One of `PHASES`.
        message: The secure sum's own bytes.
    """

    run: str
    round: int
    phase: str
    message: bytes = field(repr=False)


def invitation_records(
    order: Order, roster: tuple[bytes, ...], *, packed: ArrayRecord | None = None
) -> RecordDict:
    """Encode an order whose answer goes into a secure sum, with the identities of all invited.

    Args:
        order: The order.
        roster: Ed25519 public keys, 32 bytes each.
        packed: `pack(order.tensors)`, where many orders of a round share it.
    """
    records = order_records(order, packed=packed)
    records["roster"] = config({"keys": b"".join(roster)})
    return records


def read_invitation(records: RecordDict) -> tuple[Order, tuple[bytes, ...]]:
    """Decode an invitation.

    Raises:
        ProtocolError: The order cannot be read, or the roster is missing or cut short.
    """
    keys = config_fields(records, "roster", {"keys": bytes}, versioned=False)["keys"]
    if not isinstance(keys, bytes) or not keys or len(keys) % KEY_BYTES:
        raise ProtocolError("The roster of an order is empty or cut short; send it again.")
    order = read_order(RecordDict({n: r for n, r in records.items() if n != "roster"}))
    return order, tuple(keys[at : at + KEY_BYTES] for at in range(0, len(keys), KEY_BYTES))


def step_records(step: Step) -> RecordDict:
    """Encode a message of a phase."""
    fields = {name: getattr(step, name) for name in KINDS}
    return RecordDict({"step": config({"schema": SCHEMA} | fields)})


KINDS: dict[str, type] = {"run": str, "round": int, "phase": str, "message": bytes}


def read_step(records: RecordDict) -> Step | Refusal:
    """Decode a message of a phase.

    Raises:
        ProtocolError: Unknown schema or phase, missing or unknown keys, wrong types.
    """
    if refusal := read_refusal(records):
        return refusal
    only(records, {"step"})
    step = Step(**config_fields(records, "step", KINDS))  # type: ignore[arg-type]
    if step.phase not in PHASES:
        raise ProtocolError(f"Expected a phase of {', '.join(PHASES)}; update this end.")
    return step


def session_of(order: Order, roster: tuple[bytes, ...], *, layout: Layout) -> Session:
    """Return the terms of an order's secure sum, as both ends make them for themselves.

    Its digest covers the whole order but for who it is sent to: devices that were given different
    orders find no agreement.

    Raises:
        ConfigError: The roster is too small for the plan, or names an identity twice.
    """
    common = replace(order, place=0, participants=np.zeros(1, dtype=np.int64))
    return Session(
        run=order.run,
        round=order.round,
        roster=roster,
        dimension=layout.dimension,
        minimum=order.plan.minimum,
        colluders=order.plan.colluders,
        dropouts=order.plan.dropouts,
        terms=bytes.fromhex(common.digest),
    )
