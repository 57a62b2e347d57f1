"""Small runs to attack: made people, a tiny model, as many canaries as the row test needs."""

from functools import lru_cache
from typing import Any

from shared.config import Settings
from simulations.attack.canaries import AttackConfig
from simulations.attack.target import Target
from simulations.attack.verdict import Report, alarms, attack

__all__ = ["LAYERS", "alarming", "attacked", "correct", "target"]

LAYERS = ("conformance", "canaries", "statistics")

MODELS: dict[str, dict[str, Any]] = {
    "mf": {"model": {"name": "mf", "dim": 4}, "algorithm": {"name": "averaging"}},
    "popularity": {"model": {"name": "popularity"}, "algorithm": {"name": "popularity"}},
}


def target(
    unit: str = "user", trust: str = "central", *, model: str = "mf", rounds: int = 4, **rooms: Any
) -> Target:
    """A protected run of 30 made users at epsilon 3."""
    table: dict[str, Any] = {
        **MODELS[model],
        "privacy": {"unit": unit, "trust": trust, "epsilon": 3.0, "clip_norm": 1.0},
        "training": {"rounds": rounds},
    }
    for room, settings in rooms.items():
        table[room] = {**table.get(room, {}), **settings}
    return Target(settings=Settings.from_table(table), users=30, items=40)


def attacked(aim: Target, *, seed: int = 0, canaries: int = 400) -> Report:
    return attack(
        aim, seed=seed, config=AttackConfig(canaries=canaries, history=5, long_history=30)
    )


@lru_cache(maxsize=8)
def correct(unit: str = "user", trust: str = "central", model: str = "mf") -> Report:
    """The report of a correct run, which several tests read."""
    return attacked(target(unit, trust, model=model))


def alarming(report: Report) -> dict[str, set[str]]:
    """Names of the checks that raised an alarm, by layer."""
    layers = (line.split(": ") for line in alarms(report))
    return {layer: set(names.split(", ")) for layer, names in layers}
