"""A device in a secure sum: pays first, answers once, and says the same again."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from counting import CATALOGUE, Counting, build, made_population, user_plan
from masked import made_plan

import client.secure_sums
from client.participant import Participant
from client.secure_sums import SecureSums
from shared import protocol
from shared.errors import BudgetError, ConfigError, DataError, ProtocolError, RunError
from shared.privacy.distributed import Layout
from shared.privacy.ledger import Ledger
from shared.privacy.plan import Trust
from shared.privacy.secure_sum import device as machine
from shared.privacy.secure_sum.messages import (
    KeyAdvert,
    MaskedVector,
    Openings,
    SealedShares,
    Vote,
)
from shared.privacy.secure_sum.server import Server
from shared.protocol import PHASES, Order, Step

LAYOUT = Layout(shapes={"table": (8, 2)})
USERS = 3


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger(tmp_path / "ledger.db") as found:
        yield found


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
        plan=made_plan(cohort=USERS, noise="os"),
        catalogue=CATALOGUE,
        participants=np.zeros(1, dtype=np.int64),
        tensors=tensors,
        state=protocol.state_digest(tensors),
    )
    return replace(order, **changes)


def made_device(user: int, ledger: Ledger | None, **changes: Any) -> Participant:
    histories = made_population().histories.select(np.array([user]))
    places = {"simulated": False, "build": build} | changes
    return Participant(
        histories=histories, keys=np.array([user]), catalogue=CATALOGUE, ledger=ledger, **places
    )


def roster_of(devices: list[Participant]) -> tuple[bytes, ...]:
    return tuple(bytes.fromhex(device.greet().identity) for device in devices)


class Sum:
    """One sum, played by hand: what each device is told in each phase, and what it said."""

    def __init__(self, devices: list[Participant], order: Order) -> None:
        self.devices, self.order = devices, order
        self.roster = roster_of(devices)
        self.server = Server(protocol.session_of(order, self.roster, layout=LAYOUT))
        self.asked: dict[str, list[Step]] = {}
        self.said: dict[str, list[Step]] = {}

    def until(self, last: str) -> "Sum":
        for phase in PHASES[: PHASES.index(last) + 1]:
            if phase not in self.said:
                self.play(phase)
        return self

    def step(self, phase: str, message: bytes) -> Step:
        return Step(run=self.order.run, round=self.order.round, phase=phase, message=message)

    def play(self, phase: str) -> None:
        if phase == "keys":
            self.said[phase] = [device.join(self.order, self.roster) for device in self.devices]
        else:
            self.asked[phase] = self.questions(phase)
            pairs = zip(self.devices, self.asked[phase], strict=True)
            self.said[phase] = [device.step(asked, None)[0] for device, asked in pairs]
        kinds = dict(
            zip(PHASES, (KeyAdvert, SealedShares, MaskedVector, Vote, Openings), strict=True)
        )
        for said in self.said[phase]:
            self.server.receive(kinds[phase].from_bytes(said.message))

    def questions(self, phase: str) -> list[Step]:
        if phase == "mask":
            each = self.server.deliveries()
            return [self.step(phase, each[n].to_bytes()) for n in range(len(self.devices))]
        told: Any = {
            "share": self.server.keys,
            "vote": self.server.survivors,
            "open": self.server.proof,
        }[phase]()
        return [self.step(phase, told.to_bytes())] * len(self.devices)


@pytest.fixture
def played(ledger: Ledger) -> Sum:
    return Sum([made_device(user, ledger) for user in range(USERS)], made_order())


def charged(ledger: Ledger) -> list[int]:
    return [int(one.participants[0]) for one in ledger.history()]


def released(ledger: Ledger) -> list[int]:
    return [int(one.participants[0]) for one in ledger.history() if one.reply_digest]


def test_a_repeated_message_of_a_phase_gets_the_same_bytes(played: Sum, ledger: Ledger) -> None:
    device = played.devices[0]
    first = played.until("keys").said["keys"][0]
    assert device.join(played.order, played.roster) == first
    for phase in PHASES[1:]:
        said = played.until(phase).said[phase][0]
        assert device.step(played.asked[phase][0], None)[0] == said
    assert charged(ledger) == released(ledger) == [0, 1, 2]


def test_noise_is_never_redrawn_and_memory_comes_back(played: Sum) -> None:
    device = played.devices[0]
    played.until("share")
    asked = played.questions("mask")[0]
    first, memory = device.step(asked, None)
    again, after = device.step(asked, memory)
    assert memory is not None
    assert (first, memory["visits"].tolist()) == (again, [[1.0]])
    assert after is memory
    # The words are another device's noise away from those of a process that begins anew.
    other = replace(asked, message=asked.message[:-1] + bytes([asked.message[-1] ^ 1]))
    with pytest.raises(ProtocolError, match="another delivery"):
        device.step(other, None)
    assert device.step(asked, memory)[0] == first


def test_nothing_but_the_masked_vector_depends_on_the_data(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The work is done in one phase of five, once."""
    seen: list[int] = []
    real = Counting.contribute

    def contribute(self: Counting, *args: Any) -> Any:
        seen.append(1)
        return real(self, *args)

    monkeypatch.setattr(Counting, "contribute", contribute)
    played = Sum([made_device(user, ledger) for user in range(USERS)], made_order())
    worked = []
    for phase in PHASES:
        played.until(phase)
        worked.append(len(seen))
    assert worked == [0, 0, USERS, USERS, USERS]
    assert {len(s.message) for s in played.said["mask"]} == {26 + 4 * 16}


def test_another_roster_is_refused(played: Sum, ledger: Ledger) -> None:
    device = played.until("keys").devices[0]
    with pytest.raises(ProtocolError, match="another roster"):
        device.join(played.order, played.roster[::-1])
    played.until("share")
    with pytest.raises(ProtocolError):
        device.join(played.order, played.roster[::-1])
    played.until("open")
    assert charged(ledger) == [0, 1, 2]


def test_an_invitation_without_the_device_costs_nothing(ledger: Ledger) -> None:
    device = made_device(0, ledger)
    others = roster_of([made_device(user, ledger) for user in (1, 2, 3)])
    with pytest.raises(ProtocolError, match="roster"):
        device.join(made_order(), others)
    assert ledger.history() == ()


@pytest.mark.parametrize("last", ["keys", "share"])
def test_before_its_vector_left_an_order_may_be_taken_up_again(
    played: Sum, ledger: Ledger, last: str
) -> None:
    played.until(last)
    anew = Sum([made_device(user, ledger) for user in range(USERS)], played.order)
    anew.until("open")
    anew.server.total()
    assert charged(ledger) == released(ledger) == [0, 1, 2]


@pytest.mark.parametrize("last", ["mask", "vote", "open"])
def test_after_its_vector_left_an_order_is_refused(played: Sum, ledger: Ledger, last: str) -> None:
    played.until(last)
    for device in (played.devices[0], made_device(0, ledger)):
        roster = (bytes.fromhex(device.greet().identity), *played.roster[1:])
        with pytest.raises(RunError, match="not answered twice"):
            device.join(played.order, roster)
    # Nor does a replayed invitation charge it again.
    assert charged(ledger) == [0, 1, 2]


def test_two_processes_of_one_ledger_send_one_vector(ledger: Ledger) -> None:
    order = made_order()
    sums = [Sum([made_device(user, ledger) for user in range(USERS)], order) for _ in range(2)]
    for one in sums:
        one.until("share")
    sums[0].until("mask")
    for device, asked in zip(sums[1].devices, sums[1].questions("mask"), strict=True):
        with pytest.raises(RunError, match="already paid"):
            device.step(asked, None)
    assert charged(ledger) == released(ledger) == [0, 1, 2]


def test_no_vote_leaves_for_a_vector_that_is_not_noted(
    played: Sum, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk keeps the vector back; the device must not go on as if it had left."""
    played.until("mask")
    device = made_device(5, ledger)
    again = Sum([*played.devices[1:], device], replace(played.order, round=2)).until("share")
    asked = again.questions("mask")

    def full(*_: Any, **__: Any) -> None:
        raise RunError("The ledger's disk is full; free it.")

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "release", full)
        with pytest.raises(RunError, match="full"):
            device.step(asked[2], None)
    with pytest.raises(RunError, match="not noted"):
        device.step(again.step("vote", b""), None)
    said, _ = device.step(asked[2], None)
    assert said.phase == "mask"
    assert 5 in released(ledger)


@pytest.mark.parametrize("plans", ["spent", "none"])
def test_budget_is_refused_before_any_key_is_made(
    ledger: Ledger, plans: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = made_device(0, ledger if plans == "spent" else None)
    roster = roster_of([device, made_device(1, ledger), made_device(2, ledger)])
    plan = made_plan(cohort=USERS, noise="os", noise_multiplier=0.05, rounds=1)

    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("a key was made")

    monkeypatch.setattr(machine, "DeviceKeys", never)
    monkeypatch.setattr(client.secure_sums, "Device", never)
    with pytest.raises(BudgetError):
        device.join(made_order(plan=plan), roster)
    assert ledger.history() == ()


@pytest.mark.parametrize(
    ("error", "changes"),
    [
        (DataError, {"catalogue": "other"}),
        (ProtocolError, {"participants": np.array([1])}),
        (ProtocolError, {"settings": "{"}),
        (ProtocolError, {"tensors": {}}),
        (ConfigError, {"plan": user_plan(trust=Trust.CENTRAL, cohort=USERS)}),
        (ConfigError, {"plan": user_plan(trust=Trust.LOCAL, cohort=USERS)}),
        (ConfigError, {"plan": made_plan(cohort=USERS, noise="off")}),
        (ConfigError, {"plan": made_plan(cohort=USERS, noise="seeded")}),
        (ConfigError, {"plan": made_plan(cohort=4, noise="os")}),
        (ConfigError, {"plan": made_plan(cohort=9, dropouts=7, noise="os")}),
        (ConfigError, {"plan": made_plan(cohort=USERS, noise="os", noise_multiplier=1e7)}),
        (ConfigError, {"plan": made_plan(cohort=USERS, noise="os", noise_multiplier=1e-9)}),
    ],
)
def test_what_cannot_be_had_is_refused_before_it_costs(
    ledger: Ledger, error: type[Exception], changes: dict[str, Any]
) -> None:
    devices = [made_device(user, ledger) for user in range(USERS)]
    with pytest.raises(error):
        devices[0].join(made_order(**changes), roster_of(devices))
    assert ledger.history() == ()


def test_a_person_s_device_never_answers_unmasked(ledger: Ledger) -> None:
    """Neither alone nor as one of several; a simulated node may."""
    order = made_order()
    with pytest.raises(ConfigError, match="masked"):
        made_device(0, ledger).answer(order, None)
    assert ledger.history() == ()
    reply, _ = made_device(0, ledger, simulated=True).answer(order, None)
    assert reply.users == 1


def test_a_node_of_several_users_joins_no_sum(ledger: Ledger) -> None:
    population = made_population()
    node = Participant(
        histories=population.histories,
        keys=population.keys,
        catalogue=CATALOGUE,
        ledger=ledger,
        simulated=True,
        build=build,
    )
    assert node.greet().identity == ""
    for ask in (
        lambda: node.join(made_order(), (b"k" * 32,) * 3),
        lambda: node.step(Step(run="run", round=1, phase="share", message=b""), None),
    ):
        with pytest.raises(ProtocolError, match="several users"):
            ask()
    assert ledger.history() == ()


@pytest.mark.parametrize("phase", PHASES)
def test_a_step_before_the_invitation_is_refused(ledger: Ledger, phase: str) -> None:
    step = Step(run="run", round=1, phase=phase, message=b"")
    with pytest.raises(ProtocolError, match="invitation"):
        made_device(0, ledger).step(step, None)


@pytest.mark.parametrize("changes", [{"run": "other"}, {"round": 2}])
def test_a_step_of_another_sum_is_refused_and_changes_nothing(
    played: Sum, changes: dict[str, Any]
) -> None:
    for phase in PHASES[1:]:
        played.until(PHASES[PHASES.index(phase) - 1])
        asked = played.asked[phase] = played.questions(phase)
        with pytest.raises(ProtocolError, match="another's"):
            played.devices[0].step(replace(asked[0], **changes), None)
        pairs = zip(played.devices, asked, strict=True)
        played.said[phase] = [device.step(step, None)[0] for device, step in pairs]
        kinds = {"share": SealedShares, "mask": MaskedVector, "vote": Vote, "open": Openings}
        for said in played.said[phase]:
            played.server.receive(kinds[phase].from_bytes(said.message))
    played.server.total()


def test_a_phase_that_is_asked_for_with_an_order_is_no_step(played: Sum) -> None:
    played.until("keys")
    with pytest.raises(ProtocolError, match="no order"):
        played.devices[0].step(played.step("keys", b""), None)


def test_the_next_order_takes_the_place_of_the_last(played: Sum, ledger: Ledger) -> None:
    """Back at the first one, the device begins with fresh keys, and still pays once."""
    first = played.until("share").said["keys"][0]
    later = Sum(played.devices, replace(played.order, round=2)).until("share")
    with pytest.raises(ProtocolError, match="another's"):
        played.devices[0].step(played.step("vote", b""), None)
    again = Sum(played.devices, played.order).until("mask")
    assert again.said["keys"][0] != first
    assert charged(ledger) == [0, 1, 2, 0, 1, 2]
    with pytest.raises(ProtocolError, match="another's"):
        played.devices[0].step(later.questions("mask")[0], None)


def test_sessions_do_not_print_secrets() -> None:
    assert "PrivateKey" not in repr(SecureSums())
    step = Step(run="r", round=1, phase="mask", message=b"words")
    assert "words" not in repr(step)
