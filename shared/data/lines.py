"""Files in, lines out: regular or gzip files, read in blocks, never more than a line too many.

Guarantee: whatever the bytes are, a caller gets text or one `DataError` with file and line, and
memory stays within one block and one line (`MAX_LINE`).
"""

import csv
import gzip
import io
import os
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from shared.errors import DataError

__all__ = ["MAX_LINE", "blocks", "first_line", "lines", "resolve_encoding", "rows", "whole"]

MAX_LINE = 1 << 20
_BLOCK = 1 << 22
_BOM = b"\xef\xbb\xbf"


def blocks(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield (number of the first line, bytes that end with a line break) until the file ends.

    Raises:
        DataError: The file cannot be opened, is not a regular file, is a damaged gzip, or holds a
            line over `MAX_LINE` bytes (found without reading that line whole).
    """
    rest, line = b"", 1
    try:
        with _open(path) as stream:
            while chunk := stream.read(_BLOCK):
                done, newline, rest = (rest + chunk).rpartition(b"\n")
                if newline:
                    yield line, done + newline
                    line += done.count(b"\n") + 1
                if len(rest) > MAX_LINE:
                    raise DataError(_too_long(path, line))
    except (EOFError, zlib.error) as error:
        message = f"{path}: the gzip data is damaged or cut off; fetch the file again."
        raise DataError(message) from error
    except OSError as error:
        raise DataError(_unreadable(path, error)) from error
    if rest:
        yield line, rest + b"\n"


def lines(path: Path, encoding: str = "utf-8") -> Iterator[str]:
    """Yield every line as text with its line break, blank ones too, the byte order mark removed.

    Raises:
        DataError: As `blocks`; or a line is not in `encoding`, or the file is binary or UTF-16.
    """
    for first, block in blocks(path):
        if first == 1:
            _refuse_wide(path, block)
            block = block.removeprefix(_BOM)
        for offset, line in enumerate(io.BytesIO(block)):
            if len(line) > MAX_LINE:
                raise DataError(_too_long(path, first + offset))
            if 0 in line:
                message = "holds a zero byte, so it is binary or UTF-16; save it as UTF-8 text."
                raise DataError(f"{path}:{first + offset}: the line {message}")
            try:
                yield line.decode(encoding)
            except UnicodeDecodeError as error:
                message = f"is not {encoding}; save the file as UTF-8 or name its encoding."
                raise DataError(f"{path}:{first + offset}: the line {message}") from error


def rows(path: Path, *, separator: str, encoding: str = "utf-8") -> Iterator[tuple[int, list[str]]]:
    """Yield (line number, cells without outer blanks) of every line that is not blank.

    Args:
        path: The file.
        separator: What stands between cells; "" means any run of blanks. Quotes are understood
            where the separator is a comma or a semicolon, and are plain text elsewhere.
        encoding: A name that `resolve_encoding` accepts.

    Raises:
        DataError: As `lines`; or a quote is never closed.
    """
    if separator in {",", ";"}:
        yield from _quoted(path, separator, encoding)
        return
    for number, line in enumerate(lines(path, encoding), start=1):
        if line.strip():
            cells = line.rstrip("\r\n").split(separator) if separator else line.split()
            yield number, [cell.strip() for cell in cells]


def first_line(path: Path, encoding: str = "utf-8") -> str:
    """Return the first line that is not blank, without its line break.

    Raises:
        DataError: As `lines`; or there is no such line.
    """
    for line in lines(path, encoding):
        if line.strip():
            return line.rstrip("\r\n")
    raise DataError(f"{path}: the file is empty; give one with an event a line.")


def whole(path: Path, bound: int) -> bytes:
    """Return the first `bound` bytes of a file as they are on disk (gzip is not undone)."""
    try:
        with _regular(path) as stream:
            return stream.read(bound)
    except OSError as error:
        raise DataError(_unreadable(path, error)) from error


def resolve_encoding(name: str) -> str:
    """Return the name of an encoding that keeps line breaks and separators as in ASCII.

    Raises:
        DataError: The encoding is unknown, or is one such as UTF-16 that cannot be read by line.
    """
    sample = "0,\t|;:\r\n"
    try:
        fits = sample.encode(name) == sample.encode("ascii")
    except (LookupError, ValueError) as error:
        message = "The encoding is unknown; use a name such as utf-8, latin-1 or gbk."
        raise DataError(message) from error
    if not fits:
        raise DataError(f"The encoding {name} cannot be read line by line; save as UTF-8.")
    return name


def _quoted(path: Path, separator: str, encoding: str) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(lines(path, encoding), delimiter=separator, strict=True)
    while True:
        try:
            cells = next(reader, None)
        except csv.Error as error:
            message = "the quotes do not match or a cell is too long; close or remove the quote."
            raise DataError(f"{path}:{reader.line_num}: {message}") from error
        if cells is None:
            return
        if len(cells) > 1 or "".join(cells).strip():
            yield reader.line_num, [cell.strip() for cell in cells]


def _regular(path: Path) -> IO[bytes]:
    try:
        mode = os.stat(path).st_mode
    except ValueError as error:
        raise DataError("The path holds a zero byte; give an ordinary file name.") from error
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a device or pipe"
        raise DataError(f"{path}: this is {kind}; give an ordinary file.")
    return open(path, "rb")


@contextmanager
def _open(path: Path) -> Iterator[IO[bytes]]:
    with _regular(path) as stream:
        zipped = stream.read(2) == b"\x1f\x8b"
        stream.seek(0)
        if not zipped:
            yield stream
            return
        with gzip.GzipFile(fileobj=stream) as content:
            yield io.BufferedReader(content)


def _refuse_wide(path: Path, block: bytes) -> None:
    if block.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(f"{path}:1: the file is UTF-16 or UTF-32; save it as UTF-8.")
    if block.startswith((b"PK\x03\x04", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")):
        raise DataError(f"{path}:1: the file is an archive; unpack it first (gzip is read as is).")


def _too_long(path: Path, line: int) -> str:
    return f"{path}:{line}: the line is over {MAX_LINE} bytes; check that this is a text table."


def _unreadable(path: Path, error: OSError) -> str:
    if isinstance(error, gzip.BadGzipFile):
        return f"{path}: the gzip data is damaged or cut off; fetch the file again."
    return f"{path}: cannot be read ({error.strerror or 'input error'}); check path and rights."
