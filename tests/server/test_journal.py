"""The journal: a line is whole, or it is as if it had never been written."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.journal import Journal
from shared.errors import RunError


def test_rewind_drops_later_rounds(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "metrics.jsonl")
    for number in (1, 2, 3):
        journal.append({"round": number})
    journal.rewind(2)
    assert journal.read() == [{"round": 1}, {"round": 2}]
    journal.append({"round": 3, "again": True})
    assert journal.read()[-1] == {"round": 3, "again": True}


@settings(deadline=None, max_examples=40)
@given(cut=st.integers(0, 200))
def test_any_prefix_opens_and_goes_on(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    path = tmp_path_factory.mktemp("journal") / "metrics.jsonl"
    journal = Journal(path)
    lines = [{"round": number, "score": 0.5 / number} for number in range(1, 6)]
    for line in lines:
        journal.append(line)
    path.write_bytes(path.read_bytes()[:cut])
    whole = journal.read()
    assert whole == lines[: len(whole)]
    journal.rewind(5)
    journal.append({"round": 9})
    assert journal.read() == [*whole, {"round": 9}]


def test_absent_journal_is_empty(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "metrics.jsonl")
    journal.rewind(0)
    assert journal.read() == []


def test_damage_before_the_end_is_named(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"round": 1}\nnoise\n{"round": 3}\n')
    with pytest.raises(RunError, match="line 2"):
        Journal(path).read()


def test_unwritable_journal_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="Cannot write"):
        Journal(tmp_path / "absent" / "metrics.jsonl").append({"round": 1})
