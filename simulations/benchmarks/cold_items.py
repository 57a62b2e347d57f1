"""Items that nobody met in training: does their text rank them?

    python -m simulations.benchmarks.cold_items PATH-OF-ML-100K
    python -m simulations.benchmarks.cold_items synthetic --rounds 50

A tenth of the catalogue, drawn by lot, is taken out of every history and of the catalogue that is
trained on; the two towers are trained without protection on what is left; then the items come back
with their text alone. A user's last removed event is the query: the events before it ask (nothing
later was trained on), and the answer is ranked twice, among the removed items that the user had
not met, and among all items that the user had not met.

Beside the towers: the same model before any round (likeness of texts), chance, popularity (all
removed items have count 0, so among them it is chance, and among all items it finds none), and the
true counts of the removed items, which nobody has.
"""

import argparse
import json
import sys
import tempfile
import time
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared.config import Settings
from shared.data.interactions import Interactions
from shared.data.queries import Queries, Split
from shared.data.sources import Dataset, load
from shared.data.texts import encode, item_texts
from shared.errors import DataError, FedrecError
from shared.evaluation.metrics import hit_rate, ndcg
from shared.evaluation.ranking import rank_full
from shared.models.base import Tensors
from shared.models.two_tower import TwoTowerModel, with_new_items
from shared.randomness import stream
from simulations.cost import Meter
from simulations.display import Display
from simulations.federation import Federation

__all__ = ["Cold", "cold_split", "main", "measure"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

EXPERIMENT = Path(__file__).parents[1] / "experiments" / "two_tower.toml"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Cold:
    """A population without its cold items, and the queries for them.

    Attributes:
        warm: int64 [warm items], their indices in the whole catalogue.
        cold: int64 [cold items], those of the others.
        train: Histories over the warm items, by their place in `warm`.
        known: One row a query, what the user met before, over the warm items.
        met: One row a query, all that the user met before, over warm items, then cold ones.
        answers: int64 [queries, 1], place of each removed item behind the warm ones.
    """

    warm: Ints
    cold: Ints
    train: Interactions = field(repr=False)
    known: Interactions = field(repr=False)
    met: Interactions = field(repr=False)
    answers: Ints = field(repr=False)


def cold_split(table: Interactions, *, share: float, seed: int) -> Cold:
    """Take a share of the items out of every history.

    Args:
        table: Everyone's events, in time order.
        share: Of the items, in (0, 1).
        seed: Names the draw.

    Raises:
        DataError: Nobody met a removed item.

    Guarantees:
        no removed item, and nothing after a query, is trained on.
    """
    is_cold = stream(seed, "cold items").random(table.n_items) < share
    warm, cold = np.flatnonzero(~is_cold), np.flatnonzero(is_cold)
    place = np.empty(table.n_items, dtype=np.int64)
    place[np.concatenate([warm, cold])] = np.arange(table.n_items)
    train: list[list[int]] = []
    met: list[list[int]] = []
    answers = []
    for user in range(table.n_users):
        items = place[table.history(user)]
        late = np.flatnonzero(items >= len(warm))
        before = items[: late[-1]] if len(late) else items
        train.append(before[before < len(warm)].tolist())
        if len(late) and train[-1]:
            met.append(before.tolist())
            answers.append(int(items[late[-1]]))
    if not answers:
        raise DataError("Nobody met a removed item after another; take more items or users.")
    known = [[item for item in row if item < len(warm)] for row in met]
    return Cold(
        warm=warm,
        cold=cold,
        train=Interactions.from_histories(train, n_items=len(warm)),
        known=Interactions.from_histories(known, n_items=len(warm)),
        met=Interactions.from_histories(met, n_items=table.n_items),
        answers=np.array(answers, dtype=np.int64)[:, None],
    )


def measure(dataset: Dataset, *, settings: Settings, share: float) -> dict[str, Any]:
    """Return hit rates at 10 and NDCG at 10 of removed items.

    Args:
        dataset: The population, with item content.
        settings: Of the towers' training; without protection.
        share: Of the items that are taken out.

    Raises:
        DataError: There is no item content, or no query.
    """
    if dataset.content is None:
        raise DataError(f"{dataset.name} has no item content; name an item file.")
    parts = cold_split(dataset.interactions, share=share, seed=settings.seed)
    text = encode(item_texts(dataset.content), settings.model.settings.encoder)
    model, start, learned = _trained(parts, text[parts.warm], settings)
    scorers = {"two_tower": learned, "likeness_of_texts": start}
    new = text[parts.cold]
    found = {}
    for name, tensors in scorers.items():
        grown = with_new_items(tensors, known=text[parts.warm], new=new)
        found[name] = _ranked(model.score(grown, parts.known), parts)
    counts = np.bincount(dataset.interactions.items, minlength=dataset.interactions.n_items)
    truth = np.concatenate([counts[parts.warm], counts[parts.cold]]).astype(np.float64)
    blind = np.where(np.arange(len(truth)) < len(parts.warm), truth, 0.0)
    shape = (len(parts.answers), len(truth))
    found["popularity"] = _ranked(np.broadcast_to(blind, shape), parts)
    found["true_counts"] = _ranked(np.broadcast_to(truth, shape), parts)
    return {
        **found,
        "chance_among_removed": _chance(parts),
        "queries": len(parts.answers),
        "removed": len(parts.cold),
        "items": dataset.interactions.n_items,
    }


def _trained(
    parts: Cold, text: Floats, settings: Settings
) -> tuple[TwoTowerModel, Tensors, Tensors]:
    """Train on the warm items; return the model of the whole catalogue, start and end."""
    empty = Interactions.from_histories([], n_items=len(parts.warm))
    nobody = Queries(users=np.zeros(0, dtype=np.int64), histories=empty, targets=empty)
    split = Split(protocol="cold", train=parts.train, validation=nobody, test=nobody)
    federation = Federation(settings=settings, split=split, catalogue="warm items", features=text)
    with tempfile.TemporaryDirectory() as place, Display(silent=True) as display:
        done = federation.learn(out=Path(place), resume=False, display=display, meter=Meter())
    config = settings.model.settings
    whole = TwoTowerModel(n_items=len(parts.warm) + len(parts.cold), config=config)
    start = federation.algorithm.model.initial(settings.seed)
    return whole, start, done.tensors


def _ranked(scores: Floats, parts: Cold) -> dict[str, float]:
    """Return the hit rate and NDCG of the answers among the removed, and among all items."""
    alone = np.where(np.arange(scores.shape[1]) < len(parts.warm), -np.inf, scores)
    found = {}
    for name, values in (("removed", alone), ("all", scores)):
        ranks = rank_full(values, parts.met, parts.answers)
        found[f"hit_rate@10_among_{name}"] = round(float(hit_rate(ranks, 10).mean()), 4)
        found[f"ndcg@10_among_{name}"] = round(float(ndcg(ranks, 10).mean()), 4)
    return found


def _chance(parts: Cold) -> float:
    """Return the hit rate at 10 of an order by lot among the removed items."""
    is_cold = parts.met.items >= len(parts.warm)
    owners = parts.met.users[is_cold] * parts.met.n_items + parts.met.items[is_cold]
    met = np.bincount(np.unique(owners) // parts.met.n_items, minlength=parts.met.n_users)
    return round(float(np.minimum(1.0, 10.0 / (len(parts.cold) - met)).mean()), 4)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure one data set; return the exit code."""
    parser = argparse.ArgumentParser(description="Items that nobody met in training.")
    parser.add_argument("path", help="data file or folder, or a known name such as synthetic")
    parser.add_argument("--items", help="item file, if it is not beside the events")
    parser.add_argument("--encoder", default="n-grams")
    parser.add_argument("--share", type=float, default=0.1, help="of the items, taken out")
    parser.add_argument("--rounds", type=int, default=150)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    if given.rounds < 1 or not 0 < given.share < 1:
        parser.error("--rounds must be at least 1 and --share in (0, 1)")
    began = time.process_time()
    try:
        table: dict[str, Any] = tomllib.loads(EXPERIMENT.read_text(encoding="utf-8"))
        table |= {"seed": given.seed}
        table["model"]["encoder"] = given.encoder
        table["training"]["rounds"] = given.rounds
        settings = Settings.from_table(table)
        dataset = load(given.path, items=given.items, seed=given.seed)
        found = measure(dataset, settings=settings, share=given.share)
    except FedrecError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    about = {"dataset": dataset.name, "synthetic": dataset.synthetic, "seed": given.seed}
    about |= {"encoder": given.encoder, "rounds": given.rounds}
    spent = {"cpu_seconds": round(time.process_time() - began, 1)}
    sys.stdout.write(json.dumps(about | found | spent) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
