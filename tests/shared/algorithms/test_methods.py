"""How settings that travel with an order become a learning method."""

from dataclasses import replace

import pytest

from shared.algorithms.averaging import Averaging, AveragingConfig
from shared.algorithms.methods import ALGORITHMS, build
from shared.algorithms.optimisers import OptimiserConfig
from shared.algorithms.popularity import Popularity
from shared.errors import ConfigError
from shared.models.mf import MFConfig


def averaging(settings: dict[str, object]) -> Averaging:
    method = build("mf", "averaging", settings, 9)
    assert isinstance(method, Averaging)
    return method


def test_without_settings_the_defaults_hold() -> None:
    method = averaging({})
    assert method.config == AveragingConfig()
    assert method.model.config == MFConfig()
    assert method.model.n_items == 9
    assert isinstance(build("popularity", "popularity", {}, 9), Popularity)


def test_dotted_settings_reach_their_part() -> None:
    method = averaging(
        {
            "model.name": "mf",
            "model.dim": 5,
            "model.init": "xavier",
            "algorithm.name": "averaging",
            "algorithm.local_steps": 3,
            "algorithm.denoise": False,
            "algorithm.server.name": "adam",
            "algorithm.server.rate": 0.02,
            "algorithm.local.schedule": "cosine",
            "privacy.epsilon": 3.0,
        }
    )
    assert method.model.config == MFConfig(dim=5, init="xavier")
    assert method.config == AveragingConfig(
        local_steps=3,
        denoise=False,
        server=OptimiserConfig(name="adam", rate=0.02),
        local=OptimiserConfig(rate=10.0, schedule="cosine"),
    )


def test_a_whole_number_will_do_for_a_float() -> None:
    method = averaging({"algorithm.examples": 50, "algorithm.server.rate": 2})
    assert method.config.examples == 50.0
    assert type(method.config.examples) is float
    assert type(method.config.server.rate) is float


@pytest.mark.parametrize(
    "name",
    [
        "algorithm.unheard_of",
        "algorithm.server.unheard_of",
        "algorithm.local_steps.deeper",
        "algorithm.server",
        "algorithm.server.rate.deeper",
        "algorithm.name.deeper",
        "model.unheard_of",
    ],
)
def test_unknown_settings_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="Unknown settings"):
        averaging({name: 1})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("algorithm.local_steps", 2.0),
        ("algorithm.local_steps", True),
        ("algorithm.examples", "100"),
        ("algorithm.examples", True),
        ("algorithm.examples", None),
        ("algorithm.denoise", 1),
        ("algorithm.engine", "gpu"),
        ("algorithm.server.name", "adagrad"),
        ("algorithm.local.schedule", "linear"),
        ("model.init", ["normal"]),
        ("model.dim", "16"),
    ],
)
def test_values_of_another_kind_are_refused(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=name.rsplit(".", maxsplit=1)[-1]):
        averaging({name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("algorithm.local_steps", 0),
        ("algorithm.sampling_rate", 1.5),
        ("algorithm.sampling_rate", float("nan")),
        ("algorithm.examples", float("inf")),
        ("algorithm.user_scale", 0.0),
        ("algorithm.server.rate", -1.0),
        ("model.dim", 0),
        ("model.ridge", float("nan")),
    ],
)
def test_impossible_values_are_refused(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=name.rsplit(".", maxsplit=1)[-1]):
        averaging({name: value})


@pytest.mark.parametrize(
    ("model", "algorithm"), [("mf", "popularity"), ("popularity", "averaging")]
)
def test_wrong_pairs_are_refused(model: str, algorithm: str) -> None:
    with pytest.raises(ConfigError, match="learns model="):
        build(model, algorithm, {}, 9)


@pytest.mark.parametrize(("model", "algorithm"), [("mf", "unheard"), ("unheard", "averaging")])
def test_unknown_names_are_refused(model: str, algorithm: str) -> None:
    with pytest.raises(ConfigError, match="unheard"):
        build(model, algorithm, {}, 9)


def test_every_entry_has_settings_with_defaults() -> None:
    for settings, _ in ALGORITHMS.values():
        assert settings() == settings()


def test_a_partial_nested_setting_keeps_the_rest_of_the_default() -> None:
    server = averaging({"algorithm.server.momentum": 0.5}).config.server
    assert server == replace(AveragingConfig().server, momentum=0.5)
