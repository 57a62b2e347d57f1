"""Any order of honest, repeated, replayed and forged messages: the plain sum, or nothing."""

from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from summing import Round, session, wire

from shared.errors import ProtocolError, RunError
from shared.privacy.secure_sum.messages import (
    Delivery,
    KeyAdvert,
    KeyList,
    Openings,
    Proof,
    Survivors,
    Vote,
)

DEVICES = 6
PLACES = st.integers(0, DEVICES - 1)
SIGNED = (KeyAdvert, Vote)
"""What carries its own proof of origin; the transport vouches for the rest."""


def recorded() -> tuple[list[Any], list[Any]]:
    """Every message of an older round: up to the server, down to the devices."""
    old = Round(session(DEVICES, round=9)).until("vote")
    up = [device.unmask(old.proof) for device in old.devices.values()]
    return up, [old.keys, *old.deliveries.values(), old.survivors, old.proof]


class Machine(RuleBasedStateMachine):
    """One sum whose messages a network shuffles, doubles, drops and forges."""

    def __init__(self) -> None:
        super().__init__()
        self.round = Round(session(DEVICES))
        self.server = self.round.server
        self.up, self.down = recorded()
        self.opened: dict[int, set[bytes]] = {i: set() for i in range(DEVICES)}
        self.gone: set[int] = set()
        self.sum: np.ndarray | None = None
        self.aborted = False

    def ask(self, number: int, message: Any) -> None:
        """Put a question to a device; keep what it answers."""
        device = self.round.devices[number]
        if number in self.gone:
            return
        asked: dict[type, Callable[[], Any]] = {
            KeyList: lambda: device.share(message),
            Delivery: lambda: device.mask(message, self.round.vectors[number]),
            Survivors: lambda: device.vote(message),
            Proof: lambda: device.unmask(message),
        }
        try:
            answer = wire(asked[type(message)]())
        except (ProtocolError, RunError):
            return
        self.up.append(answer)
        if isinstance(answer, Openings):
            self.opened[number].add(answer.to_bytes())

    @rule(number=PLACES)
    def advertise(self, number: int) -> None:
        try:
            self.up.append(wire(self.round.devices[number].advertise()))
        except ProtocolError:
            assert self.round.devices[number]._phase > 1

    @rule(number=PLACES, data=st.data())
    def question(self, number: int, data: st.DataObject) -> None:
        self.ask(number, data.draw(st.sampled_from(self.down)))

    @precondition(lambda self: not self.aborted and self.sum is None)
    @rule()
    def advance(self) -> None:
        """A whole phase as it should be, so that most runs get somewhere."""
        if self.server._phase == 0:
            for number in set(range(DEVICES)) - self.gone:
                self.advertise(number)
        else:
            self.question_all()
        self.deliver_all()
        self.close()

    def question_all(self) -> None:
        newest = self.down[-1]
        for number in range(DEVICES):
            mine = [m for m in self.down if isinstance(m, Delivery) and m.receiver == number]
            self.ask(number, mine[-1] if isinstance(newest, Delivery) and mine else newest)

    @rule(data=st.data())
    def deliver(self, data: st.DataObject) -> None:
        self.send(data.draw(st.sampled_from(self.up)))

    def deliver_all(self) -> None:
        for message in list(self.up):
            self.send(message)

    def send(self, message: Any) -> None:
        try:
            self.server.receive(wire(message))
        except ProtocolError:
            return

    @rule(data=st.data(), place=st.integers(2, 200), change=st.integers(1, 255))
    def forge(self, data: st.DataObject, place: int, change: int) -> None:
        """A signed message with one byte changed is never taken."""
        candidates = [m for m in self.up if isinstance(m, SIGNED)]
        if not candidates:
            return
        message = data.draw(st.sampled_from(candidates))
        raw = bytearray(message.to_bytes())
        raw[place % len(raw)] ^= change
        try:
            self.server.receive(type(message).from_bytes(bytes(raw)))
        except ProtocolError:
            return
        raise AssertionError("a forged message was taken")

    @rule(number=PLACES)
    def drop(self, number: int) -> None:
        if len(self.gone) < 2:
            self.gone.add(number)

    @precondition(lambda self: not self.aborted and self.sum is None)
    @rule()
    def hurry(self) -> None:
        """Close a phase, whoever has spoken."""
        self.close()

    def close(self) -> None:
        """Close whatever phase the server is in."""
        phase = self.server._phase
        try:
            if phase == 1:
                self.down.extend(wire(sent) for sent in self.server.deliveries().values())
            elif phase == 4:
                self.sum = self.server.total()
            else:
                closers = {0: self.server.keys, 2: self.server.survivors, 3: self.server.proof}
                self.down.append(wire(closers[phase]()))
        except RunError:
            self.aborted = phase == 4

    @invariant()
    def device_opens_one_kind(self) -> None:
        for openings in self.opened.values():
            assert len(openings) <= 1

    @invariant()
    def sum_is_the_survivors(self) -> None:
        if self.sum is not None:
            alive = list(self.server._survivors)
            assert len(alive) >= self.round.session.minimum
            expected = self.round.vectors[alive].sum(axis=0, dtype=np.uint32)
            assert np.array_equal(self.sum, expected)

    @invariant()
    def nothing_is_opened_before_a_quorum_voted(self) -> None:
        if self.server._phase < 4:
            assert not any(self.opened.values())


Machine.TestCase.settings = settings(max_examples=30, stateful_step_count=30, deadline=None)
TestMachine = Machine.TestCase
