"""The wire: Flower records <-> typed messages, with nothing else in a record.

records -> orders -> replies -> greetings | sums

- `records`: tensors as raw little-endian numbers, settings of exact keys and types
- `orders`: `Order`: what the server asks of a node in one round
- `replies`: `Reply`: one dense sum of contributions; `Refusal`: an opaque code
- `greetings`: `Greeting`: what a node holds, in public numbers
- `sums`: `Step`: one message of a phase of a secure sum

Everything a device sends in a private run is float32: rounding is post-processing, or
`gaussian.ROUNDING` covers it. Without protective noise replies are float64, so that the packing of
users into nodes does not show in the model.
"""

from shared.protocol.greetings import Greeting, greeting_records, read_greeting
from shared.protocol.orders import Order, canonical, order_records, read_order
from shared.protocol.records import SCHEMA, message_bytes, pack, state_digest, unpack
from shared.protocol.replies import (
    Reason,
    Refusal,
    Reply,
    encode_entrusted,
    encode_partial,
    encode_reply,
    encode_unprotected,
    read_reply,
    refusal_records,
    reply_records,
    wire_type,
)
from shared.protocol.sums import (
    PHASES,
    Step,
    invitation_records,
    read_invitation,
    read_step,
    session_of,
    step_records,
)

__all__ = [
    "PHASES",
    "SCHEMA",
    "Greeting",
    "Order",
    "Reason",
    "Refusal",
    "Reply",
    "Step",
    "canonical",
    "encode_entrusted",
    "encode_partial",
    "encode_reply",
    "encode_unprotected",
    "greeting_records",
    "invitation_records",
    "message_bytes",
    "order_records",
    "pack",
    "read_greeting",
    "read_invitation",
    "read_order",
    "read_reply",
    "read_step",
    "refusal_records",
    "reply_records",
    "session_of",
    "state_digest",
    "step_records",
    "unpack",
    "wire_type",
]
