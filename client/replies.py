"""The newest reply of a node, kept so that a repeated order gets the same bytes again.

A reply leaves the device at most in one form: it is stored, with the memory that goes with it,
before it is sent. Only the newest one is kept; older orders are not asked for again.
"""

import json
import logging
import os
from dataclasses import fields
from pathlib import Path

import numpy as np

from shared.algorithms.base import Memory
from shared.errors import RunError
from shared.protocol import Reply

__all__ = ["Replies"]

log = logging.getLogger("fedrec.client")

Kept = tuple[Reply, Memory]


class Replies:
    """The newest reply, in memory and, where a directory is given, on disk.

    Args:
        directory: Where `reply.safetensors` lives; created when first needed.
    """

    def __init__(self, directory: Path | None = None) -> None:
        self._path = None if directory is None else directory / "reply.safetensors"
        self._kept: Kept | None = None

    def find(self, order: str) -> Kept | None:
        """Return the reply to the order of this digest and the memory after it, if kept."""
        if self._kept is None and self._path is not None and self._path.exists():
            self._kept = _read(self._path)
        if self._kept is None or self._kept[0].order != order:
            return None
        return self._kept

    def keep(self, reply: Reply, memory: Memory) -> None:
        """Keep a reply in place of the one before it, on disk before in memory.

        Raises:
            RunError: It cannot be written; nothing may be sent then.
        """
        if self._path is not None:
            _write(self._path, reply, memory)
        self._kept = (reply, memory)


def _write(path: Path, reply: Reply, memory: Memory) -> None:
    """Write the whole file aside, sync it, rename it over the old one and sync the directory."""
    from safetensors.numpy import save

    header = {f.name: getattr(reply, f.name) for f in fields(reply) if f.name != "tensors"}
    tensors = {f"sum/{name}": np.asarray(value) for name, value in reply.tensors.items()}
    tensors |= {f"memory/{name}": np.asarray(value, order="C") for name, value in memory.items()}
    data = save(tensors, metadata={"reply": json.dumps(header)})
    fresh = path.with_suffix(".new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with fresh.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise RunError(f"Cannot store the reply in {path}: {error.strerror}; free it.") from error


def _read(path: Path) -> Kept | None:
    """Return the stored reply; a damaged file counts as none, so its order is charged again."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "np") as file:
            header = json.loads(file.metadata()["reply"])
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        reply = Reply(**header, tensors=_inside(found, "sum/"))
    except (OSError, SafetensorError, ValueError, KeyError, TypeError):
        log.warning("The stored reply in %s is damaged and is not used.", path)
        return None
    return reply, _inside(found, "memory/")


def _inside(
    tensors: Memory, prefix: str
) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float64]]]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
