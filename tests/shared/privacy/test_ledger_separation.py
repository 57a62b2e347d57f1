"""The device itself keeps its rounds apart: what correlated noise is accounted for."""

import json
import sqlite3
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from numpy.typing import NDArray

from shared.errors import BudgetError, ConfigError
from shared.privacy.bands import echo_spend, participation_spend, sensitivity
from shared.privacy.calibration import correlated_multiplier
from shared.privacy.chain import Record
from shared.privacy.charges import Budget
from shared.privacy.ledger import Ledger
from shared.privacy.statement import Roster, Statement
from shared.privacy.verification import read_ledger

WHOLE = {"rounds": 30, "separation": 4, "bands": 4}
NOISE = correlated_multiplier(epsilon=4.0, delta=1e-5, **WHOLE)
BUDGET = Budget(epsilon=4.0, delta=1e-5)
WIDE = Budget(epsilon=90.0, delta=1e-5)


def keys(*users: int) -> NDArray[np.int64]:
    return np.array(users, dtype=np.int64)


def reserve(ledger: Ledger, turn: int, **changes: Any) -> int:
    order: dict[str, Any] = {
        "run": "a",
        "round": turn,
        "order_digest": f"d{turn}",
        "participants": keys(0, 1),
        "spend": participation_spend(noise_multiplier=NOISE, round=min(max(turn, 1), 30), **WHOLE),
        "budget": WIDE,
        "noise": "os",
        "separation": 4,
    }
    return ledger.reserve(**(order | changes))


def refused(ledger: Ledger, turn: int, **changes: Any) -> None:
    before = ledger.spent(delta=1e-5).steps.tolist()
    with pytest.raises(BudgetError, match="take part twice"):
        reserve(ledger, turn, **changes)
    assert ledger.spent(delta=1e-5).steps.tolist() == before, "nobody is charged"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


def kinds(path: Path) -> list[tuple[str, str | None]]:
    """Kind and reason of each record."""
    connection = sqlite3.connect(path)
    bodies = [json.loads(row[0]) for row in connection.execute("SELECT body FROM record")]
    connection.close()
    return [(body["kind"], body.get("reason")) for body in bodies]


def test_rounds_closer_than_the_separation_are_refused(path: Path) -> None:
    """Forwards and backwards, after a restart, and the refusal is on record once."""
    with Ledger(path) as ledger:
        reserve(ledger, 10)
    with Ledger(path) as ledger:
        for turn in (7, 8, 9, 10, 11, 13, 13):
            refused(ledger, turn, order_digest=f"e{turn}")
        for turn in (6, 14):
            reserve(ledger, turn)
        refused(ledger, 3)
        reserve(ledger, 2)
    assert [reason for kind, reason in kinds(path) if kind == "refused"] == ["separation"] * 7
    assert read_ledger(path).fault is None


def test_other_people_and_other_runs_are_not_in_the_way(path: Path) -> None:
    with Ledger(path) as ledger:
        reserve(ledger, 10)
        reserve(ledger, 11, participants=keys(2, 3))
        reserve(ledger, 11, run="b")
        refused(ledger, 11, participants=keys(4, 1))


def test_other_terms_for_the_same_run_do_not_help(path: Path) -> None:
    """The wider separation of two charges counts, whichever came first."""
    with Ledger(path) as ledger:
        reserve(ledger, 10)
        for apart in (1, 2, 3):
            refused(ledger, 12, separation=apart, order_digest=f"e{apart}")
        reserve(ledger, 21, separation=1)
        reserve(ledger, 22, separation=1)
        refused(ledger, 24, separation=3)
        refused(ledger, 25)
        reserve(ledger, 25, separation=3)
        refused(ledger, 27, separation=1)


def test_a_key_that_occurs_twice_takes_part_twice(path: Path) -> None:
    with Ledger(path) as ledger:
        refused(ledger, 10, participants=keys(5, 5))
        reserve(ledger, 10, participants=keys(5, 5), separation=1)


def test_only_a_charge_that_was_taken_back_makes_room(path: Path) -> None:
    with Ledger(path) as ledger:
        ledger.abort(reserve(ledger, 10), reason="withdrawn", spent=False)
        given_up = reserve(ledger, 11)
        ledger.abort(given_up, reason="crashed")
        refused(ledger, 12)


def test_echoes_and_counts_have_noise_of_their_own(path: Path) -> None:
    """They are charged, and need not keep a distance to what they echo."""
    with Ledger(path) as ledger:
        reserve(ledger, 9, purpose="counts", separation=1)
        reserve(ledger, 10)
        for since in (1, 2, 3):
            spend = echo_spend(noise_multiplier=NOISE, since=since, bands=4)
            reserve(ledger, 10 + since, purpose="echo", spend=spend, separation=1)
        assert ledger.spent(delta=1e-5).steps.tolist() == [5, 5]
        refused(ledger, 13)


def test_a_user_of_every_allowed_round_stays_within_the_budget(path: Path) -> None:
    """The columns add up to what the noise was calibrated for, and not a round more is left."""
    turns = range(1, 31, 4)
    with Ledger(path) as ledger:
        for turn in turns:
            reserve(ledger, turn, budget=BUDGET)
        assert ledger.spent(delta=1e-5).largest == pytest.approx(4.0, abs=1e-6)
        with pytest.raises(BudgetError, match="beyond its budget"):
            reserve(ledger, 40, budget=BUDGET)
    assert sensitivity(**WHOLE) == pytest.approx(
        NOISE
        * np.sqrt(
            sum(
                participation_spend(noise_multiplier=NOISE, round=t, **WHOLE).noise_multiplier ** -2
                for t in turns
            )
        )
    )


def test_an_absurd_separation_is_refused_or_costs_no_time(path: Path) -> None:
    with Ledger(path) as ledger:
        for bad in (0, -1, 1.5, True):
            with pytest.raises(ConfigError, match="separation"):
                reserve(ledger, 1, separation=bad)
        reserve(ledger, 1, separation=10**15)
        refused(ledger, 30)


def test_a_ledger_from_before_separations_is_read(path: Path) -> None:
    """Records without the field stand for charges that may follow each other."""
    statement = Statement()
    roster = Roster(salt=bytes(16), users=keys(1))
    fields = {
        "run": "a",
        "round": 1,
        "order": "d",
        "roster": roster.digest,
        "spend": {"noise_multiplier": 5.0, "sampling_rate": 1.0, "steps": 1},
        "budget": {"epsilon": 4.0, "delta": 1e-5},
        "noise": "os",
        "purpose": "train",
        "terms": None,
        "witness": None,
        "at": 1,
    }
    for seq, turn in enumerate((1, 2)):
        record = Record(seq=seq, kind="reserve", digest="", fields=fields | {"round": turn})
        assert statement.add(record, roster) is None
    assert [one.separation for one in statement.reservations.values()] == [1, 1]
    close = Record(seq=2, kind="reserve", digest="", fields=fields | {"round": 3, "separation": 2})
    fault = statement.add(close, roster)
    assert fault is not None
    assert "within the separation" in fault.why


class Orders(RuleBasedStateMachine):
    """A server that asks whatever it likes; `true` holds every participation, by user."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "ledger.db"
        self.ledger = Ledger(self.path)
        self.true: list[tuple[int, int, str, int, int]] = []
        self.asked = 0

    @rule(
        users=st.lists(st.integers(0, 3), min_size=1, max_size=3),
        turn=st.integers(-3, 14),
        run=st.sampled_from(["a", "b"]),
        apart=st.sampled_from([1, 3, 3, 5]),
        outcome=st.sampled_from(["open", "released", "given up", "taken back"]),
    )
    def order(self, users: list[int], turn: int, run: str, apart: int, outcome: str) -> None:
        self.asked += 1
        close = [
            (one, other)
            for one in users
            for _, other, name, when, wide in self.true
            if (one, run) == (other, name) and max(apart, wide) > max(1, abs(turn - when))
        ]
        twice = len(set(users)) < len(users) and apart > 1
        words = {"run": run, "separation": apart, "order_digest": f"d{self.asked}"}
        try:
            number = reserve(self.ledger, turn, participants=keys(*users), **words)
        except BudgetError:
            assert close or twice
            return
        assert not close
        assert not twice
        if outcome == "released":
            self.ledger.release(number, reply_digest="r")
        elif outcome != "open":
            self.ledger.abort(number, reason="stopped", spent=outcome == "given up")
        if outcome != "taken back":
            self.true += [(number, user, run, turn, apart) for user in users]

    @precondition(lambda self: self.asked)
    @rule()
    def crash(self) -> None:
        self.ledger._file.connection.close()
        self.ledger = Ledger(self.path)

    @invariant()
    def no_two_charges_lie_closer_than_their_separation(self) -> None:
        for place, (_, user, run, turn, apart) in enumerate(self.true):
            for _, other, name, when, wide in self.true[:place]:
                if (user, run) == (other, name):
                    assert max(apart, wide) <= max(1, abs(turn - when))
        assert read_ledger(self.path).fault is None

    def teardown(self) -> None:
        self.ledger.close()
        self.folder.cleanup()


TestOrders = Orders.TestCase
TestOrders.settings = settings(max_examples=10, stateful_step_count=12, deadline=None)
