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
from collections.abc import Mapping
from contextlib import closing, nullcontext
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from flwr.app import ArrayRecord
from flwr.serverapp import Grid
from numpy.typing import NDArray

from server.census import Census, cohorts, soonest
from server.collection import Collected, collect
from server.journal import Observer, RoundReport
from server.noising import Noising
from server.record import Companions, Record
from server.secure_collection import collect_masked
from server.terms import Method, Terms
from shared.algorithms.base import Algorithm, Shapes, State
from shared.algorithms.measured import measurements
from shared.errors import RunError
from shared.privacy.adaptive_clip import adaptive_of, detach, next_clip, shapes_with_bits
from shared.privacy.distributed import Layout, noise_shares, opened
from shared.privacy.plan import Plan, Trust, Unit
from shared.privacy.secure_sum.traffic import traffic
from shared.protocol import Order, canonical, pack, state_digest

__all__ = ["run_rounds"]

log = logging.getLogger("fedrec.server")

Ints = NDArray[np.int64]

CLIP = "clip.norm"
"""Where the state keeps a clip norm that moves."""

NOTHING = Collected(total={}, users=0, accepted=0, quarantined={})
"""What a resume finds that has no round left."""


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
        self._noising = Noising(plan, seed=seed) if self._noises else None
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
        """Play the rounds that are left and return the last state.

        Raises:
            RunError: A round cannot be had: its quorum was missed, or two secure sums in a row,
                or one of a run that needs each of them, were aborted.
        """
        terms = self._terms
        if state.round >= terms.rounds and observer is not None:
            observer(self.report(state, NOTHING, seconds=0.0))
        everyone = cohorts(
            users=self._census.users,
            size=terms.cohort,
            seed=self._order.seed,
            separation=self._plan.separation,
        )
        state = self._afresh(state)
        lost = 0
        for chosen in itertools.islice(everyone, state.round, terms.rounds):
            began = time.monotonic()
            try:
                found = self._played(state, chosen)
            except RunError as error:
                # What was given up before a resume says nothing about the devices of today.
                lost += not self._given_up(state.round + 1)
                state = self._without(state, error, lost=lost)
                continue
            lost = 0
            if found.exhausted:
                log.warning("Every device refused for its budget: the run ends early.")
                if self._record is not None:
                    self._record.save(self._order.run, state)
                break
            state = replace(self._absorbed(state, found), blocks=state.blocks)
            report = self.report(state, found, seconds=time.monotonic() - began)
            stop = observer is not None and observer(report)
            self._keep(report, found, last=stop)
            if stop:
                break
        return state

    def _afresh(self, state: State) -> State:
        """Note where correlated noise begins again after a restart, which forgot its memory."""
        if self._noising is None or not self._noising.remembers or not state.round:
            return state
        return replace(state, blocks=(*state.blocks, state.round + 1))

    def _played(self, state: State, chosen: Ints) -> Collected:
        """Play a round, unless its secure sum was aborted before: it is not asked for twice."""
        if self._given_up(round_ := state.round + 1):
            raise RunError(
                f"The secure sum of round {round_} was aborted before: its devices do not answer "
                "twice for one charge; start another run."
            )
        return self.play(state, chosen)

    def _given_up(self, round_: int) -> bool:
        """Whether the secure sum of a round was aborted before."""
        record = self._record
        return record is not None and record.abandoned(run=self._order.run, round=round_)

    def _without(self, state: State, error: RunError, *, lost: int) -> State:
        """Go on without a round whose secure sum was aborted; what it cost stays spent.

        Devices that gave their vector will not give another for the same charge, so the round
        cannot be had again. Nothing of it was revealed.

        Raises:
            RunError: The run cannot do without it.
        """
        if not self._under_masks:
            raise error
        if self._record is not None:
            self._record.abandon(reason="secure sum aborted")
        round_ = state.round + 1
        if lost > 1 or self._plan.shares or round_ == self._terms.rounds:
            raise error
        log.warning("Round %d is lost, its spend stays: %s", round_, error)
        return replace(state, round=round_)

    def _keep(self, report: RoundReport, found: Collected, *, last: bool) -> None:
        """Write down a round."""
        if self._record is None:
            return
        # A round is noised once: what the next order shows must survive a crash.
        once = self._noises or self._shares_noise
        due = last or report.round == self._terms.rounds or once
        save = due or report.round % self._terms.checkpoint_every == 0
        self._record.keep(self._order.run, report, save=save)
        self._record.settle(found.total, realised=found.realised)

    def play(self, state: State, chosen: Ints) -> Collected:
        """Send the orders of one round, sum what comes back, and release the sum.

        Raises:
            RunError: Fewer users than the quorum are in the sum, or a secure sum was aborted.
        """
        round_ = state.round + 1
        tensors = {
            name: state.tensors[name].astype(np.float32) for name in self._algorithm.sent(round_)
        }
        plan = self._plan_of(state)
        base = replace(
            self._order, round=round_, plan=plan, tensors=tensors, state=state_digest(tensors)
        )
        base = replace(base, witness=self._charged(base, chosen))
        places = {node: place for place, node in enumerate(self._census.nodes)}
        orders = {
            node: replace(base, place=places[node], participants=people)
            for node, people in self._census.placed(chosen).items()
        }
        found = self._collected(orders, pack(tensors))
        self._check_quorum(found, round_, asked=len(chosen))
        return found if found.exhausted else self._released(found, plan, round_)

    def _collected(self, orders: Mapping[int, Order], packed: ArrayRecord) -> Collected:
        """Collect in the open, or under masks where every node is a device of its own."""
        shapes = self._shapes(next(iter(orders.values())).round)
        deadline = self._terms.deadline
        if not self._under_masks:
            found = collect(self._grid, orders, shapes=shapes, packed=packed, deadline=deadline)
            return self._as_devices(found, shapes) if self._shares_noise else found
        return collect_masked(
            self._grid,
            orders,
            identities=self._census.identities,
            layout=Layout(shapes=shapes),
            packed=packed,
            deadline=deadline,
        )

    def _as_devices(self, found: Collected, shapes: Shapes) -> Collected:
        """Put the traffic of a device in a secure sum in place of a simulation's node's."""
        plan = self._plan
        up, down = traffic(
            devices=plan.expected_cohort,
            dimension=Layout(shapes=shapes).dimension,
            colluders=plan.colluders,
            dropouts=plan.dropouts,
        )
        return replace(found, bytes_up=up, bytes_down=found.bytes_down + down)

    def _check_quorum(self, found: Collected, round_: int, *, asked: int) -> None:
        needed = math.ceil(self._terms.quorum * asked - 1e-9)
        if self._shares_noise:
            # The devices' own: a sum that they opened is not thrown away.
            needed = self._plan.minimum
        if found.users < needed and not found.exhausted:
            raise RunError(
                f"Round {round_} has usable replies for {found.users} of {asked} users, "
                f"fewer than its quorum of {needed} ({found.reasons}); mend the "
                "devices and resume."
            )

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
            clip_norm=order.plan.clip_norm,
        )

    @property
    def _noises(self) -> bool:
        """Whether this server is the one that is trusted to add the noise."""
        return self._plan.unit is Unit.USER and self._plan.trust is Trust.CENTRAL

    @property
    def _shares_noise(self) -> bool:
        """Whether the noise is in the sum in the devices' shares."""
        return self._plan.unit is Unit.USER and self._plan.trust is Trust.DISTRIBUTED

    @property
    def _under_masks(self) -> bool:
        """Whether rounds are secure sums of devices; a simulation may stand for them."""
        return self._shares_noise and self._census.of_devices

    def _shapes(self, round_: int) -> Shapes:
        return shapes_with_bits(self._plan, self._algorithm.asked(round_))

    def _plan_of(self, state: State) -> Plan:
        """Return the plan of the next round: its clip norm may have moved."""
        moved = state.optimiser.get(CLIP)
        return self._plan if moved is None else replace(self._plan, clip_norm=float(moved))

    def _absorbed(self, state: State, found: Collected) -> State:
        """Return the next state; where the clip norm moves, the next one is kept in it."""
        plan, adaptive = self._plan_of(state), adaptive_of(self._plan)
        if adaptive is None:
            return self._algorithm.absorb(state, found.total, plan)
        total, within = detach(
            found.total,
            adaptive=adaptive,
            clip_norm=plan.clip_norm,
            cohort=plan.expected_cohort,
        )
        after = self._algorithm.absorb(state, total, plan)
        moved = next_clip(plan.clip_norm, within, adaptive=adaptive)
        return replace(after, optimiser={**after.optimiser, CLIP: np.array(moved)})

    def _released(self, found: Collected, plan: Plan, round_: int) -> Collected:
        """Turn the sum into its one release: noised by a trusted server, or off the grid."""
        if self._noising is not None:
            release = self._noising.release(found.total, users=found.users, plan=plan, round=round_)
            return replace(found, total=release.tensors)
        if not self._shares_noise:
            return found
        layout = Layout(shapes=self._shapes(round_))
        shares = noise_shares(plan, round=round_, layout=layout)
        realised = shares.realised(found.users - plan.colluders)
        return replace(found, total=opened(found.total, shares), realised=realised)

    def report(self, state: State, found: Collected, *, seconds: float) -> RoundReport:
        """Return what an observer sees."""
        return RoundReport(
            round=state.round,
            rounds=self._terms.rounds,
            state=state,
            epsilon=self._epsilon(state.round),
            users=found.users,
            replies=found.accepted,
            quarantined=dict(found.quarantined),
            seconds=seconds,
            bytes_up=found.bytes_up,
            bytes_down=found.bytes_down,
            notes=_notes(state),
        )

    def _epsilon(self, rounds: int) -> float:
        if self._plan.unit is Unit.NONE:
            return math.inf
        if not rounds:
            return 0.0
        from shared.privacy.accounting import epsilon_of

        turns = soonest(rounds=rounds, size=self._terms.cohort, users=self._census.users)
        return epsilon_of([self._plan.spend(turn) for turn in turns], delta=self._plan.delta)


def _notes(state: State) -> dict[str, float]:
    """Return what a round released beside the model, for the journal."""
    found = {f"devices_{name}": value for name, value in measurements(state).items()}
    moved = state.optimiser.get(CLIP)
    return found if moved is None else {**found, "next_clip_norm": float(moved)}


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
