"""Ids and their indices, in one order that every party derives alike.

Guarantees:
    The order depends on the set of ids alone (`test_order_depends_on_the_set_alone`).
    Two vocabularies have one digest exactly when they hold the same ids in the same order
    (`test_digest_tells_vocabularies_apart`).
"""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Self

import numpy as np
from numpy.typing import NDArray

from shared.errors import DataError

__all__ = ["Vocabulary"]

_INTEGER = re.compile(r"-?[0-9]{1,1000}")


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Distinct ids; the index of an id is its position.

    Attributes:
        ids: The ids, all different.

    >>> Vocabulary.from_ids(["10", "9", "10"]).ids
    ('9', '10')
    """

    ids: tuple[str, ...] = field(repr=False)
    _places: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Index the ids.

        Raises:
            DataError: An id occurs twice.
        """
        object.__setattr__(self, "_places", {name: place for place, name in enumerate(self.ids)})
        if len(self._places) < len(self.ids):
            raise DataError("The vocabulary holds an id twice; give distinct ids.")

    @classmethod
    def from_ids(cls, ids: Iterable[str]) -> Self:
        """Return the distinct ids, by number if all are integers, else by code point."""
        distinct = set(ids)
        if all(_INTEGER.fullmatch(name) for name in distinct):
            return cls(tuple(sorted(distinct, key=lambda name: (int(name), name))))
        return cls(tuple(sorted(distinct)))

    @property
    def digest(self) -> str:
        """SHA-256 (hex) over the ids in order, each with its length in front."""
        digest = hashlib.sha256(b"fedrec vocabulary 1\n")
        for name in self.ids:
            data = name.encode()
            digest.update(b"%d:%b" % (len(data), data))
        return digest.hexdigest()

    def __len__(self) -> int:
        """Return the number of ids."""
        return len(self.ids)

    def __contains__(self, name: object) -> bool:
        """Return whether an id is known."""
        return name in self._places

    def index(self, name: str) -> int:
        """Return the index of one id.

        Raises:
            DataError: The id is not in the vocabulary.
        """
        place = self._places.get(name)
        if place is None:
            raise DataError("The id is not in the vocabulary; use one of the training data.")
        return place

    def indices(self, names: Iterable[str]) -> NDArray[np.int64]:
        """Return int64 [names], the index of each id.

        Raises:
            DataError: An id is not in the vocabulary.
        """
        return np.array([self.index(name) for name in names], dtype=np.int64)
