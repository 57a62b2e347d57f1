"""The record of what was spent: what it keeps, what it refuses, and how it fails."""

import sqlite3
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from shared.errors import BudgetError, ConfigError, RunError
from shared.privacy import charges
from shared.privacy.accounting import Spend, epsilon_of
from shared.privacy.charges import Budget
from shared.privacy.ledger import Ledger

ONE = Spend(noise_multiplier=5.0, sampling_rate=1.0, steps=2)
WIDE = Budget(epsilon=90.0, delta=1e-5)
"""ONE costs epsilon 1.0 and four of them 2.2."""


def keys(*users: int) -> NDArray[np.int64]:
    return np.array(users, dtype=np.int64)


def reserve(ledger: Ledger, **changes: Any) -> int:
    order: dict[str, Any] = {
        "run": "a",
        "round": 1,
        "order_digest": "d1",
        "participants": keys(0, 1, 2),
        "spend": ONE,
        "budget": WIDE,
        "noise": "os",
    }
    return ledger.reserve(**(order | changes))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


def test_reservation_is_on_disk_when_reserve_returns(path: Path) -> None:
    """Another connection sees it at once, and the file is synced with its directory (EXTRA = 3)."""
    with Ledger(path) as ledger:
        number = reserve(ledger, participants=keys(7, -3, 2**62))
        other = sqlite3.connect(path)
        assert other.execute("SELECT max(seq) FROM record").fetchone() == (number,)
        other.close()
        assert ledger._file.connection.execute("PRAGMA synchronous").fetchone() == (3,)
    with Ledger(path) as ledger:
        (kept,) = ledger.history()
    assert (kept.id, kept.run, kept.round, kept.order_digest) == (number, "a", 1, "d1")
    assert kept.participants.tolist() == [7, -3, 2**62]
    assert kept.participants.dtype == np.int64
    assert (kept.spend, kept.noise, kept.reply_digest) == (ONE, "os", None)


def test_nobody_is_charged_when_reserve_refuses(path: Path) -> None:
    with Ledger(path) as ledger:
        reserve(ledger, participants=keys(1))
        tight = Budget(epsilon=epsilon_of([ONE], delta=1e-5), delta=1e-5)
        with pytest.raises(BudgetError, match="beyond its budget") as caught:
            reserve(ledger, round=2, budget=tight)
        before = path.read_bytes()
        with pytest.raises(BudgetError):
            reserve(ledger, round=2, budget=tight)
        assert path.read_bytes() == before, "the same refusal is on record once"
        assert len(ledger.history()) == 1
        assert ledger.spent(delta=1e-5).users.tolist() == [1]
        assert caught.value.exit_code == 3
        reserve(ledger, round=2, participants=keys(0, 2), budget=tight)


def test_a_new_run_does_not_reset_the_budget(path: Path) -> None:
    two = Spend(noise_multiplier=5.0, sampling_rate=1.0, steps=4)
    budget = Budget(epsilon=epsilon_of([two], delta=1e-5), delta=1e-5)
    for run in ("a", "b"):
        with Ledger(path) as ledger:
            reserve(ledger, run=run, budget=budget)
    with Ledger(path) as ledger, pytest.raises(BudgetError):
        reserve(ledger, run="c", budget=budget)


def test_budget_counts_other_kinds_of_steps(path: Path) -> None:
    """Less noise in one run leaves less for another; a plan's own steps are not the whole story."""
    loud = Spend(noise_multiplier=1.0, sampling_rate=1.0, steps=1)
    planned = Spend(noise_multiplier=5.0, sampling_rate=1.0, steps=10)
    budget = Budget(epsilon=4.0, delta=1e-5, planned=planned)
    with Ledger(path) as ledger:
        reserve(ledger, spend=loud, participants=keys(1))
        with pytest.raises(BudgetError):
            reserve(ledger, budget=budget)
        reserve(ledger, budget=budget, participants=keys(0, 2))


def test_a_key_that_occurs_twice_pays_twice(path: Path) -> None:
    budget = Budget(epsilon=epsilon_of([ONE], delta=1e-5), delta=1e-5)
    with Ledger(path) as ledger:
        with pytest.raises(BudgetError):
            reserve(ledger, participants=keys(4, 4), budget=budget)
        reserve(ledger, participants=keys(4, 4))
        assert ledger.spent(delta=1e-5).steps.tolist() == [4]


def test_planned_spend_saves_the_computation_but_not_the_check(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = Spend(noise_multiplier=5.0, sampling_rate=1.0, steps=4)
    asked: list[int] = []
    real = charges.epsilon_of

    def counted(spends: list[Spend], *, delta: float) -> float:
        asked.append(spends[0].steps)
        return real(spends, delta=delta)

    monkeypatch.setattr(charges, "epsilon_of", counted)
    cost = epsilon_of([planned], delta=1e-5)
    with Ledger(path) as ledger:
        for turn in (1, 2):
            budget = Budget(epsilon=cost, delta=1e-5, planned=planned)
            reserve(ledger, round=turn, budget=budget)
        assert set(asked) == {4}
        with pytest.raises(BudgetError):
            reserve(ledger, round=3, budget=budget)
        greedy = Budget(epsilon=cost / 2, delta=1e-5, planned=planned)
        with pytest.raises(BudgetError):
            reserve(ledger, round=3, participants=keys(0), budget=greedy)


def test_spent_is_by_user_and_counts_reservations(path: Path) -> None:
    loud = Spend(noise_multiplier=2.0, sampling_rate=1.0, steps=3)
    with Ledger(path) as ledger:
        assert ledger.spent(delta=1e-5).largest == 0.0
        first = reserve(ledger)
        ledger.release(first, reply_digest="r")
        reserve(ledger, round=2, participants=keys(1, 5))
        reserve(ledger, round=3, participants=keys(5), spend=loud)
        spent = ledger.spent(delta=1e-5)
    assert spent.users.tolist() == [0, 1, 2, 5]
    assert spent.steps.tolist() == [2, 4, 2, 5]
    once = epsilon_of([ONE], delta=1e-5)
    twice = epsilon_of([ONE, ONE], delta=1e-5)
    both = epsilon_of([ONE, loud], delta=1e-5)
    assert spent.epsilon.tolist() == [once, twice, once, both]
    assert spent.largest == both
    assert spent.private


def test_stand_in_noise_is_stamped(path: Path) -> None:
    with Ledger(path) as ledger:
        reserve(ledger)
        reserve(ledger, round=2, noise="seeded")
        assert not ledger.spent(delta=1e-5).private
    with Ledger(path) as ledger:
        assert not ledger.spent(delta=1e-5).private


def test_one_reservation_pays_for_one_reply(path: Path) -> None:
    with Ledger(path) as ledger:
        number = reserve(ledger)
        ledger.release(number, reply_digest="r1")
        ledger.release(number, reply_digest="r1")
        with pytest.raises(RunError, match="already paid"):
            ledger.release(number, reply_digest="r2")
        with pytest.raises(RunError, match="no reservation 99"):
            ledger.release(99, reply_digest="r1")
        assert [r.reply_digest for r in ledger.history()] == ["r1"]


def test_find_prefers_the_released_charge(path: Path) -> None:
    order: dict[str, Any] = {"run": "a", "round": 1, "order_digest": "d1"}
    with Ledger(path) as ledger:
        assert ledger.find(**order) is None
        first, second = reserve(ledger), reserve(ledger)
        latest = ledger.find(**order)
        assert latest is not None
        assert (latest.id, latest.reply_digest) == (second, None)
        ledger.release(first, reply_digest="r")
        released = ledger.find(**order)
        assert released is not None
        assert (released.id, released.reply_digest) == (first, "r")
        for name, value in {"run": "b", "round": 2, "order_digest": "d2"}.items():
            assert ledger.find(**(order | {name: value})) is None


def test_find_tells_nodes_apart(path: Path) -> None:
    order: dict[str, Any] = {"run": "a", "round": 1, "order_digest": "d1"}
    with Ledger(path) as ledger:
        numbers = [reserve(ledger, participants=keys(user)) for user in (0, 1)]
        for user, number in enumerate(numbers):
            found = ledger.find(**order, participants=keys(user))
            assert found is not None
            assert found.id == number
        assert ledger.find(**order, participants=keys(0, 1)) is None


def test_writers_share_one_file(path: Path) -> None:
    """Four threads with a ledger each and one shared by two more: nobody exceeds the budget."""
    limit = Spend(noise_multiplier=5.0, sampling_rate=1.0, steps=20)
    budget = Budget(epsilon=epsilon_of([limit], delta=1e-5), delta=1e-5, planned=limit)
    shared = Ledger(path)
    paid: list[int] = []

    def work(ledger: Ledger) -> None:
        for turn in range(4):
            try:
                paid.append(reserve(ledger, round=turn, budget=budget, participants=keys(1)))
            except BudgetError:
                return

    def own() -> None:
        with Ledger(path) as ledger:
            work(ledger)

    threads = [threading.Thread(target=own) for _ in range(4)]
    threads += [threading.Thread(target=work, args=(shared,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(paid)) == 10
    assert shared.spent(delta=1e-5).steps.tolist() == [20]
    shared.close()


def test_full_disk_refuses_before_spending(path: Path) -> None:
    with Ledger(path) as ledger:
        reserve(ledger, participants=keys(1))
        pages = ledger._file.connection.execute("PRAGMA page_count").fetchone()[0]
        ledger._file.connection.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(RunError, match=r"full.*nothing is spent.*free space"):
            reserve(ledger, round=2, participants=np.arange(5000, dtype=np.int64))
        assert ledger.spent(delta=1e-5).users.tolist() == [1]
    with Ledger(path) as ledger:
        assert len(ledger.history()) == 1
        assert ledger._file.connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_read_only_file_refuses_before_spending(path: Path) -> None:
    with Ledger(path) as ledger:
        ledger._file.connection.execute("PRAGMA query_only = 1")
        with pytest.raises(RunError, match=r"readonly.*nothing is spent"):
            reserve(ledger)


def test_files_that_are_no_ledger_are_refused_untouched(tmp_path: Path) -> None:
    text, database = tmp_path / "text", tmp_path / "other.db"
    text.write_text("not a database, and long enough to be looked at " * 20)
    connection = sqlite3.connect(database)
    connection.execute("CREATE TABLE mine(x)")
    connection.commit()
    connection.close()
    for file, words in ((text, "not a database"), (database, "no ledger")):
        before = file.read_bytes()
        with pytest.raises(RunError, match=words):
            Ledger(file)
        assert file.read_bytes() == before
    for place in (tmp_path, tmp_path / "missing" / "ledger.db"):
        with pytest.raises(RunError, match="unable to open"):
            Ledger(place)


def test_other_formats_are_refused(path: Path) -> None:
    Ledger(path).close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 1")
    connection.close()
    with pytest.raises(RunError, match="format 1"):
        Ledger(path)


def test_messages_name_no_user(path: Path) -> None:
    budget = Budget(epsilon=0.5, delta=1e-5)
    with Ledger(path) as ledger, pytest.raises(BudgetError) as caught:
        reserve(ledger, participants=keys(987654321), budget=budget)
    assert "987654321" not in str(caught.value)


def test_nobody_pays_nothing(path: Path) -> None:
    with Ledger(path) as ledger:
        reserve(ledger, participants=keys())
        assert ledger.spent(delta=1e-5).largest == 0.0


@pytest.mark.parametrize("change", [{"epsilon": 0.0}, {"epsilon": float("inf")}, {"delta": 1.0}])
def test_impossible_budgets_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        Budget(**({"epsilon": 1.0, "delta": 1e-5} | change))
