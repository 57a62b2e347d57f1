"""Item files in: MovieLens, RecBole, tables and JSON lines; faults out as one sentence."""

import gzip
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared.data.content import ItemColumns, ItemContent, find_items, read_items
from shared.data.vocabulary import Vocabulary
from shared.errors import DataError

FLAGS = b"|0" * 5 + b"|1" + b"|0" * 12 + b"|1"
FILES = {
    "u.item": b"1|Caf\xe9 (1995)|01-Jan-1995||http://x" + FLAGS + b"\n",
    "movies.dat": b"1::Caf\xe9 (1995)::Comedy|Western\n",
    "movies.csv": 'movieId,title,genres\n1,"Café (1995)",Comedy|Western\n'.encode(),
    "items.tsv": "item\ttitle\tgenres\tother_id\n1\tCafé (1995)\tComedy|Western\t9\n".encode(),
    "x.item": (
        "item_id:token\tmovie_title:token_seq\tclass:token_seq\n1\tCafé (1995)\tComedy Western\n"
    ).encode(),
    "x.jsonl": (
        '{"id": 1, "name": "Café (1995)", "tags": ["Comedy", "Western"], "more": null}\n'
    ).encode(),
}


def write(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("zipped", [False, True])
def test_every_item_file_is_read(name: str, zipped: bool, tmp_path: Path) -> None:
    data = gzip.compress(FILES[name]) if zipped else FILES[name]
    content = read_items(write(tmp_path, name + ".gz" * zipped, data))
    assert content.ids == ("1",)
    assert content.titles == ("Café (1995)",)
    assert content.categories == (("Comedy", "Western"),)


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("u.item", b"1|x\n", r"u\.item:1: the line does not follow u\.item"),
        ("movies.dat", b"1::a::b\n1::a\n", r"movies\.dat:2: found 2 columns, expected 3"),
        ("a.csv", b"id,title\n1\n", r"a\.csv:2: found 1 columns, expected 2"),
        ("a.csv", b"id,title\n,x\n", r"a\.csv:2: the item is empty"),
        ("a.csv", b"id,title\n", r"a\.csv: the file holds no items"),
        ("a.csv", b"name,title\n1,2\n", r"a\.csv:1: no column for item"),
        ("a.csv", b"word\n", r"a\.csv:1: no tab, comma or semicolon"),
        ("a.csv", b"", r"a\.csv: the file is empty"),
        ("a.jsonl", b'{"id": null}\n', r"a\.jsonl:1: the item is of the wrong JSON type"),
        ("a.jsonl", b"3\n", r"a\.jsonl:1: the line is not a JSON object"),
    ],
)
def test_bad_item_files_are_refused(name: str, data: bytes, expected: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        read_items(write(tmp_path, name, data))
    assert re.search(expected, str(caught.value))


@given(
    data=st.one_of(
        st.binary(max_size=100),
        st.lists(st.sampled_from([b"id", b"title", b",", b"\t", b"\n", b'"', b"1", b"::", b"|",
                                  b'{"id": 1}', b"\xff", b":token"])).map(b"".join),
    ),
    name=st.sampled_from(sorted(FILES)),
)  # fmt: skip
@settings(
    deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_bytes_give_content_or_one_error(data: bytes, name: str, tmp_path: Path) -> None:
    try:
        content = read_items(write(tmp_path, name, data))
    except DataError as error:
        if "\n" in str(error):
            raise
        return
    assert len(content.ids) == len(content.titles) == len(content.categories) > 0
    assert len(set(content.ids)) == len(content.ids)


def test_columns_can_be_named(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", b"key,what,kinds\nx,Name,one;two\nx,Other,three\n")
    content = read_items(path, columns=ItemColumns(item="key", title="what", categories="kinds"))
    assert content.titles == ("Name",)
    assert content.categories == (("one;two",),)


def test_control_characters_leave_titles(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", b"id,title\n1,a\x1b[2Jb\n")
    assert read_items(path).titles == ("a [2Jb",)


def test_content_follows_a_vocabulary() -> None:
    content = ItemContent(ids=("b", "a"), titles=("B", "A"), categories=(("x", "y"), ("x",)))
    aligned = content.align(Vocabulary(("a", "c", "b")))
    assert aligned.titles == ("A", "", "B")
    names, table = aligned.membership()
    assert names == ("x", "y")
    assert table.tolist() == [[True, False], [False, False], [True, True]]


@pytest.mark.parametrize(
    ("events", "items"),
    [
        ("u.data", "u.item"), ("u.data", "ml-100k.item"), ("ratings.dat", "movies.dat"),
        ("ratings.csv", "movies.csv"), ("ml-1m.txt", "items.tsv"), ("x.inter", "x.item"),
        ("u.data.gz", "u.item.gz"),
    ],
)  # fmt: skip
def test_the_item_file_beside_is_found(events: str, items: str, tmp_path: Path) -> None:
    assert find_items(tmp_path / events) is None
    write(tmp_path, items, b"")
    assert find_items(tmp_path / events) == tmp_path / items
