"""Rounds that are lost: aborted below a threshold, crashed or killed; what is spent stays spent."""

import json
import logging
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import masked
import pytest
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from masked import MISDEEDS, Watch, bodies, charges, made_plan, misbehaving, run, step_of

from server import secure_collection
from server.journal import RoundReport
from shared.errors import RunError
from shared.privacy.ledger import Ledger
from shared.protocol import PHASES

BELOW = {"keys": 2, "share": 2, "mask": 2, "vote": 3, "open": 4}
"""How many of six have to fail for a phase to miss its threshold (one may be silent)."""


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger(tmp_path / "ledger.db") as found:
        yield found


def spied(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every sum that a server ever sees."""
    seen: list[Any] = []
    real = secure_collection.Server.total

    def total(self: Any) -> Any:
        seen.append(real(self))
        return seen[-1]

    monkeypatch.setattr(secure_collection.Server, "total", total)
    return seen


@pytest.mark.parametrize("phase", PHASES)
def test_below_the_threshold_nothing_is_revealed_and_the_spend_stays(
    ledger: Ledger,
    phase: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    seen, watch = spied(monkeypatch), Watch()
    plan = made_plan(dropouts=1, noise="os", noise_multiplier=40.0)
    bad = set(range(BELOW[phase]))
    app = misbehaving(MISDEEDS["error"], phase=phase, bad=bad, rounds={2})
    with caplog.at_level(logging.WARNING):
        state = run(ledger, plan=plan, app=app, observer=watch, directory=tmp_path / "run")
    assert "Round 2 is lost, its spend stays" in caplog.text
    assert (state.round, watch.rounds, len(seen)) == (3, [1, 3], 2)
    # A lost round leaves the model as it was; the steps that were absorbed are two.
    assert float(state.optimiser["steps"]) == 2.0
    assert charges(ledger) == dict.fromkeys(range(6), 3)
    server = tmp_path / "run" / "server-ledger.db"
    assert [one["round"] for one in bodies(server, "reserve")] == [1, 2, 3]
    (lost,) = bodies(server, "aborted")
    assert lost["spent"] is True
    with Ledger(server) as kept:
        assert kept.spent(delta=1e-5).largest == ledger.spent(delta=1e-5).largest > 0.0
        assert charges(kept) == charges(ledger)


@pytest.mark.parametrize(
    ("changes", "rounds"),
    [
        ({"rounds": 4}, {2, 3}),
        ({"rounds": 1}, {1}),
        ({"rounds": 3}, {3}),
        ({"rounds": 3, "shares": (0.5, 0.25, 0.25)}, {2}),
    ],
)
def test_a_run_that_cannot_do_without_ends_in_one_sentence(
    ledger: Ledger, changes: dict[str, Any], rounds: set[int], tmp_path: Path
) -> None:
    plan, watch = made_plan(dropouts=1, **changes), Watch()
    app = misbehaving(MISDEEDS["error"], phase="mask", bad={0, 1}, rounds=rounds)
    with pytest.raises(RunError, match="5 or more devices") as ended:
        run(ledger, plan=plan, app=app, observer=watch, directory=tmp_path / "run")
    assert str(ended.value).count(". ") == 0
    assert watch.rounds == list(range(1, min(rounds)))
    assert len(bodies(tmp_path / "run" / "server-ledger.db", "aborted")) == len(rounds)


def test_rounds_given_up_before_do_not_end_a_resumed_run(ledger: Ledger, tmp_path: Path) -> None:
    plan, watch = made_plan(rounds=4, dropouts=1), Watch()
    app = misbehaving(MISDEEDS["error"], phase="mask", bad={0, 1}, rounds={2, 3})
    with pytest.raises(RunError):
        run(ledger, plan=plan, app=app, directory=tmp_path / "run")
    state = run(ledger, plan=plan, observer=watch, directory=tmp_path / "run", resume=True)
    assert (state.round, watch.rounds) == (4, [4])
    assert charges(ledger) == dict.fromkeys(range(6), 4)


def test_a_round_given_up_is_not_asked_for_again(ledger: Ledger, tmp_path: Path) -> None:
    plan = made_plan(rounds=1)
    app = misbehaving(MISDEEDS["error"], phase="open", bad={0, 1, 2, 3})
    with pytest.raises(RunError):
        run(ledger, plan=plan, app=app, directory=tmp_path / "run")
    with pytest.raises(RunError, match="aborted before"):
        run(ledger, plan=plan, directory=tmp_path / "run", resume=True)
    assert charges(ledger) == dict.fromkeys(range(6), 1)


def test_every_round_is_kept_before_the_next(ledger: Ledger, tmp_path: Path) -> None:
    """Its devices answer once: from an older checkpoint it could not be played again."""
    plan = made_plan(rounds=5)
    for nodes in (6, 2):
        directory = tmp_path / str(nodes)

        def stop(report: RoundReport) -> bool:
            if report.round == 4:
                raise KeyboardInterrupt
            return False

        terms = {"directory": directory, "checkpoint_every": 5, "nodes": nodes, "plan": plan}
        before = charges(ledger)[0]
        with pytest.raises(KeyboardInterrupt):
            run(ledger, observer=stop, replies=directory / "replies", **terms)
        watch = Watch()
        run(ledger, observer=watch, replies=directory / "replies", resume=True, **terms)
        # Round 4 was summed but not kept: packed nodes send it again, devices cannot.
        assert watch.rounds == ([5] if nodes == 6 else [4, 5])
        assert charges(ledger)[0] == before + 5


class Crash(BaseException):
    """The end of the process, as far as the run can see."""


@pytest.mark.parametrize("phase", PHASES)
def test_a_crash_in_a_phase_never_gives_a_second_vector(
    phase: str, tmp_path: Path, ledger: Ledger
) -> None:
    plan, left = made_plan(rounds=4), Counter[tuple[int, int]]()

    def dying(dies: bool) -> ClientApp:
        def change(asked: Message, reply: Message) -> Message:
            step = step_of(reply)
            if step.phase == "mask":
                left[int(asked.metadata.dst_node_id), step.round] += 1
            if dies and (step.round, step.phase) == (2, phase) and len(told) % 6 == 4:
                raise Crash
            return reply

        told: list[Message] = []
        app = ClientApp()
        masked_app = [
            misbehaving(change, phase=name, bad=set(range(6)), told=told) for name in PHASES
        ]

        @app.query()
        def greet(message: Message, context: Context) -> Message:
            return masked_app[0](message=message, context=context)

        def answer(message: Message, context: Context) -> Message:
            asked = message.metadata.message_type.removeprefix("train.")
            return masked_app[PHASES.index(asked)](message=message, context=context)

        for name in PHASES:
            app.train(name)(answer)
        return app

    terms: dict[str, Any] = {"plan": plan, "directory": tmp_path / "run", "workers": 1}
    with pytest.raises(Crash):
        run(ledger, app=dying(True), **terms)
    watch = Watch()
    state = run(ledger, app=dying(False), observer=watch, resume=True, **terms)
    early = phase in ("keys", "share")
    assert (state.round, watch.rounds) == (4, [2, 3, 4] if early else [3, 4])
    assert charges(ledger) == dict.fromkeys(range(6), 4)
    released = bodies(tmp_path / "ledger.db", "released")
    assert len({one["reservation"] for one in released}) == len(released) >= 18
    assert max(left.values()) == 1
    server = tmp_path / "run" / "server-ledger.db"
    assert [one["round"] for one in bodies(server, "reserve")] == [1, 2, 3, 4]
    assert len(bodies(server, "aborted")) == (0 if early else 1)


def child(directory: Path, rounds: int) -> subprocess.Popen[bytes]:
    root = Path(masked.__file__).parent
    code = f"import sys; sys.path[:0] = [{str(root.parent)!r}, {str(root)!r}]; import masked; "
    command = [sys.executable, "-c", code + "masked.main()", str(directory), str(rounds)]
    return subprocess.Popen(command, stderr=subprocess.PIPE)  # noqa: S603


@pytest.mark.slow
def test_killed_masked_rounds_never_count_too_little(tmp_path: Path) -> None:
    rounds, kills = 60, 0
    dice = random.Random(21)  # noqa: S311
    metrics = tmp_path / "metrics.jsonl"
    for _ in range(6):
        before = metrics.stat().st_mtime_ns if metrics.exists() else 0
        process = child(tmp_path, rounds)
        while process.poll() is None:
            if metrics.exists() and metrics.stat().st_mtime_ns != before:
                break
            time.sleep(0.005)
        time.sleep(dice.uniform(0.0, 0.2))
        process.kill()
        process.communicate()
        kills += process.returncode == -9
    assert kills >= 4
    process = child(tmp_path, rounds)
    _, said = process.communicate()
    assert process.returncode == 0, said.decode()
    played = [json.loads(line)["round"] for line in metrics.read_text().splitlines()]
    aborted = bodies(tmp_path / "server-ledger.db", "aborted")
    released = bodies(tmp_path / "ledger.db", "released")
    assert len({one["reservation"] for one in released}) == len(released)
    with Ledger(tmp_path / "ledger.db") as devices, Ledger(tmp_path / "server-ledger.db") as server:
        # A round that was given up before its devices were asked costs them nothing.
        for key, times in charges(devices).items():
            assert len(played) <= times <= rounds, key
        assert charges(server) == dict.fromkeys(range(6), rounds)
    assert len(played) + len(aborted) >= rounds
    assert sorted(set(played)) == played
