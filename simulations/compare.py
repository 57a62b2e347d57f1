"""Models x budgets x seeds, and central baselines, on the same users: one table, one figure.

Runs one after the other; each is kept in the directory of the comparison as soon as it is finished,
so a comparison that was interrupted, or is asked for more, runs only what is missing.

runs/     the run directory of each run
scores/   what each user asked got out of it, and out of each central baseline
"""

import hashlib
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared.config import Settings
from shared.data.queries import Split
from shared.data.sources import Dataset
from shared.data.splits import split as cut
from shared.errors import ConfigError
from shared.evaluation.buckets import Buckets, by_activity, by_popularity
from shared.evaluation.protocols import Scores, evaluate
from simulations.baselines.choice import Choice, choose, stochastic
from simulations.baselines.zoo import BASELINES, GRIDS
from simulations.directory import read_json, write_json
from simulations.display import Display
from simulations.lineup import Line
from simulations.options import settings_of
from simulations.run import load_dataset, measure
from simulations.scorebook import load_scores, save_scores
from simulations.standings import Row, standings

__all__ = ["compare"]

FLOOR = "private_popularity"
FLOOR_LABEL = "private popularity"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Field:
    """The data of one seed: what is learned from and what is asked."""

    dataset: Dataset = field(repr=False)
    split: Split = field(repr=False)
    counts: NDArray[np.float64] = field(repr=False)


def compare(
    *,
    lines: Sequence[Line],
    baselines: Sequence[str],
    reference: str | None,
    out: Path,
    display: Display,
) -> dict[str, Any]:
    """Run what is missing and put everything beside each other.

    Args:
        lines: Federated runs, as `lineup` composes them.
        baselines: Names of central baselines.
        reference: Row that differences are taken to; the first baseline, or else the first line.
        out: Directory of the comparison; finished runs in it are read, not run.
        display: Where notices are shown.

    Returns:
        The content of `compare.json`.

    Raises:
        ConfigError: A baseline or the reference is unknown, or `out` holds runs of another
            comparison.
        FedrecError: A run cannot be finished.
    """
    for name in baselines:
        stochastic(name)  # refuses an unknown name before anything runs
    names = [line.name for line in lines]
    floors = [f"{FLOOR_LABEL}@{line.budget}" for line in lines if line.epsilon is not None]
    known = [*baselines, *names, *dict.fromkeys(floors)]
    chosen = reference or known[0]
    if chosen not in known:
        raise ConfigError(f"No row is called {chosen!r}; use one of {', '.join(known)}.")
    fields = _fields(lines[0].runs, display)
    rows = [_central(name, lines[0], fields, out, display) for name in baselines]
    for number, line in enumerate(lines, 1):
        display.announce(f"line {number} of {len(lines)}: {line.name}")
        ours, floor = _federated(line, fields, out, display)
        rows.append(ours)
        if floor is not None and floor.name not in {row.name for row in rows}:
            rows.append(floor)
    data = next(iter(fields.values()))
    return {
        "format": 1,
        "dataset": _block(data.dataset),
        "protocol": lines[0].runs[0].protocol,
        "seeds": list(fields),
        **standings(rows, reference=chosen, parts={n: _buckets(f) for n, f in fields.items()}),
    }


def _fields(runs: Sequence[Settings], display: Display) -> dict[int, _Field]:
    """Load the data of every seed; seeds share them unless data or split depend on the seed."""
    fields: dict[int, _Field] = {}
    for settings in runs:
        first = next(iter(fields.values()), None)
        shared = first is not None and not first.dataset.synthetic
        if first is not None and shared and settings.protocol != "strong":
            fields[settings.seed] = first
            continue
        dataset = load_dataset(settings, display)
        table = dataset.interactions
        parts = cut(table, settings.protocol, settings.seed)
        counts = np.bincount(parts.train.items, minlength=table.n_items).astype(np.float64)
        fields[settings.seed] = _Field(dataset=dataset, split=parts, counts=counts)
    return fields


def _federated(
    line: Line, fields: Mapping[int, _Field], out: Path, display: Display
) -> tuple[Row, Row | None]:
    """Return the row of a line, and that of private popularity at its budget."""
    done = {run.seed: _run(line, run, fields[run.seed], out, display) for run in line.runs}
    results = [result for _, result in done.values()]
    privacy, settings = results[0]["privacy"], line.runs[0]
    about = {
        "model": settings.model.name,
        "algorithm": settings.algorithm.name,
        "epsilon": line.epsilon,
        **{key: privacy[key] for key in ("unit", "trust", "delta", "private")},
    }
    scores = {seed: found["test"] for seed, (found, _) in done.items()}
    ours = Row(
        name=line.name, label=line.label, kind="federated", about=about,
        cost=_cost(results, settings.training.cohort), scores=scores,
    )  # fmt: skip
    counted = {seed: found[FLOOR] for seed, (found, _) in done.items() if FLOOR in found}
    if len(counted) < len(done):
        return ours, None
    floor = Row(
        name=f"{FLOOR_LABEL}@{line.budget}", label=FLOOR_LABEL, kind="floor",
        about=about | {"model": "popularity", "algorithm": "popularity"}, cost={}, scores=counted,
    )  # fmt: skip
    return ours, floor


def _run(
    line: Line, settings: Settings, data: _Field, out: Path, display: Display
) -> tuple[dict[str, Scores], dict[str, Any]]:
    """Return scores and result of one run, which is run if it is not there yet."""
    name = f"{line.name}-seed{settings.seed}"
    place, book = out / "runs" / name, out / "scores" / f"{name}.safetensors"
    begun = (place / "manifest.json").exists()
    if begun:
        _same(place, settings, data.dataset.digest)
    if begun and book.exists():
        return load_scores(book)[0], read_json(place / "result.json")
    display.announce(f"  seed {settings.seed}")
    answer = place / "result.json"
    before = read_json(answer) if answer.exists() else None
    with Display(silent=True) as silent:
        scores, result = measure(settings=settings, out=place, resume=begun, display=silent)
    if before is not None:
        # Nothing was learned this time, so what the run cost is what it said before.
        result |= {"cost": before["cost"]}
        write_json(answer, result)
    save_scores(book, scores, note={})
    return scores, result


def _same(place: Path, settings: Settings, digest: str) -> None:
    """Refuse a run of another comparison, or on other data."""
    manifest = read_json(place / "manifest.json")
    if settings_of(place) != settings or manifest["dataset"]["digest"] != digest:
        raise ConfigError(
            f"{place} holds a run with other settings or on other data; name another --out."
        )


def _cost(results: Sequence[Mapping[str, Any]], cohort: float) -> dict[str, float | None]:
    """Return what a device and the machine paid, averaged over seeds."""

    def mean(key: str) -> float:
        return statistics.fmean(result["cost"][key] for result in results)

    rounds = statistics.fmean(result["rounds"] for result in results)
    speed = mean("client_updates_per_core_second")
    return {
        "rounds": rounds,
        "bytes_up_per_user": mean("bytes_up_per_user"),
        "bytes_down_per_user": mean("bytes_down_per_user"),
        "device_seconds": rounds * cohort / speed if speed else None,
        "seconds": mean("seconds"),
    }


def _central(
    name: str, line: Line, fields: Mapping[int, _Field], out: Path, display: Display
) -> Row:
    """Return the row of a baseline.

    Without anything random it is trained once, but measured under every seed, which names the
    candidates of the sampled ranking.
    """
    scores, notes = {}, []
    trained: dict[tuple[int, int | None], Choice] = {}
    for settings in line.runs:
        data = fields[settings.seed]
        book = out / "scores" / f"central-{name}-seed{settings.seed}.safetensors"
        key = _key(name, settings, data)
        kept = load_scores(book) if book.exists() else ({}, {})
        if kept[1].get("key") != key:
            which = (id(data), settings.seed if stochastic(name) else None)
            if which not in trained:
                display.announce(f"central {name}, seed {settings.seed}")
                batch = settings.evaluation.batch
                trained[which] = choose(name, data.split, seed=settings.seed, batch=batch)
            kept = _measured(trained[which], settings, data, key)
            save_scores(book, kept[0], note=kept[1])
        scores[settings.seed] = kept[0]["test"]
        notes.append(kept[1])
    about: dict[str, Any] = {"model": name, "algorithm": "central", "epsilon": None, "unit": "none"}
    about |= {"trust": None, "delta": None, "private": False, **_tried(notes)}
    cost = {"seconds": statistics.fmean(note["seconds"] for note in notes)}
    return Row(name=name, label=name, kind="central", about=about, cost=cost, scores=scores)


def _tried(notes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {"settings": [note["settings"] for note in notes], "tried": notes[0]["tried"]}


def _key(name: str, settings: Settings, data: _Field) -> str:
    """Return a digest of all that decides a baseline's scores."""
    asked = [
        name, settings.seed, settings.protocol, data.dataset.digest, repr(settings.evaluation),
        repr(GRIDS.get(name) or BASELINES[name][0]()),
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()


def _measured(
    choice: Choice, settings: Settings, data: _Field, key: str
) -> tuple[dict[str, Scores], dict[str, Any]]:
    """Return a baseline's scores on test, and the note that is kept with them."""
    found = evaluate(
        choice.score,
        data.split.test,
        config=settings.evaluation,
        seed=settings.seed,
        popularity=data.counts,
    )
    note = {"key": key, "settings": choice.settings, "tried": choice.tried}
    return {"test": found}, note | {"seconds": choice.seconds}


def _buckets(data: _Field) -> dict[str, Buckets]:
    asked = data.split.test
    return {"activity": by_activity(asked), "popularity": by_popularity(asked, data.counts)}


def _block(dataset: Dataset) -> dict[str, Any]:
    """Return the public facts of the data."""
    table = dataset.interactions
    return {
        "name": dataset.name,
        "users": table.n_users,
        "items": table.n_items,
        "interactions": len(table),
        "digest": dataset.digest,
        "synthetic": dataset.synthetic,
    }
