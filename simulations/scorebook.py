"""Scores of every user asked, kept in a file so that a finished run is not run again.

A simulation may keep them: it holds the raw held-out data anyway. No device sends them.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared.errors import RunError
from shared.evaluation.protocols import Scores

__all__ = ["load_scores", "save_scores"]

Note = dict[str, Any]


def save_scores(path: Path, scores: Mapping[str, Scores], *, note: Mapping[str, Any]) -> None:
    """Write scores by name, and a note that JSON can hold, whole or not at all.

    Raises:
        RunError: The disk refuses.
    """
    from safetensors.numpy import save

    tensors: dict[str, NDArray[Any]] = {}
    means = {}
    for name, one in scores.items():
        tensors[f"{name}\tusers"] = one.users
        tensors |= {f"{name}\t{m}": np.ascontiguousarray(v) for m, v in one.per_query.items()}
        means[name] = {"metrics": dict(one.metrics), "extra": dict(one.extra)}
    words = {"note": json.dumps(dict(note)), "means": json.dumps(means)}
    beside = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_bytes(save(tensors, metadata=words))
        beside.replace(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise RunError(f"Cannot write {path}: {error.strerror}; free space or rights.") from error


def load_scores(path: Path) -> tuple[dict[str, Scores], Note]:
    """Return what `save_scores` wrote.

    Raises:
        RunError: The file cannot be read as scores.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            words = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        means, note = json.loads(words["means"]), json.loads(words["note"])
        scores = {
            name: Scores(
                metrics=mean["metrics"],
                extra=mean["extra"],
                per_query={
                    metric: values
                    for who, _, metric in (key.partition("\t") for key in tensors)
                    if who == name and metric != "users"
                    for values in (tensors[f"{who}\t{metric}"],)
                },
                users=tensors[f"{name}\tusers"],
            )
            for name, mean in means.items()
        }
    except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:
        raise RunError(f"{path} cannot be read as scores; delete it and start again.") from error
    return scores, note
