"""What answers an order: the users of one node, their histories, their ledger, their last reply.

A device hosts one user, a simulation node any number; the code is the same. The order of an answer
is the argument for its safety: stored reply first, then the checks, then the charge in the ledger,
then the work, then the reply is stored, and only then does it leave.

Guarantees:
    A repeated order is answered with the stored reply, byte for byte; noise is never redrawn.
    The spend is reserved before the work; a refused order leaves the device's memory untouched.
    An owner's node refuses runs without protection and stand-ins for protective noise.
"""

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from client.contribution import Work
from client.replies import Replies
from client.secure_sums import Admitted, SecureSums
from shared.algorithms.base import Algorithm, Memory, check_alike
from shared.data.interactions import Interactions
from shared.errors import BudgetError, ConfigError, DataError, ProtocolError, RunError
from shared.privacy.adaptive_clip import shapes_with_bits
from shared.privacy.distributed import Layout, check_distributed, noise_shares
from shared.privacy.plan import Plan, Trust, Unit
from shared.protocol import Greeting, Order, Reply, Step, session_of, state_digest

if TYPE_CHECKING:
    from shared.privacy.chain import Head
    from shared.privacy.ledger import Ledger, Reservation

__all__ = ["HOSTED", "Build", "Participant", "bounds", "find_participant"]

AFTERWARDS = ("vote", "open")
"""Phases of a secure sum that a device answers once its masked vector was paid for."""

Build = Callable[[str, str, Mapping[str, object], int], Algorithm]
Ints = NDArray[np.int64]


class Participant:
    """The users of one node.

    Args:
        histories: Training interactions, one row a user.
        keys: int64 [users], stable name of each user for reproducible streams and the ledger.
        catalogue: Digest of the vocabulary of items.
        ledger: Where spend is reserved; a protected run is refused without one.
        replies: Where the newest reply is kept; in memory unless told otherwise.
        simulated: A simulated population may run unprotected or with stand-in noise; a person's
            device may not.
        build: Makes an algorithm of its public settings; `methods.build` unless told otherwise.
    """

    def __init__(
        self,
        *,
        histories: Interactions,
        keys: Ints,
        catalogue: str,
        ledger: "Ledger | None" = None,
        replies: Replies | None = None,
        simulated: bool = False,
        build: Build | None = None,
    ) -> None:
        self.histories = histories
        self.keys = keys
        self.catalogue = catalogue
        self._ledger = ledger
        self._replies = Replies() if replies is None else replies
        self._simulated = simulated
        self._build = _methods_build if build is None else build
        self._sums = SecureSums() if histories.n_users == 1 else None

    @classmethod
    def from_file(cls, path: Path, *, part: int, parts: int, **places: Any) -> Self:
        """Read one node's share of a population file (`simulations.population`).

        Args:
            path: The .npz file.
            part: Which share, from 0.
            parts: Number of shares.
            **places: `ledger` and `replies` of the node.

        Raises:
            DataError: The file cannot be read as a population.
        """
        try:
            with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
                columns = {name: file[name] for name in file.files}
            low, high = bounds(len(columns["keys"]), parts)[part : part + 2]
            table = Interactions(
                items=columns["items"],
                offsets=columns["offsets"],
                times=columns["times"],
                weights=columns["weights"],
                n_items=int(columns["n_items"]),
            ).select(np.arange(low, high))
            keys, catalogue = columns["keys"][low:high], str(columns["catalogue"])
        except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
            raise DataError(f"Cannot read the population file {path}; write it again.") from error
        return cls(histories=table, keys=keys, catalogue=catalogue, simulated=True, **places)

    def greet(self) -> Greeting:
        """Return what the node holds, in public numbers."""
        return Greeting(
            users=self.histories.n_users,
            n_items=self.histories.n_items,
            catalogue=self.catalogue,
            identity="" if self._sums is None else self._sums.identity.hex(),
        )

    def answer(self, order: Order, memory: Memory | None) -> tuple[Reply, Memory]:
        """Answer an order.

        Args:
            order: What the server asks.
            memory: Local tensors of all users of the node, or None before their first round.

        Returns:
            The reply, and the local tensors after the round.

        Raises:
            BudgetError: The spend cannot be reserved.
            ConfigError: The plan is not allowed here.
            DataError: The catalogue is another one.
            ProtocolError: The order does not fit the model or the node.
        """
        if order.plan.trust is Trust.DISTRIBUTED and not self._simulated:
            raise ConfigError("A device's contribution leaves it masked: refused without a sum.")
        if kept := self._replies.find(order.digest):
            self._settle(kept[0], self._unanswered(order))
            return kept
        algorithm = self._checked(order)
        reservation = self._reserve(order, purpose=algorithm.purpose(order.round))
        reply, after = self._work(algorithm, order, memory).reply()
        if order.plan.unit is not Unit.NONE:
            # Plain sums are the same when they are made again; noise would not be.
            self._replies.keep(reply, after)
        self._settle(reply, reservation)
        return reply, after

    def join(self, order: Order, roster: tuple[bytes, ...]) -> Step:
        """Take up an order whose answer goes into a secure sum, and return fresh keys for it.

        Args:
            order: What the server asks.
            roster: Identities of all who are invited.

        Raises:
            BudgetError: The spend cannot be reserved.
            ConfigError: The plan is not allowed here.
            DataError: The catalogue is another one.
            ProtocolError: The order does not fit the model, the node or the roster.
            RunError: The order was answered before.
        """
        sums = self._secure_sums
        algorithm = self._checked(order)
        check_distributed(order.plan)
        layout = Layout(shapes=shapes_with_bits(order.plan, algorithm.asked(order.round)))
        session = session_of(order, roster, layout=layout)
        # Whatever would keep the vector from being made is found before it is paid for.
        noise_shares(order.plan, round=order.round, layout=layout)
        sums.number(roster)
        if self._answered(order):
            raise RunError("This order was answered before, and is not answered twice.")
        reservation = self._reserve(order, purpose=algorithm.purpose(order.round))
        if reservation is None:
            raise BudgetError("This node keeps no ledger, so it takes no part in a private run.")
        admitted = Admitted(order=order, algorithm=algorithm, reservation=reservation)
        return sums.begin(admitted, session)

    def step(self, step: Step, memory: Memory | None) -> tuple[Step, Memory | None]:
        """Answer one phase of the secure sum that was joined.

        Args:
            step: What the server sent.
            memory: Local tensors of the node's user, or None before the first round.

        Returns:
            The answer, and the local tensors afterwards.

        Raises:
            ProtocolError: The message is out of order, or contradicts what was seen before.
            RunError: A threshold is missed; nothing is revealed.
        """
        sums = self._secure_sums
        if step.phase != "mask":
            # Without it a vote could leave for a vector whose charge can still be taken up again.
            if step.phase in AFTERWARDS and not self._answered(sums.admitted(step).order):
                raise RunError("The masked vector is not noted in the ledger; free its disk.")
            return sums.answer(step), memory
        admitted = sums.admitted(step)
        work = self._work(admitted.algorithm, admitted.order, memory)
        reply, after = sums.mask(step, work.veiled)
        if self._ledger is not None:
            digest = hashlib.sha256(reply.message).hexdigest()
            self._ledger.release(admitted.reservation, reply_digest=digest)
        return reply, after

    @property
    def _secure_sums(self) -> SecureSums:
        if self._sums is None:
            raise ProtocolError("A node of several users is no device of a secure sum.")
        return self._sums

    def _work(self, algorithm: Algorithm, order: Order, memory: Memory | None) -> Work:
        if memory is None or not all(np.isfinite(value).all() for value in memory.values()):
            memory = algorithm.memory(self.keys, order.seed)
        return Work(
            algorithm=algorithm,
            order=order,
            histories=self.histories,
            keys=self.keys,
            memory=memory,
        )

    def _checked(self, order: Order) -> Algorithm:
        """Return the algorithm of an order that passed every check."""
        if order.catalogue != self.catalogue:
            raise DataError("The order's catalogue is not this node's; load the same item list.")
        people = order.participants
        inside = len(people) and people.min() >= 0 and people.max() < self.histories.n_users
        if not inside or len(np.unique(people)) != len(people):
            raise ProtocolError("The order names nobody, one user twice or users not hosted here.")
        from shared.algorithms.methods import measured

        try:
            settings = json.loads(order.settings)
            learner = self._build(order.model, order.algorithm, settings, self.histories.n_items)
            plan = order.plan
            algorithm = measured(learner, rounds=plan.rounds, share=plan.metrics_share)
        except (ConfigError, ValueError) as error:
            raise ProtocolError("The order's settings make no algorithm; check the run.") from error
        _check_tensors(order, algorithm)
        self._check_plan(order.plan, algorithm)
        return algorithm

    def _check_plan(self, plan: Plan, algorithm: Algorithm) -> None:
        """Refuse protection that is weaker than it says or not to be had here."""
        if plan.unit is Unit.NONE or plan.noise != "os":
            if not self._simulated:
                raise ConfigError(
                    f"unit={plan.unit} with noise={plan.noise} protects nobody: refused here."
                )
            if plan.unit is Unit.NONE:
                return
        if plan.unit is Unit.USER:
            check_alike(algorithm, plan)
            return
        public = (algorithm.sampling_rate, algorithm.local_steps)
        if (plan.sampling_rate, plan.steps_per_round) != public:
            raise ConfigError("The plan's sampling rate or steps are not the algorithm's own.")

    def _reserve(self, order: Order, *, purpose: str) -> int | None:
        """Charge the users of a protected order, unless they paid and no reply came of it."""
        plan = order.plan
        if plan.unit is Unit.NONE:
            return None
        if self._ledger is None:
            raise BudgetError("This node keeps no ledger, so it takes no part in a private run.")
        from shared.privacy.charges import Budget
        from shared.privacy.terms import Terms

        if (paid := self._unanswered(order)) is not None:
            return paid
        return self._ledger.reserve(
            run=order.run,
            round=order.round,
            order_digest=order.digest,
            participants=self.keys[order.participants],
            spend=plan.spend(order.round),
            purpose=purpose,
            budget=Budget(epsilon=plan.epsilon, delta=plan.delta, planned=plan.total_spend),
            noise=plan.noise,
            terms=Terms.from_plan(plan),
            witness=_head(order),
            separation=plan.separation,
        )

    def _unanswered(self, order: Order) -> int | None:
        """Return the charge for an order for which no reply is noted, if there is one."""
        found = self._charge(order)
        return found.id if found is not None and found.reply_digest is None else None

    def _answered(self, order: Order) -> bool:
        """Return whether a charge for the order was used up by a reply."""
        found = self._charge(order)
        return found is not None and found.reply_digest is not None

    def _charge(self, order: Order) -> "Reservation | None":
        if order.plan.unit is Unit.NONE or self._ledger is None:
            return None
        return self._ledger.find(
            run=order.run,
            round=order.round,
            order_digest=order.digest,
            participants=self.keys[order.participants],
        )

    def _settle(self, reply: Reply, reservation: int | None) -> None:
        """Note in the ledger, before a stored reply leaves, that its charge is used up."""
        if reservation is not None and self._ledger is not None:
            self._ledger.release(reservation, reply_digest=state_digest(reply.tensors))


def _head(order: Order) -> "Head | None":
    """Return the head of the server's ledger that an order shows."""
    from shared.privacy.chain import Head

    if not order.witness:
        return None
    try:
        return Head.from_dict(json.loads(order.witness))
    except ValueError as error:
        raise ProtocolError("The order's witness is no head of a ledger; update it.") from error


def _check_tensors(order: Order, algorithm: Algorithm) -> None:
    shapes = {name: tuple(shape) for name, shape in algorithm.sent(order.round).items()}
    if {name: value.shape for name, value in order.tensors.items()} != shapes:
        raise ProtocolError("The order's tensors are not those of its model; check the catalogue.")
    if not all(np.isfinite(value).all() for value in order.tensors.values()):
        raise ProtocolError("The order's tensors are not all finite; the run has diverged.")


def _methods_build(
    model: str, algorithm: str, settings: Mapping[str, object], n_items: int
) -> Algorithm:
    from shared.algorithms.methods import build

    return build(model, algorithm, settings, n_items)


def bounds(users: int, parts: int) -> list[int]:
    """Return where each of `parts` nearly equal shares of `users` begins, and the end.

    >>> bounds(7, 3)
    [0, 3, 5, 7]
    """
    size, more = divmod(users, parts)
    return [part * size + min(part, more) for part in range(parts + 1)]


HOSTED: dict[int, Participant] = {}
"""Participants of this process by Flower node id, for grids that live in this process."""


def find_participant(node_id: int, node_config: Mapping[str, Any]) -> Participant:
    """Return who answers on this node: hosted in this process, or read from a population file.

    The file is named by the environment (`FEDREC_POPULATION`; `FEDREC_LEDGER` and
    `FEDREC_REPLIES` where a run keeps them), the share by the node's `partition-id` and
    `num-partitions`: so Flower's own simulation engine runs the same app.

    Raises:
        DataError: Neither is there.
    """
    if node_id in HOSTED:
        return HOSTED[node_id]
    path = os.environ.get("FEDREC_POPULATION")
    if not path or "partition-id" not in node_config or "num-partitions" not in node_config:
        raise DataError("This node hosts nobody: set FEDREC_POPULATION to a population file.")
    part, parts = int(node_config["partition-id"]), int(node_config["num-partitions"])
    return _from_environment(path, part, parts)


@lru_cache(maxsize=1024)
def _from_environment(path: str, part: int, parts: int) -> Participant:
    ledger, replies = os.environ.get("FEDREC_LEDGER"), os.environ.get("FEDREC_REPLIES")
    places: dict[str, Any] = {}
    if ledger:
        from shared.privacy.ledger import Ledger

        places["ledger"] = Ledger(Path(ledger))
    if replies:
        places["replies"] = Replies(Path(replies) / f"{part:06d}")
    return Participant.from_file(Path(path), part=part, parts=parts, **places)
