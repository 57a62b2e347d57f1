"""The evaluation contract: full ranking first, sampled ranking second, always with an interval.

A metric is named `metric@k` (every unseen item is a candidate) or `sampled_metric@k` (99 uniform
unseen items are). `extra` adds the list metrics `coverage@k` and `novelty@k`, and
`recall@k/popularity` and `recall@k/activity`, which split a recall by bucket.

Every query is one user, so the standard errors are over users.

Sources: Krichene & Rendle 2020 (full ranking first); Efron & Tibshirani 1993 (bootstrap).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from shared.data.interactions import Interactions
from shared.data.queries import Queries
from shared.errors import ConfigError
from shared.evaluation import metrics as measures
from shared.evaluation import ranking
from shared.randomness import stream

__all__ = ["Difference", "EvaluationConfig", "Scorer", "Scores", "compare", "evaluate"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Interval = tuple[float, float]
Method = Literal["normal", "bootstrap"]
Scorer = Callable[[Interactions], Floats]

_SAMPLED = "sampled_"
_LISTS = ("coverage", "novelty")
_BUCKETS = {"popularity": ("head", "middle", "tail"), "activity": ("light", "medium", "heavy")}
_RESAMPLES = 2000


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationConfig:
    """What is measured.

    Attributes:
        full: Metrics of the ranking of all unseen items.
        sampled: Metrics of the ranking among uniform unseen items; empty skips that ranking.
        extra: Further metrics of the full ranking; empty skips them.
        negatives: Uniform unseen items in the sampled ranking.
        draws: Draws of those items that the sampled metrics are averaged over.
        batch: Queries scored at once; bounds the memory.

    Raises:
        ConfigError: A metric is unknown or a number is not positive.
    """

    full: tuple[str, ...] = ("hit_rate@10", "ndcg@10", "recall@20", "ndcg@100")
    sampled: tuple[str, ...] = ("hit_rate@10", "ndcg@10")
    extra: tuple[str, ...] = (
        "precision@10",
        "f1@10",
        "mrr@10",
        "map@10",
        "coverage@10",
        "novelty@10",
        "recall@20/popularity",
        "recall@20/activity",
    )
    negatives: int = 99
    draws: int = 1
    batch: int = 512

    def __post_init__(self) -> None:
        for name in ("negatives", "draws", "batch"):
            if getattr(self, name) < 1:
                raise ConfigError(f"Expected evaluation.{name}={getattr(self, name)} >= 1.")
        for name in (*self.full, *self.sampled):
            _parse(name)
        for name in self.extra:
            if not _is_bucketed(name):
                _parse(name, also=_LISTS)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Scores:
    """What came out, per metric and per query.

    Attributes:
        metrics: Name -> mean over queries, the metrics of a result.
        extra: Name -> value of the further metrics.
        per_query: Name -> float64 [queries], for every metric that has a value per query.
        users: int64 [queries], who asked.
    """

    metrics: Mapping[str, float]
    extra: Mapping[str, float]
    per_query: Mapping[str, Floats] = field(repr=False)
    users: Ints = field(repr=False)

    @property
    def standard_errors(self) -> dict[str, float]:
        """Standard error of the mean over users, by metric."""
        return {name: _standard_error(values) for name, values in self.per_query.items()}

    def intervals(
        self, level: float = 0.95, *, method: Method = "normal", seed: int = 0
    ) -> dict[str, Interval]:
        """Return the confidence interval of every metric with a value per query.

        Args:
            level: Coverage, between 0 and 1.
            method: "normal" (mean and standard error) or "bootstrap" (percentiles over users).
            seed: Seed of the bootstrap.
        """
        names = list(self.per_query)
        values = [self.per_query[name] for name in names]
        return dict(zip(names, _intervals(values, level, method, seed), strict=True))

    def as_dict(self) -> dict[str, float]:
        """Return the metrics and the number of users, as a result file shows them."""
        return {**self.metrics, "users": len(self.users)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """One metric of `a` minus the same metric of `b`, paired by user.

    Attributes:
        mean: Mean difference over users.
        standard_error: Standard error of that mean.
        low: Lower end of the confidence interval.
        high: Upper end of the confidence interval.
    """

    mean: float
    standard_error: float
    low: float
    high: float

    @property
    def clear(self) -> bool:
        """True when the interval does not hold zero."""
        return self.low > 0.0 or self.high < 0.0


def evaluate(
    score: Scorer,
    queries: Queries,
    *,
    config: EvaluationConfig,
    seed: int,
    popularity: Floats | None = None,
) -> Scores:
    """Score every query and measure where its targets land.

    Args:
        score: Histories of a batch of queries -> float64 [rows, n_items], higher is better.
        queries: Known histories and held-out items.
        config: What is measured.
        seed: Names the draw of the sampled ranking's candidates.
        popularity: float64 [n_items], training events of each item; without it novelty and the
            popularity buckets are left out.

    Returns:
        Means and per-query values. A metric without any query is 0.

    Raises:
        ValueError: `score` returned another shape than [rows, n_items].
    """
    targets = ranking.target_matrix(queries.targets)
    draws = range(config.draws if config.sampled else 0)
    negatives = [
        ranking.sample_candidates(queries, n=config.negatives, seed=seed, draw=d) for d in draws
    ]
    full = np.empty_like(targets)
    sampled = [np.empty_like(targets) for _ in draws]
    lists = np.empty((len(queries), _list_length(config)), dtype=np.int64)
    for start in range(0, len(queries), config.batch):
        rows = np.arange(start, min(start + config.batch, len(queries)))
        histories = queries.histories.select(rows)
        values = _checked(score(histories), shape=(len(rows), histories.n_items))
        full[rows] = ranking.rank_full(values, histories, targets[rows])
        for ranks, drawn in zip(sampled, negatives, strict=True):
            ranks[rows] = ranking.rank_sampled(values, drawn[rows], targets[rows])
        if lists.shape[1]:
            lists[rows] = ranking.top_k(values, histories, lists.shape[1])
    primary = _measure(full, config.full) | _average(sampled, config.sampled)
    single = _measure(full, [name for name in config.extra if _is_plain(name)])
    novelties, extra = _list_metrics(lists, config.extra, queries, popularity)
    extra |= _bucketed(full, targets, config.extra, queries, popularity)
    return Scores(
        metrics={name: _mean(values) for name, values in primary.items()},
        extra={name: _mean(values) for name, values in (single | novelties).items()} | extra,
        per_query=primary | single | novelties,
        users=queries.users,
    )


def compare(
    a: Scores | Sequence[Scores],
    b: Scores | Sequence[Scores],
    *,
    level: float = 0.95,
    method: Method = "normal",
    seed: int = 0,
) -> dict[str, Difference]:
    """Return the paired difference `a - b` of every metric both have.

    Lists hold one `Scores` a seed: each user's values are averaged over the seeds first, so the
    interval is over users for the mean of these seeds. Seeds are not paired and may differ in
    number.

    Raises:
        ValueError: The two were not asked by the same users.
    """
    runs = [[s] if isinstance(s, Scores) else list(s) for s in (a, b)]
    users = np.sort(runs[0][0].users)
    left, right = (_over_seeds(side, users) for side in runs)
    names = [name for name in left if name in right]
    differences = [left[name] - right[name] for name in names]
    bounds = _intervals(differences, level, method, seed)
    return {
        name: Difference(mean=_mean(d), standard_error=_standard_error(d), low=low, high=high)
        for name, d, (low, high) in zip(names, differences, bounds, strict=True)
    }


def _parse(name: str, *, also: Sequence[str] = ()) -> tuple[str, int]:
    """Split "metric@k"."""
    metric, _, cut = name.partition("@")
    known = (*measures.METRICS, *also)
    if metric not in known or not cut.isdecimal() or int(cut) < 1:
        raise ConfigError(
            f"Expected evaluation metric {name!r} to be one of {', '.join(known)} "
            "followed by @ and a cut-off, such as ndcg@10."
        )
    return metric, int(cut)


def _is_bucketed(name: str) -> bool:
    metric, _, split = name.partition("/")
    return split in _BUCKETS and _parse(metric)[0] == "recall"


def _is_plain(name: str) -> bool:
    return "/" not in name and name.partition("@")[0] in measures.METRICS


def _list_length(config: EvaluationConfig) -> int:
    cuts = [_parse(n, also=_LISTS)[1] for n in config.extra if n.partition("@")[0] in _LISTS]
    return max(cuts, default=0)


def _checked(scores: Floats, *, shape: tuple[int, int]) -> Floats:
    if scores.shape != shape:
        raise ValueError(f"Expected scores of shape {shape}, found {scores.shape}.")
    return scores


def _measure(ranks: Ints, names: Sequence[str]) -> dict[str, Floats]:
    parsed = {name: _parse(name) for name in names}
    return {name: measures.METRICS[metric](ranks, k) for name, (metric, k) in parsed.items()}


def _average(draws: Sequence[Ints], names: Sequence[str]) -> dict[str, Floats]:
    measured = [_measure(ranks, names) for ranks in draws]
    return {_SAMPLED + n: np.mean([values[n] for values in measured], axis=0) for n in names}


def _list_metrics(
    lists: Ints, names: Sequence[str], queries: Queries, popularity: Floats | None
) -> tuple[dict[str, Floats], dict[str, float]]:
    """Return novelty per query and coverage of the whole."""
    novelties, coverages = {}, {}
    for name in names:
        metric, _, cut = name.partition("@")
        if metric == "coverage":
            head = lists[:, : int(cut)]
            coverages[name] = measures.coverage(head, n_items=queries.histories.n_items)
        elif metric == "novelty" and popularity is not None:
            novelties[name] = measures.novelty(lists[:, : int(cut)], popularity=popularity)
    return novelties, coverages


def _bucketed(
    ranks: Ints, targets: Ints, names: Sequence[str], queries: Queries, popularity: Floats | None
) -> dict[str, float]:
    """Return the recalls by bucket; a bucket without targets is left out."""
    found: dict[str, float] = {}
    for name in filter(_is_bucketed, names):
        metric, _, split = name.partition("/")
        if split == "activity":
            bucket = measures.activity_buckets(queries.histories.lengths)[:, None]
        elif popularity is not None:
            bucket = measures.popularity_buckets(popularity)[targets]
        else:
            continue
        means = measures.recall_by_bucket(ranks, bucket, _parse(metric)[1])
        labelled = zip(_BUCKETS[split], means.tolist(), strict=True)
        found |= {f"{name}={label}": mean for label, mean in labelled if not np.isnan(mean)}
    return found


def _mean(values: Floats) -> float:
    return float(values.mean()) if len(values) else 0.0


def _standard_error(values: Floats) -> float:
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0


def _intervals(
    columns: Sequence[Floats], level: float, method: Method, seed: int
) -> list[Interval]:
    if not 0.0 < level < 1.0:
        raise ConfigError(f"Expected level={level} of a confidence interval in (0, 1).")
    if method == "bootstrap" and columns and len(columns[0]):
        return _bootstrap(np.stack(columns, axis=1), level, seed)
    z = NormalDist().inv_cdf(0.5 + level / 2)
    centres = [(_mean(values), z * _standard_error(values)) for values in columns]
    return [(mean - half, mean + half) for mean, half in centres]


def _bootstrap(values: Floats, level: float, seed: int) -> list[Interval]:
    """Return percentile intervals of the column means of `values` [queries, columns]."""
    rng, n = stream(seed, "bootstrap"), len(values)
    means = np.empty((_RESAMPLES, values.shape[1]))
    for r in range(_RESAMPLES):
        means[r] = np.bincount(rng.integers(n, size=n), minlength=n) @ values / n
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return list(zip(low.tolist(), high.tolist(), strict=True))


def _over_seeds(runs: Sequence[Scores], users: Ints) -> dict[str, Floats]:
    """Return each metric's values in the order of `users`, averaged over the runs."""
    if not all(np.array_equal(np.sort(run.users), users) for run in runs):
        raise ValueError("Expected scores of the same users: evaluate both on the same queries.")
    orders = [np.argsort(run.users, kind="stable") for run in runs]
    names = [n for n in runs[0].per_query if all(n in run.per_query for run in runs)]
    return {
        n: np.mean([r.per_query[n][o] for r, o in zip(runs, orders, strict=True)], axis=0)
        for n in names
    }
