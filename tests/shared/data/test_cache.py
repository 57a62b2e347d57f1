"""Known sets: where they are kept, each way to them, and every way that fails."""

import hashlib
import subprocess
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from shared.data import cache
from shared.data.cache import Source, cache_folder, obtain
from shared.errors import DataError

EVENTS = b"1\t2\t3\t4\n"
HEADER = b"user_id:token\titem_id:token\trating:float\ttimestamp:float\n"


def archive(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
        for name, data in files.items():
            made.writestr(name, data)
    return path


@pytest.fixture
def source(tmp_path: Path) -> Source:
    """A set whose download and wheel both exist on this disk."""
    url = archive(tmp_path / "set.zip", {"set/u.data": EVENTS, "set/u.item": b"x"}).as_uri()
    return Source(
        name="made",
        events="u.data",
        url=url,
        members={"set/u.data": "u.data", "set/u.item": "u.item"},
        sha256=hashlib.sha256(EVENTS).hexdigest(),
        wheel="made==1",
        wheel_members={"w/x.inter": "u.data", "w/x.item": "made.item"},
        notice="Made for tests.",
    )


@pytest.fixture
def pip(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """A stand-in for pip that writes a wheel; the commands it was given."""
    commands: list[list[str]] = []

    def run(command: list[str], **options: object) -> subprocess.CompletedProcess[bytes]:
        assert options["timeout"]
        commands.append(command)
        folder = Path(command[command.index("--dest") + 1])
        archive(folder / "made-1.whl", {"w/x.inter": HEADER + EVENTS, "w/x.item": b"y"})
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", run)
    return commands


@pytest.fixture(autouse=True)
def _online(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FEDREC_OFFLINE", raising=False)


def test_a_set_is_fetched_once_and_its_notice_shown_once(
    source: Source, tmp_path: Path, pip: list[list[str]]
) -> None:
    said: list[str] = []
    for _ in range(2):
        folder = obtain(source, tmp_path / "cache", said.append)
        assert sorted(file.name for file in folder.iterdir()) == ["NOTICE", "u.data", "u.item"]
        assert (folder / "u.data").read_bytes() == EVENTS
    assert sum("Made for tests." in line for line in said) == 1
    assert sum("Looking for" in line for line in said) == 1
    assert pip == []


def test_pip_comes_after_the_download_and_never_builds_or_installs(
    source: Source, tmp_path: Path, pip: list[list[str]]
) -> None:
    said: list[str] = []
    missing = replace(source, url=(tmp_path / "none.zip").as_uri())
    folder = obtain(missing, tmp_path / "cache", said.append)
    assert (folder / "u.data").read_bytes() == EVENTS
    assert (folder / "made.item").read_bytes() == b"y"
    assert {"download", "--no-deps", "--only-binary=:all:", "made==1"} <= set(pip[0])
    assert [line.split()[0] for line in said] == ["Looking", "made", "Looking", "made"]


def wrong_zip(tmp_path: Path) -> Path:
    path = tmp_path / "wrong.zip"
    path.write_bytes(b"<html>sorry</html>")
    return path


def damaged_zip(tmp_path: Path) -> Path:
    path = archive(tmp_path / "damaged.zip", {"set/u.data": EVENTS * 99, "set/u.item": b"x"})
    data = bytearray(path.read_bytes())
    data[45:60] = bytes(15)
    path.write_bytes(data)
    return path


def other_zip(tmp_path: Path) -> Path:
    return archive(tmp_path / "other.zip", {"readme": b""})


def altered_zip(tmp_path: Path) -> Path:
    return archive(
        tmp_path / "altered.zip", {"set/u.data": EVENTS + b"5\t5\t5\t5\n", "set/u.item": b""}
    )


@pytest.mark.parametrize("make", [wrong_zip, damaged_zip, other_zip, altered_zip])
def test_a_failed_fetch_leaves_nothing(
    make: Callable[[Path], Path], source: Source, tmp_path: Path
) -> None:
    bad = replace(source, url=make(tmp_path).as_uri(), wheel="")
    with pytest.raises(DataError, match=r"could not be fetched \(download from"):
        obtain(bad, tmp_path / "cache", lambda _: None)
    assert not list((tmp_path / "cache").glob("*"))


def test_a_wrong_checksum_is_refused(source: Source, tmp_path: Path) -> None:
    bad = replace(source, sha256="0" * 64, wheel="")
    with pytest.raises(DataError, match="checksum"):
        obtain(bad, tmp_path / "cache", lambda _: None)


def test_an_oversized_archive_is_refused(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "_BOUND", 4)
    with pytest.raises(DataError, match="larger than"):
        obtain(replace(source, wheel=""), tmp_path / "cache", lambda _: None)


@pytest.mark.parametrize("fault", ["exit code", "too slow", "no pip"])
def test_a_failing_pip_is_reported(
    fault: str, source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[bytes]:
        if fault == "too slow":
            raise subprocess.TimeoutExpired(command, 1)
        if fault == "no pip":
            raise FileNotFoundError("python")
        return subprocess.CompletedProcess(command, 1)

    monkeypatch.setattr(subprocess, "run", run)
    missing = replace(source, url=(tmp_path / "none.zip").as_uri())
    with pytest.raises(DataError, match="made==1 through pip: "):
        obtain(missing, tmp_path / "cache", lambda _: None)


def test_offline_tries_nothing(
    source: Source, tmp_path: Path, pip: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDREC_OFFLINE", "1")
    said: list[str] = []
    with pytest.raises(DataError, match="offline"):
        obtain(source, tmp_path / "cache", said.append)
    assert said == pip == []


def test_a_changed_cache_is_said_and_a_blocked_one_is_left_alone(
    source: Source, tmp_path: Path
) -> None:
    said: list[str] = []
    folder = obtain(source, tmp_path / "cache", lambda _: None)
    (folder / "u.data").write_bytes(b"other")
    obtain(source, tmp_path / "cache", said.append)
    assert ["not the published made" in line for line in said] == [True]
    (folder / "u.data").unlink()
    with pytest.raises(DataError, match="in the way"):
        obtain(replace(source, wheel=""), tmp_path / "cache", lambda _: None)
    assert (folder / "u.item").exists()


def test_the_cache_folder_follows_argument_and_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cache_folder(tmp_path) == tmp_path
    monkeypatch.setenv("FEDREC_CACHE", str(tmp_path / "a"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "b"))
    assert cache_folder() == tmp_path / "a"
    monkeypatch.delenv("FEDREC_CACHE")
    assert cache_folder() == tmp_path / "b" / "fedrec"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "fedrec"
