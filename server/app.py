"""The Flower ServerApp: reads the run's settings, greets the nodes, plans, and runs the rounds.

Simulation and deployment use this same function; a simulation adds an observer and its devices'
memory. The run config holds the flat settings (`shared.config`) and the keys of `PLACE`.
"""

from collections.abc import Callable
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from server.census import Census, greet
from server.journal import Observer
from server.record import Companions
from server.rounds import run_rounds
from server.terms import Features, settle
from shared.privacy.plan import Plan

__all__ = ["PLACE", "Announce", "app", "application"]

PLACE = {"out", "resume", "nodes"}
"""Run directory, whether to go on from it, how many nodes to wait for: no part of the settings."""

Announce = Callable[[Plan, Census], None]


def application(
    observer: Observer | None = None,
    *,
    announce: Announce | None = None,
    companions: Companions | None = None,
    features: Features = None,
) -> ServerApp:
    """Return the ServerApp of one run.

    Args:
        observer: Called after each round; True stops the run.
        announce: Told the plan and the population before the first round; may refuse by raising.
        companions: Simulated devices whose memory belongs into the server's checkpoints.
        features: float64 [n_items, any], public item content that a model may start from.
    """
    server = ServerApp()

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        from shared.config import Settings

        place = {key: context.run_config[key] for key in PLACE & set(context.run_config)}
        flat = {key: value for key, value in context.run_config.items() if key not in PLACE}
        settings = Settings.from_flat(flat)
        census = greet(grid, nodes=int(place.get("nodes", 0)) or None)
        method, algorithm, terms, plan = settle(settings, census, features)
        if announce is not None:
            announce(plan, census)
        run_rounds(
            grid,
            census=census,
            algorithm=algorithm,
            method=method,
            plan=plan,
            terms=terms,
            seed=settings.seed,
            directory=Path(str(place["out"])) if place.get("out") else None,
            resume=bool(place.get("resume", False)),
            observer=observer,
            companions=companions,
        )

    return server


app = application()
