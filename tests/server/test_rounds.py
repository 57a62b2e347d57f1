"""The round loop over real messages: poison, quorum, deadlines, budgets, resume."""

import json
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import counting
import numpy as np
import pytest
from counting import Counting, federate, made_population, private_plan, user_plan
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from client.app import app as honest
from server.checkpoints import Checkpoints
from server.journal import RoundReport
from shared import protocol
from shared.algorithms.base import State
from shared.errors import RunError
from shared.privacy.gaussian import ROUNDING
from shared.privacy.ledger import Ledger
from shared.privacy.plan import Trust
from shared.protocol import Reason
from shared.randomness import SeededNoise

Change = Callable[[RecordDict], RecordDict]
RAW = "raw-little-endian"


def corrupted(change: Change, bad: set[int]) -> ClientApp:
    """The honest app, except that some nodes' replies are changed on their way out."""
    app = ClientApp()

    @app.query()
    def greet(message: Message, context: Context) -> Message:
        return honest(message=message, context=context)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        reply = honest(message=message, context=context)
        if context.node_config["partition-id"] in bad:
            reply.content = change(reply.content)
        return reply

    return app


def refused(records: RecordDict) -> RecordDict:
    return protocol.refusal_records(Reason.FAILED)


def field(key: str, value: object) -> Change:
    def change(records: RecordDict) -> RecordDict:
        records["reply"] = ConfigRecord({**records["reply"], key: value})
        return records

    return change


def table(make: Callable[[np.ndarray], np.ndarray]) -> Change:
    def change(records: RecordDict) -> RecordDict:
        sums = protocol.unpack(records["sum"])
        records["sum"] = protocol.pack({"table": make(np.array(sums["table"]))})
        return records

    return change


def spike(value: float) -> Change:
    def make(sums: np.ndarray) -> np.ndarray:
        sums[0, 0] = value
        return sums

    return table(make)


def tensors(record: ArrayRecord) -> Change:
    def change(records: RecordDict) -> RecordDict:
        records["sum"] = record
        return records

    return change


POISON: dict[str, Change] = {
    "nan": spike(np.nan),
    "inf": spike(np.inf),
    "huge": spike(1e30),
    "shape": table(lambda sums: sums.T),
    "dtype": table(lambda sums: sums.astype(np.float32)),
    "extra tensor": tensors(protocol.pack({"table": np.zeros((8, 2)), "user": np.zeros(3)})),
    "missing tensor": tensors(protocol.pack({})),
    "numpy file": tensors(ArrayRecord({"table": Array(np.zeros((8, 2)))})),
    "false size": tensors(ArrayRecord({"table": Array("float64", (10**9,), RAW, b"x" * 16)})),
    "weight": field("weight", 1e12),
    "negative examples": field("num-examples", -60),
    "users": field("users", 10**12),
    "no users": field("users", -1),
    "round before": field("round", 0),
    "other run": field("run", "other"),
    "other order": field("order", "0" * 64),
    "other schema": field("schema", 2),
    "metrics": lambda records: RecordDict({**records, "metrics": ConfigRecord({"loss": 0.1})}),
    "nothing": lambda records: RecordDict(),
}


@pytest.mark.parametrize("name", POISON)
def test_poison_does_not_touch_the_model(name: str) -> None:
    seen: list[RoundReport] = []

    def observe(report: RoundReport) -> bool:
        seen.append(report)
        return False

    population = made_population()
    app = corrupted(POISON[name], bad={2})
    found = federate(population, nodes=6, app=app, observer=observe)
    honest_only = federate(population, nodes=6, app=corrupted(refused, bad={2}))
    assert np.array_equal(found.tensors["table"], honest_only.tensors["table"])
    assert np.isfinite(found.tensors["table"]).all()
    assert [r.round for r in seen] == [1, 2, 3]
    assert all(r.replies == 5 and sum(r.quarantined.values()) == 1 for r in seen)


def test_too_few_good_replies_end_the_run(tmp_path: Path) -> None:
    app = corrupted(POISON["nan"], bad=set(range(6)))
    with pytest.raises(RunError, match=r"quorum of 5 .*6 not-finite"):
        federate(made_population(), nodes=6, app=app, directory=tmp_path)
    assert len(list((tmp_path / "checkpoints").iterdir())) == 1
    two = corrupted(POISON["nan"], bad={0, 1})
    with pytest.raises(RunError, match="4 of 6 users"):
        federate(made_population(), nodes=6, app=two)


def test_duplicate_replies_count_once() -> None:
    from simulations.grids import LocalGrid

    population = made_population()
    expected = federate(population, nodes=3)
    collect = LocalGrid.send_and_receive

    def twice(grid: LocalGrid, messages: object, *, timeout: float | None = None) -> object:
        for reply in collect(grid, messages, timeout=timeout):  # type: ignore[arg-type]
            yield reply
            yield reply

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LocalGrid, "send_and_receive", twice)
        found = federate(population, nodes=3)
    assert np.array_equal(found.tensors["table"], expected.tensors["table"])


def test_reply_of_the_round_before_is_dropped() -> None:
    kept: dict[int, RecordDict] = {}
    reasons: list[dict[str, int]] = []
    app = ClientApp()

    @app.query()
    def greet(message: Message, context: Context) -> Message:
        return honest(message=message, context=context)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        part = int(str(context.node_config["partition-id"]))
        reply = honest(message=message, context=context)
        if part == 1:
            reply.content = kept.setdefault(part, reply.content)
        return reply

    def observe(report: RoundReport) -> bool:
        reasons.append(dict(report.quarantined))
        return False

    federate(made_population(), nodes=6, app=app, observer=observe)
    assert reasons == [{}, {"replayed": 1}, {"replayed": 1}]


def test_reply_of_another_node_is_dropped() -> None:
    kept: list[RecordDict] = []
    reasons: list[dict[str, int]] = []
    app = ClientApp()

    @app.query()
    def greet(message: Message, context: Context) -> Message:
        return honest(message=message, context=context)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        reply = honest(message=message, context=context)
        kept.append(reply.content)
        reply.content = kept[0]
        return reply

    def observe(report: RoundReport) -> bool:
        reasons.append(dict(report.quarantined))
        return False

    federate(made_population(), nodes=6, app=app, observer=observe, rounds=1, quorum=0.1)
    assert reasons == [{"order": 5}]


def test_slow_node_misses_the_deadline() -> None:
    app = ClientApp()

    @app.query()
    def greet(message: Message, context: Context) -> Message:
        return honest(message=message, context=context)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        if context.node_config["partition-id"] == 2:
            time.sleep(1.5)
        return honest(message=message, context=context)

    seen: list[RoundReport] = []

    def observe(report: RoundReport) -> bool:
        seen.append(report)
        return True

    federate(
        made_population(), nodes=3, app=app, observer=observe, deadline=0.7, quorum=0.5, workers=3
    )
    assert [(r.replies, dict(r.quarantined)) for r in seen] == [(2, {"missing": 1})]


def test_zero_update_divides_nothing() -> None:
    app = corrupted(table(np.zeros_like), bad=set(range(6)))
    population = made_population()
    found = federate(population, nodes=6, app=app)
    start = counting.Counting(n_items=8).start(1)
    assert np.array_equal(found.tensors["table"], start.tensors["table"])


def test_observer_stops_the_run_and_its_notes_are_kept(tmp_path: Path) -> None:
    def observe(report: RoundReport) -> bool:
        report.notes["ndcg@10"] = 0.5
        return report.round == 2

    found = federate(made_population(), nodes=2, rounds=5, directory=tmp_path, observer=observe)
    assert found.round == 2
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["round"], line["ndcg@10"]) for line in lines] == [(1, 0.5), (2, 0.5)]
    assert lines[0]["epsilon"] is None


def test_bytes_are_one_device_s_whatever_the_packing() -> None:
    sizes = set()

    def observe(report: RoundReport) -> bool:
        sizes.add((report.bytes_up, report.bytes_down))
        return True

    for nodes in (1, 2, 6):
        federate(made_population(), nodes=nodes, observer=observe)
    assert len(sizes) == 1
    ((up, down),) = sizes
    assert 8 * 16 < up < 8 * 16 + 250
    assert 4 * 16 < down < 4 * 16 + 900


def test_exhausted_budget_ends_the_run_early(tmp_path: Path) -> None:
    plan = private_plan(rounds=3)
    seen: list[float] = []

    def observe(report: RoundReport) -> bool:
        seen.append(report.epsilon)
        return False

    with Ledger(tmp_path / "ledger.db") as ledger:
        population = made_population()
        first = federate(population, nodes=2, run_plan=plan, ledger=ledger, observer=observe)
        again = federate(
            population, nodes=2, rounds=3000, run_plan=plan, ledger=ledger, directory=tmp_path
        )
    assert first.round == 3
    assert seen == sorted(seen)
    assert 0 < seen[0] < seen[-1] <= plan.epsilon
    assert 0 < again.round < 3000
    assert Checkpoints(tmp_path / "checkpoints")._found()[0].name == f"round-{again.round:06d}"


def test_resume_equals_the_uninterrupted_run(tmp_path: Path) -> None:
    population = made_population()
    whole = federate(population, nodes=2, rounds=6, share=0.5)

    class Crash(Exception):
        pass

    def crash_at(round_: int) -> Callable[[RoundReport], bool]:
        def observe(report: RoundReport) -> bool:
            if report.round == round_:
                raise Crash
            return False

        return observe

    for round_ in (1, 3, 4):
        with pytest.raises(Crash):
            federate(
                population,
                nodes=2,
                rounds=6,
                share=0.5,
                directory=tmp_path,
                resume=True,
                observer=crash_at(round_),
            )
    found = federate(population, nodes=2, rounds=6, share=0.5, directory=tmp_path, resume=True)
    assert same(found, whole)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["round"] for line in lines] == [1, 2, 3, 4, 5, 6]


def test_finished_run_reports_once_on_resume(tmp_path: Path) -> None:
    seen: list[int] = []

    def observe(report: RoundReport) -> bool:
        seen.append(report.round)
        return False

    first = federate(made_population(), nodes=2, directory=tmp_path)
    second = federate(made_population(), nodes=2, directory=tmp_path, resume=True, observer=observe)
    assert seen == [3]
    assert same(first, second)


def test_new_run_refuses_a_used_directory(tmp_path: Path) -> None:
    federate(made_population(), nodes=2, directory=tmp_path)
    with pytest.raises(RunError, match="already holds a run"):
        federate(made_population(), nodes=2, directory=tmp_path)
    with pytest.raises(RunError, match="other settings"):
        federate(made_population(), nodes=2, directory=tmp_path, resume=True, seed=2)
    with pytest.raises(RunError, match="another packing"):
        federate(made_population(), nodes=3, directory=tmp_path, resume=True)


def same(a: State, b: State) -> bool:
    return a.round == b.round and all(
        np.array_equal(getattr(a, part)[name], value)
        for part in ("tensors", "optimiser")
        for name, value in getattr(b, part).items()
    )


def child(directory: Path, rounds: int) -> subprocess.Popen[bytes]:
    root = Path(counting.__file__).parent
    code = f"import sys; sys.path[:0] = [{str(root.parent)!r}, {str(root)!r}]; import counting; "
    command = [sys.executable, "-c", code + "counting.main()", str(directory), str(rounds)]
    return subprocess.Popen(command, stderr=subprocess.PIPE)  # noqa: S603


@pytest.mark.slow
def test_kill_at_random_moments_loses_nothing(tmp_path: Path) -> None:
    rounds, kills = 60, 0
    dice = random.Random(20)  # noqa: S311
    directory = tmp_path / "run"
    directory.mkdir()
    metrics = directory / "metrics.jsonl"
    for _ in range(10):
        before = metrics.stat().st_mtime_ns if metrics.exists() else 0
        process = child(directory, rounds)
        while process.poll() is None:
            if metrics.exists() and metrics.stat().st_mtime_ns != before:
                break
            time.sleep(0.005)
        time.sleep(dice.uniform(0.0, 0.08))
        process.kill()
        _, said = process.communicate()
        assert process.returncode in (-9, 0), said.decode()
        kills += process.returncode == -9
    assert kills >= 5
    whole = tmp_path / "whole"
    whole.mkdir()
    for place in (directory, whole):
        process = child(place, rounds)
        _, said = process.communicate()
        assert process.returncode == 0, said.decode()
    found, expected = (_newest(d) for d in (directory, whole))
    assert same(found, expected)
    assert found.round == rounds
    with Ledger(directory / "ledger.db") as ledger:
        assert set(ledger.spent(delta=1e-5).steps.tolist()) == {rounds}
        assert all(charge.reply_digest for charge in ledger.history())


def _newest(directory: Path) -> State:
    store = Checkpoints(directory / "checkpoints")
    settings = json.loads((store._found()[0] / "manifest.json").read_text())["settings"]
    found = store.load(settings=settings)
    assert found is not None
    return found.state


def test_a_trusted_server_noises_every_value_once(tmp_path: Path) -> None:
    found = {}
    for noise in ("off", "seeded"):
        with Ledger(tmp_path / f"{noise}.db") as ledger:
            found[noise] = federate(
                made_population(),
                nodes=3,
                rounds=1,
                run_plan=user_plan(trust=Trust.CENTRAL, rounds=1, noise=noise, sigma=5.0),
                ledger=ledger,
            )
    draw = SeededNoise(1).gaussian((8, 2), "central", 1, "table")
    added = found["seeded"].tensors["table"] - found["off"].tensors["table"]
    np.testing.assert_allclose(added, 0.1 * draw * 5.0 * ROUNDING / 6, rtol=1e-9)
    assert (added != 0.0).all()


def test_a_noised_round_is_kept_before_the_next_order(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.db") as ledger:
        population = made_population()
        participants = population.participants(2, ledger=ledger, build=counting.build)
        with counting.LocalGrid(honest, participants) as grid:
            newest = []

            def observe(report: RoundReport) -> bool:
                newest.append(max(path.name for path in (tmp_path / "checkpoints").iterdir()))
                return False

            counting.run_rounds(
                grid,
                census=counting.greet(grid),
                algorithm=Counting(n_items=8),
                method=counting.METHOD,
                plan=user_plan(trust=Trust.CENTRAL, rounds=4),
                terms=counting.Terms(rounds=4, cohort=6, checkpoint_every=3),
                seed=1,
                directory=tmp_path,
                observer=observe,
                companions=grid,
            )
    assert newest == [f"round-{done:06d}" for done in range(4)]
