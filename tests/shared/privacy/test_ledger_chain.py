"""The chain: what tampering is found, by whom, and what a ledger does about it."""

import json
import random
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reserving import chained, edit, filled, reserve

from shared.errors import RunError, VerificationError
from shared.privacy.chain import Row, canonical, check, seal, sha
from shared.privacy.identity import Identity, verified
from shared.privacy.ledger import Ledger
from shared.privacy.verification import read_ledger


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


@pytest.fixture
def signer(tmp_path: Path) -> Identity:
    return Identity.make(tmp_path / "some.key")


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
