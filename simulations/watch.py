"""What a simulation does between rounds: validate, keep the best model, show progress, count time.

Validation looks at held-out items, which only a simulation has in one place. It stops a run only
where nothing is protected; in a private run it is shown and recorded, and decides nothing.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from server.journal import RoundReport
from server.record import Companions
from shared.config import TrainingConfig
from shared.data.queries import Queries
from shared.evaluation.protocols import EvaluationConfig, evaluate
from shared.models.base import Model, Tensors
from simulations.cost import Meter
from simulations.display import Display

__all__ = ["Watch"]

Arrays = Mapping[str, NDArray[Any]]
SCORE = "ndcg@10"
WATCHED = EvaluationConfig(full=(SCORE, "hit_rate@10"), sampled=(), extra=())


class Watch:
    """The observer of one run, and the part of its checkpoints that is not the server's.

    Guarantees:
        The kept model is the last one, or with patience the one that validated best.
        A resumed run stops where the uninterrupted one would have.

    Args:
        training: How often to validate, and the patience.
        model: Scores from the global tensors.
        queries: The validation queries.
        devices: Simulated devices, whose memory goes into the same checkpoints.
        display: Where progress is shown.
        meter: Counts processor time between rounds.
    """

    def __init__(
        self,
        *,
        training: TrainingConfig,
        model: Model,
        queries: Queries,
        devices: Companions,
        display: Display,
        meter: Meter,
    ) -> None:
        self._training = training
        self._model = model
        self._queries = queries
        self._devices = devices
        self._display = display
        self._meter = meter
        self._history: dict[int, float] = {}
        self._best: Tensors = {}
        self.last: RoundReport | None = None

    def __call__(self, report: RoundReport) -> bool:
        """Look at a round; True stops the run."""
        self._meter.pause(updates=report.users)
        self.last = report
        over = self._impatient()
        score = None if over else self._validate(report)
        protected = np.isfinite(report.epsilon)
        self._display.advance(
            done=report.round, score=score, epsilon=report.epsilon if protected else None
        )
        self._meter.go()
        return over or self._impatient()

    @property
    def tensors(self) -> Tensors:
        """The model that the run ends with."""
        if self._training.patience and self._best:
            return self._best
        return {} if self.last is None else self.last.state.tensors

    @property
    def best_round(self) -> int:
        """The round that validated best; 0 before any."""
        return max(self._history, key=lambda r: (self._history[r], -r), default=0)

    def snapshot(self) -> dict[str, NDArray[Any]]:
        """Return the devices' memory, the validation scores and the best model."""
        rounds = sorted(self._history)
        history = np.array([(r, self._history[r]) for r in rounds], dtype=np.float64)
        arrays = {f"devices/{name}": value for name, value in self._devices.snapshot().items()}
        arrays |= {f"best/{name}": value for name, value in self._best.items()}
        return arrays | {"history": history.reshape(-1, 2)}

    def restore(self, arrays: Arrays) -> None:
        """Go back to a snapshot."""
        self._devices.restore(_inside(arrays, "devices/"))
        self._best = _inside(arrays, "best/")
        self._history = {int(r): float(score) for r, score in arrays["history"]}

    def _validate(self, report: RoundReport) -> float | None:
        """Score the validation queries when it is time; keep the best model if that matters."""
        last = report.round == report.rounds
        due = last or report.round % self._training.validate_every == 0
        if not due:
            return None
        scores = evaluate(
            lambda histories: self._model.score(report.state.tensors, histories),
            self._queries,
            config=WATCHED,
            seed=0,
        )
        report.notes.update({f"validation_{k}": v for k, v in scores.metrics.items()})
        self._history[report.round] = scores.metrics[SCORE]
        if self._training.patience and self.best_round == report.round:
            self._best = dict(report.state.tensors)
        return scores.metrics[SCORE]

    def _impatient(self) -> bool:
        """Whether the last `patience` validations were no better than the best before them."""
        since = sum(1 for r in self._history if r > self.best_round)
        return 0 < self._training.patience <= since


def _inside(arrays: Arrays, prefix: str) -> dict[str, NDArray[Any]]:
    return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}
