"""A baseline with the best of its settings: chosen on validation, never on test."""

import time
from dataclasses import asdict, dataclass, field
from typing import Any

from shared.data.queries import Split
from shared.errors import ConfigError
from shared.evaluation.protocols import EvaluationConfig, Scorer, evaluate
from simulations.baselines.zoo import BASELINES, GRIDS

__all__ = ["Choice", "choose", "stochastic"]

METRIC = "ndcg@10"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Choice:
    """A trained baseline.

    Attributes:
        score: Histories -> float64 [rows, n_items].
        settings: Those it was trained with.
        tried: Settings that were compared on validation; 1 means none were.
        seconds: Processor time of training and choosing.
    """

    score: Scorer = field(repr=False)
    settings: dict[str, Any]
    tried: int
    seconds: float


def stochastic(name: str) -> bool:
    """Return whether a baseline depends on its seed.

    Raises:
        ConfigError: The name is unknown.
    """
    return bool(_known(name)[0].stochastic)


def choose(name: str, split: Split, *, seed: int, batch: int = 512) -> Choice:
    """Train a baseline on a split's training part, with the settings best on its validation.

    Args:
        name: Key of `BASELINES`.
        split: Whose test queries are not looked at.
        seed: Of whatever is random in the method.
        batch: Queries scored at once.

    Raises:
        ConfigError: The name is unknown.

    Guarantees:
        test queries choose nothing: another test part gives the same scorer.
    """
    kind, fit = _known(name)
    grid = GRIDS.get(name) or (kind(),)
    began = time.process_time()
    measured = EvaluationConfig(full=(METRIC,), sampled=(), extra=(), batch=batch)
    chosen = fit(split.train, config=grid[0], seed=seed)
    settings, most = grid[0], _value(chosen, split, measured, seed) if grid[1:] else 0.0
    for config in grid[1:]:
        score = fit(split.train, config=config, seed=seed)
        value = _value(score, split, measured, seed)
        if value > most:
            chosen, settings, most = score, config, value
    return Choice(
        score=chosen,
        settings=asdict(settings),
        tried=len(grid),
        seconds=time.process_time() - began,
    )


def _value(score: Scorer, split: Split, config: EvaluationConfig, seed: int) -> float:
    return evaluate(score, split.validation, config=config, seed=seed).metrics[METRIC]


def _known(name: str) -> tuple[Any, Any]:
    if name not in BASELINES:
        raise ConfigError(f"The baseline {name!r} is unknown; use {', '.join(BASELINES)}.")
    return BASELINES[name]
