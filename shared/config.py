"""Settings of a run: the rooms' own configs, composed, read from TOML and written back.

A room owns its frozen config; this file only puts them together. One key sets one thing: a TOML
table a room (`[privacy] epsilon = 4`), the same key with dots where the settings travel flat
(`privacy.epsilon`). Everything wrong with a file is reported at once, before any data is read.
"""

import contextlib
import difflib
import hashlib
import json
import math
import tomllib
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, Self

from shared.algorithms.methods import ALGORITHMS
from shared.data.cleaning import CleaningConfig
from shared.data.columns import ColumnMap
from shared.data.splits import SPLITS
from shared.errors import ConfigError
from shared.evaluation.protocols import EvaluationConfig
from shared.models.zoo import MODELS
from shared.privacy.plan import PrivacyConfig, Trust, Unit

__all__ = [
    "NO_SUMS_ON_RAY",
    "DataConfig",
    "Part",
    "Settings",
    "SimulationConfig",
    "TrainingConfig",
    "place",
    "read_toml",
]

Table = dict[str, Any]

NO_SUMS_ON_RAY = (
    "devices on Ray keep no memory between the messages of a secure sum; use --grid local or "
    "several users per node"
)
"""Why a grid of another process takes no part in secure sums of devices."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """Which interactions the run learns from.

    Attributes:
        dataset: A known name ("ml-100k", "ml-1m", "synthetic"), a folder or a file.
        items: A file of item content, or nothing.
        columns: Which column is what, for files that do not say so themselves.
        cleaning: What is dropped before the split.
    """

    dataset: str = "ml-100k"
    items: str | None = None
    columns: ColumnMap | None = None
    cleaning: CleaningConfig = field(default_factory=CleaningConfig)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingConfig:
    """How long the federation learns and what it waits for.

    Attributes:
        rounds: Most rounds of the run.
        cohort: Share of the users who take part in one round, in (0, 1].
        quorum: Share of a round's users whose replies must be usable, in (0, 1].
        deadline: Seconds to wait for the replies of one round.
        validate_every: Rounds between two validations; the last round always has one.
        patience: Validations without a better NDCG@10 after which the run stops; 0 never stops.
        checkpoint_every: Rounds between two checkpoints; the last round always has one.
    """

    rounds: int = 6
    cohort: float = 1.0
    quorum: float = 0.8
    deadline: float = 600.0
    validate_every: int = 1
    patience: int = 0
    checkpoint_every: int = 1

    def __post_init__(self) -> None:
        """Refuse impossible values, all of them in one sentence."""
        shares = {"cohort": self.cohort, "quorum": self.quorum}
        counts = {
            "rounds": self.rounds,
            "validate_every": self.validate_every,
            "checkpoint_every": self.checkpoint_every,
        }
        wrong = [f"{n}={v} (a share in (0, 1])" for n, v in shares.items() if not 0 < v <= 1]
        wrong += [f"{n}={v} (at least 1)" for n, v in counts.items() if v < 1]
        if self.patience < 0:
            wrong.append(f"patience={self.patience} (0 or more)")
        if not 0 < self.deadline < math.inf:
            wrong.append(f"deadline={self.deadline} (seconds above 0)")
        if wrong:
            raise ConfigError("Expected another training." + ", training.".join(wrong) + ".")


@dataclass(frozen=True, kw_only=True, slots=True)
class SimulationConfig:
    """How simulated devices are packed; the model that comes out does not depend on it.

    Attributes:
        grid: "local" (in this process) or "ray" (a cluster, extra `[ray]`).
        users_per_node: Users on one Flower node; 1 is the faithful run, 0 means a node a core.
    """

    grid: Literal["local", "ray"] = "local"
    users_per_node: int = 0

    def __post_init__(self) -> None:
        """Refuse a negative packing."""
        if self.users_per_node < 0:
            raise ConfigError(f"Expected simulation.users_per_node={self.users_per_node} >= 0.")


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One entry of a registry and its settings.

    Attributes:
        name: Key of the registry.
        settings: The entry's own frozen config.
    """

    name: str
    settings: Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """Everything that decides a run, and nothing else.

    Attributes:
        seed: Of reproducible draws; it never reaches protective noise.
        protocol: How histories are cut into training and queries.
        data: Which interactions.
        model: What is learned: `name` is a key of `MODELS`, the rest its config.
        algorithm: How it is learned: `name` is a key of `ALGORITHMS`, the rest its config.
        privacy: What is protected, from whom, and how well.
        training: Rounds, cohort, quorum, deadline.
        evaluation: What is measured.
        simulation: Packing of simulated devices.
    """

    seed: int = 0
    protocol: str = "leave-last-out"
    data: DataConfig = field(default_factory=DataConfig)
    model: Part
    algorithm: Part
    privacy: PrivacyConfig = field(default_factory=PrivacyConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    simulation: SimulationConfig = field(default_factory=SimulationConfig)

    def __post_init__(self) -> None:
        """Refuse settings that contradict each other.

        Raises:
            ConfigError: An unknown protocol, early stopping in a private run, or secure sums of
                devices that keep no memory.
        """
        if self.protocol not in SPLITS:
            raise ConfigError(f"{_unknown('protocol', self.protocol, SPLITS)}")
        if self.training.patience and self.privacy.unit is not Unit.NONE:
            raise ConfigError(
                f"training.patience={self.training.patience} stops on validation results, which "
                "epsilon does not cover; set training.patience=0 or privacy.unit='none'"
            )
        masked = (self.privacy.unit, self.privacy.trust) == (Unit.USER, Trust.DISTRIBUTED)
        if masked and (self.simulation.grid, self.simulation.users_per_node) == ("ray", 1):
            raise ConfigError(f"simulation.users_per_node=1: {NO_SUMS_ON_RAY}")

    @classmethod
    def from_table(cls, table: Mapping[str, Any], *, source: str = "settings") -> Self:
        """Build settings from nested tables; what is absent keeps its default.

        Args:
            table: The parsed TOML document.
            source: Where the table comes from, named in errors.

        Raises:
            ConfigError: Any key is unknown or any value impossible; all of them are named.
        """
        complaints: list[str] = []
        document = _with_methods(table)
        settings = _build(cls, document, "", complaints)
        if complaints:
            raise ConfigError(f"{source}: " + "; ".join(complaints) + ".")
        return typing.cast(Self, settings)

    @classmethod
    def from_flat(cls, flat: Mapping[str, Any], *, source: str = "run config") -> Self:
        """Build settings from dotted keys, the form that Flower's run config can hold."""
        table: Table = {}
        for key, value in flat.items():
            place(table, key, value)
        return cls.from_table(table, source=source)

    def to_table(self) -> Table:
        """Return nested plain tables that `from_table` reads back to equal settings."""
        return typing.cast(Table, _plain(self))

    def to_toml(self) -> str:
        """Return the settings as a TOML document."""
        import tomli_w

        return tomli_w.dumps(self.to_table())

    def to_flat(self) -> dict[str, bool | int | float | str]:
        """Return dotted keys and scalars; a list becomes its JSON text."""
        return dict(_flatten(self.to_table(), ""))

    def digest(self) -> str:
        """Return the SHA-256 (hex) of the canonical settings."""
        text = json.dumps(self.to_table(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


def read_toml(path: Path) -> Table:
    """Read a TOML file into nested tables.

    Raises:
        ConfigError: The file is missing, unreadable, not UTF-8 or not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"Cannot read {path}: {error.strerror}; name a TOML file.") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text; save it as UTF-8.") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not TOML: {error}; mend that line.") from error


def place(table: Table, key: str, value: object) -> None:
    """Set the dotted `key` of nested tables.

    Raises:
        ConfigError: A part of the key already holds a value that is no table.
    """
    *rooms, name = key.split(".")
    for room in rooms:
        table = table.setdefault(room, {})
        if not isinstance(table, dict):
            raise ConfigError(f"{key}: {room} holds a value, not a table; name one key only.")
    table[name] = value


REGISTRIES: dict[str, Mapping[str, tuple[type, Any]]] = {"model": MODELS, "algorithm": ALGORITHMS}
USUAL_ALGORITHM = {
    "ease": "gram",
    "bilinear": "gradient",
    "gru": "gradient",
    "item-knn": "gram",
    "mf": "averaging",
    "ncf": "gradient",
    "popularity": "popularity",
    "sasrec": "gradient",
    "transitions": "transitions",
    "two-tower": "gradient",
    "vae": "gradient",
}


def _with_methods(table: Mapping[str, Any]) -> Table:
    """Fill in the default model and the model's usual algorithm."""
    model, algorithm = table.get("model", {}), table.get("algorithm", {})
    if isinstance(model, Mapping):
        model = {"name": "mf", **model}
        if isinstance(algorithm, Mapping):
            usual = USUAL_ALGORITHM.get(str(model["name"]), "averaging")
            algorithm = {"name": usual, **algorithm}
    return {**table, "model": model, "algorithm": algorithm}


def _build(kind: Any, table: object, path: str, complaints: list[str]) -> object:
    """Build one frozen config from its table; complaints collect what is wrong."""
    if not isinstance(table, Mapping):
        complaints.append(f"{path} must be a table")
        return None
    hints = typing.get_type_hints(kind)
    before = len(complaints)
    complaints += [_unknown(_join(path, key), key, hints) for key in table if key not in hints]
    values = {
        key: _value(hints[key], _completed(kind, key, value), _join(path, key), complaints)
        for key, value in table.items()
        if key in hints
    }
    complaints += [
        f"{_join(path, f.name)} is missing"
        for f in fields(kind)
        if f.name not in table and f.default is MISSING and f.default_factory is MISSING
    ]
    if len(complaints) > before:
        return None
    try:
        return kind(**values)
    except (ConfigError, ValueError) as error:
        complaints.append(str(error).removesuffix("."))
        return None


def _completed(kind: Any, key: str, value: object) -> object:
    """Fill a partial table up from its owner's default, which may differ from its type's."""
    factory = next(f.default_factory for f in fields(kind) if f.name == key)
    default = None if factory is MISSING else _plain(factory())
    return (
        {**default, **value} if isinstance(default, dict) and isinstance(value, Mapping) else value
    )


def _part(table: object, path: str, complaints: list[str]) -> Part | None:
    """Build the registry entry that the table names."""
    registry = REGISTRIES[path]
    if not isinstance(table, Mapping):
        complaints.append(f"{path} must be a table with a name, such as [{path}] name = ...")
        return None
    name = str(table.get("name"))
    if name not in registry:
        complaints.append(_unknown(f"{path}.name", name, registry))
        return None
    rest = {key: value for key, value in table.items() if key != "name"}
    settings = _build(registry[name][0], rest, path, complaints)
    return None if settings is None else Part(name=name, settings=settings)


def _value(hint: Any, value: object, path: str, complaints: list[str]) -> object:
    """Convert one value to what its field declares."""
    if hint is Part:
        return _part(value, path, complaints)
    if is_dataclass(hint):
        return _build(hint, value, path, complaints)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in {types.UnionType, typing.Union}:
        inner = [a for a in arguments if a is not type(None)]
        fitting = [a for a in inner if type(value) is a] or inner
        return _value(fitting[0], value, path, complaints)
    if origin is tuple:
        return _list(arguments[0], value, path, complaints)
    if origin is not None and isinstance(origin, type) and issubclass(origin, Mapping):
        return _mapping(arguments[1], value, path, complaints)
    return _scalar(hint, value, path, complaints)


def _list(hint: Any, value: object, path: str, complaints: list[str]) -> object:
    """Convert a list; flat settings carry it as JSON text."""
    if isinstance(value, str) and value.startswith("["):
        with contextlib.suppress(ValueError):
            value = json.loads(value)
    if not isinstance(value, list | tuple):
        complaints.append(f"{path}={value!r} must be a list")
        return None
    return tuple(_value(hint, one, f"{path}[{n}]", complaints) for n, one in enumerate(value))


def _mapping(hint: Any, value: object, path: str, complaints: list[str]) -> object:
    """Convert a table with free keys."""
    if not isinstance(value, Mapping):
        complaints.append(f"{path} must be a table")
        return None
    return {str(k): _value(hint, v, _join(path, str(k)), complaints) for k, v in value.items()}


def _scalar(hint: Any, value: object, path: str, complaints: list[str]) -> object:
    """Convert a number, a truth value, a text or one of named choices."""
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        choices: list[object] = [str(one) for one in hint]
    else:
        choices = list(typing.get_args(hint)) if typing.get_origin(hint) is Literal else []
    if choices:
        if value in choices:
            return hint(value) if isinstance(hint, type) else value
        complaints.append(f"{path}={value!r} must be one of {', '.join(map(repr, choices))}")
        return None
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not hint:
        complaints.append(f"{path}={value!r} must be {KINDS.get(hint, hint)}")
    elif isinstance(value, float) and not math.isfinite(value):
        complaints.append(f"{path}={value!r} must be a finite number")
    return value


KINDS: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text in quotes",
}


def _unknown(path: str, name: str, known: typing.Iterable[str]) -> str:
    """Say that a name is unknown and which known one is nearest."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(names)}"
    return f"{path} {name!r} is unknown ({hint})"


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _plain(value: object) -> object:
    """Turn settings into what TOML holds; a field without a value is left out."""
    if isinstance(value, Part):
        return {"name": value.name, **typing.cast(Table, _plain(value.settings))}
    if is_dataclass(value):
        pairs = ((f.name, getattr(value, f.name)) for f in fields(value))
        return {name: _plain(one) for name, one in pairs if one is not None}
    if isinstance(value, tuple):
        return [_plain(one) for one in value]
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    return str(value) if isinstance(value, StrEnum) else value


def _flatten(table: Table, path: str) -> Iterator[tuple[str, bool | int | float | str]]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _flatten(value, _join(path, key))
        else:
            yield _join(path, key), json.dumps(value) if isinstance(value, list) else value
