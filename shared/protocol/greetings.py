"""The first exchange: what a node holds, in public numbers."""

import re
from dataclasses import asdict, dataclass

from flwr.app import RecordDict

from shared.errors import ProtocolError
from shared.protocol.records import SCHEMA, config, config_fields, only
from shared.protocol.replies import Refusal, read_refusal

__all__ = ["Greeting", "greeting_records", "read_greeting"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Greeting:
    """What a node holds, in public numbers.

    Attributes:
        users: Users hosted by the node; 1 on a device.
        n_items: Size of the catalogue.
        catalogue: Digest of the vocabulary of items; both ends must mean the same items.
        identity: Ed25519 public key (hex) of a node of one user, for secure sums; else empty.
    """

    users: int
    n_items: int
    catalogue: str
    identity: str = ""


def greeting_records(greeting: Greeting | None = None) -> RecordDict:
    """Encode a greeting, or without one the question for it."""
    answer: dict[str, object] = {} if greeting is None else asdict(greeting)
    return RecordDict({"greeting": config({"schema": SCHEMA} | answer)})


def read_greeting(records: RecordDict) -> Greeting | Refusal:
    """Decode a node's greeting.

    Raises:
        ProtocolError: Unknown schema, missing or unknown keys, wrong types or empty numbers.
    """
    if refusal := read_refusal(records):
        return refusal
    found = config_fields(
        records, "greeting", {"users": int, "n_items": int, "catalogue": str, "identity": str}
    )
    only(records, {"greeting"})
    greeting = Greeting(**found)  # type: ignore[arg-type]
    if greeting.users < 1 or greeting.n_items < 1:
        raise ProtocolError("A greeting names no user or no item; the node holds no data.")
    if greeting.identity and not re.fullmatch("[0-9a-f]{64}", greeting.identity):
        raise ProtocolError("A greeting's identity is no Ed25519 public key; update this end.")
    if greeting.identity and greeting.users > 1:
        raise ProtocolError("A greeting of several users shows an identity; it is one device's.")
    return greeting
