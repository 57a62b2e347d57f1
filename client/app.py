"""The Flower ClientApp: a courier between the server's messages and the node's participant.

It imports neither torch nor Opacus; what an order needs is imported where the work is done. A
failure reaches the server as an opaque code; what happened is logged here, without data.
"""

import logging
import traceback
from collections.abc import Callable

import numpy as np
from flwr.app import ArrayRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from client.participant import Participant, find_participant
from shared import protocol
from shared.algorithms.base import Memory
from shared.errors import BudgetError, ConfigError, DataError, FedrecError, ProtocolError
from shared.protocol import Reason

__all__ = ["app"]

log = logging.getLogger("fedrec.client")

REASONS: dict[type[Exception], Reason] = {
    BudgetError: Reason.BUDGET,
    DataError: Reason.CATALOGUE,
    ProtocolError: Reason.SCHEMA,
    ConfigError: Reason.SCHEMA,
}

app = ClientApp()


@app.query()
def greet(message: Message, context: Context) -> Message:
    """Answer what this node holds."""
    return _guarded(message, lambda: protocol.greeting_records(_participant(context).greet()))


@app.train()
def train(message: Message, context: Context) -> Message:
    """Answer an order; local tensors live in the node's state, one record a run."""
    return _guarded(message, lambda: _answer(message.content, context))


def _joined(message: Message, context: Context) -> Message:
    """Take up an order whose answer goes into a secure sum."""
    return _guarded(message, lambda: _join(message.content, context))


def _stepped(message: Message, context: Context) -> Message:
    """Answer a later phase of a secure sum."""
    return _guarded(message, lambda: _step(message.content, context))


FIRST, *LATER = protocol.PHASES
app.train(FIRST)(_joined)
for phase in LATER:
    app.train(phase)(_stepped)


def _answer(content: RecordDict, context: Context) -> RecordDict:
    order = protocol.read_order(content)
    reply, after = _participant(context).answer(order, _memory(context, order.run))
    _remember(context, order.run, after)
    return protocol.reply_records(reply)


def _join(content: RecordDict, context: Context) -> RecordDict:
    order, roster = protocol.read_invitation(content)
    return protocol.step_records(_participant(context).join(order, roster))


def _step(content: RecordDict, context: Context) -> RecordDict:
    asked = protocol.read_step(content)
    if not isinstance(asked, protocol.Step):
        raise ProtocolError("Expected a phase of a secure sum, found a refusal.")
    memory = _memory(context, asked.run)
    answer, after = _participant(context).step(asked, memory)
    if after is not memory and after is not None:
        _remember(context, asked.run, after)
    return protocol.step_records(answer)


def _memory(context: Context, run: str) -> Memory | None:
    """Return the local tensors that the node keeps of a run."""
    kept = context.state.get(f"memory {run}")
    if not isinstance(kept, ArrayRecord):
        return None
    return {name: np.asarray(v, np.float64) for name, v in protocol.unpack(kept).items()}


def _remember(context: Context, run: str, memory: Memory) -> None:
    """Keep the local tensors of one run, in place of any other's."""
    context.state.clear()
    context.state[f"memory {run}"] = protocol.pack(memory)


def _participant(context: Context) -> Participant:
    return find_participant(context.node_id, context.node_config)


def _guarded(message: Message, work: Callable[[], RecordDict]) -> Message:
    try:
        return Message(work(), reply_to=message)
    except Exception as error:
        reason = REASONS.get(type(error), Reason.FAILED)
        last = traceback.extract_tb(error.__traceback__)[-1]
        said = str(error) if isinstance(error, FedrecError) else type(error).__name__
        log.warning("refused (%s): %s [%s:%s]", reason, said, last.name, last.lineno)
        return Message(protocol.refusal_records(reason), reply_to=message)
