"""One run of the real federation with canaries in it, on a made population.

Participants, clipping, noise, protocol, grid, rounds, ledgers and absorption are those of any run;
only the algorithm is wrapped (`Canaried`), and the grid's messages are read on their way. The
noise is that of the run for its own population: the canaries come on top, and the cohort of a round
grows in proportion, so nobody takes part more often than the plan says.
"""

import math
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Message
from numpy.typing import NDArray

from client.app import app as client_app
from client.participant import Participant
from server.census import Census, greet, read_message
from server.charging import Charging
from server.rounds import run_rounds
from server.terms import settle
from shared.algorithms.base import Algorithm
from shared.errors import BudgetError, FedrecError
from shared.privacy.adaptive_clip import BELOW
from shared.privacy.ledger import Ledger
from shared.privacy.plan import Plan, Trust, Unit
from shared.privacy.terms import Terms
from shared.protocol import Order, Reply, read_order, read_reply
from simulations.attack.canaries import AttackConfig, Canaries
from simulations.attack.planting import Canaried
from simulations.attack.target import Target
from simulations.attack.transcript import Transcript
from simulations.grids import LocalGrid
from simulations.population import Population

__all__ = ["Rehearsal", "rehearse"]

CATALOGUE = "made for an attack"
HONEST_NODES = 2
WHOLE_MESSAGES = 4


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Rehearsal:
    """What came of an attacked run.

    Attributes:
        plan: Of the run, for its population and the canaries.
        canaries: Who they were.
        transcript: What was seen.
        charged: User key -> rounds that the devices' ledger charged.
        overdrawn: Who answered although the budget was spent; None where that was not tried.
    """

    plan: Plan
    canaries: Canaries = field(repr=False)
    transcript: Transcript = field(repr=False)
    charged: Mapping[int, int] = field(repr=False)
    overdrawn: list[str] | None

    def clip_norm(self, round_: int) -> float:
        """Return the clip norm of a round: it may have moved."""
        return self.transcript.plans.get(round_, self.plan).clip_norm

    @property
    def alone(self) -> bool:
        """Whether the attacker sees each device's own release, not only a sum."""
        return self.plan.trust is Trust.LOCAL


def rehearse(target: Target, config: AttackConfig, *, seed: int) -> Rehearsal:
    """Run the federation of a target with canaries in it.

    Args:
        target: What is attacked.
        config: Size of the attack.
        seed: Of coins, histories and cohorts.

    Raises:
        ConfigError: The settings cannot be had for this population, or hold no canaries.
    """
    settings = replace(target.settings, seed=seed)
    canaries = Canaries.toss(
        config, unit=settings.privacy.unit, honest=target.users, items=target.items, seed=seed
    )
    n_items = canaries.items + canaries.planted
    own = Census(nodes={1: target.users}, n_items=n_items, catalogue=CATALOGUE)
    method, inner, terms, plan = settle(settings, own)
    transcript = Transcript()

    def build(model: str, algorithm: str, public: Mapping[str, object], items: int) -> Algorithm:
        from shared.algorithms.methods import build as real

        made = real(model, algorithm, public, items)
        return Canaried(inner=made, canaries=canaries, transcript=transcript)

    if plan.unit is not Unit.INTERACTION:
        for round_ in range(1, terms.rounds + 1):
            if inner.purpose(round_) != "metrics":
                canaries.cells(inner.asked(round_))
    histories = canaries.histories(config, seed)
    cohort = max(1, histories.n_users * terms.cohort // target.users)
    terms, plan = replace(terms, cohort=cohort), replace(plan, expected_cohort=cohort)
    population = Population.from_interactions(histories, catalogue=CATALOGUE)
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=_memory())))
        ledger = stack.enter_context(Ledger(place / "ledger.db", terms=Terms.from_plan(plan)))
        people = [
            participant
            for first, users, nodes in _nodes(canaries, plan, inner)
            for participant in Population(
                histories=population.histories.select(np.arange(first, first + users)),
                keys=population.keys[first : first + users],
                catalogue=CATALOGUE,
            ).participants(nodes, ledger=ledger, build=build)
        ]
        grid = stack.enter_context(_Tapped(people, canaries, plan, transcript))
        try:
            run_rounds(
                grid,
                census=greet(grid),
                algorithm=Canaried(inner=inner, canaries=canaries, transcript=transcript),
                method=method,
                plan=plan,
                terms=terms,
                seed=seed,
                directory=place,
            )
        except FedrecError as error:
            transcript.fault = str(error)
        transcript.close()
        return Rehearsal(
            plan=plan,
            canaries=canaries,
            transcript=transcript,
            charged=_charged(ledger),
            overdrawn=_overdrawn(people, transcript, plan, place),
        )


def _memory() -> Path | None:
    """Return a place in memory if there is one: no file of a rehearsal need survive a crash."""
    place = Path("/dev/shm")  # noqa: S108
    return place if os.access(place, os.W_OK) else None


def _nodes(canaries: Canaries, plan: Plan, inner: Algorithm) -> list[tuple[int, int, int]]:
    """Return (first key, users, nodes) of each group of users.

    Where each device's own message is attacked, each canary lives alone.
    """
    found = [(0, canaries.honest, min(HONEST_NODES, canaries.honest))]
    found += [(first, users, 1) for first, users in canaries.groups]
    if plan.unit is not Unit.INTERACTION:
        alone = plan.trust is Trust.LOCAL
        found.append((canaries.first, canaries.size, canaries.size if alone else 1))
    return found


class _Tapped(LocalGrid):
    """The local grid, with an ear on the wire."""

    def __init__(
        self,
        participants: list[Participant],
        canaries: Canaries,
        plan: Plan,
        transcript: Transcript,
    ) -> None:
        # One thread: the attack fits one core, and its warnings filter holds for the whole process.
        super().__init__(client_app, participants, workers=1)
        self._hosts = dict(zip(self.get_node_ids(), participants, strict=True))
        self._canaries = canaries
        self._plan = plan
        self._transcript = transcript

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterator[Message]:
        for message in super().send_and_receive(self._overheard(messages), timeout=timeout):
            reply = read_message(message, read_reply)
            if isinstance(reply, Reply):
                self._note(message.metadata.src_node_id, reply)
            yield message

    def _overheard(self, messages: Iterable[Message]) -> Iterator[Message]:
        for message in messages:
            node = message.metadata.dst_node_id
            if self._special(node):
                order = read_message(message, read_order)
                if isinstance(order, Order):
                    self._transcript.orders[self._first(node)] = order
            yield message

    def _first(self, node: int) -> int:
        return int(self._hosts[node].keys[0])

    def _special(self, node: int) -> bool:
        """Whether a node hosts one of the first users that are not honest people."""
        first = self._first(node) - self._canaries.honest
        return 0 <= first < 3 + WHOLE_MESSAGES

    def _note(self, node: int, reply: Reply) -> None:
        first, cell = self._first(node), None
        main = _without_riders(reply, self._plan)
        counts = reply.round in self._transcript.clean
        number = int(self._canaries.number(np.array([first]))[0])
        users = self._plan.unit is not Unit.INTERACTION
        if users and counts and number >= 0 and reply.users == 1:
            shapes = {name: value.shape for name, value in main.items()}
            where, row, column = self._canaries.cells(shapes)
            cell = (where, int(row[number]), int(column[number]))
        whole = self._plan.trust is Trust.LOCAL and self._special(node) and (counts or not users)
        self._transcript.replied(reply, first=first, main=main, whole=whole, cell=cell)


def _without_riders(reply: Reply, plan: Plan) -> dict[str, NDArray[np.float64]]:
    """Return a message's contribution in its own unit, without the bits that move the clip norm."""
    scale = math.sqrt(1.0 - plan.clip_share) if plan.clip_quantile else 1.0
    return {
        name: np.asarray(value, dtype=np.float64) / scale
        for name, value in reply.tensors.items()
        if name != BELOW
    }


def _charged(ledger: Ledger) -> dict[int, int]:
    """Return how many rounds each user was charged."""
    found: dict[int, int] = {}
    for charge in ledger.history():
        for user in charge.participants.tolist():
            found[user] = found.get(user, 0) + 1
    return found


def _overdrawn(
    people: list[Participant], transcript: Transcript, plan: Plan, place: Path
) -> list[str] | None:
    """Ask for one participation more than the plan allows: who agrees?"""
    if transcript.fault is not None or not transcript.orders:
        return None
    first, order = max(transcript.orders.items())
    device = next(p for p in people if int(p.keys[0]) == first)
    tries = range(plan.participations + 1)
    agreed = []
    if _answers(lambda i: device.answer(replace(order, run=f"{order.run}-{i}"), None), tries):
        agreed.append("a device")
    charges = Charging(place / "server-ledger.db", plan=plan, settings="")
    person = np.array([first], dtype=np.int64)

    def charge(i: int) -> object:
        again: dict[str, Any] = {"run": f"again-{i}", "round": order.round, "state": ""}
        clip_norm = order.plan.clip_norm
        return charges.reserve(**again, people=person, purpose="train", clip_norm=clip_norm)

    try:
        if _answers(charge, tries):
            agreed.append("the server")
    finally:
        charges.close()
    return agreed


def _answers(ask: Any, tries: range) -> bool:
    """Whether every one of the tries is agreed to."""
    for i in tries:
        try:
            ask(i)
        except BudgetError:
            return False
    return True
