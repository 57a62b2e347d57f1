"""Checkpoints of a run: one directory a round, written whole or not at all, without pickle.

A checkpoint holds the server's state and, in a simulation, the devices' memory: one rename
publishes both, so server and devices can never come from different rounds.

Guarantees:
    A crash at any point leaves the older checkpoints as they were.
    A torn or altered checkpoint is never loaded: the one before it is, with a warning.
"""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared.algorithms.base import State
from shared.errors import RunError

__all__ = ["Checkpoint", "Checkpoints"]

log = logging.getLogger("fedrec.server")

FORMAT = 2
Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Checkpoint:
    """A run between two rounds.

    Attributes:
        run: Name of the run; orders after a resume carry it on.
        settings: Digest of everything that decides the run.
        plan: The plan as plain values, for the reader of the manifest.
        state: The server's state; `state.round` rounds are done.
        companions: Arrays of whoever shares the checkpoint (simulated devices' memory).
    """

    run: str
    settings: str
    plan: Mapping[str, object]
    state: State = field(repr=False)
    companions: Arrays = field(repr=False)


class Checkpoints:
    """The newest checkpoints of one run directory.

    Args:
        directory: Where `round-000000` and so on live; created when first needed.
        keep: How many are kept.
    """

    def __init__(self, directory: Path, keep: int = 2) -> None:
        self.directory = directory
        self._keep = keep

    def save(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint aside, sync it, rename it into place, drop the oldest.

        Raises:
            RunError: It cannot be written; the older checkpoints are intact.
        """
        target = self.directory / f"round-{checkpoint.state.round:06d}"
        fresh = self.directory / f".new-{checkpoint.state.round:06d}"
        try:
            shutil.rmtree(fresh, ignore_errors=True)
            fresh.mkdir(parents=True)
            _write_files(fresh, checkpoint)
            shutil.rmtree(target, ignore_errors=True)
            fresh.rename(target)
            _sync(self.directory)
            for old in self._found()[self._keep :]:
                shutil.rmtree(old)
        except OSError as error:
            raise RunError(
                f"Cannot write the checkpoint {target}: {error.strerror}; free the disk, resume."
            ) from error

    def load(self, *, settings: str) -> Checkpoint | None:
        """Return the newest valid checkpoint, or None where none was ever written.

        Args:
            settings: Digest of the settings of the run that wants to go on.

        Raises:
            RunError: None of the checkpoints is valid, or they belong to other settings.
        """
        found = self._found()
        for path in found:
            try:
                checkpoint = _read(path)
            except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
                log.warning("Checkpoint %s is damaged (%s); trying an older one.", path, error)
                continue
            if checkpoint.settings != settings:
                raise RunError(
                    f"Checkpoint {path} belongs to other settings; resume with the settings it "
                    "was made with or start a new run directory."
                )
            return checkpoint
        if found:
            raise RunError(f"No checkpoint in {self.directory} is whole; start a new run.")
        return None

    def _found(self) -> list[Path]:
        """Return the checkpoint directories, newest first."""
        return sorted(self.directory.glob("round-[0-9]*"), reverse=True)


def _write_files(fresh: Path, checkpoint: Checkpoint) -> None:
    from safetensors.numpy import save

    state = {f"tensors/{k}": v for k, v in checkpoint.state.tensors.items()}
    state |= {f"optimiser/{k}": v for k, v in checkpoint.state.optimiser.items()}
    files = {"state.safetensors": state, "companions.safetensors": checkpoint.companions}
    digests = {}
    for name, arrays in files.items():
        data = save({key: np.asarray(value, order="C") for key, value in arrays.items()})
        digests[name] = hashlib.sha256(data).hexdigest()
        _write(fresh / name, data)
    manifest = {
        "format": FORMAT,
        "run": checkpoint.run,
        "round": checkpoint.state.round,
        "blocks": list(checkpoint.state.blocks),
        "settings": checkpoint.settings,
        "plan": dict(checkpoint.plan),
        "versions": _versions(),
        "files": digests,
    }
    _write(fresh / "manifest.json", json.dumps(manifest, indent=1, sort_keys=True).encode())
    _sync(fresh)


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("fedrec", "flwr", "numpy", "safetensors")}


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _read(path: Path) -> Checkpoint:
    """Return the checkpoint in `path`; ValueError or KeyError if anything in it is amiss."""
    manifest = json.loads((path / "manifest.json").read_bytes())
    if manifest["format"] != FORMAT or path.name != f"round-{manifest['round']:06d}":
        raise ValueError("another format or round")
    state = _tensors(path / "state.safetensors", manifest)
    return Checkpoint(
        run=manifest["run"],
        settings=manifest["settings"],
        plan=manifest["plan"],
        state=State(
            tensors=_inside(state, "tensors/"),
            optimiser=_inside(state, "optimiser/"),
            round=manifest["round"],
            blocks=tuple(manifest["blocks"]),
        ),
        companions=_tensors(path / "companions.safetensors", manifest),
    )


def _tensors(path: Path, manifest: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    from safetensors.numpy import load

    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != manifest["files"][path.name]:
        raise ValueError(f"{path.name} is not the file that was written")
    found: dict[str, NDArray[Any]] = load(data)
    return found


def _inside(arrays: Arrays, prefix: str) -> dict[str, NDArray[np.float64]]:
    return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}
