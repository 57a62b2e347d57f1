"""A recommender that learned from nobody, and scores above .9: the flaw is in its sampler.

Published federated recommenders draw a user's negatives from the items that are in none of their
training, validation *and test* events. So the held-out item is the one unseen item that is never a
negative. Here a device does nothing but count how often it drew each item, and scores an item by
minus that count: no model, no federation, no other user. Equal counts are parted by lot, since a
lottery is what chance means here. Against 99 sampled candidates

    flawed   negatives avoid training, validation and test: the answer is what was never drawn
    honest   negatives avoid training only, as our sampler does: chance, .10

Run:

    python -m simulations.benchmarks.sampling_leak PATH [--rounds 100] [--seed 0]

PATH is a file, a folder or a known name (`synthetic` needs no data). One JSON object goes to
stdout; the exit code is 4 unless the flawed sampler passes .9 and the honest one is at chance.

Source: the sampler of PFedRec's `data.py`, which GPFedRec, FedRAP and FedCA share.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared.algorithms.negatives import unmet_items
from shared.data.interactions import Interactions
from shared.data.queries import Queries
from shared.data.sources import load
from shared.data.splits import leave_last_out
from shared.errors import FedrecError, VerificationError
from shared.evaluation.metrics import hit_rate
from shared.evaluation.ranking import rank_sampled, sample_candidates, target_matrix
from shared.randomness import stream

__all__ = ["CHANCE", "LEAK", "leak", "main"]

LEAK = 0.9
"""What the flawed sampler must pass for the leak to be shown."""

CHANCE = 0.10
"""Sampled hit rate@10 of someone who guesses among 100 candidates."""

ERRORS = 4.0
"""Standard errors that the honest sampler may lie from chance: a false alarm in 15,000 runs."""

NEGATIVES = 4
"""Negatives a training event and round, as in the published code."""

SHOWN = (1, 5, 20, 50, 100, 200, 500)


def leak(interactions: Interactions, *, rounds: int, seed: int) -> dict[str, Any]:
    """Return the sampled hit rate@10 of counting alone, under both samplers.

    Args:
        interactions: Cleaned events of everyone.
        rounds: Rounds in which each device draws 4 negatives a training event.
        seed: Names the draws and the candidates.

    Returns:
        "flawed" and "honest", each round -> hit rate, "users", "standard_error" of chance, and
        "shown": whether the last round is above .9 and within 4 standard errors of .10.
    """
    parts = leave_last_out(interactions)
    asked = parts.test
    found = {
        "flawed": _course(parts.train, interactions, asked, rounds, seed),
        "honest": _course(parts.train, parts.train, asked, rounds, seed),
    }
    error = float(np.sqrt(CHANCE * (1 - CHANCE) / len(asked)))
    last = {name: values[rounds] for name, values in found.items()}
    shown = last["flawed"] > LEAK and abs(last["honest"] - CHANCE) < ERRORS * error
    return {**found, "users": len(asked), "standard_error": error, "shown": bool(shown)}


def _course(
    train: Interactions, avoided: Interactions, asked: Queries, rounds: int, seed: int
) -> dict[int, float]:
    """Count draws round by round; return round -> hit rate of the counts.

    Args:
        train: How many negatives each user draws: 4 an event.
        avoided: What the sampler avoids, one row a user. This is the whole difference.
        asked: Test queries.
        rounds: How many.
        seed: Of draws and candidates.
    """
    n = train.n_items
    owner = np.repeat(train.users, NEGATIVES)
    counts = np.zeros((train.n_users, n), dtype=np.int32)
    candidates = sample_candidates(asked, n=99, seed=seed)
    targets = target_matrix(asked.targets)
    found = {}
    for number in range(1, rounds + 1):
        chances = stream(seed, "leak", number).random(len(owner))
        drawn = unmet_items(chances, owner=owner, training=avoided)
        counts += np.bincount(owner * n + drawn, minlength=counts.size).reshape(counts.shape)
        if number in SHOWN or number == rounds:
            lots = stream(seed, "leak ties", number).random((len(asked), n))
            scores = -(counts[asked.users] + lots)
            found[number] = _hit_rate(scores, candidates, targets)
    return found


def _hit_rate(
    scores: NDArray[np.float64], candidates: NDArray[np.int64], targets: NDArray[np.int64]
) -> float:
    """Return the mean hit rate@10."""
    ranks = rank_sampled(scores, candidates, targets)
    return float(hit_rate(ranks, 10).mean())


def main(arguments: Sequence[str] | None = None) -> int:
    """Show the leak on one data set; return the exit code."""
    parser = argparse.ArgumentParser(description="A sampler that tells the answer.")
    parser.add_argument("path", help="data file or folder, or a known name such as synthetic")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    if given.rounds < 1:
        parser.error("--rounds must be at least 1")
    began = time.process_time()
    try:
        dataset = load(given.path, seed=given.seed)
        found = leak(dataset.interactions, rounds=given.rounds, seed=given.seed)
    except FedrecError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    about = {"dataset": dataset.name, "synthetic": dataset.synthetic, "rounds": given.rounds}
    spent = {"cpu_seconds": round(time.process_time() - began, 1)}
    sys.stdout.write(json.dumps(about | found | spent) + "\n")
    return 0 if found["shown"] else VerificationError.exit_code


if __name__ == "__main__":
    sys.exit(main())
