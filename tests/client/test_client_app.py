"""The courier: light to import, and silent about failures."""

import logging
import subprocess
import sys

import numpy as np
import pytest
from counting import build, made_population
from flwr.app import Context, Message, RecordDict

import client.app
from client.participant import HOSTED, Participant
from shared import protocol
from shared.errors import BudgetError, ConfigError, DataError, ProtocolError, RunError
from shared.protocol import Order, Reason, Refusal
from simulations.grids import identify_process

NODE = -77


def ask(records: RecordDict, kind: str = "train") -> Message:
    identify_process()
    message = Message(records, dst_node_id=NODE, message_type=kind)
    context = Context(run_id=1, node_id=NODE, node_config={}, state=RecordDict(), run_config={})
    return client.app.app(message=message, context=context)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (BudgetError("secret item 42"), Reason.BUDGET),
        (DataError("secret item 42"), Reason.CATALOGUE),
        (ProtocolError("secret item 42"), Reason.SCHEMA),
        (ConfigError("secret item 42"), Reason.SCHEMA),
        (RunError("secret item 42"), Reason.FAILED),
        (ZeroDivisionError("secret item 42"), Reason.FAILED),
        (MemoryError(), Reason.FAILED),
    ],
)
def test_failures_become_opaque_codes(
    error: Exception,
    reason: Reason,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(self: Participant, order: Order, memory: object) -> None:
        raise error

    monkeypatch.setattr(Participant, "answer", fail)
    (participant,) = made_population(2).participants(1, build=build)
    monkeypatch.setitem(HOSTED, NODE, participant)
    monkeypatch.setattr(protocol, "read_order", lambda records: _order())
    with caplog.at_level(logging.WARNING):
        reply = ask(RecordDict())
    assert not reply.has_error()
    assert protocol.read_reply(reply.content) == Refusal(reason=reason)
    assert "secret" not in str(dict(reply.content["refusal"]))
    assert reason.value in caplog.text
    assert "ZeroDivisionError" in caplog.text or not isinstance(error, ZeroDivisionError)
    if isinstance(error, ZeroDivisionError):
        assert "secret" not in caplog.text


def _order() -> Order:
    class Stub:
        run = "run"

    return Stub()  # type: ignore[return-value]


def test_unreadable_order_is_refused() -> None:
    assert protocol.read_reply(ask(RecordDict()).content) == Refusal(reason=Reason.SCHEMA)


def test_node_without_users_refuses_to_greet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FEDREC_POPULATION", raising=False)
    answer = ask(protocol.greeting_records(), kind="query")
    assert protocol.read_greeting(answer.content) == Refusal(reason=Reason.CATALOGUE)


def test_importing_the_courier_is_light() -> None:
    heavy = ("torch", "opacus", "fastapi", "dp_accounting", "polars", "scipy", "pandas")
    code = f"import client.app, sys; print([m for m in {heavy} if m in sys.modules])"
    command = [sys.executable, "-c", code]
    found = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
    assert found.stdout.strip() == "[]"


def test_memory_of_another_run_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[object] = []

    def answer(self: Participant, order: Order, memory: object) -> tuple[object, object]:
        seen.append(memory)
        return None, {"visits": np.ones((2, 1))}

    (participant,) = made_population(2).participants(1, build=build)
    monkeypatch.setitem(HOSTED, NODE, participant)
    monkeypatch.setattr(Participant, "answer", answer)
    monkeypatch.setattr(protocol, "reply_records", lambda reply: RecordDict())
    identify_process()
    context = Context(run_id=1, node_id=NODE, node_config={}, state=RecordDict(), run_config={})
    for run in ("one", "one", "two"):
        order = _order()
        order.run = run  # type: ignore[misc]
        monkeypatch.setattr(protocol, "read_order", lambda records, order=order: order)
        message = Message(RecordDict(), dst_node_id=NODE, message_type="train")
        client.app.app(message=message, context=context)
    assert [memory is None for memory in seen] == [True, False, True]
    assert list(context.state) == ["memory two"]
