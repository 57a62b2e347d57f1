"""A grid in this process: Flower's own apps and messages, without its machinery."""

import importlib.util
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import ray_engine
from counting import build, federate, made_population
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.supercore.task_identity import TaskIdentity

from client.participant import HOSTED
from shared import protocol
from shared.algorithms.methods import build as methods_build
from shared.errors import DataError, RunError
from simulations.grids import LocalGrid, identify_process
from simulations.population import Population


def echo_app() -> ClientApp:
    app = ClientApp()

    @app.query()
    def query(message: Message, context: Context) -> Message:
        if context.node_config["partition-id"] == 1:
            time.sleep(0.05)
        seen = protocol.unpack(context.state["seen"])["n"] if "seen" in context.state else 0.0
        context.state["seen"] = protocol.pack({"n": np.asarray(seen) + 1.0})
        message.content["told"] = context.state["seen"]
        return Message(message.content, reply_to=message)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        raise ValueError("secret item 42")

    return app


def grid_of(nodes: int, app: ClientApp | None = None, workers: int | None = None) -> LocalGrid:
    participants = made_population(nodes).participants(nodes, build=build)
    return LocalGrid(app or echo_app(), participants, workers=workers)


def questions(grid: LocalGrid, kind: str = "query") -> list[Message]:
    shared = RecordDict()
    return [Message(shared, node, kind) for node in grid.get_node_ids()]


def test_flower_lets_us_make_messages() -> None:
    """If this fails, Flower moved its task identity: mend `identify_process`."""
    identify_process()
    assert (TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id) == (1, 1, 1)
    message = Message(RecordDict(), 5, "query")
    assert (message.metadata.run_id, message.metadata.dst_node_id) == (1, 5)


def test_replies_come_in_the_order_of_the_messages() -> None:
    with grid_of(5) as grid:
        replies = list(grid.send_and_receive(questions(grid)))
        assert [r.metadata.src_node_id for r in replies] == grid.get_node_ids()
        assert all(r.metadata.dst_node_id == TaskIdentity.node_id for r in replies)


def test_no_message_is_shared_between_nodes() -> None:
    with grid_of(3) as grid:
        asked = questions(grid)
        replies = list(grid.send_and_receive(asked))
        assert dict(asked[0].content) == {}
        assert len({id(r.content) for r in replies}) == 3


def test_state_lasts_over_rounds() -> None:
    with grid_of(2) as grid:
        for visit in (1.0, 2.0, 3.0):
            for reply in grid.send_and_receive(questions(grid)):
                assert protocol.unpack(reply.content["told"])["n"] == visit


def test_push_and_pull() -> None:
    with grid_of(3) as grid:
        ids = grid.push_messages(questions(grid))
        found: list[Message] = []
        end = time.monotonic() + 10
        while len(found) < 3 and time.monotonic() < end:
            found += grid.pull_messages(ids)
            time.sleep(0.01)
        assert {r.metadata.reply_to_message_id for r in found} == set(ids)
        assert grid.pull_messages(ids) == []


def test_exception_of_an_app_becomes_an_error_without_text(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with grid_of(2) as grid:
        replies = list(grid.send_and_receive(questions(grid, "train")))
        assert [r.has_error() for r in replies] == [True, True]
        assert {(r.error.code, r.error.reason) for r in replies} == {(2, "")}
    assert "raised" in caplog.text


def test_late_replies_are_dropped() -> None:
    with grid_of(3, workers=3) as grid:
        replies = list(grid.send_and_receive(questions(grid), timeout=0.02))
        first, _, last = grid.get_node_ids()
        assert {r.metadata.src_node_id for r in replies} <= {first, last}
        assert len(list(grid.send_and_receive(questions(grid), timeout=20))) == 3


def test_few_messages_are_under_way_at_once() -> None:
    made = 0
    with grid_of(12, workers=2) as grid:

        def lazily() -> object:
            nonlocal made
            for message in questions(grid):
                made += 1
                yield message

        replies = iter(grid.send_and_receive(lazily()))  # type: ignore[arg-type]
        next(replies)
        assert made <= 5
        assert len(list(replies)) == 11


def test_snapshot_brings_every_node_back() -> None:
    with grid_of(3) as grid:
        list(grid.send_and_receive(questions(grid)))
        kept = grid.snapshot()
        list(grid.send_and_receive(questions(grid)))
        grid.restore(kept)
        told = [r.content["told"] for r in grid.send_and_receive(questions(grid))]
        assert [float(protocol.unpack(t)["n"]) for t in told] == [2.0, 2.0, 2.0]
    with grid_of(2) as other, pytest.raises(RunError, match="packing"):
        other.restore(kept)


def test_leaving_frees_participants_and_threads() -> None:
    before = threading.active_count()
    with grid_of(2) as grid:
        nodes = grid.get_node_ids()
        list(grid.send_and_receive(questions(grid)))
        assert set(nodes) <= set(HOSTED)
    assert not set(nodes) & set(HOSTED)
    assert threading.active_count() == before


def test_two_grids_do_not_share_nodes() -> None:
    with grid_of(2) as one, grid_of(2) as two:
        assert not set(one.get_node_ids()) & set(two.get_node_ids())


def test_server_app_runs_on_the_grid() -> None:
    told: list[object] = []
    server = ServerApp()

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        told.append((context.run_config["a.b"], len(list(grid.get_node_ids()))))

    with grid_of(3) as grid:
        grid.serve(server, {"a.b": 2})
    assert told == [(2, 3)]


def test_population_survives_the_disk(tmp_path: Path) -> None:
    population = made_population(5)
    path = tmp_path / "population.npz"
    population.save(path)
    found = Population.load(path)
    assert found.catalogue == population.catalogue
    assert found.keys.tolist() == population.keys.tolist()
    for name in ("items", "offsets", "times", "weights"):
        kept, read = getattr(population.histories, name), getattr(found.histories, name)
        assert (kept.dtype, kept.tolist()) == (read.dtype, read.tolist())
    assert [p.name for p in tmp_path.iterdir()] == ["population.npz"]
    with pytest.raises(DataError):
        Population.load(tmp_path / "absent.npz")


def test_packing_keeps_every_user() -> None:
    population = made_population(7)
    assert population.nodes(1) == 7
    assert population.nodes(3) == 3
    assert 1 <= population.nodes() <= 7
    participants = population.participants(3)
    assert np.concatenate([p.keys for p in participants]).tolist() == list(range(7))


@pytest.mark.ray
@pytest.mark.slow
def test_flower_simulation_engine_gives_the_same_model(tmp_path: Path) -> None:
    if importlib.util.find_spec("ray") is None:
        pytest.skip("Ray is not installed: pip install 'fedrec[ray]'")
    population = made_population()
    population.save(tmp_path / "population.npz")
    script = Path(ray_engine.__file__)
    paths = [str(script.parents[1]), str(script.parent), os.environ.get("PYTHONPATH", "")]
    environment = {
        "FEDREC_POPULATION": str(tmp_path / "population.npz"),
        "FLWR_HOME": str(tmp_path / "flower"),
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    }
    command = [sys.executable, str(script), str(tmp_path / "found.npz")]
    done = subprocess.run(  # noqa: S603
        command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    expected = federate(population, nodes=4, method=ray_engine.METHOD, make=methods_build)
    with np.load(tmp_path / "found.npz") as found:
        assert set(found.files) == set(expected.tensors)
        for name, value in expected.tensors.items():
            assert np.allclose(found[name], value, atol=1e-6, rtol=0)
