"""What the records of a ledger mean: settled charges, witnessed heads, recounts, rosters."""

import json
import shutil
import sqlite3
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from counting import plan, private_plan
from reserving import ONE, chained, edit, filled, reserve

from shared.errors import BudgetError, ConfigError, RunError, VerificationError
from shared.privacy.accounting import Spend, epsilon_of
from shared.privacy.chain import Head, Row
from shared.privacy.chainfile import ChainFile
from shared.privacy.charges import Budget
from shared.privacy.identity import Identity
from shared.privacy.ledger import Ledger
from shared.privacy.statement import Roster
from shared.privacy.terms import Terms, code_digest
from shared.privacy.verification import cross_check, holds, read_ledger, recount, rounds_left


@pytest.fixture
def signer(tmp_path: Path) -> Identity:
    return Identity.make(tmp_path / "some.key")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


def test_terms_stand_in_the_first_record_and_where_they_differ(path: Path) -> None:
    terms = Terms.from_plan(private_plan())
    with Ledger(path, terms=terms, settings="digest") as ledger:
        first = reserve(ledger, terms=terms)
        second = reserve(ledger, round=2, terms=replace(terms, clip_norm=2.0))
    statement = read_ledger(path).statement
    assert statement.genesis["settings"] == "digest"
    assert statement.genesis["code"] == code_digest()
    assert statement.genesis["adjacency"] == "add-or-remove"
    assert statement.terms()["clip_norm"] == statement.terms(first)["clip_norm"] == 1.0
    assert statement.terms(second)["clip_norm"] == 2.0


def test_an_abort_stays_spent_unless_nothing_left_the_device(path: Path) -> None:
    with Ledger(path) as ledger:
        kept, back = reserve(ledger), reserve(ledger, round=2)
        ledger.abort(kept, reason="no reply in time")
        assert ledger.spent(delta=1e-5).steps.tolist() == [4, 4, 4]
        ledger.abort(back, reason="order withdrawn", spent=False)
        assert ledger.spent(delta=1e-5).steps.tolist() == [2, 2, 2]
        for settled in (kept, back):
            with pytest.raises(RunError, match="settled"):
                ledger.abort(settled, reason="again")
            with pytest.raises(RunError, match="given up"):
                ledger.release(settled, reply_digest="r")
        assert ledger.find(run="a", round=2, order_digest="d1") is None
        with pytest.raises(ConfigError, match="plain words"):
            ledger.abort(reserve(ledger, round=3), reason="item 4711")
    with Ledger(path) as ledger:
        assert ledger.spent(delta=1e-5).steps.tolist() == [4, 4, 4]


def test_less_noise_than_reserved_is_charged_as_what_it_is(path: Path) -> None:
    half = replace(ONE, noise_multiplier=2.5)
    enough = Budget(epsilon=epsilon_of([half], delta=1e-5), delta=1e-5)
    tight = Budget(epsilon=epsilon_of([ONE], delta=1e-5), delta=1e-5)
    with Ledger(path) as ledger:
        first = reserve(ledger, budget=enough)
        ledger.release(first, reply_digest="r1", realised=2.5)
        assert ledger.spent(delta=1e-5).largest == epsilon_of([half], delta=1e-5)
        second = reserve(ledger, participants=np.array([7]), budget=tight)
        with pytest.raises(BudgetError):
            ledger.release(second, reply_digest="r2", realised=4.9)
        ledger.release(second, reply_digest="r2", realised=6.0)
    with Ledger(path) as ledger:
        spent = ledger.spent(delta=1e-5)
    assert dict(zip(spent.users.tolist(), spent.epsilon.tolist(), strict=True))[7] == (
        epsilon_of([ONE], delta=1e-5)
    ), "more noise than reserved changes nothing"


def test_every_purpose_is_charged(path: Path) -> None:
    with Ledger(path) as ledger:
        for turn, purpose in enumerate(("train", "counts", "metrics", "clip-quantile")):
            reserve(ledger, round=turn, purpose=purpose)
        assert ledger.spent(delta=1e-5).steps.tolist() == [8, 8, 8]
        with pytest.raises(ConfigError, match="purpose"):
            reserve(ledger, purpose="fun")
        assert [one.purpose for one in ledger.history()][1:3] == ["counts", "metrics"]


def test_audits_and_the_end_of_a_run_are_records(path: Path) -> None:
    with Ledger(path) as ledger:
        reserve(ledger)
        ledger.note_audit({"kind": "one-run", "lower_bound": 0.7})
        head = ledger.conclude(delta=1e-5)
        assert head.sound
        assert ledger.conclude(delta=0.0).seq == head.seq + 1
    reading = read_ledger(path)
    assert reading.statement.kinds == {"genesis": 1, "reserve": 1, "audit": 1, "close": 2}
    assert reading.statement.audits == [{"kind": "one-run", "lower_bound": 0.7}]
    assert holds(reading, head) is None


def test_a_cut_end_is_seen_by_who_kept_the_head(path: Path) -> None:
    with Ledger(filled(path)) as ledger:
        head = ledger.head()
    edit(path, "DELETE FROM record WHERE seq = (SELECT max(seq) FROM record)")
    reading = read_ledger(path)
    assert reading.fault is None, "a shorter chain is a whole chain"
    assert "last records are gone" in str(holds(reading, head))
    assert "another key" in str(holds(reading, replace(head, signature="00" * 64)))


def test_a_device_detects_a_forked_server_ledger(tmp_path: Path) -> None:
    """The operator keeps a copy, shows one history to a device and goes on with another."""
    server, copy, device = (tmp_path / f"{n}.db" for n in ("server", "copy", "device"))
    with Ledger(server) as ledger:
        reserve(ledger)
        shutil.copy(server, copy)
        shutil.copy(server.with_suffix(".key"), copy.with_suffix(".key"))
        reserve(ledger, round=2)
        shown = ledger.head()
    with Ledger(copy) as forked:
        early = forked.head()
        reserve(forked, round=2, participants=np.arange(1))
        other = forked.head()
    assert shown.seq == other.seq
    with Ledger(device) as mine:
        reserve(mine, witness=shown)
        reserve(mine, round=2, witness=shown)
        forged = replace(shown, seq=10**6, digest="0" * 64)
        for head in (other, early, forged, replace(shown, digest="0" * 64)):
            with pytest.raises(VerificationError, match="not the one this device saw"):
                reserve(mine, round=3, witness=head)
        assert len(mine.history()) == 2
        reserve(mine, round=4, witness=shown)
    seen = read_ledger(device)
    assert seen.statement.kinds["refused"] == 1
    assert cross_check(read_ledger(server), seen) == 1
    with pytest.raises(VerificationError, match="forked or cut"):
        cross_check(read_ledger(copy), seen)


def test_a_transaction_is_on_disk_when_it_is_left_or_the_file_is_as_it_was(
    path: Path, signer: Identity
) -> None:
    first, second, *_ = chained(signer)
    with ChainFile(path) as file:
        with file.transaction():
            file.begin()
            file.insert(first, None)
        before = path.read_bytes()
        with ChainFile(path, readonly=True) as other:
            assert other.rows() == [first]
            with pytest.raises(RunError, match="readonly"), other.transaction():
                other.insert(second, None)
        with pytest.raises(RunError), file.transaction():
            _insert_twice(file, second)
        assert path.read_bytes() == before
        assert file.rows() == [first]
        assert file.roster(1) is None


def _insert_twice(file: ChainFile, row: Row) -> None:
    for _ in range(2):
        file.insert(row, Roster(salt=b"s", users=np.arange(2)))


def test_what_is_no_head_is_refused() -> None:
    for junk in ({}, {"seq": 1}, {"seq": "1", "digest": "", "public_key": "", "signature": ""}):
        with pytest.raises(VerificationError, match="head"):
            Head.from_dict(junk)


def test_the_recount_is_the_ledgers_own_and_agrees(path: Path) -> None:
    with Ledger(path) as ledger:
        for turn in range(4):
            reserve(ledger, round=turn, participants=np.arange(turn + 1))
        spent = ledger.spent(delta=1e-5)
    count = recount(read_ledger(path).statement, delta=1e-5)
    assert (count.users, count.epsilon) == (4, spent.largest)
    assert count.agreed
    assert [band.users for band in count.bands] == [1, 1, 1, 1]
    assert [first for _, first, _ in count.quantiles] == sorted(
        first for _, first, _ in count.quantiles
    )
    assert count.quantiles[0][1] == min(spent.epsilon)


def test_the_forecast_is_the_last_round_that_fits(path: Path) -> None:
    each = Spend(noise_multiplier=5.0, sampling_rate=1.0, steps=1)
    for times in (1, 2, 7):
        whole = replace(each, steps=times)
        budget = Budget(epsilon=epsilon_of([whole], delta=1e-5), delta=1e-5)
        assert rounds_left((), each=each, budget=budget) == times
        assert rounds_left((each,), each=each, budget=budget) == times - 1
    assert rounds_left((), each=each, budget=Budget(epsilon=1e-3, delta=1e-5)) == 0


def test_the_roster_is_hidden_behind_a_salt(path: Path) -> None:
    """Equal users, unequal commitments: the chain can be shown without saying who took part."""
    with Ledger(path) as ledger:
        reserve(ledger)
        reserve(ledger, round=2)
    connection = sqlite3.connect(path)
    bodies = [json.loads(b) for (b,) in connection.execute("SELECT body FROM record WHERE seq > 0")]
    connection.close()
    assert bodies[0]["roster"] != bodies[1]["roster"]
    assert "participants" not in bodies[0]


def test_made_terms_come_from_a_plan() -> None:
    assert Terms.from_plan(plan()).epsilon is None
    assert Terms.from_plan(private_plan()).epsilon == 8.0
