r"""Who masks with whom: everyone up to 100 devices, above that neighbours on a random ring.

Devices are put on a ring in an order that public randomness (the digest of all fresh keys) gives,
and each is joined to the nearest `half` on either side: the randomly labelled Harary graph of
Bell et al. 2020, whose degree grows with log n. What is left of it after devices are taken out
falls apart only where `half` places in a row are empty. The server could bring that about by
*calling* devices dropouts, so every device checks before it votes that each window of `half`
places holds `window` survivors, more than there can be colluders in it.

The degree is the least even number such that, for colluders at random places of the ring,

- the chance that some device has `threshold` colluding neighbours is below 2^-40,
- the chance that some window holds `window` or more colluders is below 2^-40, and

for dropouts at random places (an honest failure costs the round, not privacy)

- the chance that some device keeps fewer than `threshold` neighbours is below 2^-10, and
- the chance that some window keeps fewer than `window` survivors is below 2^-10,

from exact hypergeometric tails and a union over devices. Degrees, colluders and dropouts a tenth
each: 54 of 200 devices, 76 of 1,000, 92 of 10,000.
"""

import hashlib
import math
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Final

__all__ = ["COMPLETE", "LEAST_DEVICES", "Graph", "arranged"]

LEAST_DEVICES: Final = 3
"""A sum of two is no secret from either."""

COMPLETE: Final = 100
"""Up to this many devices everyone masks with everyone."""

LEAST_HALF: Final = 10
"""Neighbours on each side however few colluders and dropouts are declared."""

EXPOSED, ABORTED = Fraction(1, 2**40), Fraction(1, 2**10)


@dataclass(frozen=True, kw_only=True, slots=True)
class Graph:
    """Who masks with whom.

    Attributes:
        neighbours: Device -> its neighbours in rising order; the relation is symmetric.
        threshold: Shares that give a secret back: more than half of the neighbours.
        ring: Devices in the order of the ring; empty where everyone is joined to everyone.
        half: Neighbours on each side of the ring.
        window: Survivors that every `half` places in a row must hold.
    """

    neighbours: dict[int, tuple[int, ...]]
    threshold: int
    ring: tuple[int, ...] = ()
    half: int = 0
    window: int = 0

    def holds(self, survivors: tuple[int, ...]) -> bool:
        """Return whether no set of survivors is cut off from the others.

        Guarantees:
            graph refuses a cut: survivors that a run of absent devices separates do not pass.
        """
        alive = set(survivors)
        present = [device in alive for device in self.ring]
        inside = sum(present[: self.half])
        least = inside
        for place in range(len(self.ring)):
            inside += present[(place + self.half) % len(self.ring)] - present[place]
            least = min(least, inside)
        return least >= self.window


@lru_cache(maxsize=8)
def arranged(*, devices: tuple[int, ...], colluders: int, dropouts: int, seed: bytes) -> Graph:
    """Return the graph of some devices.

    Args:
        devices: Numbers of the devices, in rising order.
        colluders: Most of them that work with the server.
        dropouts: Most of them that fall silent after sharing.
        seed: Public randomness.
    """
    half = _half(len(devices), colluders, dropouts)
    if not half:
        everyone = {i: tuple(j for j in devices if j != i) for i in devices}
        # Colluders hold a share each of everyone's secrets: they must stay below the threshold.
        least = max(_threshold(len(devices) - 1), min(colluders, len(devices) - 2) + 1)
        return Graph(neighbours=everyone, threshold=least)
    ring = sorted(devices, key=lambda i: hashlib.sha256(seed + i.to_bytes(4, "little")).digest())
    steps = [step for step in range(-half, half + 1) if step]
    joined = {
        device: tuple(sorted(ring[(place + step) % len(ring)] for step in steps))
        for place, device in enumerate(ring)
    }
    return Graph(
        neighbours=joined,
        threshold=_threshold(2 * half),
        ring=tuple(ring),
        half=half,
        window=_window(len(devices), colluders, half),
    )


def _threshold(neighbours: int) -> int:
    return neighbours // 2 + 1


@lru_cache(maxsize=64)
def _half(devices: int, colluders: int, dropouts: int) -> int:
    """Return the least number of neighbours on each side; 0 for everyone with everyone."""
    most = (devices - 2) // 2
    if devices <= COMPLETE:
        return 0
    high = LEAST_HALF
    while high <= most and not _enough(high, devices, colluders, dropouts):
        high *= 2
    if high > most:
        return 0
    low = max(high // 2, LEAST_HALF - 1)  # Too few, or not allowed.
    while high - low > 1:
        between = (low + high) // 2
        if _enough(between, devices, colluders, dropouts):
            high = between
        else:
            low = between
    return high


def _enough(half: int, devices: int, colluders: int, dropouts: int) -> bool:
    degree, window = 2 * half, _window(devices, colluders, half)
    if window > half:
        return False
    exposed = _tails(devices - 1, colluders, degree)[_threshold(degree)]
    lost = _tails(devices - 1, dropouts, degree)[degree - _threshold(degree) + 1]
    thinned = _tails(devices, dropouts, half)[half - window + 1]
    return devices * exposed <= EXPOSED and devices * max(lost, thinned) <= ABORTED


def _window(devices: int, colluders: int, half: int) -> int:
    """Return the least number that colluders alone do not reach in any window."""
    tails = _tails(devices, colluders, half)
    return next(i for i, tail in enumerate(tails) if devices * tail <= EXPOSED)


@lru_cache(maxsize=64)
def _tails(places: int, marked: int, drawn: int) -> list[Fraction]:
    """Chances of 0, 1, .. drawn + 1 or more marked ones among `drawn` of `places`."""
    ways = [math.comb(marked, i) * math.comb(places - marked, drawn - i) for i in range(drawn + 1)]
    sums = [0]
    for way in reversed(ways):
        sums.append(sums[-1] + way)
    every = math.comb(places, drawn)
    return [Fraction(ways_above, every) for ways_above in reversed(sums)]
