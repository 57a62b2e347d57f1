"""Canaries: made users whose contributions are chosen, and made interactions.

Whole users. Each canary owns one coordinate of the largest tensor of a round, counted from the last
row, where the catalogue has planted items that nobody else touches: honest contributions are
cleared there. A canary that is in contributes exactly the clip norm along it, a canary that is out
contributes nothing; half of them turn their sign from round to round. One more canary contributes
a thousand clip norms, one more has a very long history.

Interactions. A canary is an interaction with a planted item in the history of a device; the real
private training makes its gradient. Nothing is replaced. Users without any history send pure
noise, whose size the code itself is asked for with a known stand-in (`planting.Probe`).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from shared.data.interactions import Interactions
from shared.errors import ConfigError
from shared.privacy.plan import PrivacyConfig, Trust, Unit
from shared.randomness import stream

__all__ = ["NORM", "AttackConfig", "Canaries"]

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]
Ints = NDArray[np.int64]
Shapes = Mapping[str, tuple[int, ...]]

NORM = 1e3
"""The big contribution, in clip norms."""

DEVICES = 2
"""Devices among which canary interactions are shared out."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AttackConfig:
    """Size of an attack.

    Attributes:
        canaries: Canaries of the statistical layer, each in by a fair coin.
        history: Events of an honest user.
        long_history: Events of the user who has very many.

    Raises:
        ConfigError: A number is too small to find anything.
    """

    canaries: int = 1000
    history: int = 20
    long_history: int = 700

    @classmethod
    def usual(cls, privacy: PrivacyConfig) -> "AttackConfig":
        """Return what fits a minute: a canary that is a device of its own costs more."""
        alone = privacy.unit is Unit.USER and privacy.trust is Trust.LOCAL
        return cls(canaries=400) if alone else cls()

    def __post_init__(self) -> None:
        if self.canaries < 40 or self.history < 1 or self.long_history < 1:
            raise ConfigError("Expected at least 40 canaries and 1 event a user; ask for more.")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Canaries:
    """Who the canaries are, by user key: honest people first, then the special users.

    Attributes:
        unit: What is protected.
        honest: Number of honest users.
        items: Items that honest users may meet; the planted ones lie behind them.
        included: bool [canaries], which are in.
        alternating: bool [canaries], which turn their sign (whole users only).
    """

    unit: Unit
    honest: int
    items: int
    included: Flags = field(repr=False)
    alternating: Flags = field(repr=False)

    @classmethod
    def toss(
        cls, config: AttackConfig, *, unit: Unit, honest: int, items: int, seed: int
    ) -> "Canaries":
        """Toss the coins: reproducible, for they protect nobody."""
        included = stream(seed, "canary coins").random(config.canaries) < 0.5
        alternating = np.arange(config.canaries) % 2 == 1
        if unit is Unit.INTERACTION:
            alternating = np.zeros_like(alternating)
        return cls(
            unit=unit, honest=honest, items=items, included=included, alternating=alternating
        )

    @property
    def size(self) -> int:
        """Number of canaries of the statistical layer."""
        return len(self.included)

    @property
    def planted(self) -> int:
        """Items in the catalogue that nobody but a canary touches."""
        return self.size + (0 if self.unit is Unit.INTERACTION else 2)

    @property
    def big(self) -> int:
        """Key of the user whose contribution is huge; its coordinate is behind the canaries'."""
        return self.honest

    @property
    def long(self) -> int:
        """Key of the user with the long history."""
        return self.honest + 1

    @property
    def first(self) -> int:
        """Key of the first canary user."""
        return self.honest + 2

    @property
    def silent(self) -> int:
        """Key of the first of three users without history (interactions)."""
        return self.honest

    @property
    def devices(self) -> Ints:
        """Keys of the devices that hold canary interactions."""
        return np.arange(DEVICES, dtype=np.int64) + self.honest + 3

    def items_of(self, device: int) -> Ints:
        """Return the numbers of the canaries that a device may hold."""
        return np.arange(device - int(self.devices[0]), self.size, DEVICES, dtype=np.int64)

    def planted_item(self, canaries: Ints) -> Ints:
        """Return the items of canary interactions."""
        return self.items + canaries

    @property
    def groups(self) -> list[tuple[int, int]]:
        """Return (first key, number) of the users on each special node, in the order of keys."""
        if self.unit is Unit.INTERACTION:
            return [(self.silent, 1), (self.silent + 1, 2), *((int(d), 1) for d in self.devices)]
        return [(self.big, 1), (self.long, 1)]

    def histories(self, config: AttackConfig, seed: int) -> Interactions:
        """Return the made histories of everyone; canaries have the least that there can be."""
        rng = stream(seed, "made histories")
        length = min(config.history, self.items)
        rows = [rng.permutation(self.items)[:length] for _ in range(self.honest)]
        if self.unit is Unit.INTERACTION:
            rows += [np.zeros(0, dtype=np.int64)] * 3
            for device in self.devices:
                held = self.items_of(int(device))
                rows.append(self.planted_item(held[self.included[held]]))
        else:
            many = rng.permutation(self.items)[: config.long_history]
            rows += [rng.permutation(self.items)[:1], many]
            rows += [np.array([j % self.items]) for j in range(self.size)]
        return Interactions.from_events(
            users=np.repeat(np.arange(len(rows)), [len(row) for row in rows]),
            items=np.concatenate(rows),
            n_users=len(rows),
            n_items=self.items + self.planted,
        )

    def cells(self, shapes: Shapes) -> tuple[str, Ints, Ints]:
        """Return the coordinates of the planted users: tensor, row and column of each.

        The canaries come first, then the big one, then the long one. A tensor with fewer rows than
        twice the planted users gives half its rows, and several columns of them, unless its rows
        are the items of the catalogue.

        Raises:
            ConfigError: The tensors are too small for so many canaries.
        """
        name = max(shapes, key=lambda n: (math.prod(shapes[n]), n))
        rows, width = shapes[name][0], math.prod(shapes[name][1:])
        used = self.planted
        if rows != self.items + self.planted:
            used = min(used, max(1, rows // 2))
        if used * width < self.planted:
            raise ConfigError(
                f"The {rows} x {width} values of a contribution hold no {self.planted} canaries; "
                "ask for fewer of them."
            )
        column, row = np.divmod(np.arange(self.planted, dtype=np.int64), used)
        return name, rows - 1 - row, column

    def signs(self, round_: int) -> Array:
        """Return float64 [canaries]: 1 or, for an alternating canary in even rounds, -1."""
        return np.where(self.alternating & (round_ % 2 == 0), -1.0, 1.0)

    def values(self, round_: int, clip_norm: float) -> Array:
        """Return float64 [planted users]: what each contributes along its own coordinate."""
        special = np.array([NORM, 1.0])
        return clip_norm * np.concatenate([self.included * self.signs(round_), special])

    def number(self, keys: Ints) -> Ints:
        """Return the place among the planted users of each key; -1 for honest people."""
        places = np.where(keys >= self.first, keys - self.first, -1)
        places = np.where(keys == self.big, self.size, places)
        return np.asarray(np.where(keys == self.long, self.size + 1, places), dtype=np.int64)
