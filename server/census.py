"""Who is there and who is asked: the nodes of a run, its population, the cohort of a round."""

import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from flwr.app import Message, MessageType, RecordDict
from flwr.serverapp import Grid
from numpy.typing import NDArray

from shared.errors import ConfigError, ProtocolError, RunError
from shared.protocol import Greeting, greeting_records, read_greeting
from shared.randomness import stream

__all__ = [
    "Census",
    "cohort_size",
    "cohorts",
    "greet",
    "most_participations",
    "read_message",
    "soonest",
]

Ints = NDArray[np.int64]
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Census:
    """Who is there, in public numbers.

    Attributes:
        nodes: Node ids in ascending order, and the users each hosts.
        n_items: Size of the catalogue.
        catalogue: Digest of the vocabulary, equal on all nodes.
        identities: Ed25519 public keys of the nodes that are one device each.
    """

    nodes: Mapping[int, int]
    n_items: int
    catalogue: str
    identities: Mapping[int, bytes] = field(default_factory=dict)

    @property
    def users(self) -> int:
        """Size of the population."""
        return sum(self.nodes.values())

    @property
    def of_devices(self) -> bool:
        """Whether every node is one device, which can take part in a secure sum itself."""
        return len(self.identities) == len(self.nodes) == self.users

    def placed(self, chosen: Ints) -> dict[int, Ints]:
        """Return, by node, the positions there of the chosen users (0 .. users - 1, ascending)."""
        ends = np.cumsum(list(self.nodes.values()))
        cuts = np.searchsorted(chosen, ends)
        starts = itertools.chain([0], ends)
        parts = zip(self.nodes, np.split(chosen, cuts), starts, strict=False)
        return {node: part - start for node, part, start in parts if len(part)}


def greet(grid: Grid, *, nodes: int | None = None, deadline: float = 60.0) -> Census:
    """Ask every node what it holds, once the expected number of them is there.

    Args:
        grid: The Flower grid.
        nodes: How many nodes the run expects; without it, those that are there (at least one).
        deadline: Seconds to wait for them, and again for their answers.

    Raises:
        RunError: Nodes are missing, silent, or hold different catalogues.
    """
    ids = _wait_for_nodes(grid, nodes or 1, deadline)
    questions = [
        Message(greeting_records(), dst_node_id=node, message_type=MessageType.QUERY)
        for node in ids
    ]
    found: dict[int, Greeting] = {}
    for message in grid.send_and_receive(questions, timeout=deadline):
        greeting = read_message(message, read_greeting)
        if isinstance(greeting, Greeting):
            found[message.metadata.src_node_id] = greeting
    if len(found) < len(ids):
        raise RunError(
            f"Only {len(found)} of {len(ids)} nodes answered the greeting within {deadline:g} s; "
            "look at the nodes' logs and start again."
        )
    if len({(g.n_items, g.catalogue) for g in found.values()}) > 1:
        raise RunError("The nodes hold different catalogues; give every node the same item list.")
    one = next(iter(found.values()))
    users = {node: found[node].users for node in sorted(found)}
    keys = {node: bytes.fromhex(found[node].identity) for node in users if found[node].identity}
    if len(set(keys.values())) < len(keys):
        raise RunError("Two nodes show one identity; give every device a key of its own.")
    return Census(nodes=users, n_items=one.n_items, catalogue=one.catalogue, identities=keys)


def _wait_for_nodes(grid: Grid, expected: int, deadline: float) -> list[int]:
    end = time.monotonic() + deadline
    while len(ids := sorted(set(grid.get_node_ids()))) < expected:
        if time.monotonic() > end:
            raise RunError(
                f"Only {len(ids)} of {expected} nodes came within {deadline:g} s; start the rest."
            )
        time.sleep(min(0.5, deadline / 10))
    return ids


def cohort_size(*, users: int, share: float) -> int:
    """Return how many users a share in (0, 1] of the population is, at least one."""
    return max(1, math.floor(users * share + 1e-9))


def most_participations(*, rounds: int, size: int, users: int) -> int:
    """Return the most rounds that one user is asked in: the ceiling of rounds * size / users."""
    return -(-rounds * size // users)


def soonest(*, rounds: int, size: int, users: int) -> tuple[int, ...]:
    """Return the rounds, of the first `rounds`, of a user whom nobody precedes in any turn.

    Where cohorts are kept apart, nobody was asked more often or earlier than that user.
    """
    times = most_participations(rounds=rounds, size=size, users=users)
    return tuple(1 + turn * users // size for turn in range(times))


def cohorts(*, users: int, size: int, seed: int, separation: int = 1) -> Iterator[Ints]:
    """Return the cohort of each round, int64 [size], ascending, without end.

    The population is dealt out in shuffled turns: nobody is asked again before all were asked.
    Where rounds of a user have to lie apart, every turn has the order of the first one: users come
    again after `users / size` rounds, rounded up or down (Choquette-Choo et al. 2023).

    Args:
        users: Size of the population.
        size: Users of one round.
        seed: Experiment seed.
        separation: Least distance in rounds of two cohorts of one user.

    Raises:
        ConfigError: There are fewer than `separation` times `size` users.

    Guarantees:
        After R rounds no user was asked more than `most_participations(rounds=R, ...)` times.
        No user is twice in one cohort.
        Nobody is asked twice within the separation.
        The cohorts depend on the population and the seed, not on how users are packed.
    """
    if size * separation > users:
        raise ConfigError(
            f"Expected users >= cohort * separation = {size * separation}, found {users}; use a "
            "smaller cohort or a narrower separation."
        )
    return _dealt(users, size, seed) if separation == 1 else _rotated(users, size, seed)


def _dealt(users: int, size: int, seed: int) -> Iterator[Ints]:
    """Yield cohorts of turns that are each shuffled anew."""
    rest: Ints = np.empty(0, dtype=np.int64)
    for epoch in itertools.count():
        turn = stream(seed, "cohort", epoch).permutation(users)
        again = np.isin(turn, rest)
        queue = np.concatenate([rest, turn[~again], turn[again]])
        whole = len(queue) // size * size
        for cohort in queue[:whole].reshape(-1, size):
            yield np.sort(cohort)
        rest = queue[whole:]


def _rotated(users: int, size: int, seed: int) -> Iterator[Ints]:
    """Yield cohorts of one shuffled turn that is dealt out again and again."""
    turn = stream(seed, "cohort", 0).permutation(users)
    for first in itertools.count(0, size):
        yield np.sort(turn[np.arange(first, first + size) % users])


def read_message(message: Message, read: Callable[[RecordDict], T]) -> T | str:
    """Return what a message says, or the reason code for which it cannot be read.

    Args:
        message: An answer.
        read: The reader of its kind, from `shared.protocol`.
    """
    if message.has_error():
        return "error"
    try:
        return read(message.content)
    except ProtocolError:
        return "schema"
