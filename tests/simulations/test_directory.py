"""The run directory: files whole or absent, nothing overwritten."""

import json
import os
from pathlib import Path

import pytest

from shared.config import Settings
from shared.errors import ConfigError, RunError
from simulations.directory import default_name, manifest, prepare, read_json, vacant, write_json

DESCRIBED = {"dataset": {"digest": "d"}}


def test_write_is_whole_or_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"a": float("nan")})
    assert read_json(path) == {"a": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]


def test_write_to_nowhere_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"a\.json"):
        write_json(tmp_path / "missing" / "a.json", {})


@pytest.mark.parametrize("content", ["", "[1]", "{"])
def test_read_refuses_what_is_no_object(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.json").write_text(content, encoding="utf-8")
    with pytest.raises(RunError, match=r"a\.json"):
        read_json(tmp_path / "a.json")


def test_vacant_places(tmp_path: Path) -> None:
    vacant(tmp_path)
    vacant(tmp_path / "new")
    (tmp_path / "file").touch()
    for place in (tmp_path, tmp_path / "file"):
        with pytest.raises(ConfigError, match="--out"):
            vacant(place)


def test_a_resumed_run_needs_the_same_data(tmp_path: Path) -> None:
    prepare(tmp_path / "run", DESCRIBED, resume=False)
    prepare(tmp_path / "run", DESCRIBED, resume=True)
    with pytest.raises(ConfigError, match="data changed"):
        prepare(tmp_path / "run", {"dataset": {"digest": "e"}}, resume=True)


def test_manifest_holds_nothing_of_the_machine() -> None:
    settings = Settings.from_table({"data": {"dataset": "ml-100k"}})
    described = manifest(settings, dataset={"digest": "d"})
    assert set(described) == {"format", "settings", "settings_digest", "dataset", "versions"}
    assert Settings.from_table(described["settings"]) == settings
    assert str(Path.home()) not in json.dumps(described)


def test_default_name_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = Settings.from_table({"data": {"dataset": "/data/my events.csv"}})
    first = default_name(settings, now=0.0)
    assert str(os.getpid()) in first.name
    first.mkdir(parents=True)
    assert first.name.startswith("my-events-mf-")
    assert default_name(settings, now=0.0).name == first.name + "-2"
