"""From the options of a command to the settings of a run.

Order, last one wins: the defaults of the rooms, the TOML file, `--set`, the named options. Another
`--model` or `--algorithm` than the file's starts from that method's own defaults.
A resumed run keeps the settings it began with; an option may only repeat them.
"""

import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from shared.config import Settings, place, read_toml
from shared.errors import ConfigError

__all__ = ["PACKAGED", "assignment", "settings_for", "settings_of"]


PACKAGED: dict[str, dict[str, str]] = {
    "transitions": {"user": "default.toml", "none": "open.toml"},
    "mf": {"user": "mf_user.toml", "interaction": "mf_interaction.toml", "none": "mf_open.toml"},
    "popularity": {"user": "popularity.toml"},
    "ease": {"user": "ease.toml", "none": "ease_open.toml"},
    "item-knn": {"user": "item_knn.toml", "none": "item_knn_open.toml"},
    "bilinear": {"user": "bilinear_user.toml"},
    "gru": {"none": "gru.toml", "user": "gru_user.toml"},
    "sasrec": {"none": "sasrec.toml"},
    "two-tower": {"none": "two_tower.toml"},
    "vae": {"none": "vae.toml"},
}
"""Settings that were chosen on validation: model -> what is protected -> file."""


def settings_for(
    *,
    config: Path | None,
    flags: Mapping[str, object],
    assignments: Sequence[str],
    out: Path | None,
    resume: bool,
) -> Settings:
    """Compose the settings of `fedrec simulate`.

    Args:
        config: A TOML file; if absent the packaged one for the model and the unit asked for,
            `experiments/default.toml` for neither.
        flags: Dotted key -> value of the named options that were given.
        assignments: Texts "a.b=c" of `--set`.
        out: Run directory.
        resume: Whether the run in `out` goes on.

    Raises:
        ConfigError: Anything unknown, impossible, contradictory, or different from the run that
            is to be resumed.
    """
    if resume and out is None:
        raise ConfigError("--resume needs the run directory; name it with --out DIR.")
    stored = settings_of(out) if resume and out is not None else None
    if stored is not None and config is None:
        table = stored.to_table()
    else:
        table = read_toml(config if config is not None else _default(flags, assignments))
        if config is None and flags.get("privacy.unit") == "interaction":
            place(table, "privacy.trust", "local")
    _change_method(table, flags)
    for text in assignments:
        place(table, *assignment(text))
    for key, value in flags.items():
        place(table, key, value)
    settings = Settings.from_table(table, source=str(config) if config else "settings")
    if stored is not None and settings != stored:
        changed = _difference(settings.to_flat(), stored.to_flat())
        raise ConfigError(
            f"A resumed run keeps its settings, but {', '.join(changed)} would change; leave "
            "them out, or start a new run in another directory."
        )
    return settings


def _change_method(table: dict[str, Any], flags: Mapping[str, object]) -> None:
    """Drop settings of the file's model or algorithm when an option names another one.

    Another model also brings its own usual algorithm.
    """
    model, algorithm = flags.get("model.name"), flags.get("algorithm.name")
    if model is not None and model != _name(table, "model"):
        table["model"] = {"name": model}
        table.pop("algorithm", None)
    if algorithm is not None and algorithm != _name(table, "algorithm"):
        table["algorithm"] = {"name": algorithm}


def _name(table: Mapping[str, Any], room: str) -> object:
    part = table.get(room, {})
    return part.get("name") if isinstance(part, Mapping) else None


def assignment(text: str) -> tuple[str, object]:
    """Read "a.b=c": c is a TOML value, or else a plain text.

    >>> assignment("training.rounds=3"), assignment("privacy.unit=none")
    (('training.rounds', 3), ('privacy.unit', 'none'))

    Raises:
        ConfigError: There is no key or no equals sign.
    """
    key, equals, value = text.partition("=")
    key = key.strip()
    if not equals or not all(key.split(".")):
        raise ConfigError(f"--set {text!r} must look like key=value, such as training.rounds=3.")
    try:
        parsed = tomllib.loads(f"value = {value}")
    except tomllib.TOMLDecodeError:
        return key, value
    return key, parsed["value"] if len(parsed) == 1 else value


def settings_of(out: Path) -> Settings:
    """Return the settings of the run that `out` holds.

    Raises:
        ConfigError: There is no run in `out`, or its manifest cannot be read.
    """
    path = out / "manifest.json"
    try:
        manifest: Any = json.loads(path.read_text(encoding="utf-8"))
        table = manifest["settings"]
    except FileNotFoundError as error:
        raise ConfigError(
            f"Nothing to resume in {out}: it has no manifest.json; leave --resume out to start."
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} is not the manifest of a run; start a new run.") from error
    return Settings.from_table(table, source=str(path))


def _default(flags: Mapping[str, object], assignments: Sequence[str]) -> Path:
    """Return the packaged settings of a run without a file.

    What learns well depends on how much noise there is, and where. A trusted server is never
    chosen for anyone, nor a run without protection.

    Raises:
        ConfigError: The model has settings without protection alone, and nobody asked for those.
    """
    asked = dict(assignment(text) for text in assignments) | dict(flags)
    unit = str(asked.get("privacy.unit", "user"))
    usual = "mf" if unit == "interaction" else "transitions"
    model = str(asked.get("model.name", usual))
    files = PACKAGED.get(model, PACKAGED[usual])
    if set(files) == {"none"} and "privacy.unit" not in asked:
        raise ConfigError(
            f"model={model} has settings for runs without protection alone; say --unit none, or "
            "give a file with settings of your own."
        )
    return Path(__file__).parent / "experiments" / files.get(unit, next(iter(files.values())))


def _difference(one: Mapping[str, object], other: Mapping[str, object]) -> list[str]:
    keys = sorted(one.keys() | other.keys())
    return [key for key in keys if one.get(key) != other.get(key)]
