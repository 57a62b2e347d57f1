"""What a node answers: one dense sum of contributions, or a refusal with an opaque code.

Only the `encode_` functions make a `Reply`; a `LocalUpdate` or `ClippedUpdate` is a type error for
all of them. A reply holds no count, loss, metric or text that is not a field of `Reply`.
"""

from dataclasses import dataclass, field, fields
from enum import StrEnum

import numpy as np
from flwr.app import RecordDict

from shared.errors import ProtocolError
from shared.privacy.distributed import PartialSum, check_distributed
from shared.privacy.plan import Plan, Trust, Unit
from shared.privacy.release import Entrusted, Release, Unprotected, check_entrusted
from shared.protocol.orders import Order
from shared.protocol.records import (
    SCHEMA,
    TYPES,
    Tensors,
    arrays,
    config,
    config_fields,
    only,
    pack,
    unpack,
)

__all__ = [
    "Reason",
    "Refusal",
    "Reply",
    "encode_entrusted",
    "encode_partial",
    "encode_reply",
    "encode_unprotected",
    "read_refusal",
    "read_reply",
    "refusal_records",
    "reply_records",
    "wire_type",
]


class Reason(StrEnum):
    """Why a device refuses; the whole of what it says about a failure."""

    BUDGET = "budget"
    CATALOGUE = "catalogue"
    SCHEMA = "schema"
    FAILED = "failed"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Reply:
    """What a node answers: made by the `encode_` functions alone.

    Attributes:
        run: Name of the run.
        round: Index of the round.
        order: Digest of the order that is answered.
        users: Users summed up; the server chose it.
        private: Whether protective noise is in the sum.
        tensors: Dense sums over the users, of the plan's `wire_type`.
    """

    run: str
    round: int
    order: str
    users: int
    private: bool
    tensors: Tensors = field(repr=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Refusal:
    """An answer without work."""

    reason: Reason


def wire_type(plan: Plan) -> np.dtype[np.floating]:
    """Return the number type of a reply: float32 in a private run, else float64.

    A partial sum of distributed trust is whole numbers, which float64 holds exactly. Without
    noise, float32 sums of differently packed users differ in their last bit, which a
    server with Adam turns into a visible difference within a few rounds.
    """
    noised = plan.private and (plan.unit, plan.trust) != (Unit.USER, Trust.DISTRIBUTED)
    return TYPES["float32" if noised else "float64"]


def encode_reply(release: Release, *, order: Order) -> Reply:
    """Make the reply of a protected round.

    Raises:
        ProtocolError: The order is not one of a run in which devices add the noise.
    """
    if order.plan.unit is Unit.NONE or order.plan.trust is not Trust.LOCAL:
        raise ProtocolError(
            f"Expected trust=local for a release, found unit={order.plan.unit} with "
            f"trust={order.plan.trust}."
        )
    return _reply(order, release.tensors, users=release.users, private=release.private)


def encode_entrusted(sums: Entrusted, *, order: Order) -> Reply:
    """Make the reply of a round whose noise the server adds; ConfigError for any other plan."""
    check_entrusted(order.plan)
    return _reply(order, sums.tensors, users=sums.users, private=False)


def encode_partial(sums: PartialSum, *, order: Order) -> Reply:
    """Make the reply of a simulation's node for its devices; ConfigError for any other plan."""
    check_distributed(order.plan)
    return _reply(order, sums.tensors, users=sums.users, private=sums.private)


def encode_unprotected(sums: Unprotected, *, order: Order) -> Reply:
    """Make the reply of a run that declared it protects nothing.

    Raises:
        ProtocolError: The plan of the order protects a unit.
    """
    if order.plan.unit is not Unit.NONE:
        raise ProtocolError(f"Expected unit=none for plain sums, found unit={order.plan.unit}.")
    return _reply(order, sums.tensors, users=sums.users, private=False)


def _reply(order: Order, tensors: Tensors, *, users: int, private: bool) -> Reply:
    kind = wire_type(order.plan)
    return Reply(
        run=order.run,
        round=order.round,
        order=order.digest,
        users=users,
        private=private,
        tensors={name: np.asarray(value, kind, order="C") for name, value in tensors.items()},
    )


def reply_records(reply: Reply) -> RecordDict:
    """Encode a reply; equal replies give equal bytes."""
    header = {f.name: getattr(reply, f.name) for f in fields(reply) if f.name != "tensors"}
    return RecordDict(
        {"reply": config({"schema": SCHEMA} | header), "sum": pack(reply.tensors)},
    )


def refusal_records(reason: Reason) -> RecordDict:
    """Encode a refusal."""
    return RecordDict({"refusal": config({"schema": SCHEMA, "reason": reason.value})})


def read_reply(records: RecordDict) -> Reply | Refusal:
    """Decode what a node answered; its tensors are views, not yet compared with the model.

    Raises:
        ProtocolError: Unknown schema, missing or unknown keys, wrong types or sizes.
    """
    if refusal := read_refusal(records):
        return refusal
    only(records, {"reply", "sum"})
    kinds: dict[str, type] = {"run": str, "round": int, "order": str, "users": int, "private": bool}
    header = config_fields(records, "reply", kinds)
    return Reply(**header, tensors=unpack(arrays(records, "sum")))  # type: ignore[arg-type]


def read_refusal(records: RecordDict) -> Refusal | None:
    """Return the refusal that a message is, or None; ProtocolError for an unknown reason."""
    if "refusal" not in records:
        return None
    only(records, {"refusal"})
    reason = config_fields(records, "refusal", {"reason": str})["reason"]
    if reason not in list(Reason):
        raise ProtocolError("A refusal names an unknown reason; update this end.")
    return Refusal(reason=Reason(str(reason)))
