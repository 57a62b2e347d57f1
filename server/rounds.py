"""The round loop: greet the nodes, then order, collect, check, sum, absorb, checkpoint, report.

It needs a Flower `Grid` and nothing else, so it runs on `simulations.grids.LocalGrid`, on Flower's
simulation engine and on a SuperLink alike.
"""

import hashlib
import itertools
import logging
import math
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import closing, nullcontext
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from flwr.app import ArrayRecord, Message, MessageType
from flwr.serverapp import Grid
from numpy.typing import NDArray

from server.aggregation import Expected, Tally
from server.census import Census, cohorts, most_participations, read_message
from server.journal import Observer, RoundReport
from server.record import Companions, Record
from server.terms import Method, Terms
from shared.algorithms.base import Algorithm, State
from shared.errors import RunError
from shared.privacy.gaussian import privatise_total
from shared.privacy.plan import Plan, Trust, Unit
from shared.protocol import (
    Order,
    canonical,
    message_bytes,
    order_records,
    pack,
    read_reply,
    state_digest,
)
from shared.randomness import noise_source

__all__ = ["run_rounds"]

log = logging.getLogger("fedrec.server")

Ints = NDArray[np.int64]


def run_rounds(
    grid: Grid,
    *,
    census: Census,
    algorithm: Algorithm,
    method: Method,
    plan: Plan,
    terms: Terms,
    seed: int,
    directory: Path | None = None,
    resume: bool = False,
    observer: Observer | None = None,
    companions: Companions | None = None,
) -> State:
    """Run the rounds of one federated run and return the last state.

    A round is observed, then written to the journal, then checkpointed: after a crash the round
    is played and observed again, and the journal has it once.

    Args:
        grid: The Flower grid that carries the messages.
        census: Who is there.
        algorithm: The learning method, for its server half.
        method: Its public description, for the devices.
        plan: The protection.
        terms: Cohort, quorum, deadline, checkpoints.
        seed: Experiment seed; protective noise never sees it.
        directory: Run directory for `metrics.jsonl` and `checkpoints/`; nothing is kept without.
        resume: Go on from the newest checkpoint of `directory`, if there is one.
        observer: Called after each round (and once on a resume with no round left); True stops.
        companions: Simulated devices whose memory belongs into the same checkpoints.

    Raises:
        RunError: A quorum was missed, or a checkpoint or the journal cannot be used.
    """
    digest = _run_digest(census, method, plan, terms, seed)
    record = None
    if directory is not None:
        record = Record(directory, settings=digest, plan=plan, companions=companions)
    with nullcontext() if record is None else closing(record):
        kept = record.resume() if record is not None and resume else None
        state = algorithm.start(seed) if kept is None else kept.state
        run = uuid.uuid4().hex if kept is None else kept.run
        if record is not None and kept is None:
            record.begin(run, state)
        loop = _Loop(grid, census, algorithm, method, plan, terms, seed, run, record)
        return loop.run(state, observer)


class _Loop:
    """What stays the same from round to round."""

    def __init__(
        self,
        grid: Grid,
        census: Census,
        algorithm: Algorithm,
        method: Method,
        plan: Plan,
        terms: Terms,
        seed: int,
        run: str,
        record: Record | None,
    ) -> None:
        self._grid = grid
        self._algorithm = algorithm
        self._record = record
        self._census = census
        self._plan = plan
        self._terms = terms
        self._up = self._down = 0
        self._order = Order(
            run=run,
            round=0,
            place=0,
            seed=seed,
            model=method.model,
            algorithm=method.algorithm,
            settings=canonical(method.settings),
            plan=plan,
            catalogue=census.catalogue,
            participants=np.zeros(1, dtype=np.int64),
            tensors={},
            state="",
        )

    def run(self, state: State, observer: Observer | None) -> State:
        """Play the rounds that are left and return the last state."""
        record, terms, run = self._record, self._terms, self._order.run
        if state.round >= terms.rounds and observer is not None:
            observer(self.report(state, Tally({}), seconds=0.0))
        everyone = cohorts(users=self._census.users, size=terms.cohort, seed=self._order.seed)
        for chosen in itertools.islice(everyone, state.round, terms.rounds):
            began = time.monotonic()
            tally = self.play(state, chosen)
            if tally.exhausted:
                log.warning("Every device refused for its budget: the run ends early.")
                if record is not None:
                    record.save(run, state)
                break
            state = self._algorithm.absorb(state, tally.total, self._plan)
            report = self.report(state, tally, seconds=time.monotonic() - began)
            stop = observer is not None and observer(report)
            last = stop or state.round == terms.rounds
            if record is not None:
                # A round is noised once: what the next order shows must survive a crash.
                save = last or self._noises or state.round % terms.checkpoint_every == 0
                record.keep(run, report, save=save)
                record.settle(tally.total)
            if stop:
                break
        return state

    def play(self, state: State, chosen: Ints) -> Tally:
        """Send the orders of one round and sum what comes back.

        Raises:
            RunError: Fewer users than the quorum are in the sum.
        """
        round_ = state.round + 1
        sent = self._algorithm.sent(round_)
        tensors = {name: state.tensors[name].astype(np.float32) for name in sent}
        base = replace(self._order, round=round_, tensors=tensors, state=state_digest(tensors))
        base = replace(base, witness=self._charged(base, chosen))
        packed = pack(tensors)
        self._down = message_bytes(order_records(base, packed=packed))
        places = {node: place for place, node in enumerate(self._census.nodes)}
        orders = {
            node: replace(base, place=places[node], participants=people)
            for node, people in self._census.placed(chosen).items()
        }
        shapes = self._algorithm.asked(round_)
        tally = Tally({node: Expected.from_order(order, shapes) for node, order in orders.items()})
        for message in self._grid.send_and_receive(
            _messages(orders, packed), timeout=self._terms.deadline
        ):
            node = message.metadata.src_node_id
            if fault := tally.receive(node, read_message(message, read_reply)):
                log.warning("Round %d: the reply of node %d: %s.", base.round, node, fault)
            else:
                self._up = message_bytes(message.content)
        tally.close()
        needed = math.ceil(self._terms.quorum * len(chosen) - 1e-9)
        if tally.users < needed and not tally.exhausted:
            raise RunError(
                f"Round {base.round} has usable replies for {tally.users} of {len(chosen)} users, "
                f"fewer than its quorum of {needed} ({_counted(tally.quarantined)}); mend the "
                "devices and resume."
            )
        if self._noises and not tally.exhausted:
            tally.total = self._noised(tally, base.round)
        return tally

    def _charged(self, order: Order, chosen: Ints) -> str:
        """Charge a round in the server's ledger and return the head for devices to witness."""
        if self._record is None:
            return ""
        return self._record.charge(
            run=order.run,
            round=order.round,
            state=order.state,
            people=chosen,
            purpose=self._algorithm.purpose(order.round),
        )

    @property
    def _noises(self) -> bool:
        """Whether this server is the one that is trusted to add the noise."""
        return self._plan.unit is Unit.USER and self._plan.trust is Trust.CENTRAL

    def _noised(self, tally: Tally, round_: int) -> dict[str, NDArray[np.float64]]:
        """Replace the sum of clipped contributions by its one release."""
        source = noise_source(self._plan.noise, self._order.seed)
        keys = ("central", round_)
        release = privatise_total(
            tally.total, users=tally.users, plan=self._plan, noise=source, round=round_, keys=keys
        )
        return dict(release.tensors)

    def report(self, state: State, tally: Tally, *, seconds: float) -> RoundReport:
        """Return what an observer sees."""
        return RoundReport(
            round=state.round,
            rounds=self._terms.rounds,
            state=state,
            epsilon=self._epsilon(state.round),
            users=tally.users,
            replies=tally.accepted,
            quarantined=dict(tally.quarantined),
            seconds=seconds,
            bytes_up=self._up,
            bytes_down=self._down,
        )

    def _epsilon(self, rounds: int) -> float:
        if self._plan.unit is Unit.NONE:
            return math.inf
        if not rounds:
            return 0.0
        from shared.privacy.accounting import epsilon_of

        times = most_participations(
            rounds=rounds, size=self._terms.cohort, users=self._census.users
        )
        return epsilon_of(self._plan.spends(times), delta=self._plan.delta)


def _messages(orders: Mapping[int, Order], packed: ArrayRecord) -> Iterator[Message]:
    for node, order in orders.items():
        yield Message(
            order_records(order, packed=packed),
            dst_node_id=node,
            message_type=MessageType.TRAIN,
            group_id=str(order.round),
        )


def _counted(reasons: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))


def _run_digest(census: Census, method: Method, plan: Plan, terms: Terms, seed: int) -> str:
    """Name what may not change between a run and its resume."""
    decided = {
        "users": census.users,
        "catalogue": census.catalogue,
        "method": [method.model, method.algorithm, dict(method.settings)],
        "plan": {name: str(value) for name, value in asdict(plan).items()},
        "cohort": terms.cohort,
        "seed": seed,
    }
    return hashlib.sha256(canonical(decided).encode()).hexdigest()
