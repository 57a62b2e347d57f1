"""One run: load, split, federate, evaluate, compare with popularity, write the answer down."""

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared.config import Settings
from shared.data.interactions import Interactions
from shared.data.queries import Queries, Split
from shared.data.sources import Dataset, load
from shared.data.splits import split as cut
from shared.errors import ConfigError
from shared.evaluation.protocols import EvaluationConfig, Scores, evaluate
from shared.models.base import Model, Tensors
from shared.models.zoo import public_features
from shared.privacy.plan import Unit
from simulations.cost import Meter, peak_rss_mb
from simulations.directory import default_name, manifest, prepare, read_json, vacant, write_json
from simulations.display import Display
from simulations.federation import Federation, Learned
from simulations.report.page import write_report
from simulations.spending import check_claim, privacy_block

__all__ = ["load_dataset", "measure", "simulate"]

Floats = NDArray[np.float64]
Scorer = Callable[[Interactions], Floats]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Job:
    """What every part of one run reads.

    Attributes:
        settings: Of the run.
        dataset: The population.
        split: Training histories and queries.
        popularity: float64 [n_items], training events of each item.
    """

    settings: Settings
    dataset: Dataset = field(repr=False)
    split: Split = field(repr=False)
    popularity: Floats = field(repr=False)

    def measure(self, score: Scorer, queries: Queries) -> Scores:
        """Evaluate one scorer under the run's contract."""
        return evaluate(
            score,
            queries,
            config=self.settings.evaluation,
            seed=self.settings.seed,
            popularity=self.popularity,
        )


def simulate(
    *, settings: Settings, out: Path | None, resume: bool, display: Display
) -> dict[str, Any]:
    """Run a simulated federation and return the content of `result.json`.

    A finished run that is resumed returns the result it has. Arguments and errors are those of
    `measure`.
    """
    if resume and out is not None and (out / "result.json").exists():
        return read_json(out / "result.json")
    _, result = measure(settings=settings, out=out, resume=resume, display=display)
    return result


def measure(
    *, settings: Settings, out: Path | None, resume: bool, display: Display
) -> tuple[dict[str, Scores], dict[str, Any]]:
    """Run a simulated federation, write its run directory and return what was measured.

    Args:
        settings: Of the run.
        out: Run directory; a name with the time if absent.
        resume: Go on with the run in `out`.
        display: Where progress and notices are shown.

    Returns:
        Scores of every user asked ("test" is the model's, the baselines have their names), and
        the content of `result.json`.

    Raises:
        InputError: Settings or data cannot be used; the run directory is untouched.
        BudgetError: The devices refuse, for their budget is spent.
        RunError: The run cannot go on.
        VerificationError: The two accountants disagree; nothing was spent.
    """
    meter = Meter()
    place = out if out is not None else default_name(settings, now=time.time())
    if not resume:
        vacant(place)
    job = _load(settings, display)
    content = job.dataset.content
    federation = Federation(
        settings=settings,
        split=job.split,
        catalogue=job.dataset.items.digest,
        features=None if content is None else public_features(content, settings.model.settings),
    )
    check_claim(federation.plan)
    prepare(place, manifest(settings, dataset=_dataset_block(job)), resume=resume)
    display.announce(f"run directory: {place}")
    display.begin(federation.plan.rounds)
    try:
        learned = federation.learn(out=place, resume=resume, display=display, meter=meter)
        scores = _scores(job, federation, learned)
        result = _result(job, federation, learned, scores, meter)
    except KeyboardInterrupt:
        display.announce(f"To go on: fedrec simulate --resume --out {place}")
        raise
    write_json(place / "result.json", result)
    write_report(place)
    return scores, result


def load_dataset(settings: Settings, display: Display) -> Dataset:
    """Return the data set that the settings name; what was done to get it is shown.

    Raises:
        DataError: It cannot be had or used.
    """
    data = settings.data
    return load(
        data.dataset,
        items=data.items,
        cleaning=data.cleaning,
        columns=data.columns,
        seed=settings.seed,
        announce=display.announce,
    )


def _load(settings: Settings, display: Display) -> _Job:
    """Read and split the data, and refuse what cannot be measured on it."""
    dataset = load_dataset(settings, display)
    table = dataset.interactions
    _check_cut_offs(settings.evaluation, table.n_items)
    parts = cut(table, settings.protocol, settings.seed)
    counts = np.bincount(parts.train.items, minlength=table.n_items).astype(np.float64)
    return _Job(settings=settings, dataset=dataset, split=parts, popularity=counts)


def _check_cut_offs(config: EvaluationConfig, n_items: int) -> None:
    """Refuse a cut-off or a sample that the catalogue cannot fill."""
    full = [("full", name) for name in config.full] + [("extra", name) for name in config.extra]
    sizes = [(key, name, n_items) for key, name in full]
    sizes += [("sampled", name, config.negatives + 1) for name in config.sampled]
    long = [
        f"evaluation.{key} {name} of {size} candidates"
        for key, name, size in sizes
        if int(name.partition("@")[2].partition("/")[0]) > size
    ]
    if config.sampled and config.negatives >= n_items:
        long.append(f"evaluation.negatives={config.negatives} of {n_items} items")
    if long:
        raise ConfigError(
            f"The catalogue is too small for {'; '.join(long)}; set smaller ones with --set."
        )


def _scores(job: _Job, federation: Federation, learned: Learned) -> dict[str, Scores]:
    """Measure the model and its baselines, each on the same users."""
    scorers = {
        "test": _scorer(federation.algorithm.model, learned.tensors),
        "popularity": _popularity(job.popularity),
    }
    if job.settings.privacy.unit is not Unit.NONE:
        scorers["private_popularity"] = _private_popularity(job)
    return {name: job.measure(score, job.split.test) for name, score in scorers.items()}


def _result(
    job: _Job,
    federation: Federation,
    learned: Learned,
    scores: dict[str, Scores],
    meter: Meter,
) -> dict[str, Any]:
    """Put the answer together."""
    settings, plan = job.settings, federation.plan
    ours = _scorer(federation.algorithm.model, learned.tensors)
    return {
        "dataset": _dataset_block(job),
        "protocol": settings.protocol,
        "model": settings.model.name,
        "algorithm": settings.algorithm.name,
        "rounds": learned.rounds,
        "seed": settings.seed,
        "test": _block(scores["test"]),
        "validation": _block(job.measure(ours, job.split.validation)),
        "measured_by_devices": learned.measured or None,
        "baselines": {name: _block(scores.get(name)) for name in BASELINES},
        "privacy": privacy_block(plan, spends=learned.spends, head=learned.head),
        "cost": {
            "seconds": meter.seconds,
            "client_updates_per_core_second": meter.updates_per_core_second,
            "bytes_up_per_user": learned.bytes_up,
            "bytes_down_per_user": learned.bytes_down,
            "bytes_of_model": sum(4 * value.size for value in learned.tensors.values()),
            "peak_rss_mb": peak_rss_mb(),
        },
        "confidence": {
            name: scores[name].intervals() if name in scores else None
            for name in ("test", *BASELINES)
        },
    }


BASELINES = ("popularity", "private_popularity")


def _private_popularity(job: _Job) -> Scorer:
    """Release counts once, through the same grid, under the same unit, trust and epsilon."""
    table = job.settings.to_table()
    table |= {"model": {"name": "popularity"}, "algorithm": {"name": "popularity"}}
    table["training"] |= {"rounds": 1, "cohort": 1.0}
    plain = {"metrics_share": 0.0, "clip_quantile": 0.0, "separation": 1, "bands": 0}
    table["privacy"] |= plain
    settings = Settings.from_table(table)
    catalogue = job.dataset.items.digest
    federation = Federation(settings=settings, split=job.split, catalogue=catalogue)
    with tempfile.TemporaryDirectory() as place, Display(silent=True) as display:
        learned = federation.learn(out=Path(place), resume=False, display=display, meter=Meter())
    return _scorer(federation.algorithm.model, learned.tensors)


def _scorer(model: Model, tensors: Tensors) -> Scorer:
    return lambda histories: model.score(tensors, histories)


def _popularity(counts: Floats) -> Scorer:
    return lambda histories: np.broadcast_to(counts, (histories.n_users, len(counts)))


def _block(scores: Scores | None) -> dict[str, float] | None:
    """Return every metric by name, and how many users were asked."""
    if scores is None:
        return None
    return {**scores.metrics, **scores.extra, "users": len(scores.users)}


def _dataset_block(job: _Job) -> dict[str, Any]:
    """Return the public facts of the data."""
    dataset = job.dataset
    return {
        "name": dataset.name,
        "users": dataset.interactions.n_users,
        "items": dataset.interactions.n_items,
        "interactions": len(dataset.interactions),
        "digest": dataset.digest,
        "synthetic": dataset.synthetic,
    }
