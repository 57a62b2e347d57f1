"""Every format in, every fault out as one sentence."""

import csv
import gzip
import io
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared.data import delimited
from shared.data import lines as text
from shared.data.columns import ColumnMap
from shared.data.events import NO_TIME, RawEvents
from shared.data.lines import MAX_LINE
from shared.data.readers import READERS, find_format, read_events
from shared.errors import DataError

U_DATA = b"196\t242\t3\t881250949\n186\t302\t3\t891717742\n196\t377\t1\t878887116\n"
EXAMPLES: dict[str, tuple[str, bytes]] = {
    "movielens-100k": ("u.data", U_DATA),
    "movielens-1m": ("ratings.dat", U_DATA.replace(b"\t", b"::")),
    "pairs": ("ml-1m.txt", b"196 242\n186 302\n196 377\n"),
    "recbole": (
        "x.inter",
        b"user_id:token\titem_id:token\trating:float\ttimestamp:float\n" + U_DATA,
    ),
    "delimited": (
        "ratings.csv",
        b"userId,movieId,rating,timestamp\n" + U_DATA.replace(b"\t", b","),
    ),
    "jsonl": (
        "x.jsonl",
        b'{"user": 196, "item": "242", "rating": 3, "ts": 881250949}\n'
        b'{"user": "186", "item": 302, "rating": 3, "ts": 891717742}\n'
        b'{"item": 377, "user": 196, "rating": 1, "ts": 878887116}\n',
    ),
}


def table(events: RawEvents) -> list[tuple[object, ...]]:
    """Return plain rows, so that tables with other codes compare equal."""
    times = [None] * len(events) if events.times is None else events.times.tolist()
    kinds = [events.kind_names[kind] for kind in events.kinds]
    values = [None if np.isnan(value) else value for value in events.values.tolist()]
    users = [events.user_ids[user] for user in events.users]
    items = [events.item_ids[item] for item in events.items]
    return list(zip(users, items, values, times, kinds, strict=True))


def write(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def refusal(path: Path, **options: object) -> str:
    with pytest.raises(DataError) as caught:
        read_events(path, **options)  # type: ignore[arg-type]
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith(".")
    return message


@pytest.mark.parametrize("name", [n for n in READERS if n != "parquet"])
@pytest.mark.parametrize("form", ["plain", "gz", "crlf", "no last break", "bom", "blank lines"])
def test_every_format_is_found_and_read(name: str, form: str, tmp_path: Path) -> None:
    file, data = EXAMPLES[name]
    data = {
        "plain": data,
        "gz": gzip.compress(data),
        "crlf": data.replace(b"\n", b"\r\n"),
        "no last break": data.rstrip(b"\n"),
        "bom": b"\xef\xbb\xbf" + data,
        "blank lines": b"\n" + data.replace(b"\n", b"\n\n"),
    }[form]
    path = write(tmp_path, file + (".gz" if form == "gz" else ""), data)
    assert find_format(path) == name
    events = read_events(path)
    rows = table(events)
    assert [(user, item) for user, item, *_ in rows] == [
        ("196", "242"), ("186", "302"), ("196", "377"),
    ]  # fmt: skip
    if name == "pairs":
        assert events.times is None
        assert events.warnings
        assert {row[4] for row in rows} == {"view"}
    else:
        assert [row[2:] for row in rows] == [
            (3.0, 881250949, "rating"), (3.0, 891717742, "rating"), (1.0, 878887116, "rating"),
        ]  # fmt: skip


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"1 2\n", "pairs"),
        (b"1::2::3::4\n", "movielens-1m"),
        (b'{"a": 1}\n', "jsonl"),
        (b"a;b\n", "delimited"),
        (b"PAR1....", "parquet"),
    ],
)
def test_a_file_of_unknown_name_is_found_by_its_bytes(
    data: bytes, expected: str, tmp_path: Path
) -> None:
    assert find_format(write(tmp_path, "events", data)) == expected


def test_a_folder_is_read_by_its_known_file(tmp_path: Path) -> None:
    assert "none of u.data" in refusal(tmp_path)
    write(tmp_path, "only.inter", EXAMPLES["recbole"][1])
    assert len(read_events(tmp_path)) == 3
    write(tmp_path, "u.data", U_DATA + U_DATA)
    assert len(read_events(tmp_path)) == 6


clean_ids = st.integers(0, 10**15 - 1).map(str)
clean_rows = st.lists(
    st.tuples(
        clean_ids,
        clean_ids,
        st.decimals(0, 999, places=2).map(str),
        st.integers(0, 10**13).map(str),
    ),
    min_size=1,
    max_size=20,
)


@given(rows=clean_rows, separator=st.sampled_from(["\t", "::", ",", ""]))
@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_fast_path_equals_careful_path(
    rows: list[tuple[str, ...]], separator: str, tmp_path: Path
) -> None:
    text = "\n".join((separator or " ").join(row) for row in rows) + "\n"
    path = write(tmp_path, "x", text.encode())
    places = {"user": 0, "item": 1, "value": 2, "time": 3}
    layout = delimited.Layout(separator=separator, width=4, places=places)
    assert delimited._numbers(path, layout) is not None
    fast, careful = delimited.read_layout(path, layout), delimited._careful(path, layout)
    assert table(fast) == table(careful)


texts = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=8)
event_rows = st.lists(
    st.tuples(texts, texts, st.floats(-1e6, 1e6), st.integers(-(10**12), 10**17)),
    min_size=1,
    max_size=12,
)


@given(rows=event_rows, form=st.sampled_from(["csv", "tsv", "jsonl"]))
@settings(
    deadline=None, max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_written_events_are_read_back(
    rows: list[tuple[str, str, float, int]], form: str, tmp_path: Path
) -> None:
    names = ("who", "what", "how much", "when")
    buffer = io.StringIO()
    if form == "csv":
        csv.writer(buffer).writerows([names, *rows])
    elif form == "tsv":
        buffer.writelines("\t".join(map(str, row)) + "\n" for row in [names, *rows])
    else:
        buffer.writelines(json.dumps(dict(zip(names, row, strict=True))) + "\n" for row in rows)
    path = write(tmp_path, f"x.{form}", buffer.getvalue().encode())
    columns = ColumnMap(user="who", item="what", value="how much", time="when")
    read = table(read_events(path, columns=columns))
    assert read == [(*row, "rating") for row in rows]


NAMES = [file for file, _ in EXAMPLES.values()] + ["x.tsv", "x.parquet", "x", "x.csv.gz"]
TOKENS = [b"1", b"22", b"-3", b"4.5", b"nan", b"\t", b",", b"::", b" ", b"\n", b'"', b"{", b"}",
          b'{"user": 1, "item": 2}', b"user", b"item", b"\xff", b"\x00", b"\r", b"\xe4", b"_",
          b"userId,movieId,rating,timestamp\n", b"PAR1", b"\x1f\x8b", b"2020-01-01"]  # fmt: skip


@given(
    data=st.one_of(st.binary(max_size=200), st.lists(st.sampled_from(TOKENS)).map(b"".join)),
    name=st.sampled_from(NAMES),
    zipped=st.booleans(),
)
@settings(
    deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_bytes_give_a_table_or_one_error(
    data: bytes, name: str, zipped: bool, tmp_path: Path
) -> None:
    path = write(tmp_path, name, gzip.compress(data) if zipped else data)
    try:
        events = read_events(path)
    except DataError as error:
        if "\n" in str(error):
            raise
        return
    assert len(events) > 0
    assert len(events.items) == len(events.values) == len(events.kinds) == len(events)
    assert 0 <= events.users.min() <= events.users.max() < len(events.user_ids)
    assert 0 <= events.items.min() <= events.items.max() < len(events.item_ids)
    assert len(set(events.user_ids)) == len(events.user_ids)
    assert events.times is None or len(events.times) == len(events)


DATUM = "9182736455"
BAD: dict[str, tuple[str, bytes, str]] = {
    "too few columns": ("u.data", U_DATA + b"1\t2\t3\n", r"u\.data:4: found 3 columns, expected 4"),
    "too many columns": ("a.csv", b"user,item\n1,2\n1,2,3\n", r"a\.csv:3: found 3 columns"),
    "negative id": ("u.data", U_DATA + b"-5\t2\t3\t4\n", r"u\.data:4: the user is not an integer"),
    "text id": ("ratings.dat", b"1::x::3::4\n", r"ratings\.dat:1: the item is not an integer"),
    "negative id, latest": (
        "ratings.csv", b"userId,movieId,rating,timestamp\n1,-2,3,4\n", r":2: the item is not"),
    "mixed types": ("u.data", U_DATA + b"1\t2\tgood\t4\n", r"u\.data:4: the value is not a number"),
    "underscore": ("u.data", b"1\t2\t1_0\t4\n", r":1: the value is not a number"),
    "bad time": ("u.data", b"1\t2\t3\tnoon\n", r"u\.data:1: the time is not"),
    "one column": ("ml-1m.txt", b"1 2\n3\n", r"ml-1m\.txt:2: found 1 columns, expected 2"),
    "gbk": ("a.csv", "user,item\n1,电影\n".encode("gbk"), r"a\.csv:2: the line is not utf-8"),
    "utf-16": ("a.csv", "user,item\n1,2\n".encode("utf-16"), r"a\.csv:1: the file is UTF-16"),
    "utf-16 without mark": ("a.csv", "user,item\n".encode("utf-16-le"), r"a\.csv:1: .*zero byte"),
    "empty": ("u.data", b"", r"u\.data: the file holds no events"),
    "empty csv": ("a.csv", b"", r"a\.csv: the file is empty"),
    "blank": ("a.csv", b"\n \n", r"a\.csv: the file is empty"),
    "header only": ("a.csv", b"user,item\n", r"a\.csv: the file holds no events"),
    "empty jsonl": ("a.jsonl", b"\n", r"a\.jsonl: the file holds no events"),
    "json list": ("a.jsonl", b"[1, 2]\n", r"a\.jsonl:1: the line is not a JSON object"),
    "not json": ("a.jsonl", b'{"user": 1, "item": 2}\nx\n', r"a\.jsonl:2: the line is not JSON"),
    "deep json": ("a.jsonl", b"[" * 100_000, r"a\.jsonl:1: the line is not JSON"),
    "float id": ("a.jsonl", b'{"user": 1.5, "item": 2}\n', r"a\.jsonl:1: the user is of the wrong"),
    "surrogate": ("a.jsonl", b'{"user": "\\ud800", "item": 2}\n', r":1: the user is not an id"),
    "control": ("a.csv", b"user,item\n1,\x1b[2J\n", r"a\.csv:2: the item is not an id"),
    "long id": ("a.csv", b"user,item\n1," + b"x" * 300 + b"\n", r"a\.csv:2: the item is not an id"),
    "open quote": ("a.csv", b'user,item\n1,"2\n3,4\n', r"a\.csv:\d: the quotes do not match"),
    "no separator": ("a.csv", b"7\n", r"a\.csv:1: found 1 columns, needed user and item"),
    "archive": ("a.csv", b"PK\x03\x04....", r"a\.csv:1: the file is an archive"),
    "cut gzip": ("u.data.gz", gzip.compress(U_DATA * 50)[:-20], r"gz: the gzip data is damaged"),
    "broken gzip": ("u.data.gz", b"\x1f\x8b\x08garbage-garbage", r"gz: the gzip data is damaged"),
    "false parquet": ("a.parquet", b"user,item\n", r"a\.parquet: this is not a Parquet file"),
    "damaged parquet": ("a.parquet", b"PAR1" + b"x" * 60 + b"PAR1", r"Parquet data is damaged"),
    "kinds": (
        "a.csv", b"user,item,event\n" + b"".join(b"1,2,k%d\n" % k for k in range(99)),
        r"a\.csv:66: over 64 kinds of event"),
    "long line": ("u.data", U_DATA + b"1" * (MAX_LINE + 9) + b"\n", r"u\.data:4: the line is over"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_with_file_and_line(case: str, tmp_path: Path) -> None:
    name, data, expected = BAD[case]
    if name.endswith(".parquet"):
        pytest.importorskip("polars")
    assert re.search(expected, refusal(write(tmp_path, name, data)))


@pytest.mark.parametrize("line", [f"{DATUM}\t1\t{DATUM}x\t3", f"{DATUM}x\t1\t1\t3", DATUM])
def test_no_message_holds_a_cell(line: str, tmp_path: Path) -> None:
    assert DATUM not in refusal(write(tmp_path, "u.data", U_DATA + line.encode() + b"\n"))


def test_a_file_that_cannot_be_opened_is_refused(tmp_path: Path) -> None:
    assert "No such file" in refusal(tmp_path / "missing.csv")
    loop = tmp_path / "loop.csv"
    loop.symlink_to(loop)
    assert "cannot be read" in refusal(loop)
    pipe = tmp_path / "pipe.csv"
    os.mkfifo(pipe)
    assert "device or pipe" in refusal(pipe)
    assert "zero byte" in refusal(Path("a\0.csv"))


def test_no_permission_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, "u.data", U_DATA)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    assert "Permission denied" in refusal(path)


def test_a_huge_line_is_refused_without_reading_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is sparse: one line of 1 GB, of which only the first blocks may be read."""
    path = write(tmp_path, "u.data", U_DATA)
    os.truncate(path, 1 << 30)
    sizes: list[int] = []

    class Counted(io.FileIO):
        def read(self, size: int = -1, /) -> bytes:
            data = super().read(size)
            sizes.append(len(data))
            return data

    monkeypatch.setattr(text, "_regular", Counted)
    assert "u.data:4: the line is over" in refusal(path)
    assert 0 < sum(sizes) < 64 * MAX_LINE


def test_a_missing_column_names_found_needed_and_nearest(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", b"usr,artikel,rating\na,b,3\n")
    message = refusal(path)
    for part in ("found 'usr', 'artikel', 'rating'", "needed user and item", "(nearest: 'usr')"):
        assert part in message
    assert "item ('artikl') (nearest: 'artikel')" in refusal(
        path, columns=ColumnMap(user="usr", item="artikl")
    )
    assert "share one column" in refusal(path, columns=ColumnMap(user="usr", item="usr"))


def test_a_line_that_is_no_header_is_not_repeated_in_an_error(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", b"alice,secret film\nbob,another film\n")
    message = refusal(path)
    assert "2 columns of unknown names" in message
    assert not any(word in message for word in ("alice", "secret", "film"))


def test_a_column_map_chooses_and_leaves_out(tmp_path: Path) -> None:
    path = write(tmp_path, "a.tsv", b"u\tm\trating\tdate\nx\ty\t3\t2020-01-01T00:00:10Z\n")
    columns = ColumnMap(user="u", item=1, value="")
    assert table(read_events(path, columns=columns)) == [("x", "y", 1.0, 1577836810, "view")]


def test_a_headerless_file_takes_the_usual_order_or_the_map(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", b"5,6,3\n7,8,1\n")
    events = read_events(path)
    assert table(events)[0] == ("5", "6", 3.0, None, "rating")
    assert "user, item, value" in events.warnings[0]
    mapped = read_events(path, columns=ColumnMap(user=2, item=0))
    assert table(mapped)[0] == ("3", "5", 1.0, None, "view")
    assert "use positions" in refusal(path, columns=ColumnMap(user="user"))
    assert "map both" in refusal(path, columns=ColumnMap(user=0, item=7))


def test_kinds_missing_cells_and_times_are_kept_for_cleaning(tmp_path: Path) -> None:
    data = b"user,item,event,rating,ts\na,,View,,\n,b,,inf,1e3\nc,d,Purchase,2,NaN\nc,e,,-1,1e300\n"
    events = read_events(write(tmp_path, "a.csv", data))
    assert events.kind_names == ("view", "rating", "purchase")
    assert table(events)[0] == ("a", "", None, NO_TIME, "view")
    assert np.isinf(events.values[1])
    assert events.times is not None
    assert events.times.tolist()[1:3] == [1000, NO_TIME]
    assert events.times[3] > 1 << 61


def test_an_encoding_can_be_named(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", "user,item\n1,电影\n".encode("gbk"))
    assert table(read_events(path, encoding="gbk"))[0][1] == "电影"
    assert "unknown" in refusal(path, encoding="klingon")
    assert "line by line" in refusal(path, encoding="utf-16")


def test_an_unknown_format_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "u.data", U_DATA)
    assert "use one of movielens-100k" in refusal(path, format="xml")
