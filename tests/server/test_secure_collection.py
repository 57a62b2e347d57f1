"""Rounds under masks: the sum is exactly that of who is left, and nothing else is learned of it."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import counting
import numpy as np
import pytest
from counting import made_population, user_plan
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from masked import MISDEEDS, Watch, bodies, made_plan, misbehaving, run, same, some, table
from scipy import stats

from client.participant import Participant
from server.census import greet
from server.terms import settle
from shared import protocol
from shared.config import Settings
from shared.errors import ConfigError, RunError
from shared.privacy.distributed import Layout, noise_shares
from shared.privacy.ledger import Ledger
from shared.privacy.plan import Trust
from shared.privacy.secure_sum.messages import KeyAdvert
from shared.protocol import PHASES
from simulations.grids import LocalGrid


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger(tmp_path / "ledger.db") as found:
        yield found


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
