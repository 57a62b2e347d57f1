"""What answers an order: checks first, then the charge, then the work, then the stored reply."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from counting import CATALOGUE, Counting, build, made_population, plan, private_plan, user_plan

from client.participant import Participant, bounds, find_participant
from client.replies import Replies
from shared import protocol
from shared.errors import (
    BudgetError,
    ConfigError,
    DataError,
    FedrecError,
    ProtocolError,
    RunError,
    VerificationError,
)
from shared.privacy.gaussian import ROUNDING
from shared.privacy.ledger import Ledger
from shared.privacy.plan import Trust
from shared.protocol import Order


def made_order(**changes: Any) -> Order:
    tensors = {
        name: value.astype(np.float32)
        for name, value in Counting(n_items=8).model.initial(1).items()
    }
    order = Order(
        run="run",
        round=1,
        place=0,
        seed=1,
        model="table",
        algorithm="counting",
        settings="{}",
        plan=plan(),
        catalogue=CATALOGUE,
        participants=np.arange(6),
        tensors=tensors,
        state=protocol.state_digest(tensors),
    )
    return replace(order, **changes)


def made_participant(**places: Any) -> Participant:
    histories = made_population().histories
    places = {"simulated": True, "build": build} | places
    return Participant(histories=histories, keys=np.arange(6), catalogue=CATALOGUE, **places)


def same_bytes(a: protocol.Reply, b: protocol.Reply) -> bool:
    return protocol.reply_records(a).object_id == protocol.reply_records(b).object_id


@pytest.fixture
def ledger(tmp_path: Path) -> Any:
    with Ledger(tmp_path / "ledger.db") as found:
        yield found


def test_plain_sum_is_the_count_of_users(ledger: Ledger) -> None:
    participant = made_participant(ledger=ledger)
    reply, memory = participant.answer(made_order(), None)
    table = participant.histories
    pairs = set(zip(table.users.tolist(), table.items.tolist(), strict=True))
    counts = np.bincount([item for _, item in pairs], minlength=8)
    assert np.array_equal(reply.tensors["table"][:, 0], counts)
    assert (reply.users, reply.private) == (6, False)
    assert memory["visits"].tolist() == [[1.0]] * 6
    assert ledger.history() == ()


def test_only_participants_work_and_remember() -> None:
    participant = made_participant()
    _, memory = participant.answer(made_order(participants=np.array([4, 1])), None)
    assert memory["visits"].ravel().tolist() == [0, 1, 0, 0, 1, 0]
    _, later = participant.answer(made_order(round=2, participants=np.array([1, 2])), memory)
    assert later["visits"].ravel().tolist() == [0, 2, 1, 0, 1, 0]
    assert memory["visits"].ravel().tolist() == [0, 1, 0, 0, 1, 0]


def test_stored_reply_is_resent_byte_for_byte(ledger: Ledger) -> None:
    participant = made_participant(ledger=ledger)
    order = made_order(plan=private_plan())
    first, memory = participant.answer(order, None)
    again, resent = participant.answer(order, memory)
    assert first.private
    assert same_bytes(first, again)
    assert np.array_equal(memory["visits"], resent["visits"])
    assert len(ledger.history()) == 1
    other, _ = participant.answer(replace(order, run="another"), None)
    assert not np.array_equal(other.tensors["table"], first.tensors["table"])


def test_stored_reply_survives_the_process(ledger: Ledger, tmp_path: Path) -> None:
    order = made_order(plan=private_plan())
    store = tmp_path / "replies"
    first, memory = made_participant(ledger=ledger, replies=Replies(store)).answer(order, None)
    again, resent = made_participant(ledger=ledger, replies=Replies(store)).answer(order, None)
    assert same_bytes(first, again)
    assert np.array_equal(memory["visits"], resent["visits"])
    assert len(ledger.history()) == 1
    assert [p.name for p in store.iterdir()] == ["reply.safetensors"]


def test_damaged_stored_reply_is_charged_again(
    ledger: Ledger, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    order = made_order(plan=private_plan())
    made_participant(ledger=ledger, replies=Replies(tmp_path)).answer(order, None)
    path = tmp_path / "reply.safetensors"
    path.write_bytes(path.read_bytes()[:-9])
    with caplog.at_level(logging.WARNING):
        made_participant(ledger=ledger, replies=Replies(tmp_path)).answer(order, None)
    assert "damaged" in caplog.text
    assert len(ledger.history()) == 2


def test_spend_is_reserved_before_the_work(ledger: Ledger) -> None:
    class Failing(Counting):
        def contribute_per_interaction(self, *_: Any) -> Any:
            raise ZeroDivisionError

    order = made_order(plan=private_plan(), participants=np.array([2, 5]))
    failing = made_participant(ledger=ledger, build=lambda *_: Failing(n_items=8))
    with pytest.raises(ZeroDivisionError):
        failing.answer(order, None)
    (charge,) = ledger.history()
    assert charge.participants.tolist() == [2, 5]
    assert charge.reply_digest is None
    made_participant(ledger=ledger).answer(order, None)
    (charge,) = ledger.history()
    assert charge.reply_digest is not None


def test_unwritable_reply_does_not_leave(ledger: Ledger, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    participant = made_participant(ledger=ledger, replies=Replies(tmp_path / "file" / "x"))
    with pytest.raises(RunError, match="Cannot store the reply"):
        participant.answer(made_order(plan=private_plan()), None)
    assert len(ledger.history()) == 1


def test_a_forked_server_ledger_is_refused_before_it_costs(ledger: Ledger, tmp_path: Path) -> None:
    with Ledger(tmp_path / "server.db") as server:
        first = server.head()
        server.conclude(delta=0.0)
        second = server.head()
    participant = made_participant(ledger=ledger)
    shown = {head.seq: protocol.canonical(head.as_dict()) for head in (first, second)}
    participant.answer(made_order(plan=private_plan(), witness=shown[1]), None)
    with pytest.raises(VerificationError, match="not the one this device saw"):
        participant.answer(made_order(plan=private_plan(), round=2, witness=shown[0]), None)
    for junk in ("{", "{}", "[1]"):
        with pytest.raises(FedrecError):
            participant.answer(made_order(plan=private_plan(), round=2, witness=junk), None)
    assert len(ledger.history()) == 1


def test_private_run_needs_a_ledger() -> None:
    with pytest.raises(BudgetError, match="ledger"):
        made_participant().answer(made_order(plan=private_plan()), None)


def test_device_refuses_runs_without_protection(ledger: Ledger) -> None:
    device = made_participant(ledger=ledger, simulated=False)
    for weak in (plan(), private_plan(noise="off"), private_plan(noise="seeded")):
        with pytest.raises(ConfigError, match="protects nobody"):
            device.answer(made_order(plan=weak), None)
    assert ledger.history() == ()
    reply, _ = device.answer(made_order(plan=private_plan()), None)
    assert reply.private


def test_plan_must_charge_what_the_algorithm_does(ledger: Ledger) -> None:
    participant = made_participant(ledger=ledger)
    for lie in ({"sampling_rate": 0.5}, {"steps_per_round": 2}):
        with pytest.raises(ConfigError, match="algorithm's own"):
            participant.answer(made_order(plan=replace(private_plan(), **lie)), None)
    assert ledger.history() == ()


def test_trust_says_whether_the_device_adds_the_noise(ledger: Ledger) -> None:
    participant = made_participant(ledger=ledger)
    central, _ = participant.answer(made_order(plan=user_plan(trust=Trust.CENTRAL)), None)
    local, _ = participant.answer(made_order(plan=user_plan(trust=Trust.LOCAL)), None)
    assert (central.private, local.private) == (False, True)
    everything = np.concatenate([value.ravel() for value in central.tensors.values()])
    assert 0.5 < np.linalg.norm(everything.astype(np.float64)) <= 6.0 * ROUNDING
    assert (local.tensors["table"] != 0.0).all()
    assert len(ledger.history()) == 2


def test_a_clipped_contribution_weighs_at_most_the_bound(ledger: Ledger) -> None:
    order = made_order(plan=user_plan(trust=Trust.CENTRAL, clip_norm=0.25))
    for user in range(6):
        alone = replace(order, participants=np.array([user]))
        reply, _ = made_participant(ledger=ledger).answer(alone, None)
        norm = np.linalg.norm(reply.tensors["table"].astype(np.float64))
        assert norm == pytest.approx(0.25, rel=1e-6)


def test_a_stored_clipped_reply_is_resent(ledger: Ledger) -> None:
    participant = made_participant(ledger=ledger)
    for trust in (Trust.CENTRAL, Trust.LOCAL):
        order = made_order(plan=user_plan(trust=trust))
        first, memory = participant.answer(order, None)
        assert same_bytes(first, participant.answer(order, memory)[0])
    assert len(ledger.history()) == 2


def test_devices_refuse_stand_in_noise_for_whole_users(ledger: Ledger) -> None:
    device = made_participant(ledger=ledger, simulated=False)
    for trust in (Trust.CENTRAL, Trust.LOCAL):
        with pytest.raises(ConfigError, match="protects nobody"):
            device.answer(made_order(plan=user_plan(trust=trust, noise="seeded")), None)
    assert ledger.history() == ()


TABLE = np.zeros((8, 2), dtype=np.float32)
BAD_ORDERS: list[tuple[type[FedrecError], dict[str, Any]]] = [
    (DataError, {"catalogue": "other"}),
    (ProtocolError, {"participants": np.array([], dtype=np.int64)}),
    (ProtocolError, {"participants": np.array([0, 6])}),
    (ProtocolError, {"participants": np.array([-1])}),
    (ProtocolError, {"participants": np.array([3, 3])}),
    (ProtocolError, {"settings": "{"}),
    (ProtocolError, {"tensors": {}}),
    (ProtocolError, {"tensors": {"table": TABLE[:7]}}),
    (ProtocolError, {"tensors": {"table": TABLE, "user": TABLE}}),
    (ProtocolError, {"tensors": {"table": TABLE + np.float32(np.nan)}}),
]


@pytest.mark.parametrize(("kind", "changes"), BAD_ORDERS)
def test_bad_order_is_refused_before_it_costs(
    ledger: Ledger, kind: type[FedrecError], changes: dict[str, Any]
) -> None:
    order = made_order(plan=private_plan(), **changes)
    with pytest.raises(kind):
        made_participant(ledger=ledger).answer(order, None)
    assert ledger.history() == ()


def test_shares_of_a_population_file(tmp_path: Path) -> None:
    population = made_population(7)
    path = tmp_path / "population.npz"
    population.save(path)
    found = [Participant.from_file(path, part=part, parts=3) for part in range(3)]
    assert [p.keys.tolist() for p in found] == [[0, 1, 2], [3, 4], [5, 6]]
    assert [p.histories.history(0).tolist() for p in found] == [
        population.histories.history(user).tolist() for user in (0, 3, 5)
    ]
    assert found[0].greet() == protocol.Greeting(users=3, n_items=8, catalogue=CATALOGUE)


@pytest.mark.parametrize("data", [b"", b"noise", b"PK\x03\x04noise"])
def test_bad_population_file_is_one_sentence(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "population.npz"
    path.write_bytes(data)
    with pytest.raises(DataError, match="population file"):
        Participant.from_file(path, part=0, parts=1)


def test_node_without_users_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("FEDREC_POPULATION", raising=False)
    with pytest.raises(DataError, match="hosts nobody"):
        find_participant(-1, {"partition-id": 0, "num-partitions": 1})
    path = tmp_path / "population.npz"
    made_population(3).save(path)
    monkeypatch.setenv("FEDREC_POPULATION", str(path))
    found = find_participant(-1, {"partition-id": 1, "num-partitions": 3})
    assert found.keys.tolist() == [1]
    assert find_participant(-1, {"partition-id": 1, "num-partitions": 3}) is found


def test_bounds_cover_everyone() -> None:
    assert bounds(943, 2) == [0, 472, 943]
    assert bounds(3, 3) == [0, 1, 2, 3]
