"""The wire of a secure sum: what is written is read back, and nothing else is accepted."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from counting import user_plan
from flwr.app import ConfigRecord, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st

from shared import protocol
from shared.errors import ConfigError, ProtocolError
from shared.privacy.distributed import Layout, PartialSum
from shared.privacy.plan import Trust
from shared.protocol import PHASES, Greeting, Order, Reason, Refusal, Step

ROSTER = tuple(bytes([i]) * 32 for i in range(1, 7))
LAYOUT = Layout(shapes={"table": (4, 2)})


def made_order(**changes: object) -> Order:
    tensors = {"table": np.arange(8, dtype=np.float32).reshape(4, 2)}
    order = Order(
        run="run",
        round=2,
        place=1,
        seed=7,
        model="table",
        algorithm="counting",
        settings="{}",
        plan=user_plan(trust=Trust.DISTRIBUTED),
        catalogue="digest",
        participants=np.array([0], dtype=np.int64),
        tensors=tensors,
        state=protocol.state_digest(tensors),
    )
    return replace(order, **changes)


@settings(deadline=None, max_examples=40)
@given(
    roster=st.lists(st.binary(min_size=32, max_size=32), min_size=1, max_size=9),
    round=st.integers(1, 10**6),
    witness=st.text(max_size=20),
    shared=st.booleans(),
)
def test_invitation_survives_the_wire(
    roster: list[bytes], round: int, witness: str, shared: bool
) -> None:
    order = made_order(round=round, witness=witness)
    packed = protocol.pack(order.tensors) if shared else None
    records = protocol.invitation_records(order, tuple(roster), packed=packed)
    read, keys = protocol.read_invitation(records)
    assert keys == tuple(roster)
    assert (read.digest, read.plan, read.witness) == (order.digest, order.plan, witness)
    assert "roster" in records  # Reading took nothing out of the message.


@settings(deadline=None, max_examples=60)
@given(
    run=st.text(max_size=12),
    round=st.integers(0, 2**62),
    phase=st.sampled_from(PHASES),
    message=st.binary(max_size=80),
)
def test_step_survives_the_wire(run: str, round: int, phase: str, message: bytes) -> None:
    step = Step(run=run, round=round, phase=phase, message=message)
    assert protocol.read_step(protocol.step_records(step)) == step


def changed(record: str, **values: Any) -> Callable[[RecordDict], None]:
    def change(records: RecordDict) -> None:
        fields = {**records[record], **values}
        records[record] = ConfigRecord({k: v for k, v in fields.items() if v is not None})

    return change


def without(record: str) -> Callable[[RecordDict], None]:
    return lambda records: records.pop(record)


def added(records: RecordDict) -> None:
    records["metrics"] = ConfigRecord({"loss": 0.5})


INVITATIONS = {
    "no roster": without("roster"),
    "no order": without("order"),
    "no plan": without("plan"),
    "no state": without("state"),
    "another record": added,
    "empty roster": changed("roster", keys=b""),
    "cut roster": changed("roster", keys=b"k" * 63),
    "roster of text": changed("roster", keys="k" * 64),
    "roster of another key": changed("roster", more=1),
    "nameless roster": changed("roster", keys=None),
    "other schema": changed("order", schema=2),
    "true schema": changed("order", schema=True),
    "round of text": changed("order", round="1"),
    "negative dropouts of text": changed("plan", dropouts="-1"),
    "no colluders": changed("plan", colluders=None),
    "impossible clip": changed("plan", clip_norm=-1.0),
    "other tensors": changed("order", state="0" * 64),
}


@pytest.mark.parametrize("name", INVITATIONS)
def test_malformed_invitation_is_a_protocol_error(name: str) -> None:
    records = protocol.invitation_records(made_order(), ROSTER)
    INVITATIONS[name](records)
    with pytest.raises(ProtocolError):
        protocol.read_invitation(records)


STEPS = {
    "no step": without("step"),
    "another record": added,
    "other schema": changed("step", schema=0),
    "no schema": changed("step", schema=None),
    "no run": changed("step", run=None),
    "no message": changed("step", message=None),
    "another key": changed("step", metrics=0.5),
    "round of text": changed("step", round="2"),
    "true round": changed("step", round=True),
    "message of text": changed("step", message="abc"),
    "unknown phase": changed("step", phase="unmask"),
    "phase of bytes": changed("step", phase=b"open"),
    "list of messages": changed("step", message=[b"a", b"b"]),
}


@pytest.mark.parametrize("name", STEPS)
def test_malformed_step_is_a_protocol_error(name: str) -> None:
    records = protocol.step_records(Step(run="r", round=2, phase="mask", message=b"abc"))
    STEPS[name](records)
    with pytest.raises(ProtocolError):
        protocol.read_step(records)


def test_a_refusal_is_read_as_one() -> None:
    records = protocol.refusal_records(Reason.BUDGET)
    assert protocol.read_step(records) == Refusal(reason=Reason.BUDGET)
    records["step"] = ConfigRecord({"schema": 1})
    with pytest.raises(ProtocolError):
        protocol.read_step(records)


def test_both_ends_make_the_same_session_of_an_order() -> None:
    """But for who it is sent to and under which head; a word's difference is another session."""
    mine = protocol.session_of(made_order(), ROSTER, layout=LAYOUT)
    yours = made_order(place=4, witness="later", participants=np.array([0]))
    assert protocol.session_of(yours, ROSTER, layout=LAYOUT).digest == mine.digest
    assert (mine.minimum, mine.colluders, mine.dropouts, mine.dimension) == (6, 0, 0, 8)
    others = [
        made_order(seed=8),
        made_order(settings='{"a":1}'),
        made_order(state="other"),
        made_order(plan=user_plan(trust=Trust.DISTRIBUTED, sigma=1.9)),
    ]
    digests = {protocol.session_of(o, ROSTER, layout=LAYOUT).digest for o in others}
    digests.add(protocol.session_of(made_order(), ROSTER[::-1], layout=LAYOUT).digest)
    assert len(digests | {mine.digest}) == 6


@pytest.mark.parametrize(
    ("roster", "changes"),
    [
        (ROSTER[:5], {}),  # Fewer than the noise is shared out for.
        (ROSTER[:1] * 6, {}),
        (ROSTER[:2], {"expected_cohort": 2}),
        (ROSTER, {"dropouts": 6}),
        (ROSTER, {"dropouts": 3}),  # Fewer than a quorum of votes.
        (ROSTER, {"dropouts": -1}),
        (ROSTER, {"colluders": -1}),
        (ROSTER, {"colluders": 3}),
    ],
)
def test_no_session_is_made_of_an_unsound_plan(
    roster: tuple[bytes, ...], changes: dict[str, int]
) -> None:
    plan = replace(made_order().plan, **changes)  # type: ignore[arg-type]
    with pytest.raises(ConfigError):
        protocol.session_of(made_order(plan=plan), roster, layout=LAYOUT)


def test_identity_is_one_device_s() -> None:
    greeting = Greeting(users=1, n_items=3, catalogue="c", identity="0f" * 32)
    assert protocol.read_greeting(protocol.greeting_records(greeting)) == greeting
    for bad in ("0F" * 32, "0f" * 31, "zz" * 32, "0f" * 32 + "\n"):
        with pytest.raises(ProtocolError, match="Ed25519"):
            protocol.read_greeting(protocol.greeting_records(replace(greeting, identity=bad)))
    with pytest.raises(ProtocolError, match="several users"):
        protocol.read_greeting(protocol.greeting_records(replace(greeting, users=2)))
    several = replace(greeting, users=2, identity="")
    assert protocol.read_greeting(protocol.greeting_records(several)) == several


def test_partial_sums_answer_distributed_orders_alone() -> None:
    sums = PartialSum(tensors={"table": np.full((4, 2), 3.0)}, users=1, private=True)
    reply = protocol.encode_partial(sums, order=made_order())
    assert (reply.private, reply.users, reply.tensors["table"].dtype) == (True, 1, np.float64)
    for trust in (Trust.CENTRAL, Trust.LOCAL):
        with pytest.raises(ConfigError, match="trust=distributed"):
            protocol.encode_partial(sums, order=made_order(plan=user_plan(trust=trust)))
