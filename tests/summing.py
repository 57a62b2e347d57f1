"""A made secure sum: enrolled devices, honest rounds over the wire, and words from a seed."""

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray

from shared.privacy.secure_sum.device import Device
from shared.privacy.secure_sum.server import Server
from shared.privacy.secure_sum.session import Session

Vectors = NDArray[np.uint32]


class SeededWords:
    """Repeatable words: a stand-in, never private."""

    private: ClassVar[bool] = False

    def __init__(self, seed: int) -> None:
        self._generator = np.random.default_rng(seed)

    def words(self, size: int) -> NDArray[np.uint64]:
        return self._generator.integers(0, 2**64, size, dtype=np.uint64)


class GivenWords:
    """Hands out a list of words."""

    private: ClassVar[bool] = False

    def __init__(self, words: Iterable[int]) -> None:
        self._words = list(words)

    def words(self, size: int) -> NDArray[np.uint64]:
        part, self._words = self._words[:size], self._words[size:]
        return np.array(part, dtype=np.uint64)


@lru_cache(maxsize=256)
def identity(number: int) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.generate()


def session(devices: int, **changes: Any) -> Session:
    roster = tuple(identity(i).public_key().public_bytes_raw() for i in range(devices))
    terms = {"run": "made", "round": 1, "dimension": 4, "colluders": 0, "dropouts": 0}
    terms["minimum"] = (devices + int(changes.get("colluders", 0))) // 2 + 1
    return Session(roster=roster, **{**terms, **changes})


def vectors(terms: Session, seed: int = 0) -> Vectors:
    shape = (len(terms.roster), terms.dimension)
    return np.random.default_rng(seed).integers(0, 2**32, shape, dtype=np.uint32)


def wire(message: Any) -> Any:
    """Send a message: what arrives is what its bytes say."""
    return type(message).from_bytes(message.to_bytes())


class Round:
    """One sum, phase by phase; devices listed in `silent` say nothing from that phase on."""

    def __init__(self, terms: Session, silent: Mapping[str, Iterable[int]] | None = None) -> None:
        self.session = terms
        self.silent = {phase: set(devices) for phase, devices in (silent or {}).items()}
        self.server = Server(terms)
        numbers = range(len(terms.roster))
        self.devices = {i: Device(session=terms, number=i, identity=identity(i)) for i in numbers}
        self.vectors = vectors(terms)

    def speaking(self, phase: str) -> list[Device]:
        for number in self.silent.get(phase, ()):
            self.devices.pop(number, None)
        return list(self.devices.values())

    def advertise(self) -> None:
        for device in self.speaking("advertise"):
            self.server.receive(wire(device.advertise()))
        self.keys = wire(self.server.keys())

    def share(self) -> None:
        for device in self.speaking("share"):
            self.server.receive(wire(device.share(self.keys)))
        self.deliveries = {i: wire(sent) for i, sent in self.server.deliveries().items()}

    def mask(self) -> None:
        self.speaking("mask")
        for number, device in self.devices.items():
            masked = device.mask(self.deliveries[number], self.vectors[number])
            self.server.receive(wire(masked))
        self.survivors = wire(self.server.survivors())

    def vote(self) -> None:
        for device in self.speaking("vote"):
            self.server.receive(wire(device.vote(self.survivors)))
        self.proof = wire(self.server.proof())

    def unmask(self) -> None:
        for device in self.speaking("unmask"):
            self.server.receive(wire(device.unmask(self.proof)))

    def until(self, last: str) -> "Round":
        for phase in ("advertise", "share", "mask", "vote", "unmask"):
            getattr(self, phase)()
            if phase == last:
                break
        return self

    def total(self) -> Vectors:
        return self.until("unmask").server.total()

    def expected(self) -> Vectors:
        return self.vectors[list(self.survivors.devices)].sum(axis=0, dtype=np.uint32)
