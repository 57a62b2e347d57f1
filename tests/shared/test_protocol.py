"""The wire: what is written is read back, and nothing else is accepted."""

from dataclasses import replace

import numpy as np
import pytest
from counting import plan, private_plan, user_plan
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from shared import protocol
from shared.errors import ConfigError, ProtocolError
from shared.privacy.plan import Trust
from shared.privacy.release import Entrusted, Release, Unprotected
from shared.protocol import Greeting, Order, Reason, Refusal, Reply


def made_order(**changes: object) -> Order:
    tensors = {"table": np.arange(8, dtype=np.float32).reshape(4, 2)}
    order = Order(
        run="run",
        round=2,
        place=1,
        seed=7,
        model="table",
        algorithm="counting",
        settings=protocol.canonical({"b": 1, "a": 0.5}),
        plan=plan(),
        catalogue="digest",
        participants=np.array([0, 2], dtype=np.int64),
        tensors=tensors,
        state=protocol.state_digest(tensors),
    )
    return replace(order, **changes)


def made_reply(order: Order | None = None) -> Reply:
    sums = Unprotected(tensors={"table": np.full((4, 2), 0.1)}, users=2)
    return protocol.encode_unprotected(sums, order=order or made_order())


def test_order_survives_the_wire() -> None:
    order = made_order()
    read = protocol.read_order(protocol.order_records(order))
    assert read.digest == order.digest
    assert read.plan == order.plan
    assert read.settings == order.settings
    assert read.participants.tolist() == [0, 2]
    assert read.tensors["table"].tolist() == order.tensors["table"].tolist()


@pytest.mark.parametrize(
    "changes",
    [
        {"run": "other"},
        {"round": 3},
        {"place": 0},
        {"seed": 8},
        {"settings": "{}"},
        {"plan": plan(rounds=4)},
        {"catalogue": "other"},
        {"participants": np.array([0, 3], dtype=np.int64)},
        {"state": "other"},
    ],
)
def test_order_digest_names_the_work(changes: dict[str, object]) -> None:
    assert made_order().digest == made_order().digest
    assert made_order(**changes).digest != made_order().digest


def test_a_repeated_order_is_the_same_work_under_a_later_head() -> None:
    order = made_order(witness="head")
    assert order.digest == made_order().digest
    assert protocol.read_order(protocol.order_records(order)).witness == "head"


def test_state_digest_sees_values_names_and_shapes() -> None:
    table = np.arange(4.0)
    seen = {
        protocol.state_digest({"a": table}),
        protocol.state_digest({"b": table}),
        protocol.state_digest({"a": table.reshape(2, 2)}),
        protocol.state_digest({"a": table.astype(np.float32)}),
        protocol.state_digest({"a": table + 1}),
    }
    assert len(seen) == 5


def test_altered_tensors_are_refused() -> None:
    records = protocol.order_records(made_order())
    records["state"] = protocol.pack({"table": np.zeros((4, 2), dtype=np.float32)})
    with pytest.raises(ProtocolError, match="digest"):
        protocol.read_order(records)


def test_reply_survives_the_wire() -> None:
    reply = made_reply()
    read = protocol.read_reply(protocol.reply_records(reply))
    assert isinstance(read, Reply)
    assert read.order == made_order().digest
    assert (read.users, read.private, read.round) == (2, False, 2)
    assert read.tensors["table"].tolist() == reply.tensors["table"].tolist()


def test_only_private_replies_are_float32() -> None:
    assert made_reply().tensors["table"].dtype == np.float64
    assert protocol.wire_type(private_plan()) == np.float32
    assert protocol.wire_type(private_plan(noise="off")) == np.float64


def test_encoders_check_the_plan() -> None:
    with pytest.raises(ProtocolError, match="unit=none"):
        made_reply(made_order(plan=private_plan()))
    tensors = {"table": np.full((4, 2), 0.1)}
    sums = Entrusted(tensors=tensors, users=2)
    central = made_order(plan=user_plan(trust=Trust.CENTRAL))
    reply = protocol.encode_entrusted(sums, order=central)
    assert (reply.private, reply.tensors["table"].dtype) == (False, np.float32)
    for other in (plan(), private_plan(), user_plan(trust=Trust.LOCAL)):
        with pytest.raises(ConfigError, match="unit=user with trust=central"):
            protocol.encode_entrusted(sums, order=made_order(plan=other))
    release = Release(tensors=tensors, users=2, private=True)
    with pytest.raises(ProtocolError, match="Expected trust=local"):
        protocol.encode_reply(release, order=central)


def test_greeting_and_refusal_survive_the_wire() -> None:
    greeting = Greeting(users=3, n_items=4, catalogue="digest")
    assert protocol.read_greeting(protocol.greeting_records(greeting)) == greeting
    refusal = protocol.refusal_records(Reason.BUDGET)
    assert protocol.read_reply(refusal) == Refusal(reason=Reason.BUDGET)
    assert protocol.read_greeting(refusal) == Refusal(reason=Reason.BUDGET)


@pytest.mark.parametrize("key", ["loss", "num-examples", "weight"])
def test_reply_with_any_other_key_is_refused(key: str) -> None:
    records = protocol.reply_records(made_reply())
    records["reply"] = ConfigRecord({**records["reply"], key: 1e12})
    with pytest.raises(ProtocolError):
        protocol.read_reply(records)


def test_record_with_another_name_is_refused() -> None:
    for extra in (ConfigRecord({"loss": 1.0}), ArrayRecord()):
        records = protocol.reply_records(made_reply())
        records["metrics"] = extra
        with pytest.raises(ProtocolError):
            protocol.read_reply(records)


@pytest.mark.parametrize(
    ("key", "value"),
    [("schema", 2), ("users", "2"), ("users", True), ("private", 1), ("round", 2.0)],
)
def test_reply_with_another_schema_or_type_is_refused(key: str, value: object) -> None:
    records = protocol.reply_records(made_reply())
    records["reply"] = ConfigRecord({**records["reply"], key: value})
    with pytest.raises(ProtocolError):
        protocol.read_reply(records)


@pytest.mark.parametrize(
    "array",
    [
        Array("float32", (4, 2), "raw-little-endian", b"\0" * 31),
        Array("float32", (10**12,), "raw-little-endian", b"\0" * 32),
        Array("float32", (-8, -1), "raw-little-endian", b"\0" * 32),
        Array("object", (8,), "raw-little-endian", b"\0" * 32),
        Array("int64", (4,), "raw-little-endian", b"\0" * 32),
        Array(np.zeros((4, 2), dtype=np.float32)),
    ],
)
def test_unpack_believes_no_header(array: Array) -> None:
    with pytest.raises(ProtocolError):
        protocol.unpack(ArrayRecord({"table": array}))


def test_integers_do_not_travel() -> None:
    with pytest.raises(ProtocolError):
        protocol.pack({"table": np.zeros(3, dtype=np.int64)})  # type: ignore[dict-item]


@settings(deadline=None, max_examples=50)
@given(
    hnp.arrays(
        st.sampled_from([np.float32, np.float64]),
        hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
    )
)
def test_packing_is_exact(tensor: np.ndarray) -> None:
    read = protocol.unpack(protocol.pack({"t": tensor}))["t"]
    assert read.shape == tensor.shape
    assert read.dtype == tensor.dtype
    assert read.tobytes() == tensor.tobytes()


SCALARS = st.one_of(
    st.integers(-(2**40), 2**40),
    st.floats(),
    st.text(max_size=5),
    st.binary(max_size=9),
    st.booleans(),
)
CONFIGS = st.dictionaries(
    st.sampled_from(["schema", "run", "round", "order", "users", "private", "reason", "x"]), SCALARS
).map(ConfigRecord)
ARRAYS = st.dictionaries(
    st.sampled_from(["table", "x"]),
    st.builds(
        Array,
        st.sampled_from(["float32", "float64", "int8", "O"]),
        st.lists(st.integers(-2, 9), max_size=3).map(tuple),
        st.sampled_from(["raw-little-endian", "numpy.ndarray"]),
        st.binary(max_size=64),
    ),
).map(ArrayRecord)
RECORDS = st.dictionaries(
    st.sampled_from(["order", "plan", "state", "reply", "sum", "refusal", "greeting", "x"]),
    st.one_of(CONFIGS, ARRAYS),
).map(RecordDict)


@settings(deadline=None, max_examples=150)
@given(RECORDS)
def test_readers_answer_or_raise_a_protocol_error(records: RecordDict) -> None:
    for read in (protocol.read_order, protocol.read_reply, protocol.read_greeting):
        try:
            found = read(records)
        except ProtocolError:
            continue
        assert isinstance(found, (Refusal, Greeting, Reply))


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(["order", "plan"]), st.data())
def test_altered_order_is_refused(record: str, data: st.DataObject) -> None:
    records = protocol.order_records(made_order())
    altered = dict(records[record])
    key = data.draw(st.sampled_from(sorted(altered)))
    value = data.draw(SCALARS.filter(lambda v: type(v) is not type(altered[key])))
    records[record] = ConfigRecord({**altered, key: value})
    with pytest.raises(ProtocolError):
        protocol.read_order(records)
