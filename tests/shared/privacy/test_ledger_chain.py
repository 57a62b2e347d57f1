"""The chain: what tampering is found, by whom, and what a ledger does about it."""

import json
import random
import shutil
import sqlite3
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from counting import plan, private_plan
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.errors import BudgetError, ConfigError, RunError, VerificationError
from shared.privacy.accounting import Spend, epsilon_of
from shared.privacy.chain import ROOT, Head, Row, canonical, check, seal, sha
from shared.privacy.chainfile import ChainFile
from shared.privacy.charges import Budget
from shared.privacy.identity import Identity, verified
from shared.privacy.ledger import Ledger
from shared.privacy.statement import Roster
from shared.privacy.terms import Terms, code_digest
from shared.privacy.verification import cross_check, holds, read_ledger, recount, rounds_left

ONE = Spend(noise_multiplier=5.0, sampling_rate=1.0, steps=2)
WIDE = Budget(epsilon=90.0, delta=1e-5)


def reserve(ledger: Ledger, **changes: Any) -> int:
    order: dict[str, Any] = {
        "run": "a",
        "round": 1,
        "order_digest": "d1",
        "participants": np.arange(3),
        "spend": ONE,
        "budget": WIDE,
        "noise": "os",
    }
    return ledger.reserve(**(order | changes))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


@pytest.fixture
def signer(tmp_path: Path) -> Identity:
    return Identity.make(tmp_path / "some.key")


def chained(signer: Identity, length: int = 5) -> list[Row]:
    rows: list[Row] = []
    for seq in range(length):
        kind = {"kind": "genesis", "public_key": signer.public_key} if not seq else {"kind": "x"}
        prev = sha(rows[-1].body) if rows else ROOT
        rows.append(seal({**kind, "value": seq}, seq=seq, prev=prev, signer=signer))
    return rows


def test_a_whole_chain_checks(signer: Identity) -> None:
    records, fault = check(chained(signer), public_key=signer.public_key)
    assert fault is None
    assert [record.seq for record in records] == [0, 1, 2, 3, 4]
    assert check(chained(signer)[3:], after=records[2])[1] is not None, "the key must be known"
    assert check(chained(signer)[3:], after=records[2], public_key=signer.public_key)[1] is None


Tamper = Callable[[list[Row]], list[Row]]
TAMPERED: dict[str, tuple[Tamper, int]] = {
    "altered": (lambda r: [*r[:2], replace(r[2], body=r[2].body.replace("2", "7")), *r[3:]], 2),
    "altered value": (
        lambda r: [*r[:2], replace(r[2], body=r[2].body.replace('"value":2', '"value":7')), *r[3:]],
        2,
    ),
    "deleted": (lambda r: [*r[:2], *r[3:]], 2),
    "first deleted": (lambda r: r[1:], 0),
    "doubled": (lambda r: [*r[:3], *r[2:]], 3),
    "doubled and renumbered": (lambda r: [*r, replace(r[2], seq=5)], 5),
    "moved": (lambda r: [*r[:2], r[3], r[2], r[4]], 2),
    "exchanged": (
        lambda r: [*r[:2], replace(r[3], seq=2), replace(r[2], seq=3), r[4]],
        2,
    ),
    "spaced": (lambda r: [*r[:2], replace(r[2], body=r[2].body.replace(",", ", ")), *r[3:]], 2),
    "no json": (lambda r: [*r[:2], replace(r[2], body="{"), *r[3:]], 2),
    "no signature": (lambda r: [*r[:2], replace(r[2], signature=b""), *r[3:]], 2),
    "signature of another": (
        lambda r: [*r[:2], replace(r[2], signature=r[3].signature), *r[3:]],
        2,
    ),
}


@pytest.mark.parametrize("name", TAMPERED)
def test_a_record_that_was_altered_deleted_doubled_or_moved_is_named(
    name: str, signer: Identity
) -> None:
    tamper, first_bad = TAMPERED[name]
    records, fault = check(tamper(chained(signer)), public_key=signer.public_key)
    assert fault is not None
    assert fault.seq == first_bad == len(records)


def test_a_chain_under_another_key_is_refused_where_the_key_is_known(
    signer: Identity, tmp_path: Path
) -> None:
    forged = chained(Identity.make(tmp_path / "forger.key"))
    _, fault = check(forged, public_key=signer.public_key)
    assert fault is not None
    assert fault.seq == 0
    assert check(forged)[1] is None, "without the key nobody can tell"


def test_a_mended_chain_is_found_by_its_signatures(signer: Identity, tmp_path: Path) -> None:
    """Whoever has no key can make digests fit, never signatures."""
    forger = Identity.make(tmp_path / "forger.key")
    rows = chained(signer)
    for seq in range(2, 5):
        fields = json.loads(rows[seq].body) | {"value": 9}
        rows[seq] = seal(fields, seq=seq, prev=sha(rows[seq - 1].body), signer=forger)
    _, fault = check(rows)
    assert fault is not None
    assert fault.seq == 2


def test_canonical_refuses_what_json_cannot_hold() -> None:
    assert canonical({"b": [1, None], "a": 0.1}) == '{"a":0.1,"b":[1,null]}'
    for value in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="JSON"):
            canonical({"a": value})


def test_the_key_file_is_for_its_owner_only_and_complete_or_absent(tmp_path: Path) -> None:
    key = tmp_path / "some.key"
    made = Identity.make(key)
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert [p.name for p in tmp_path.iterdir()] == ["some.key"]
    assert Identity.make(key).public_key == made.public_key
    with pytest.raises(RunError, match="Cannot write key"):
        Identity.make(tmp_path / "missing" / "some.key")


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    key = tmp_path / "some.key"
    Identity.make(key)
    key.chmod(0o640)
    with pytest.raises(RunError, match="chmod 600"):
        Identity.make(key)


@pytest.mark.parametrize("text", [b"", b"-----BEGIN PRIVATE KEY-----\nx\n", b"\x00" * 32])
def test_what_is_no_key_is_refused(tmp_path: Path, text: bytes) -> None:
    key = tmp_path / "some.key"
    key.write_bytes(text)
    key.chmod(0o600)
    with pytest.raises(RunError, match="holds no key"):
        Identity.load(key)


def test_a_key_of_another_kind_is_refused(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    key = tmp_path / "some.key"
    made = X25519PrivateKey.generate()
    key.write_bytes(made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    key.chmod(0o600)
    with pytest.raises(RunError, match="another kind"):
        Identity.load(key)


def test_the_private_key_is_in_no_file_but_its_own(path: Path) -> None:
    with Ledger(path) as ledger:
        reserve(ledger)
        seed = ledger._identity._key.private_bytes_raw()
    for file in path.parent.iterdir():
        data = file.read_bytes()
        assert seed not in data
        assert seed.hex().encode() not in data
        assert (b"PRIVATE KEY" in data) == (file.suffix == ".key")


def test_signatures_are_checked(signer: Identity) -> None:
    signature = signer.sign(b"said")
    assert verified(signer.public_key, b"said", signature)
    assert not verified(signer.public_key, b"unsaid", signature)
    assert not verified("zz", b"said", signature)
    assert not verified("00" * 31, b"said", signature)


def test_a_ledger_without_its_key_takes_no_charge(path: Path, tmp_path: Path) -> None:
    Ledger(path).close()
    key = path.with_suffix(".key")
    key.rename(tmp_path / "kept")
    with pytest.raises(RunError, match="Cannot read key"):
        Ledger(path)
    Identity.make(key)
    with pytest.raises(RunError, match="is not the key"):
        Ledger(path)
    (tmp_path / "kept").replace(key)
    Ledger(path).close()


def filled(path: Path) -> Path:
    """Two runs, one charge given up, one order refused."""
    with Ledger(path) as ledger:
        ledger.release(reserve(ledger), reply_digest="r1")
        ledger.abort(reserve(ledger, round=2), reason="no reply in time")
        with pytest.raises(BudgetError):
            reserve(ledger, round=3, budget=Budget(epsilon=0.1, delta=1e-5))
        ledger.release(reserve(ledger, round=3, participants=np.arange(2)), reply_digest="r2")
        ledger.conclude(delta=1e-5)
    return path


def edit(path: Path, statement: str) -> None:
    connection = sqlite3.connect(path)
    connection.execute(statement)
    connection.commit()
    connection.close()


EDITS = {
    "altered": ("UPDATE record SET body = replace(body, '\"users\":3', '\"users\":2')", 1),
    "deleted": ("DELETE FROM record WHERE seq = 3", 3),
    "signature": ("UPDATE record SET signature = zeroblob(64) WHERE seq = 4", 4),
    "roster": ("UPDATE roster SET users = zeroblob(24) WHERE seq = 3", 3),
    "salt": ("UPDATE roster SET salt = zeroblob(16) WHERE seq = 3", 3),
    "roster deleted": ("DELETE FROM roster WHERE seq = 1", 1),
}


@pytest.mark.parametrize("name", EDITS)
def test_a_file_that_was_tampered_with_takes_no_charge(name: str, path: Path) -> None:
    statement, first_bad = EDITS[name]
    edit(filled(path), statement)
    with pytest.raises(VerificationError, match=f"Record {first_bad} .*takes no more charges"):
        Ledger(path)


@pytest.mark.parametrize("name", EDITS)
def test_the_first_bad_record_is_named(name: str, path: Path) -> None:
    statement, first_bad = EDITS[name]
    edit(filled(path), statement)
    fault = read_ledger(path).fault
    assert fault is not None
    assert fault.seq == first_bad


def test_a_ledger_that_is_open_sees_the_tampering_too(path: Path) -> None:
    with Ledger(path) as ledger:
        reserve(ledger)
        edit(path, "UPDATE roster SET users = zeroblob(24) WHERE seq = 1")
        with pytest.raises(VerificationError, match="Record 1 "):
            reserve(ledger, round=2)
    assert read_ledger(path).fault is not None


def said(path: Path) -> tuple[Any, ...] | None:
    """Everything a reader of the file gets to know; None if it is refused or found bad."""
    try:
        reading = read_ledger(path)
    except RunError:
        return None
    if reading.fault is not None:
        return None
    charges = reading.statement.reservations.values()
    spent = [(one.id, one.participants.tolist(), one.spend, one.reply_digest) for one in charges]
    return (reading.digests, spent)


def test_a_flipped_byte_is_found_or_changes_nothing_that_the_ledger_says(path: Path) -> None:
    """300 bytes of the file, half of them where records lie, each flipped in one bit."""
    data = filled(path).read_bytes()
    whole = said(path)
    assert whole is not None
    draw = random.Random(3)  # noqa: S311
    places = draw.sample(range(len(data)), 150)
    written = [i for i, byte in enumerate(data) if byte]
    places += draw.sample(written, 150)
    found = 0
    for place in places:
        path.write_bytes(data[:place] + bytes([data[place] ^ 1 << place % 8]) + data[place + 1 :])
        now = said(path)
        assert now in (None, whole)
        found += now is None
    assert found > 100


@settings(max_examples=30, deadline=None)
@given(junk=st.binary(max_size=200) | st.text(max_size=50))
def test_any_junk_in_a_record_is_a_fault(junk: bytes | str) -> None:
    _, fault = check([Row(seq=0, body=junk, signature=b"x" * 64)])  # type: ignore[arg-type]
    assert fault is not None
    assert fault.seq == 0


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
