"""The run directory: what a run leaves behind, each file whole or absent.

manifest.json   settings, versions, data digest, seed: enough to repeat the run on any machine
metrics.jsonl   a line a round
ledger.db       what devices reserved and spent; `ledger.key` signs it
server-ledger.db  the same by the server, whose heads the devices witnessed
checkpoints/    the newest states
replies/        each node's newest reply
result.json     the answer, also what `--json` prints
"""

import json
import os
import re
import time
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from shared.config import Settings
from shared.errors import ConfigError, RunError

__all__ = ["default_name", "manifest", "prepare", "read_json", "vacant", "write_json", "write_text"]

PACKAGES = ("fedrec", "flwr", "torch", "opacus", "dp-accounting", "numpy")


def default_name(settings: Settings, *, now: float) -> Path:
    """Return `runs/<dataset>-<model>-<time>-<process>`, with a number behind it if that exists.

    The process is in the name so that runs started in the same second never share a directory.
    """
    dataset = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(settings.data.dataset).stem) or "data"
    stamp = time.strftime("%Y%m%d-%H%M%S", time.localtime(now))
    name = f"{dataset}-{settings.model.name}-{stamp}-{os.getpid()}"
    paths = (Path("runs") / (name + suffix) for suffix in ("", *(f"-{n}" for n in range(2, 100))))
    return next(path for path in paths if not path.exists())


def vacant(out: Path) -> None:
    """Refuse a place that a new run would overwrite.

    Raises:
        ConfigError: `out` is a file, or a directory that holds anything.
    """
    if out.is_dir():
        if any(out.iterdir()):
            raise ConfigError(
                f"{out} is not empty; name another directory with --out, or go on with --resume."
            )
    elif out.exists():
        raise ConfigError(f"{out} is a file; name a directory with --out.")


def manifest(settings: Settings, *, dataset: Mapping[str, object]) -> dict[str, Any]:
    """Describe a run by what decides it; nothing of the machine is in it.

    Args:
        settings: The run's settings.
        dataset: Public facts of the data: name, counts, digest.
    """
    return {
        "format": 1,
        "settings": settings.to_table(),
        "settings_digest": settings.digest(),
        "dataset": dict(dataset),
        "versions": {name: _version(name) for name in PACKAGES},
    }


def prepare(out: Path, described: Mapping[str, Any], *, resume: bool) -> None:
    """Create the run directory, or check that it belongs to this run and these data.

    Raises:
        ConfigError: The resumed run learned from other data.
        RunError: The directory cannot be written.
    """
    if resume:
        before = read_json(out / "manifest.json")["dataset"]
        if before.get("digest") != described["dataset"]["digest"]:
            raise ConfigError(f"The data changed since the run in {out} began; start a new run.")
        return
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"Cannot create {out}: {error.strerror}; name another --out.") from error
    write_json(out / "manifest.json", described)


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file.

    Raises:
        RunError: The file cannot be read as one JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read as JSON; start a new run.") from error
    if not isinstance(value, dict):
        raise RunError(f"{path} does not hold one JSON object; start a new run.")
    return value


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON file whole or not at all.

    Raises:
        RunError: The disk refuses.
        ValueError: A number is not finite.
    """
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all.

    Raises:
        RunError: The disk refuses.
    """
    beside = path.with_name(path.name + ".part")
    try:
        with beside.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise RunError(f"Cannot write {path}: {error.strerror}; free space or rights.") from error


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
