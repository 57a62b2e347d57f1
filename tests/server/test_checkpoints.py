"""Checkpoints: whole or not at all, server and companions together."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest

from server.checkpoints import Checkpoint, Checkpoints
from shared.algorithms.base import State
from shared.errors import RunError


def made(round_: int, settings: str = "settings") -> Checkpoint:
    state = State(
        tensors={"table": np.full((3, 2), round_ + 0.1)},
        optimiser={"moment": np.arange(6.0).reshape(2, 3).T, "steps": np.asarray(float(round_))},
        round=round_,
    )
    companions = {"0/memory run/visits": np.full((4, 1), float(round_)), "nodes": np.array(2)}
    return Checkpoint(
        run="run", settings=settings, plan={"unit": "none"}, state=state, companions=companions
    )


def test_round_trip_is_exact(tmp_path: Path) -> None:
    store = Checkpoints(tmp_path / "checkpoints")
    store.save(made(3))
    found = store.load(settings="settings")
    assert found is not None
    assert (found.run, found.state.round) == ("run", 3)
    for name in ("tensors", "optimiser"):
        kept, read = getattr(made(3).state, name), getattr(found.state, name)
        assert {k: (v.shape, v.tobytes()) for k, v in kept.items()} == {
            k: (v.shape, v.tobytes()) for k, v in read.items()
        }
    assert found.companions["0/memory run/visits"].tolist() == [[3.0]] * 4
    assert found.companions["nodes"].shape == ()


def test_only_the_newest_two_are_kept(tmp_path: Path) -> None:
    store = Checkpoints(tmp_path)
    for round_ in range(5):
        store.save(made(round_))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["round-000003", "round-000004"]


def test_nothing_written_is_nothing_found(tmp_path: Path) -> None:
    assert Checkpoints(tmp_path / "absent").load(settings="settings") is None


@pytest.mark.parametrize("name", ["state.safetensors", "companions.safetensors", "manifest.json"])
@pytest.mark.parametrize("fault", ["torn", "altered", "missing", "empty"])
def test_damaged_checkpoint_is_skipped(
    tmp_path: Path, name: str, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = Checkpoints(tmp_path)
    store.save(made(1))
    store.save(made(2))
    path = tmp_path / "round-000002" / name
    data = path.read_bytes()
    if fault == "missing":
        path.unlink()
    else:
        altered = data.replace(b'"round": 2', b'"round": 7')
        flipped = altered if altered != data else data[:-1] + bytes([data[-1] ^ 1])
        path.write_bytes({"torn": data[: len(data) // 2], "altered": flipped, "empty": b""}[fault])
    with caplog.at_level(logging.WARNING):
        found = store.load(settings="settings")
    assert found is not None
    assert found.state.round == 1
    assert "damaged" in caplog.text


def test_no_whole_checkpoint_is_refused(tmp_path: Path) -> None:
    store = Checkpoints(tmp_path)
    store.save(made(1))
    (tmp_path / "round-000001" / "manifest.json").write_text("{")
    with pytest.raises(RunError, match="whole"):
        store.load(settings="settings")


def test_other_settings_are_refused(tmp_path: Path) -> None:
    store = Checkpoints(tmp_path)
    store.save(made(1))
    with pytest.raises(RunError, match="other settings"):
        store.load(settings="changed")


def test_leftovers_of_a_crash_are_ignored(tmp_path: Path) -> None:
    store = Checkpoints(tmp_path)
    store.save(made(1))
    (tmp_path / ".new-000002").mkdir()
    (tmp_path / ".new-000002" / "state.safetensors").write_bytes(b"half")
    found = store.load(settings="settings")
    assert found is not None
    assert found.state.round == 1
    store.save(made(2))
    assert (tmp_path / "round-000002" / "manifest.json").exists()
    assert not (tmp_path / ".new-000002").exists()


def test_unwritable_directory_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="Cannot write the checkpoint"):
        Checkpoints(tmp_path / "file" / "checkpoints").save(made(1))


def test_manifest_names_versions_and_digests(tmp_path: Path) -> None:
    Checkpoints(tmp_path).save(made(1))
    manifest = json.loads((tmp_path / "round-000001" / "manifest.json").read_text())
    assert set(manifest["files"]) == {"state.safetensors", "companions.safetensors"}
    assert set(manifest["versions"]) == {"fedrec", "flwr", "numpy", "safetensors"}
