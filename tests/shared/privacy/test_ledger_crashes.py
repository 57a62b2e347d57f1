"""The ledger never counts less than was spent, wherever a process stops."""

import os
import resource
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from shared.errors import BudgetError, RunError
from shared.privacy.accounting import Spend, epsilon_of
from shared.privacy.charges import Budget
from shared.privacy.ledger import Ledger
from shared.privacy.verification import read_ledger

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")

USERS = 4
LIMIT = 12
WHOLE = Spend(noise_multiplier=5.0, sampling_rate=1.0, steps=LIMIT)
BUDGET = Budget(epsilon=epsilon_of([WHOLE], delta=1e-5), delta=1e-5, planned=WHOLE)


class Device(RuleBasedStateMachine):
    """A device that reserves, works, releases, and is cut off at any instruction of the database.

    `true` counts the steps whose noise was really drawn; `asked` everything ever asked for.
    """

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "ledger.db"
        self.ledger = Ledger(self.path)
        self.true = np.zeros(USERS, dtype=np.int64)
        self.asked = np.zeros(USERS, dtype=np.int64)
        self.open: list[int] = []
        self.released: dict[int, str] = {}
        self.round = 0

    def reserve(self, users: set[int], steps: int) -> int:
        self.round += 1
        self.asked[list(users)] += steps
        return self.ledger.reserve(
            run="r",
            round=self.round,
            order_digest=f"d{self.round}",
            participants=np.array(sorted(users), dtype=np.int64),
            spend=Spend(noise_multiplier=5.0, sampling_rate=1.0, steps=steps),
            budget=BUDGET,
            noise="os",
        )

    def reopen(self) -> None:
        self.ledger._file.connection.close()
        self.ledger = Ledger(self.path)

    @rule(users=st.sets(st.integers(0, USERS - 1), min_size=1), steps=st.integers(1, 4))
    def work(self, users: set[int], steps: int) -> None:
        try:
            number = self.reserve(users, steps)
        except BudgetError:
            self.asked[list(users)] -= steps
            return
        self.true[list(users)] += steps
        self.open.append(number)

    @rule(
        users=st.sets(st.integers(0, USERS - 1), min_size=1),
        steps=st.integers(1, 4),
        instructions=st.integers(1, 400),
    )
    def crash_while_reserving(self, users: set[int], steps: int, instructions: int) -> None:
        self.ledger._file.connection.set_progress_handler(lambda: 1, instructions)
        try:
            number = self.reserve(users, steps)
        except (BudgetError, RunError):
            pass
        else:
            self.true[list(users)] += steps
            self.open.append(number)
        self.reopen()

    @precondition(lambda self: self.open)
    @rule(data=st.data(), instructions=st.integers(1, 200), crash=st.booleans())
    def release(self, data: st.DataObject, instructions: int, crash: bool) -> None:
        number = data.draw(st.sampled_from(self.open))
        if crash:
            self.ledger._file.connection.set_progress_handler(lambda: 1, instructions)
        try:
            self.ledger.release(number, reply_digest=f"reply {number}")
        except RunError:
            assert crash
        else:
            self.released[number] = f"reply {number}"
        if crash:
            self.reopen()

    @rule(
        users=st.sets(st.integers(0, USERS - 1), min_size=1),
        instructions=st.integers(1, 400),
        crash=st.booleans(),
    )
    def withdraw(self, users: set[int], instructions: int, crash: bool) -> None:
        """Reserve, and give the charge back before anything is drawn."""
        try:
            number = self.reserve(users, 1)
        except BudgetError:
            self.asked[list(users)] -= 1
            return
        if crash:
            self.ledger._file.connection.set_progress_handler(lambda: 1, instructions)
        try:
            self.ledger.abort(number, reason="withdrawn", spent=False)
        except RunError:
            assert crash
        else:
            self.asked[list(users)] -= 1
        if crash:
            self.reopen()

    @rule()
    def crash(self) -> None:
        self.reopen()

    @rule()
    def crash_before_commit(self) -> None:
        connection = self.ledger._file.connection
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("DELETE FROM roster")
        connection.execute("DELETE FROM record")
        self.reopen()

    @invariant()
    def spent_is_between_true_and_asked(self) -> None:
        with Ledger(self.path) as fresh:
            found = fresh.spent(delta=1e-5)
            replies = {r.id: r.reply_digest for r in fresh.history() if r.reply_digest}
        spent = np.zeros(USERS, dtype=np.int64)
        spent[found.users] = found.steps
        assert np.all(spent >= self.true)
        assert np.all(spent <= self.asked)
        assert np.all(spent <= LIMIT)
        assert self.released.items() <= replies.items()
        assert np.array_equal(self.ledger.spent(delta=1e-5).steps, found.steps)
        assert read_ledger(self.path).fault is None

    def teardown(self) -> None:
        self.ledger.close()
        self.folder.cleanup()


TestDevice = Device.TestCase
TestDevice.settings = settings(max_examples=8, stateful_step_count=12, deadline=None)


def ask(ledger: Ledger, turn: int) -> int:
    return ledger.reserve(
        run="r",
        round=turn,
        order_digest=f"d{turn}",
        participants=np.arange(50, dtype=np.int64),
        spend=Spend(noise_multiplier=50.0, sampling_rate=1.0, steps=1),
        budget=Budget(epsilon=1.0, delta=1e-5),
        noise="os",
    )


def in_a_child(work: Callable[[], None]) -> int:
    """Do work in a process of its own and return how that ended (negative: by which signal)."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(7)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def one_round(path: Path, sent: Path) -> None:
    """Open, reserve, work, note the reply, send it."""
    with Ledger(path) as ledger:
        turn = len(ledger.history())
        number = ask(ledger, turn)
        with sent.open("a") as file:
            print(f"drawn {turn}", file=file, flush=True)
        ledger.release(number, reply_digest=f"reply {turn}")
        with sent.open("a") as file:
            print(f"sent {turn}", file=file, flush=True)
    os._exit(0)


def verify(path: Path, sent: Path) -> None:
    """Whatever was drawn is charged, whatever was sent is noted, and the file goes on."""
    lines = sent.read_text().split("\n") if sent.exists() else []
    if not path.exists() or not path.stat().st_size:
        assert lines == []
        return
    with Ledger(path) as ledger:
        kept = {charge.round: charge.reply_digest for charge in ledger.history()}
        steps = ledger.spent(delta=1e-5).steps.tolist()
        ledger.release(ask(ledger, 99), reply_digest="after")
    assert steps in ([], [len(kept)] * 50)
    for line in filter(None, lines):
        what, turn = line.split()
        assert int(turn) in kept
        assert what == "drawn" or kept[int(turn)] == f"reply {turn}"
    reading = read_ledger(path)
    assert reading.fault is None


@pytest.mark.parametrize("begun", [False, True])
def test_a_kill_at_every_statement_leaves_a_sound_ledger(tmp_path: Path, begun: bool) -> None:
    """SIGKILL before the nth statement that SQLite runs, for every n of opening and one round."""
    real = sqlite3.connect
    for number in range(1, 200):
        place = tmp_path / str(number)
        place.mkdir()
        path, sent = place / "ledger.db", place / "sent"
        if begun:
            Ledger(path).close()

        def killed(path: Path = path, sent: Path = sent, number: int = number) -> None:
            left = iter(range(number))

            def watched(*words: Any, **options: Any) -> sqlite3.Connection:
                connection = real(*words, **options)
                connection.set_trace_callback(
                    lambda _: os.kill(os.getpid(), signal.SIGKILL) if not next(left, 0) else None
                )
                return connection

            next(left)
            sqlite3.connect = watched  # type: ignore[assignment]
            one_round(path, sent)

        ended = in_a_child(killed)
        assert ended in {0, -signal.SIGKILL}
        verify(path, sent)
        if ended == 0:
            break
    assert ended == 0
    assert number > 10, "the round has that many boundaries at least"


def test_a_kill_at_every_size_of_the_disk_leaves_a_sound_ledger(tmp_path: Path) -> None:
    """The kernel ends the process at the write that passes a limit: inside the commits too."""
    outcomes = set()
    for limit in (0, 512, 2000, *range(4096, 24577, 2048)):
        place = tmp_path / str(limit)
        place.mkdir()
        path, sent = place / "ledger.db", place / "sent"

        def limited(path: Path = path, sent: Path = sent, limit: int = limit) -> None:
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            for _ in range(3):
                if in_a_child(lambda: one_round(path, sent)):
                    os.kill(os.getpid(), signal.SIGKILL)
            os._exit(0)

        outcomes.add(in_a_child(limited))
        verify(path, sent)
    assert outcomes == {0, -signal.SIGKILL}


def test_a_full_disk_refuses_before_spending(tmp_path: Path) -> None:
    """As above, but the write fails instead: one sentence, nothing drawn."""
    path = tmp_path / "ledger.db"
    with Ledger(path) as ledger:
        ask(ledger, 0)
    size = path.stat().st_size

    def limited() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        with Ledger(path) as ledger:
            try:
                for turn in range(1, 50):
                    ask(ledger, turn)
            except RunError as error:
                os._exit(3 if "nothing is spent" in str(error) else 4)

    assert in_a_child(limited) == 3
    with Ledger(path) as ledger:
        rounds = [charge.round for charge in ledger.history()]
    assert rounds == list(range(len(rounds)))
    assert read_ledger(path).fault is None


LOOP = """
import os, sys
from pathlib import Path
import numpy as np
from shared.privacy.charges import Budget
from shared.privacy.ledger import Ledger, Spend
ledger, sent = Ledger(Path(sys.argv[1])), open(sys.argv[2], "ab", buffering=0)
spend = Spend(noise_multiplier=1e6, sampling_rate=1.0, steps=1)
for turn in range(10**9):
    order = f"{os.getpid()}-{turn}"
    number = ledger.reserve(run="r", round=turn, order_digest=order, spend=spend, noise="os",
        participants=np.arange(50, dtype=np.int64), budget=Budget(epsilon=1.0, delta=1e-5))
    ledger.release(number, reply_digest="reply " + order)
    sent.write((order + "\\n").encode())
"""


@pytest.mark.slow
def test_at_any_crash_the_file_counts_what_was_spent(tmp_path: Path) -> None:
    """Five processes killed at random moments: every reply that left was reserved and noted."""
    path, sent = tmp_path / "ledger.db", tmp_path / "sent"
    seen = 0
    for _ in range(5):
        seen = _run_and_kill(path, sent, more_than=seen)
    with Ledger(path) as ledger:
        kept = {r.order_digest: r.reply_digest for r in ledger.history()}
        spent = ledger.spent(delta=1e-5)
        assert ledger._file.connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    # Each order is one line; a kill may cut the last line of a process, never its charge.
    orders = [order for order in sent.read_text().splitlines() if order]
    assert all(kept.get(order) == f"reply {order}" for order in orders)
    assert len(orders) <= len(kept) <= len(orders) + 2 * 5
    assert spent.steps.tolist() == [len(kept)] * 50


def _run_and_kill(path: Path, sent: Path, *, more_than: int) -> int:
    """Start a device, wait until it sends, kill it at a random moment; return its bytes so far."""
    child = subprocess.Popen(  # noqa: S603
        [sys.executable, "-c", LOOP, str(path), str(sent)], stderr=subprocess.PIPE
    )
    try:
        end = time.monotonic() + 60
        while not sent.exists() or sent.stat().st_size <= more_than:
            if child.poll() is not None or time.monotonic() > end:
                pytest.fail("The device sent nothing.")
            time.sleep(0.005)
        time.sleep(os.urandom(1)[0] / 2000)
    finally:
        child.send_signal(signal.SIGKILL)
        _, errors = child.communicate()
    assert child.returncode == -signal.SIGKILL, errors
    return sent.stat().st_size
