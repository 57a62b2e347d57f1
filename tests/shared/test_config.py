"""Settings: one key a thing, everything wrong at once, and there and back without loss."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from shared.config import REGISTRIES, Part, Settings, TrainingConfig, place, read_toml
from shared.errors import ConfigError
from shared.privacy.plan import Unit


def refusal(table: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        Settings.from_table(table, source="mine.toml")
    return str(caught.value)


def test_defaults_build() -> None:
    settings = Settings.from_table({})
    assert settings.model.name == "mf"
    assert settings.algorithm.name == "averaging"
    assert settings.protocol == "leave-last-out"


def test_a_model_brings_its_usual_algorithm() -> None:
    assert Settings.from_table({"model": {"name": "popularity"}}).algorithm.name == "popularity"


@pytest.mark.parametrize("registry", sorted(REGISTRIES))
def test_every_entry_builds_from_its_name_alone(registry: str) -> None:
    for name in REGISTRIES[registry]:
        part = getattr(Settings.from_table({registry: {"name": name}}), registry)
        assert isinstance(part, Part)
        assert part.name == name
        assert type(part.settings) is REGISTRIES[registry][name][0]


def test_everything_wrong_is_said_at_once() -> None:
    message = refusal(
        {
            "sead": 1,
            "model": {"name": "mff"},
            "privacy": {"epsilon": "four", "unit": "persons", "sigma": 1.0},
            "training": {"rounds": 2.5},
        }
    )
    assert message.startswith("mine.toml: ")
    for part in (
        "'sead' is unknown (did you mean seed?)",
        "'mff' is unknown (did you mean mf?)",
        "privacy.epsilon='four' must be a number",
        "privacy.unit='persons' must be one of",
        "privacy.sigma 'sigma' is unknown",
        "training.rounds=2.5 must be a whole number",
    ):
        assert part in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("table", "part"),
    [
        ({"training": {"rounds": True}}, "training.rounds=True must be a whole number"),
        ({"training": {"deadline": float("inf")}}, "must be a finite number"),
        ({"training": {"quorum": float("nan")}}, "must be a finite number"),
        ({"training": {"cohort": 0.0, "rounds": 0}}, "training.cohort=0.0 (a share in (0, 1])"),
        ({"training": {"cohort": 0.0, "rounds": 0}}, "training.rounds=0 (at least 1)"),
        ({"training": {"patience": -1}}, "training.patience=-1"),
        ({"training": 3}, "training must be a table"),
        ({"model": "mf"}, "model must be a table with a name"),
        ({"simulation": {"grid": "cloud"}}, "simulation.grid='cloud' must be one of"),
        ({"simulation": {"users_per_node": -1}}, "simulation.users_per_node=-1"),
        ({"evaluation": {"full": "ndcg@10"}}, "evaluation.full='ndcg@10' must be a list"),
        ({"evaluation": {"full": ["ndcg@10", 3]}}, "evaluation.full[1]=3 must be a text"),
        ({"protocol": "leave-last"}, "did you mean leave-last-out?"),
        ({"privacy": {"epsilon": -1.0}}, "epsilon <= 100, found -1.0"),
        ({"training": {"patience": 3}}, "epsilon does not cover"),
    ],
)
def test_impossible_values_are_refused(table: dict[str, Any], part: str) -> None:
    assert part in refusal(table)


def test_early_stopping_is_allowed_without_protection() -> None:
    table = {"training": {"patience": 3}, "privacy": {"unit": "none"}}
    assert Settings.from_table(table).training.patience == 3


def test_whole_numbers_stand_for_floats() -> None:
    settings = Settings.from_table({"privacy": {"epsilon": 4, "unit": "interaction"}})
    assert settings.privacy.epsilon == 4.0
    assert type(settings.privacy.epsilon) is float
    assert settings.privacy.unit is Unit.INTERACTION


SAMPLE = {
    "seed": 3,
    "data": {"dataset": "events.csv", "columns": {"user": "who", "item": 1}},
    "privacy": {"epsilon": 2.5},
    "evaluation": {"full": ["ndcg@10", "recall@20"], "sampled": []},
    "simulation": {"users_per_node": 1},
}


def test_toml_there_and_back(tmp_path: Path) -> None:
    settings = Settings.from_table(SAMPLE)
    path = tmp_path / "a.toml"
    path.write_text(settings.to_toml(), encoding="utf-8")
    assert Settings.from_table(read_toml(path)) == settings


def test_flat_there_and_back() -> None:
    settings = Settings.from_table(SAMPLE)
    flat = settings.to_flat()
    assert all(isinstance(value, bool | int | float | str) for value in flat.values())
    assert flat["privacy.epsilon"] == 2.5
    assert flat["model.name"] == "mf"
    assert Settings.from_flat(flat) == settings


@given(
    rounds=st.integers(1, 10**6),
    cohort=st.floats(0, 1, exclude_min=True),
    seed=st.integers(-(2**63), 2**63 - 1),
    dataset=st.text(),
)
@examples(max_examples=50, deadline=None)
def test_any_settings_survive_toml_and_flat(
    rounds: int, cohort: float, seed: int, dataset: str
) -> None:
    settings = Settings.from_table(
        {
            "seed": seed,
            "data": {"dataset": dataset},
            "training": {"rounds": rounds, "cohort": cohort},
        }
    )
    assert Settings.from_flat(settings.to_flat()) == settings
    assert Settings.from_table(settings.to_table()).digest() == settings.digest()


def test_digest_sees_every_change() -> None:
    one = Settings.from_table({})
    digests = {one.digest(), Settings.from_table({"seed": 1}).digest()}
    digests.add(Settings.from_table({"training": {"rounds": 7}}).digest())
    assert len(digests) == 3
    assert Settings.from_table({}).digest() == one.digest()


def test_configs_are_frozen() -> None:
    with pytest.raises(AttributeError):
        TrainingConfig().rounds = 3  # type: ignore[misc]


def test_place_refuses_a_value_as_a_table() -> None:
    table: dict[str, Any] = {"seed": 1}
    with pytest.raises(ConfigError, match="seed holds a value"):
        place(table, "seed.more", 2)


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"seed = ", "is not TOML"),
        (b"seed = 1\nseed = 2\n", "is not TOML"),
        (b"\xff\xfe", "is not UTF-8"),
        (None, "Cannot read"),
    ],
)
def test_unreadable_files(tmp_path: Path, content: bytes | None, part: str) -> None:
    path = tmp_path / "mine.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read_toml(path)
    assert part in str(caught.value)
    assert "mine.toml" in str(caught.value)
    assert "\n" not in str(caught.value)


@given(
    st.dictionaries(
        st.text(max_size=8),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
            lambda inner: (
                st.lists(inner, max_size=2)
                | st.dictionaries(st.text(max_size=5), inner, max_size=2)
            ),
            max_leaves=4,
        ),
        max_size=3,
    )
)
@examples(max_examples=100, deadline=None)
def test_any_table_gives_settings_or_one_sentence(table: dict[str, Any]) -> None:
    try:
        settings = Settings.from_table(table)
    except ConfigError:
        return
    assert isinstance(settings, Settings)


def test_a_partial_nested_table_keeps_the_rest_of_the_default() -> None:
    whole = Settings.from_table({}).algorithm.settings
    some = Settings.from_table({"algorithm": {"server": {"momentum": 0.5}}}).algorithm.settings
    assert some.server == replace(whole.server, momentum=0.5)
