"""Rounds under masks: the exact sum of who is left, or nothing at all and the spend stays."""

import json
import logging
import random
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import counting
import masked
import numpy as np
import pytest
from counting import federate, made_population, user_plan
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from masked import MISDEEDS, made_plan, misbehaving, step_of, table
from scipy import stats

from client.participant import Participant
from server import secure_collection
from server.census import greet
from server.journal import RoundReport
from server.terms import settle
from shared import protocol
from shared.algorithms.base import State
from shared.config import Settings
from shared.errors import ConfigError, RunError
from shared.privacy.distributed import Layout, noise_shares
from shared.privacy.ledger import Ledger
from shared.privacy.plan import Plan, Trust
from shared.privacy.secure_sum.messages import KeyAdvert
from shared.protocol import PHASES
from simulations.grids import LocalGrid
from simulations.population import Population

BELOW = {"keys": 2, "share": 2, "mask": 2, "vote": 3, "open": 4}
"""How many of six have to fail for a phase to miss its threshold (one may be silent)."""


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


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger(tmp_path / "ledger.db") as found:
        yield found


def some(people: list[int]) -> Population:
    whole = made_population()
    return replace(whole, histories=whole.histories.select(np.array(people)), keys=np.array(people))


def run(ledger: Ledger, *, plan: Plan, nodes: int = 6, **more: Any) -> State:
    return federate(
        more.pop("population", made_population()),
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


def test_masked_rounds_are_packed_rounds_bit_for_bit(ledger: Ledger) -> None:
    plan = made_plan()
    found = run(ledger, plan=plan)
    for nodes in (1, 2, 5):
        assert same(found, run(ledger, plan=plan, nodes=nodes))
    assert not same(found, run(ledger, plan=replace(plan, noise="seeded")))


def test_masked_rounds_are_central_ones_up_to_the_grid(ledger: Ledger) -> None:
    plan = made_plan(rounds=1)
    central = replace(user_plan(trust=Trust.CENTRAL, rounds=1, noise="off"))
    step = noise_shares(plan, round=1, layout=Layout(shapes={"table": (8, 2)})).grid.step
    gap = np.abs(table(run(ledger, plan=plan)) - table(run(ledger, plan=central)))
    # Six users, each rounded by less than a step, over a denominator of six, times 0.1.
    assert 0.0 < gap.max() < 0.1 * step


@pytest.mark.statistical
@pytest.mark.parametrize("nodes", [6, 2])
def test_released_noise_is_what_the_plan_says(ledger: Ledger, nodes: int) -> None:
    """Both directions at 5 % on 20,000 values; the right scale is refused twice in a million."""
    population = made_population(items=10_000)
    plan = made_plan(rounds=1, noise="os", dropouts=1, noise_multiplier=30.0)
    plain = run(ledger, plan=replace(plan, noise="off"), nodes=nodes, population=population)
    noised = run(ledger, plan=plan, nodes=nodes, population=population)
    noise = (table(noised) - table(plain)).ravel() * plan.expected_cohort / 0.1
    sigma = plan.sum_deviation(1)
    assert sigma == pytest.approx(30.0 * (6 / 5) ** 0.5)
    for factor, sound in ((1.0, True), (1.05, False), (1 / 1.05, False)):
        squares = float(np.sum(np.square(noise / (sigma * factor))))
        p = 2 * min(stats.chi2.cdf(squares, len(noise)), stats.chi2.sf(squares, len(noise)))
        assert bool(p > 1e-6) is sound
    assert np.count_nonzero(noise == 0.0) < 20


def survivors_of(phase: str, bad: list[int]) -> list[int]:
    """A device whose vector came stays in the sum, whatever it does afterwards."""
    late = PHASES.index(phase) > PHASES.index("mask")
    return [user for user in range(6) if late or user not in bad]


@pytest.mark.parametrize("phase", PHASES)
def test_above_the_threshold_the_sum_is_the_survivors(ledger: Ledger, phase: str) -> None:
    """A device that does another wrong in every round is left behind in every round."""
    plan, watch = made_plan(rounds=len(MISDEEDS), dropouts=1), Watch()
    left, wrongs = survivors_of(phase, [2]), iter(MISDEEDS.values())
    app = misbehaving(lambda asked, reply: next(wrongs)(asked, reply), phase=phase, bad={2})
    found = run(ledger, plan=plan, app=app, observer=watch)
    assert same(found, run(ledger, plan=plan, nodes=1, population=some(left)))
    assert next(wrongs, None) is None
    for name, report in zip(MISDEEDS, watch.reports, strict=True):
        assert report.users == len(left), name
        assert sum(report.quarantined.values()) == 1, name


class Mangled(LocalGrid):
    """A transport that loses, repeats, swaps or spoils what devices say."""

    mangle: Callable[[list[Message]], list[Message]]

    def send_and_receive(self, messages: Any, *, timeout: float | None = None) -> Any:
        replies = list(super().send_and_receive(messages, timeout=timeout))
        return iter(self.mangle(replies))


def on_a_bad_line(
    monkeypatch: pytest.MonkeyPatch, mangle: Callable[[list[Message]], list[Message]]
) -> None:
    line = type("Line", (Mangled,), {"mangle": staticmethod(mangle)})
    monkeypatch.setattr(counting, "LocalGrid", line)


def phase_of(replies: list[Message]) -> str:
    kind = replies[0].metadata.message_type if replies else ""
    return kind.removeprefix("train.")


@pytest.mark.parametrize("phase", PHASES)
def test_a_lost_answer_is_a_silent_device(
    ledger: Ledger, phase: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = made_plan(rounds=1, dropouts=1)
    expected = run(ledger, plan=plan, nodes=1, population=some(survivors_of(phase, [2])))
    watch = Watch()
    on_a_bad_line(monkeypatch, lambda r: r[:2] + r[3:] if phase_of(r) == phase else r)
    assert same(run(ledger, plan=plan, observer=watch), expected)
    assert watch.reports[0].quarantined == {"missing": 1}


def spoiled(reply: Message) -> Message:
    if "step" not in reply.content:
        return reply
    worse = Message(MISDEEDS["garbage"](reply, reply), reply_to=reply)  # type: ignore[arg-type]
    worse.metadata.__dict__["_src_node_id"] = reply.metadata.src_node_id
    return worse


def test_repeated_and_reordered_answers_change_nothing(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = made_plan()
    expected = run(ledger, plan=plan)
    watch = Watch()
    on_a_bad_line(monkeypatch, lambda r: [*r[::-1], *r])
    assert same(run(ledger, plan=plan, observer=watch), expected)
    assert all(not report.quarantined for report in watch.reports)
    # A second answer that differs leaves the first one standing.
    on_a_bad_line(monkeypatch, lambda r: [*r, *map(spoiled, r)])
    watch = Watch()
    assert same(run(ledger, plan=plan, observer=watch), expected)
    assert watch.reports[0].quarantined == {"sum": 30}


def test_answers_of_an_earlier_phase_are_left_out(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, kept = made_plan(rounds=1), list[Message]()
    expected = run(ledger, plan=plan)

    def late(replies: list[Message]) -> list[Message]:
        before = list(kept)
        kept[:] = replies if phase_of(replies) in PHASES else []
        return before + replies

    on_a_bad_line(monkeypatch, late)
    assert same(run(ledger, plan=plan), expected)


@pytest.mark.parametrize("phase", PHASES)
def test_answers_of_another_round_are_left_out(ledger: Ledger, phase: str) -> None:
    kept: list[RecordDict] = []

    def replayed(asked: Message, reply: Message) -> Message | RecordDict:
        kept.append(reply.content)
        return reply if len(kept) == 1 else kept[0]

    plan, watch = made_plan(rounds=2, dropouts=1), Watch()
    run(ledger, plan=plan, app=misbehaving(replayed, phase=phase, bad={4}), observer=watch)
    assert [r.users for r in watch.reports] == [6, len(survivors_of(phase, [4]))]
    assert watch.reports[1].quarantined == {"sum": 1}


@pytest.mark.parametrize("phase", PHASES)
def test_a_message_counts_for_the_device_whose_node_sent_it(ledger: Ledger, phase: str) -> None:
    """Not for the one it names: device 4 says what device 3 said, who keeps its place."""
    kept: list[RecordDict] = []

    def copied(asked: Message, reply: Message) -> Message | RecordDict:
        kept.append(reply.content)
        return reply if len(kept) == 1 else kept[0]

    plan, watch = made_plan(rounds=1, dropouts=1), Watch()
    app = misbehaving(copied, phase=phase, bad={3, 4})
    found = run(ledger, plan=plan, app=app, observer=watch, workers=1)
    left = survivors_of(phase, [4])
    assert same(found, run(ledger, plan=plan, nodes=1, population=some(left)))
    assert watch.reports[0].quarantined == {"sender": 1}


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


@pytest.mark.parametrize("missing", [0, 1])
def test_server_ledger_holds_the_realised_noise(
    ledger: Ledger, missing: int, tmp_path: Path
) -> None:
    plan = made_plan(rounds=1, noise="os", dropouts=1, colluders=1)
    app = misbehaving(MISDEEDS["error"], phase="share", bad=set(range(missing)))
    run(ledger, plan=plan, app=app, directory=tmp_path / "run")
    (released,) = bodies(tmp_path / "run" / "server-ledger.db", "released")
    shares = noise_shares(plan, round=1, layout=Layout(shapes={"table": (8, 2)}))
    assert released["realised"] == shares.realised(6 - missing - 1)
    assert released["realised"] >= plan.noise_multiplier
    assert released["realised"] == pytest.approx(
        plan.noise_multiplier * ((5 - missing) / 4) ** 0.5, rel=1e-4
    )


def test_trap_6_the_denominator_is_public_and_fixed(ledger: Ledger) -> None:
    """With five of six in the sum it is still divided by six."""
    plan = made_plan(rounds=1, dropouts=1)
    app = misbehaving(MISDEEDS["error"], phase="mask", bad={5})
    moved = table(run(ledger, plan=plan, app=app)) - counting.Table(n_items=8).initial(1)["table"]
    clipped = 0.0
    for user in range(5):
        lone = replace(user_plan(trust=Trust.CENTRAL, rounds=1, cohort=1, noise="off"))
        state = run(ledger, plan=lone, nodes=1, population=some([user]))
        clipped = clipped + table(state) - counting.Table(n_items=8).initial(1)["table"]
    assert np.allclose(moved, clipped / 6, atol=1e-3)
    assert not np.allclose(moved, clipped / 5, atol=1e-3)


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
    rounds, kills, ended = 60, 0, False
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
    ended = process.returncode == 0
    assert ended, said.decode()
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


def test_one_device_with_a_weak_key_is_left_out(ledger: Ledger, monkeypatch: Any) -> None:
    """Neighbours would close on a key of low order: they never see it."""
    real = Participant.join
    weak = {"mask": bytes(32)}

    def join(self: Participant, *args: Any) -> protocol.Step:
        step = real(self, *args)
        if int(self.keys[0]) != 3:
            return step
        device = self._sums._session.device  # type: ignore[union-attr]
        advert = KeyAdvert.from_bytes(step.message)
        fields = {n: getattr(advert, n) for n in ("mask", "channel", "commitment")} | weak
        text = secure_text(device, fields)
        forged = replace(advert, **fields, signature=device._identity.sign(text))
        return replace(step, message=forged.to_bytes())

    monkeypatch.setattr(Participant, "join", join)
    plan, watch = made_plan(rounds=1, dropouts=1), Watch()
    for weak in ({"mask": bytes(32)}, {"channel": b"\x01" + bytes(31)}):  # noqa: B007
        run(ledger, plan=plan, observer=watch)
    assert [report.users for report in watch.reports] == [5, 5]
    assert watch.reports[0].quarantined == {"sum": 1}


def secure_text(device: Any, fields: dict[str, bytes]) -> bytes:
    from shared.privacy.secure_sum.circle import advert_text

    return advert_text(device._session, sender=device._number, **fields)


def test_two_nodes_of_one_identity_are_refused_before_they_cost() -> None:
    participants = made_population(3).participants(3, build=counting.build)
    participants[2]._sums = participants[0]._sums
    grid = LocalGrid(counting.client_app, participants)
    with grid, pytest.raises(RunError, match="one identity"):
        greet(grid)


def test_partial_sums_off_the_grid_are_quarantined(ledger: Ledger) -> None:
    def changed(make: Callable[[np.ndarray], np.ndarray]) -> ClientApp:
        app = ClientApp()

        @app.query()
        def greet(message: Message, context: Context) -> Message:
            return counting.client_app(message=message, context=context)

        @app.train()
        def train(message: Message, context: Context) -> Message:
            reply = counting.client_app(message=message, context=context)
            if context.node_config["partition-id"] == 0:
                sums = protocol.unpack(reply.content["sum"])
                reply.content["sum"] = protocol.pack({"table": make(np.array(sums["table"]))})
            return reply

        return app

    plan = made_plan(rounds=1, dropouts=2)
    left = run(ledger, plan=plan, nodes=1, population=some([2, 3, 4, 5]))
    for make, reason in (
        (lambda x: x + 0.5, "grid"),
        (lambda x: x + 2.0**33, "magnitude"),
        (lambda x: x * np.nan, "not-finite"),
    ):
        watch = Watch()
        found = run(ledger, plan=plan, nodes=3, app=changed(make), observer=watch)
        assert same(found, left)
        assert watch.reports[0].quarantined == {reason: 1}


def made_settings(**privacy: Any) -> Settings:
    return Settings.from_table(
        {
            "model": {"name": "popularity"},
            "privacy": {"unit": "user", "trust": "distributed", **privacy.pop("privacy", {})},
            **privacy,
        }
    )


def test_settings_that_would_fail_after_they_cost_are_refused() -> None:
    from server.census import Census

    census = Census(nodes={1: 100}, n_items=8, catalogue="c")
    settle(made_settings(), census)
    with pytest.raises(ConfigError, match=r"quorum.*70 of 100"):
        settle(made_settings(privacy={"dropouts": 0.3}), census)
    settle(made_settings(privacy={"dropouts": 0.3}, training={"quorum": 0.7}), census)
    with pytest.raises(ConfigError, match="grid"):
        settle(made_settings(privacy={"epsilon": 1e-5}), census)


def test_a_device_s_traffic_is_that_of_its_messages(ledger: Ledger) -> None:
    """Masked and packed runs report the same bytes up to framing, below 2 kB."""
    reports = []
    for nodes in (6, 2):
        watch = Watch()
        run(ledger, plan=made_plan(rounds=1), nodes=nodes, observer=watch)
        reports += watch.reports
    masks, packed = reports
    assert 0 <= masks.bytes_up - packed.bytes_up < 2000
    assert 0 <= masks.bytes_down - packed.bytes_down < 2000
