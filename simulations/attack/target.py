"""What is attacked: the settings of a run and the public sizes of its population."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from shared.config import Settings, read_toml
from shared.errors import ConfigError
from shared.privacy.plan import Unit
from simulations.directory import read_json

__all__ = ["SIZES", "Target", "read_target"]

SIZES: Final = {"ml-100k": (943, 1682), "ml-1m": (6040, 3706), "synthetic": (943, 1682)}
"""Users and items of the known data sets, which an attack need not read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """A run to attack.

    Attributes:
        settings: Of the run.
        users: Users of its population.
        items: Items of its catalogue.
        directory: The run directory, if it was run.
    """

    settings: Settings
    users: int
    items: int
    directory: Path | None = None

    def __post_init__(self) -> None:
        if self.settings.privacy.unit is Unit.NONE:
            raise ConfigError(
                "unit=none claims no protection, so there is nothing to attack; name the settings "
                "of a protected run."
            )
        if self.users < 1 or self.items < 2:
            raise ConfigError("Expected a user and two items to attack; name another run.")


def read_target(path: Path) -> Target:
    """Return what a settings file or a run directory describes.

    A settings file whose data set is not a known one is read for its number of users and items.

    Raises:
        ConfigError: There are no settings, or they claim no protection.
        DataError: The data set that the settings name cannot be used.
        RunError: A manifest cannot be read.
    """
    if path.is_dir():
        return _from_directory(path)
    settings = Settings.from_table(read_toml(path), source=str(path))
    users, items = SIZES.get(settings.data.dataset) or _counted(settings)
    return Target(settings=settings, users=users, items=items)


def _from_directory(path: Path) -> Target:
    if not (path / "manifest.json").is_file():
        raise ConfigError(
            f"{path} holds no manifest.json; name a run directory or a settings file."
        )
    found: Any = read_json(path / "manifest.json")
    try:
        settings = Settings.from_table(found["settings"], source=str(path / "manifest.json"))
        sizes = {name: int(found["dataset"][name]) for name in ("users", "items")}
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{path}/manifest.json is not the manifest of a run.") from error
    return Target(settings=settings, directory=path, **sizes)


def _counted(settings: Settings) -> tuple[int, int]:
    from simulations.display import Display
    from simulations.run import load_dataset

    with Display() as display:
        table = load_dataset(settings, display).interactions
    return table.n_users, table.n_items
