"""What a comparison runs: settings for each configuration, model, epsilon and seed.

Everything impossible is refused here, before any run.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from shared.config import Settings
from shared.errors import ConfigError
from shared.privacy.plan import Unit
from simulations.options import settings_for

__all__ = ["Line", "lineup", "names", "whole_numbers"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One row: the same settings under several seeds.

    Attributes:
        label: Configuration and model; rows of one label make one curve.
        epsilon: Budget; None without protection.
        runs: Settings, one a seed.
    """

    label: str
    epsilon: float | None
    runs: tuple[Settings, ...] = field(repr=False)

    @property
    def budget(self) -> str:
        """Epsilon in words, "none" without protection."""
        return "none" if self.epsilon is None else f"{self.epsilon:g}"

    @property
    def name(self) -> str:
        """Label and budget, such as "user@3"; also the name of its files."""
        return f"{self.label}@{self.budget}"


def lineup(
    *,
    configs: Sequence[Path],
    models: Sequence[str],
    epsilons: Sequence[str],
    seeds: Sequence[int],
    flags: Mapping[str, object],
    assignments: Sequence[str],
) -> list[Line]:
    """Compose the lines of a comparison.

    Args:
        configs: TOML files; without any, the settings of `fedrec simulate` without a file.
        models: Models each configuration runs with; without any, its own.
        epsilons: Budgets each of them runs with, "none" without protection; without any, its own.
            A configuration that protects nothing has one line whatever is asked.
        seeds: Seeds each of them runs with.
        flags: Dotted key -> value of further options.
        assignments: Texts "a.b=c" of `--set`.

    Raises:
        ConfigError: Settings are impossible, two lines have one name, or lines would not be
            measured on the same users.
    """
    if not seeds or len(set(seeds)) < len(seeds):
        raise ConfigError("Expected different --seeds, at least one.")
    lines = []
    files: Sequence[Path | None] = configs or [None]
    methods: Sequence[str | None] = models or [None]
    for config, model in itertools.product(files, methods):
        chosen = flags if model is None else {**flags, "model.name": model}
        for epsilon in _budgets(config, chosen, assignments, epsilons):
            given = {**chosen, **_budget(epsilon)}
            runs = tuple(_settings(config, {**given, "seed": n}, assignments) for n in seeds)
            lines.append(_line(config, runs, several=bool(models)))
    _check(lines)
    return lines


def names(text: str, *, option: str) -> list[str]:
    """Split "a,b" and refuse empty parts.

    >>> names("none, 3", option="--epsilons")
    ['none', '3']

    Raises:
        ConfigError: A part is empty.
    """
    parts = [part.strip() for part in text.split(",")] if text.strip() else []
    if not all(parts):
        raise ConfigError(f"Expected {option} {text!r} to be a list such as a,b,c.")
    return parts


def whole_numbers(text: str, *, option: str) -> list[int]:
    """Split "0,1,2".

    Raises:
        ConfigError: A part is no whole number.
    """
    parts = names(text, option=option)
    if not all(part.isdecimal() for part in parts):
        raise ConfigError(f"Expected {option} {text!r} to be whole numbers such as 0,1,2.")
    return [int(part) for part in parts]


def _settings(
    config: Path | None, flags: Mapping[str, object], assignments: Sequence[str]
) -> Settings:
    return settings_for(config=config, flags=flags, assignments=assignments, out=None, resume=False)


def _budgets(
    config: Path | None,
    flags: Mapping[str, object],
    assignments: Sequence[str],
    epsilons: Sequence[str],
) -> Sequence[str | None]:
    """Return the budgets of one configuration; one without protection has "none" only."""
    if not epsilons:
        return [None]
    alone = _settings(config, flags, assignments)
    return epsilons if alone.privacy.unit is not Unit.NONE else ["none"]


def _budget(epsilon: str | None) -> dict[str, object]:
    if epsilon is None:
        return {}
    if epsilon == "none":
        return {"privacy.unit": "none"}
    try:
        return {"privacy.epsilon": float(epsilon)}
    except ValueError:
        raise ConfigError(
            f"Expected --epsilons {epsilon!r} to be a number above 0 or none."
        ) from None


def _line(config: Path | None, runs: tuple[Settings, ...], *, several: bool) -> Line:
    privacy, model = runs[0].privacy, runs[0].model.name
    label = config.stem if config is not None else model
    if config is not None and several:
        label = f"{label}-{model}"
    epsilon = None if privacy.unit is Unit.NONE else privacy.epsilon
    return Line(label=label, epsilon=epsilon, runs=runs)


def _check(lines: Sequence[Line]) -> None:
    """Refuse lines that share a name or that were not asked the same."""
    names = [line.name for line in lines]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"Two lines are called {', '.join(twice)}; rename a configuration file.")
    first = lines[0].runs[0]
    for line in lines[1:]:
        other = line.runs[0]
        for part in ("data", "protocol", "evaluation"):
            if getattr(other, part) != getattr(first, part):
                raise ConfigError(
                    f"{line.name} differs from {lines[0].name} in {part}, so their users cannot be "
                    "paired; compare runs on the same data, protocol and evaluation."
                )
