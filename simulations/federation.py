"""One federation in this process, or on a Ray cluster: real ServerApp, ClientApp and messages."""

import os
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from numpy.typing import NDArray

from client.app import app as client_app
from server.app import application
from server.census import Census
from server.journal import Journal
from server.terms import Features, settle
from shared.algorithms.base import Algorithm
from shared.algorithms.measured import measurements
from shared.config import Settings
from shared.data.queries import Split
from shared.errors import BudgetError, ConfigError, MissingExtraError
from shared.models.base import Tensors
from shared.privacy.accounting import Spend
from shared.privacy.chain import Head
from shared.privacy.ledger import Ledger
from shared.privacy.plan import Plan
from shared.privacy.terms import Terms
from simulations.cost import Meter
from simulations.display import Display
from simulations.grids import LocalGrid
from simulations.population import Population
from simulations.spending import worst_spends
from simulations.watch import Watch

__all__ = ["Federation", "Learned"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Learned:
    """What a federation ends with.

    Attributes:
        tensors: The global model.
        rounds: Rounds that were absorbed.
        spends: What the device that was charged most was charged.
        head: The end of the ledger when the run was over.
        bytes_up: Payload that one device sends over the run.
        bytes_down: Payload that one device receives over the run.
        measured: What the devices measured of the model, and the noise in it; may be empty.
    """

    tensors: Tensors = field(repr=False)
    rounds: int
    spends: tuple[Spend, ...]
    head: Head
    bytes_up: int
    bytes_down: int
    measured: dict[str, float]


class Federation:
    """The users of a split, ready to learn under some settings.

    Args:
        settings: Of the run.
        split: Training histories and validation queries.
        catalogue: Digest of the vocabulary of items.
        features: float64 [n_items, any], public item content that a model may start from.

    Raises:
        ConfigError: The settings cannot be had for this population; nothing is spent or written.
    """

    def __init__(
        self, *, settings: Settings, split: Split, catalogue: str, features: Features = None
    ) -> None:
        self.settings = settings
        self.population = Population.from_interactions(split.train, catalogue=catalogue)
        self.nodes = self.population.nodes(settings.simulation.users_per_node)
        users, n_items = split.train.n_users, split.train.n_items
        census = Census(nodes={1: users}, n_items=n_items, catalogue=catalogue)
        _, algorithm, _, plan = settle(settings, census, features)
        self.algorithm: Algorithm = algorithm
        self.plan: Plan = plan
        self._queries = split.validation
        self._features = features

    def learn(self, *, out: Path, resume: bool, display: Display, meter: Meter) -> Learned:
        """Run the rounds.

        Args:
            out: Run directory, which exists.
            resume: Go on from its newest checkpoint.
            display: Where progress is shown.
            meter: Counts processor time and contributions.

        Raises:
            BudgetError: Every device refused before the first round was done.
            RunError: The run cannot go on.
        """
        local = self.settings.simulation.grid == "local"
        with ExitStack() as stack:
            terms, settings = Terms.from_plan(self.plan), self.settings.digest()
            ledger = stack.enter_context(Ledger(out / "ledger.db", terms=terms, settings=settings))
            devices: Any = _Elsewhere()
            if local:
                participants = self.population.participants(
                    self.nodes, ledger=ledger, replies=out / "replies"
                )
                devices = stack.enter_context(LocalGrid(client_app, participants))
            watch = Watch(
                training=self.settings.training,
                model=self.algorithm.model,
                queries=self._queries,
                devices=devices,
                display=display,
                meter=meter,
            )
            server_app = application(watch, companions=watch, features=self._features)
            config = self._run_config(out, resume)
            meter.go()
            if local:
                devices.serve(server_app, config)
            else:
                self._serve_on_ray(server_app, config, out)
            spends = worst_spends(ledger, self.plan)
            head = ledger.conclude(delta=self.plan.delta)
        if watch.last is None:
            raise BudgetError("Every device refused before the first round; nothing was learned.")
        return Learned(
            tensors=watch.tensors,
            rounds=watch.last.round,
            spends=spends,
            head=head,
            **_traffic(out, self.plan),
            measured=measurements(watch.last.state),
        )

    def _run_config(self, out: Path, resume: bool) -> dict[str, Any]:
        place = {"out": str(out), "resume": resume, "nodes": self.nodes}
        return {**self.settings.to_flat(), **place}

    def _serve_on_ray(self, app: ServerApp, config: Mapping[str, Any], out: Path) -> None:
        """Run a ServerApp on Flower's own simulation engine.

        Raises:
            ConfigError: A resume, which needs the devices' memory.
            MissingExtraError: Ray is not installed.
        """
        if config["resume"]:
            raise ConfigError(
                "A run on Ray keeps no device memory; resume works with --grid local."
            )
        try:
            import ray  # noqa: F401
        except ImportError as error:
            raise MissingExtraError("--grid ray needs Ray: pip install 'fedrec[ray]'.") from error
        from flwr.simulation import run_simulation

        errors: list[Exception] = []
        configured = ServerApp()

        @configured.main()
        def main(grid: Grid, context: Context) -> None:
            context.run_config = dict(config)
            try:
                app(grid=grid, context=context)
            except Exception as error:
                errors.append(error)

        with tempfile.TemporaryDirectory() as place:
            file = Path(place) / "population.npz"
            self.population.save(file)
            os.environ["FEDREC_POPULATION"] = str(file)
            os.environ["FEDREC_LEDGER"] = str((out / "ledger.db").resolve())
            os.environ["FEDREC_REPLIES"] = str((out / "replies").resolve())
            run_simulation(
                server_app=configured,
                client_app=client_app,
                num_supernodes=self.nodes,
                backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}},
            )
        if errors:
            raise errors[0]


def _traffic(out: Path, plan: Plan) -> dict[str, int]:
    """Return what one device sent and received, of the rounds in the journal, on average."""
    lines = Journal(out / "metrics.jsonl").read()
    part = plan.participations / plan.rounds
    return {
        name: round(part * sum(int(str(line[name])) for line in lines))
        for name in ("bytes_up", "bytes_down")
    }


class _Elsewhere:
    """Devices in other processes, whose memory is not ours to keep."""

    def snapshot(self) -> dict[str, NDArray[np.float64]]:
        return {}

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        return None
