"""What the server asks of a node in one round: the global tensors, the plan, who takes part."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property

import numpy as np
from flwr.app import ArrayRecord, RecordDict
from numpy.typing import NDArray

from shared.errors import ConfigError, ProtocolError
from shared.privacy.plan import Plan, Trust, Unit
from shared.protocol.records import (
    SCHEMA,
    Tensors,
    arrays,
    config,
    config_fields,
    only,
    pack,
    state_digest,
    unpack,
)

__all__ = ["Order", "canonical", "order_records", "read_order"]


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


def canonical(settings: Mapping[str, object]) -> str:
    """Return settings as canonical JSON: sorted keys, no spaces, no NaN.

    >>> canonical({"b": 1, "a": 0.5})
    '{"a":0.5,"b":1}'
    """
    return json.dumps(settings, sort_keys=True, separators=(",", ":"), allow_nan=False)


def order_records(order: Order, *, packed: ArrayRecord | None = None) -> RecordDict:
    """Encode an order.

    Args:
        order: The order.
        packed: `pack(order.tensors)`, where many orders of a round share it.
    """
    plan = {name: _plain(value) for name, value in asdict(order.plan).items()}
    people = order.participants.astype("<i8").tobytes()
    rest = {"participants": people, "witness": order.witness}
    return RecordDict(
        {
            "order": config({"schema": SCHEMA, **_header(order), **rest}),
            "plan": config(plan),
            "state": pack(order.tensors) if packed is None else packed,
        }
    )


def _plain(value: object) -> object:
    """Return a name as text and a tuple as a list of numbers: what a record can hold."""
    return list(value) if isinstance(value, tuple) else getattr(value, "value", value)


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
    "shares": list,
    "dropouts": int,
    "colluders": int,
    "clip_quantile": float,
    "clip_share": float,
    "metrics_share": float,
    "separation": int,
    "bands": int,
}


def _header(order: Order) -> dict[str, object]:
    return {name: getattr(order, name) for name in HEADER}


def read_order(records: RecordDict) -> Order:
    """Decode an order.

    Raises:
        ProtocolError: Unknown schema, missing or unknown keys, wrong types, an impossible plan,
            or tensors that do not match their digest.
    """
    only(records, {"order", "plan", "state"})
    header = config_fields(records, "order", HEADER | {"participants": bytes, "witness": str})
    people = np.frombuffer(_whole(header.pop("participants")), "<i8").astype(np.int64)
    order = Order(
        **header,  # type: ignore[arg-type]
        plan=_plan(config_fields(records, "plan", PLAN, versioned=False)),
        participants=people,
        tensors=unpack(arrays(records, "state")),
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
