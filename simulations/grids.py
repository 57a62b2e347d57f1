"""A Flower grid in this process: real messages, real apps, no daemon, no Ray, no polling.

`LocalGrid` hands each message to the `ClientApp` on a small pool of threads and gives the replies
back in the order of the messages, so sums do not depend on timing. Only a few replies are in
memory at once, however many nodes there are.
"""

import itertools
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from copy import deepcopy
from types import TracebackType
from typing import Any, Self

import numpy as np
from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity
from numpy.typing import NDArray

from client.participant import HOSTED, Participant
from shared.errors import RunError
from shared.protocol import pack, unpack

__all__ = ["LocalGrid", "identify_process"]

log = logging.getLogger("fedrec.grid")

RUN = 1
CLIENT_APP_RAISED = 2
NODE_IDS = itertools.count(1)
"""Node ids are never reused in a process, so two grids never share a participant."""


def identify_process() -> None:
    """Tell Flower which run, node and task this process is, so that it lets us make messages.

    This touches an internal of Flower (`flwr.supercore`); it is the only place that does.
    """
    TaskIdentity.run_id = RUN
    TaskIdentity.task_id = 1
    TaskIdentity.node_id = 1


class LocalGrid(Grid):
    """Nodes of this process, each with a participant and a state that lasts over rounds.

    Use it as a context manager: leaving it frees the participants and the threads.

    Args:
        client_app: The Flower ClientApp that answers for every node.
        participants: Who answers on each node.
        workers: Threads; a core each unless told otherwise.
    """

    def __init__(
        self,
        client_app: ClientApp,
        participants: Sequence[Participant],
        *,
        workers: int | None = None,
    ) -> None:
        identify_process()
        self._app = client_app
        self._contexts = {
            node: _context(node, part, len(participants))
            for part, node in zip(range(len(participants)), NODE_IDS, strict=False)
        }
        self._locks = {node: threading.Lock() for node in self._contexts}
        HOSTED.update(zip(self._contexts, participants, strict=True))
        self._workers = workers or max(1, min(len(participants), os.cpu_count() or 1))
        self._pool = ThreadPoolExecutor(self._workers, thread_name_prefix="node")
        self._pending: dict[str, Future[Message]] = {}
        self._ids = itertools.count(1)
        self._run = Run.create_empty(RUN)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Free the participants and the threads; work under way is waited for."""
        self._pool.shutdown(cancel_futures=True)
        for node in self._contexts:
            HOSTED.pop(node, None)

    def serve(self, server_app: ServerApp, run_config: Mapping[str, Any]) -> None:
        """Run a ServerApp on this grid until it ends.

        Args:
            server_app: The app.
            run_config: What its context holds: flat settings.
        """
        context = Context(
            run_id=RUN,
            node_id=0,
            node_config={},
            state=RecordDict(),
            run_config=dict(run_config),
        )
        server_app(grid=self, context=context)

    def set_run(self, run: Run) -> None:
        """Set the run this grid belongs to."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run this grid belongs to."""
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Return a new message of the server."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> list[int]:
        """Return the ids of all nodes, ascending, in the order of the participants."""
        return list(self._contexts)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Hand messages to their nodes and return the ids to pull the replies by."""
        return [self._push(message) for message in messages]

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Return the replies that are ready; each is given out once."""
        ready = [i for i in message_ids if i in self._pending and self._pending[i].done()]
        return [self._pending.pop(i).result() for i in ready]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterator[Message]:
        """Yield the replies in the order of the messages; those later than `timeout` are dropped.

        A few messages are under way at once: the next is handed out when a reply is taken.
        """
        end = None if timeout is None else time.monotonic() + timeout
        source = iter(messages)
        under_way = deque(map(self._push, itertools.islice(source, 2 * self._workers)))
        while under_way:
            reply = self._collect(under_way.popleft(), end)
            if end is None or time.monotonic() < end:
                under_way.extend(map(self._push, itertools.islice(source, 1)))
            if reply is not None:
                yield reply

    def _collect(self, message_id: str, end: float | None) -> Message | None:
        future = self._pending.pop(message_id)
        try:
            return future.result(None if end is None else max(0.0, end - time.monotonic()))
        except TimeoutError:
            future.cancel()
            return None

    def _push(self, message: Message) -> str:
        message_id = f"local-{next(self._ids)}"
        message.metadata.__dict__["_message_id"] = message_id
        self._pending[message_id] = self._pool.submit(self._deliver, message)
        return message_id

    def _deliver(self, message: Message) -> Message:
        """Give the node its own copy; the bytes of tensors are shared, they cannot change."""
        node = message.metadata.dst_node_id
        context = self._contexts[node]
        with self._locks[node]:
            try:
                return self._app(message=deepcopy(message), context=context)
            except Exception:
                log.exception("The ClientApp raised on node %d.", node)
                return Message(Error(code=CLIENT_APP_RAISED, reason=""), reply_to=message)

    def snapshot(self) -> dict[str, NDArray[Any]]:
        """Return the tensors in every node's state, by `position/record/tensor`."""
        arrays: dict[str, NDArray[Any]] = {"nodes": np.array(len(self._contexts))}
        for position, (node, context) in enumerate(self._contexts.items()):
            with self._locks[node]:
                for record, value in context.state.array_records.items():
                    named = unpack(value).items()
                    arrays |= {f"{position}/{record}/{name}": array for name, array in named}
        return arrays

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Put every node's state back to a snapshot.

        Raises:
            RunError: The snapshot is of another packing.
        """
        if int(arrays.get("nodes", -1)) != len(self._contexts):
            raise RunError("The checkpoint is of another packing; resume with its users per node.")
        states: list[dict[str, dict[str, NDArray[Any]]]] = [{} for _ in self._contexts]
        for place, array in arrays.items():
            if place != "nodes":
                position, record, name = place.split("/", 2)
                states[int(position)].setdefault(record, {})[name] = array
        for (node, context), state in zip(self._contexts.items(), states, strict=True):
            with self._locks[node]:
                context.state.clear()
                for record, tensors in state.items():
                    context.state[record] = pack(tensors)


def _context(node: int, part: int, parts: int) -> Context:
    return Context(
        run_id=RUN,
        node_id=node,
        node_config={"partition-id": part, "num-partitions": parts},
        state=RecordDict(),
        run_config={},
    )
