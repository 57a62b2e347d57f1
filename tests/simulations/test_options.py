"""Settings from a file, --set and named options: who wins, and what a resumed run keeps."""

from pathlib import Path
from typing import Any

import pytest

from shared.config import Settings
from shared.errors import ConfigError
from simulations import options
from simulations.directory import manifest, write_json
from simulations.options import PACKAGED, assignment, settings_for

FILE = """
seed = 5
[model]
name = "mf"
dim = 4
[training]
rounds = 3
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "a.toml"
    path.write_text(FILE, encoding="utf-8")
    return path


def composed(config: Path | None, flags: dict[str, Any], *assignments: str) -> Settings:
    return settings_for(config=config, flags=flags, assignments=assignments, out=None, resume=False)


def test_named_options_win_over_set_and_set_over_the_file(config: Path) -> None:
    assert composed(config, {}).training.rounds == 3
    assert composed(config, {}, "training.rounds=4").training.rounds == 4
    settings = composed(config, {"training.rounds": 5}, "training.rounds=4")
    assert settings.training.rounds == 5
    assert settings.seed == 5
    assert settings.model.settings.dim == 4


def test_another_model_starts_from_its_own_defaults(config: Path) -> None:
    settings = composed(config, {"model.name": "popularity"})
    assert settings.model.name == settings.algorithm.name == "popularity"
    assert settings.training.rounds == 3
    assert composed(config, {"model.name": "mf"}).model.settings.dim == 4


def test_packaged_defaults_are_the_run_without_a_file() -> None:
    settings = composed(None, {})
    assert settings.data.dataset == "ml-100k"
    assert settings.privacy.noise == "os"
    asked = (settings.model.name, settings.privacy.unit, settings.privacy.trust)
    assert asked == ("transitions", "user", "distributed")


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ({"privacy.unit": "none"}, ("transitions", "none")),
        ({"privacy.unit": "interaction"}, ("mf", "interaction")),
        ({"model.name": "mf"}, ("mf", "user")),
        ({"model.name": "mf", "privacy.unit": "none"}, ("mf", "none")),
        ({"model.name": "popularity"}, ("popularity", "user")),
        (
            {"model.name": "popularity", "privacy.unit": "interaction"},
            ("popularity", "interaction"),
        ),
        ({"model.name": "popularity", "privacy.unit": "none"}, ("popularity", "none")),
    ],
)
def test_each_model_and_unit_has_settings_of_its_own(
    words: dict[str, Any], found: tuple[str, str]
) -> None:
    settings = composed(None, words)
    assert (settings.model.name, str(settings.privacy.unit)) == found


@pytest.mark.parametrize("model", ["sasrec", "two-tower", "vae"])
def test_protection_is_never_left_out_by_itself(model: str) -> None:
    with pytest.raises(ConfigError, match="say --unit none"):
        composed(None, {"model.name": model})
    assert composed(None, {"model.name": model, "privacy.unit": "none"}).model.name == model


def test_every_packaged_file_is_named_and_reads() -> None:
    folder = Path(options.__file__).parent / "experiments"
    named = {name for files in PACKAGED.values() for name in files.values()}
    assert named <= {path.name for path in folder.glob("*.toml")}
    for path in folder.glob("*.toml"):
        assert composed(path, {}).data.dataset


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a.b=3", 3),
        ("a.b=3.5", 3.5),
        ("a.b=true", True),
        ("a.b=none", "none"),
        ("a.b=", ""),
        ("a.b=x=y", "x=y"),
        ('a.b="3"', "3"),
        ("a.b=['x', 'y']", ["x", "y"]),
        ("a.b=1\nseed = 2", "1\nseed = 2"),
    ],
)
def test_assignment_reads_toml_values(text: str, value: object) -> None:
    assert assignment(text) == ("a.b", value)


@pytest.mark.parametrize("text", ["", "a", "=3", "a.=3", ".a=3"])
def test_assignment_needs_a_key(text: str) -> None:
    with pytest.raises(ConfigError, match="key=value"):
        assignment(text)


def resumed(out: Path, flags: dict[str, Any], config: Path | None = None) -> Settings:
    return settings_for(config=config, flags=flags, assignments=[], out=out, resume=True)


def test_a_resumed_run_keeps_its_settings(config: Path, tmp_path: Path) -> None:
    settings = composed(config, {"privacy.epsilon": 2.0})
    write_json(tmp_path / "manifest.json", manifest(settings, dataset={"digest": "d"}))
    assert resumed(tmp_path, {}) == settings
    assert resumed(tmp_path, {"privacy.epsilon": 2.0}, config) == settings
    with pytest.raises(ConfigError, match=r"privacy\.epsilon would change"):
        resumed(tmp_path, {"privacy.epsilon": 3.0})


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"settings": {"sead": 1}}'])
def test_a_manifest_that_is_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "manifest.json").write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match="manifest"):
        resumed(tmp_path, {})


def test_a_trusted_server_is_never_chosen_for_anyone() -> None:
    asked = {"assignments": [], "out": None, "resume": False, "config": None}
    for words, trust in (
        ({}, "distributed"),
        ({"privacy.trust": "local"}, "local"),
        ({"privacy.trust": "central"}, "central"),
    ):
        chosen = settings_for(flags={"privacy.unit": "user", **words}, **asked)  # type: ignore[arg-type]
        assert (chosen.privacy.unit, chosen.privacy.trust) == ("user", trust)
