"""Check the evaluation protocol against numbers measured by another implementation.

Popularity by raw counts of the training part needs no seed and no tuning, so under leave-last-out
(stable file order, the validation item known at test time, ties against us) its score is a
property of the data and the protocol alone:

    ML-100K  hit_rate@10 0.0838  ndcg@10 0.0432
    ML-1M    hit_rate@10 0.0369  ndcg@10 0.0180   (the SASRec file, 6,040 x 3,416)

A difference above 0.0005 means another protocol. Run:

    python -m simulations.benchmarks.protocol_oracle PATH [PATH ...]

One JSON object goes to stdout; the exit code is 4 when a known data set differs.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence

import numpy as np

from shared.algorithms.popularity import Popularity
from shared.data.sources import Dataset, load
from shared.data.splits import split
from shared.errors import FedrecError, VerificationError
from shared.evaluation.protocols import EvaluationConfig, evaluate

__all__ = ["EXPECTED", "TOLERANCE", "main", "measure"]

EXPECTED = {
    (943, 1682, 100_000): {"hit_rate@10": 0.0838, "ndcg@10": 0.0432},
    (6040, 3416, 999_611): {"hit_rate@10": 0.0369, "ndcg@10": 0.0180},
}
"""(users, items, interactions) of a data set -> what popularity scores on it."""

TOLERANCE = 0.0005


def measure(dataset: Dataset, *, seed: int = 0) -> dict[str, object]:
    """Return popularity's test scores, the seconds they took, and whether they are as expected.

    Args:
        dataset: Cleaned interactions.
        seed: Names the candidates of the sampled ranking; the full ranking does not depend on it.
    """
    began = time.process_time()
    parts = split(dataset.interactions, "leave-last-out", seed)
    shape = (dataset.interactions.n_users, dataset.interactions.n_items, len(dataset.interactions))
    counts = np.bincount(parts.train.items, minlength=shape[1]).astype(np.float64)
    model = Popularity(n_items=shape[1]).model
    scores = evaluate(
        lambda histories: model.score({"counts": counts}, histories),
        parts.test,
        config=EvaluationConfig(),
        seed=seed,
        popularity=counts,
    )
    expected = EXPECTED.get(shape)
    return {
        "dataset": dict(zip(("users", "items", "interactions"), shape, strict=True)),
        "test": scores.as_dict(),
        "extra": dict(scores.extra),
        "expected": expected,
        "agrees": expected
        and all(abs(scores.metrics[name] - value) <= TOLERANCE for name, value in expected.items()),
        "cpu_seconds": round(time.process_time() - began, 3),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure every path; return the exit code."""
    parser = argparse.ArgumentParser(description="Popularity as the oracle of the protocol.")
    parser.add_argument("paths", nargs="+", help="data files or folders, or known names")
    try:
        paths = parser.parse_args(arguments).paths
        report = {path: measure(load(path)) for path in paths}
    except FedrecError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    sys.stdout.write(json.dumps(report) + "\n")
    differs = any(result["agrees"] is False for result in report.values())
    return VerificationError.exit_code if differs else 0


if __name__ == "__main__":
    sys.exit(main())
