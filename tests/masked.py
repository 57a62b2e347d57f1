"""Federations whose rounds are secure sums, and devices that misbehave in a phase of one."""

import json
import sqlite3
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import counting
import numpy as np
from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp

from client.app import app as honest
from server.journal import RoundReport
from shared import protocol
from shared.algorithms.base import State
from shared.privacy.ledger import Ledger
from shared.privacy.plan import Plan, Trust
from shared.protocol import PHASES, Reason, Step
from simulations.population import Population

Change = Callable[[Message, Message], Message | RecordDict]
"""Question and honest answer -> the answer that is sent instead."""


def made_plan(cohort: int = 6, **changes: Any) -> Plan:
    """A plan of distributed trust for which `dropouts` may be missing."""
    # Much noise, so that a ledger pays for many runs.
    fields = {"rounds": 3, "noise": "off", "noise_multiplier": 200.0} | changes
    rounds = fields.pop("rounds")
    made = counting.user_plan(trust=Trust.DISTRIBUTED, rounds=rounds, cohort=cohort)
    values = {name: getattr(made, name) for name in made.__dataclass_fields__}
    return Plan(**(values | fields))


def misbehaving(
    change: Change,
    *,
    phase: str,
    bad: set[int],
    rounds: set[int] | None = None,
    told: list[Message] | None = None,
) -> ClientApp:
    """The honest app, except that some devices answer one phase (of some rounds) otherwise."""
    app = ClientApp()
    seen: dict[int, int] = {}

    @app.query()
    def greet(message: Message, context: Context) -> Message:
        return honest(message=message, context=context)

    def answer(message: Message, context: Context) -> Message:
        part = int(context.node_config["partition-id"])
        asked = message.metadata.message_type.removeprefix("train.")
        if asked == PHASES[0]:
            seen[part] = int(message.content["order"]["round"])
        if told is not None:
            told.append(message)
        reply = honest(message=message, context=context)
        wanted = rounds is None or seen.get(part) in rounds
        if part not in bad or asked != phase or not wanted:
            return reply
        changed = change(message, reply)
        return changed if isinstance(changed, Message) else Message(changed, reply_to=message)

    for name in PHASES:
        app.train(name)(answer)
    app.train()(answer)
    return app


def step_of(message: Message) -> Step:
    found = protocol.read_step(message.content)
    assert isinstance(found, Step), found
    return found


def rewritten(make: Callable[[Step], Step]) -> Change:
    return lambda asked, reply: protocol.step_records(make(step_of(reply)))


def _with(step: Step, **changes: Any) -> Step:
    fields = {name: getattr(step, name) for name in ("run", "round", "phase", "message")}
    return Step(**(fields | changes))


def silent(asked: Message, reply: Message) -> Message:
    raise TimeoutError


def error(asked: Message, reply: Message) -> Message:
    return Message(Error(code=2, reason="made"), reply_to=asked)


def _forged(step: Step) -> Step:
    """In another device's name: the number stands behind kind, version and tag."""
    raw = bytearray(step.message)
    number = int.from_bytes(raw[18:22], "little")
    raw[18:22] = ((number + 1) % 6).to_bytes(4, "little")
    return _with(step, message=bytes(raw))


def _retagged(step: Step) -> Step:
    """As a message of another round's session looks."""
    raw = bytearray(step.message)
    raw[2] ^= 1
    return _with(step, message=bytes(raw))


MISDEEDS: Mapping[str, Change] = {
    "silent": silent,
    "error": error,
    "refusal": lambda asked, reply: protocol.refusal_records(Reason.FAILED),
    "forged sender": rewritten(_forged),
    "sender beyond": rewritten(
        lambda s: _with(s, message=s.message[:18] + b"\xff\xff\xff\xff" + s.message[22:])
    ),
    "other round": rewritten(_retagged),
    "other phase": rewritten(
        lambda s: _with(s, phase=PHASES[(PHASES.index(s.phase) + 1) % len(PHASES)])
    ),
    "garbage": rewritten(lambda s: _with(s, message=b"garbage")),
    "empty": rewritten(lambda s: _with(s, message=b"")),
    "cut short": rewritten(lambda s: _with(s, message=s.message[:-1])),
    "too long": rewritten(lambda s: _with(s, message=s.message + b"0")),
    "echo": lambda asked, reply: asked.content,
    "metrics": lambda asked, reply: (
        RecordDict({**reply.content, "m": asked.content["step"]})
        if "step" in asked.content
        else RecordDict()
    ),
}


def table(state: State) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.asarray(state.tensors["table"])


class Watch:
    """Keeps what an observer sees."""

    def __init__(self) -> None:
        self.reports: list[RoundReport] = []

    def __call__(self, report: RoundReport) -> bool:
        self.reports.append(report)
        return False

    @property
    def rounds(self) -> list[int]:
        return [report.round for report in self.reports]


def some(people: list[int]) -> Population:
    whole = counting.made_population()
    return replace(whole, histories=whole.histories.select(np.array(people)), keys=np.array(people))


def run(ledger: Ledger, *, plan: Plan, nodes: int = 6, **more: Any) -> State:
    return counting.federate(
        more.pop("population", counting.made_population()),
        nodes=nodes,
        rounds=plan.rounds,
        run_plan=plan,
        ledger=ledger,
        **more,
    )


def bodies(path: Path, kind: str) -> list[dict[str, Any]]:
    with sqlite3.connect(path) as file:
        found = [json.loads(body) for (body,) in file.execute("SELECT body FROM record")]
    return [body for body in found if body["kind"] == kind]


def charges(ledger: Ledger) -> Counter[int]:
    return Counter(int(key) for one in ledger.history() for key in one.participants)


def same(a: State, b: State) -> bool:
    return a.round == b.round and np.array_equal(table(a), table(b))


def main() -> None:
    """Run masked rounds in a process that may be killed: python masked.py DIRECTORY ROUNDS."""
    directory, rounds = Path(sys.argv[1]), int(sys.argv[2])
    with Ledger(directory / "ledger.db") as ledger:
        counting.federate(
            counting.made_population(),
            nodes=6,
            rounds=rounds,
            run_plan=made_plan(rounds=rounds, noise="os", noise_multiplier=40.0),
            ledger=ledger,
            directory=directory,
            resume=True,
            workers=1,
        )
