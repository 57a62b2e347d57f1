"""The wire: Flower records <-> typed messages, with nothing else in a record.

A run speaks two exchanges. `Greeting`: what a node holds, in public numbers. `Order` -> `Reply`:
the global tensors and the plan go out, one dense sum of contributions comes back, or a `Refusal`
with an opaque code. Reading is strict: the schema version, the exact keys and their types, the
declared size of every tensor against its bytes, before anything is allocated.

Tensors travel as raw little-endian numbers. Everything a device sends in a private run is float32:
rounding is post-processing, or `gaussian.ROUNDING` covers it. Without protective noise replies are
float64, so that the packing of users into nodes does not show in the model.

Only the `encode_` functions make a `Reply`; a `LocalUpdate` or `ClippedUpdate` is a type error for
all of them. A reply holds no count, loss, metric or text that is not a field of `Reply`.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from functools import cached_property
from math import prod

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from numpy.typing import NDArray

from shared.errors import ConfigError, ProtocolError
from shared.privacy.plan import Plan, Trust, Unit
from shared.privacy.release import Entrusted, Release, Unprotected, check_entrusted

__all__ = [
    "SCHEMA",
    "Greeting",
    "Order",
    "Reason",
    "Refusal",
    "Reply",
    "canonical",
    "encode_entrusted",
    "encode_reply",
    "encode_unprotected",
    "greeting_records",
    "message_bytes",
    "order_records",
    "pack",
    "read_greeting",
    "read_order",
    "read_reply",
    "refusal_records",
    "reply_records",
    "state_digest",
    "unpack",
    "wire_type",
]

SCHEMA = 1
RAW = "raw-little-endian"
TYPES: dict[str, np.dtype[np.floating]] = {"float32": np.dtype("<f4"), "float64": np.dtype("<f8")}

Floats = NDArray[np.floating]
Tensors = Mapping[str, Floats]


class Reason(StrEnum):
    """Why a device refuses; the whole of what it says about a failure."""

    BUDGET = "budget"
    CATALOGUE = "catalogue"
    SCHEMA = "schema"
    FAILED = "failed"


@dataclass(frozen=True, kw_only=True, slots=True)
class Greeting:
    """What a node holds, in public numbers.

    Attributes:
        users: Users hosted by the node; 1 on a device.
        n_items: Size of the catalogue.
        catalogue: Digest of the vocabulary of items; both ends must mean the same items.
    """

    users: int
    n_items: int
    catalogue: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Order:
    """What the server asks of a node in one round.

    Attributes:
        run: Name of the run.
        round: Index of the round, from 1.
        place: Place of the node in the run's census: no two orders of a round are equal.
        seed: Experiment seed, for reproducible draws only.
        model: Name of the model.
        algorithm: Name of the learning method.
        settings: Public settings of both, canonical JSON.
        plan: The public description of the protection.
        catalogue: Digest of the vocabulary of items.
        participants: int64, positions in the node of the users who take part.
        tensors: float32, the global model.
        state: Digest of `tensors`.
        witness: Head of the server's ledger as canonical JSON, for the device to keep; it is no
            part of the digest, for a repeated order is the same work under a later head.
    """

    run: str
    round: int
    place: int
    seed: int
    model: str
    algorithm: str
    settings: str
    plan: Plan
    catalogue: str
    participants: NDArray[np.int64] = field(repr=False)
    tensors: Tensors = field(repr=False)
    state: str
    witness: str = ""

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) of the canonical order: equal digests ask for the same work."""
        header = _header(self) | {"plan": asdict(self.plan)}
        text = json.dumps(header | {"participants": self.participants.tolist()}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


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


def canonical(settings: Mapping[str, object]) -> str:
    """Return settings as canonical JSON: sorted keys, no spaces, no NaN.

    >>> canonical({"b": 1, "a": 0.5})
    '{"a":0.5,"b":1}'
    """
    return json.dumps(settings, sort_keys=True, separators=(",", ":"), allow_nan=False)


def wire_type(plan: Plan) -> np.dtype[np.floating]:
    """Return the number type of a reply: float32 in a private run, else float64.

    Without noise, float32 sums of differently packed users differ in their last bit, which a
    server with Adam turns into a visible difference within a few rounds.
    """
    return TYPES["float32" if plan.private else "float64"]


def encode_reply(release: Release, *, order: Order) -> Reply:
    """Make the reply of a protected round.

    Raises:
        ProtocolError: The order is not one of a run in which devices add the noise.
    """
    if order.plan.unit is Unit.NONE or order.plan.trust is Trust.CENTRAL:
        raise ProtocolError("Found a release where the plan expects unit=none or trust=central.")
    return _reply(order, release.tensors, users=release.users, private=release.private)


def encode_entrusted(sums: Entrusted, *, order: Order) -> Reply:
    """Make the reply of a round whose noise the server adds; ConfigError for any other plan."""
    check_entrusted(order.plan)
    return _reply(order, sums.tensors, users=sums.users, private=False)


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


def pack(tensors: Mapping[str, NDArray[np.floating]]) -> ArrayRecord:
    """Pack float tensors as raw bytes; the name order is sorted, so equal input, equal bytes.

    Raises:
        ProtocolError: A tensor is neither float32 nor float64.
    """
    return ArrayRecord({name: _packed(name, tensors[name]) for name in sorted(tensors)})


def _packed(name: str, tensor: NDArray[np.floating]) -> Array:
    kind = str(tensor.dtype)
    if kind not in TYPES:
        raise ProtocolError(f"Tensor {name} is {kind}; only float32 and float64 travel.")
    data = np.asarray(tensor, TYPES[kind]).tobytes()
    return Array(kind, tuple(int(n) for n in tensor.shape), RAW, data)


def unpack(record: ArrayRecord) -> dict[str, Floats]:
    """Return read-only views of the packed tensors; sizes are checked before any view is made.

    Raises:
        ProtocolError: Another serialisation, number type or size than declared.
    """
    return {str(name): _unpacked(array) for name, array in record.items()}


def _unpacked(array: Array) -> Floats:
    kind = TYPES.get(array.dtype)
    if array.stype != RAW or kind is None:
        raise ProtocolError("A tensor is not packed as raw float32 or float64; resend it so.")
    if any(n < 0 for n in array.shape) or prod(array.shape) * kind.itemsize != len(array.data):
        raise ProtocolError("A tensor's bytes do not match its declared shape; resend it whole.")
    return np.frombuffer(array.data, kind).reshape(array.shape)


def state_digest(tensors: Tensors) -> str:
    """Return the SHA-256 (hex) of names, shapes, types and bytes."""
    whole = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name]
        whole.update(f"{name}:{value.dtype}:{value.shape};".encode())
        whole.update(np.ascontiguousarray(value).data)
    return whole.hexdigest()


def greeting_records(greeting: Greeting | None = None) -> RecordDict:
    """Encode a greeting, or without one the question for it."""
    answer: dict[str, object] = {} if greeting is None else asdict(greeting)
    return RecordDict({"greeting": _config({"schema": SCHEMA} | answer)})


def read_greeting(records: RecordDict) -> Greeting | Refusal:
    """Decode a node's greeting.

    Raises:
        ProtocolError: Unknown schema, missing or unknown keys, wrong types or empty numbers.
    """
    if refusal := _refusal(records):
        return refusal
    found = _fields(records, "greeting", {"users": int, "n_items": int, "catalogue": str})
    _only(records, {"greeting"})
    greeting = Greeting(**found)  # type: ignore[arg-type]
    if greeting.users < 1 or greeting.n_items < 1:
        raise ProtocolError("A greeting names no user or no item; the node holds no data.")
    return greeting


def order_records(order: Order, *, packed: ArrayRecord | None = None) -> RecordDict:
    """Encode an order.

    Args:
        order: The order.
        packed: `pack(order.tensors)`, where many orders of a round share it.
    """
    plan = {k: v.value if isinstance(v, StrEnum) else v for k, v in asdict(order.plan).items()}
    people = order.participants.astype("<i8").tobytes()
    rest = {"participants": people, "witness": order.witness}
    return RecordDict(
        {
            "order": _config({"schema": SCHEMA, **_header(order), **rest}),
            "plan": _config(plan),
            "state": pack(order.tensors) if packed is None else packed,
        }
    )


HEADER: dict[str, type] = {
    "run": str,
    "round": int,
    "place": int,
    "seed": int,
    "model": str,
    "algorithm": str,
    "settings": str,
    "catalogue": str,
    "state": str,
}
PLAN: dict[str, type] = {
    "unit": str,
    "trust": str,
    "epsilon": float,
    "delta": float,
    "clip_norm": float,
    "noise_multiplier": float,
    "sampling_rate": float,
    "steps_per_round": int,
    "participations": int,
    "rounds": int,
    "expected_cohort": int,
    "noise": str,
}


def _header(order: Order) -> dict[str, object]:
    return {name: getattr(order, name) for name in HEADER}


def read_order(records: RecordDict) -> Order:
    """Decode an order.

    Raises:
        ProtocolError: Unknown schema, missing or unknown keys, wrong types, an impossible plan,
            or tensors that do not match their digest.
    """
    _only(records, {"order", "plan", "state"})
    header = _fields(records, "order", HEADER | {"participants": bytes, "witness": str})
    people = np.frombuffer(_whole(header.pop("participants")), "<i8").astype(np.int64)
    order = Order(
        **header,  # type: ignore[arg-type]
        plan=_plan(_fields(records, "plan", PLAN, versioned=False)),
        participants=people,
        tensors=unpack(_arrays(records, "state")),
    )
    if state_digest(order.tensors) != order.state:
        raise ProtocolError("The tensors of an order do not match their digest; send it again.")
    return order


def _whole(data: object) -> bytes:
    if not isinstance(data, bytes) or len(data) % 8:
        raise ProtocolError("The participants of an order are cut short; send it again.")
    return data


def _plan(found: dict[str, object]) -> Plan:
    try:
        units = {"unit": Unit(str(found["unit"])), "trust": Trust(str(found["trust"]))}
        return Plan(**(found | units))  # type: ignore[arg-type]
    except (ConfigError, ValueError) as error:
        raise ProtocolError("The plan of an order is impossible; check the run's plan.") from error


def reply_records(reply: Reply) -> RecordDict:
    """Encode a reply; equal replies give equal bytes."""
    header = {f.name: getattr(reply, f.name) for f in fields(reply) if f.name != "tensors"}
    return RecordDict(
        {"reply": _config({"schema": SCHEMA} | header), "sum": pack(reply.tensors)},
    )


def refusal_records(reason: Reason) -> RecordDict:
    """Encode a refusal."""
    return RecordDict({"refusal": _config({"schema": SCHEMA, "reason": reason.value})})


def read_reply(records: RecordDict) -> Reply | Refusal:
    """Decode what a node answered; its tensors are views, not yet compared with the model.

    Raises:
        ProtocolError: Unknown schema, missing or unknown keys, wrong types or sizes.
    """
    if refusal := _refusal(records):
        return refusal
    _only(records, {"reply", "sum"})
    kinds: dict[str, type] = {"run": str, "round": int, "order": str, "users": int, "private": bool}
    header = _fields(records, "reply", kinds)
    return Reply(**header, tensors=unpack(_arrays(records, "sum")))  # type: ignore[arg-type]


def _refusal(records: RecordDict) -> Refusal | None:
    if "refusal" not in records:
        return None
    _only(records, {"refusal"})
    reason = _fields(records, "refusal", {"reason": str})["reason"]
    if reason not in list(Reason):
        raise ProtocolError("A refusal names an unknown reason; update this end.")
    return Refusal(reason=Reason(str(reason)))


def message_bytes(records: RecordDict) -> int:
    """Return the payload of a message: tensor bytes, config values and names, no framing."""
    size = 0
    for record in records.values():
        for name, value in record.items():
            size += len(str(name))
            if isinstance(value, Array):
                size += len(value.data)
            else:
                size += len(value) if isinstance(value, (str, bytes)) else 8
    return size


def _config(values: Mapping[str, object]) -> ConfigRecord:
    return ConfigRecord(dict(values))  # type: ignore[arg-type]


def _only(records: RecordDict, names: set[str]) -> None:
    if set(records) != names:
        raise ProtocolError(f"Expected the records {sorted(names)} and no other in a message.")


def _arrays(records: RecordDict, name: str) -> ArrayRecord:
    record = records[name]
    if not isinstance(record, ArrayRecord):
        raise ProtocolError(f"Expected tensors in the record {name} of a message.")
    return record


def _fields(
    records: RecordDict, name: str, kinds: Mapping[str, type], *, versioned: bool = True
) -> dict[str, object]:
    """Return one config record whose keys and types are exactly `kinds`."""
    record = records.get(name)
    if not isinstance(record, ConfigRecord):
        raise ProtocolError(f"Expected the settings record {name} in a message.")
    found: dict[str, object] = dict(record)
    # By type too: True equals 1.
    schema = found.pop("schema", None) if versioned else SCHEMA
    if type(schema) is not int or schema != SCHEMA:
        raise ProtocolError(f"Expected wire schema {SCHEMA}; run the same version on both ends.")
    if set(found) != set(kinds) or any(type(found[key]) is not kinds[key] for key in kinds):
        raise ProtocolError(f"Expected the keys {sorted(kinds)} with their types in {name}.")
    return found
