"""The ring of neighbours: regular, symmetric, and no server cuts it."""

import numpy as np
import pytest

from shared.privacy.secure_sum.graph import COMPLETE, Graph, arranged

THOUSAND = tuple(range(1000))


def made(devices: int, *, colluders: int = 0, dropouts: int = 0, seed: bytes = b"s") -> Graph:
    return arranged(
        devices=tuple(range(devices)), colluders=colluders, dropouts=dropouts, seed=seed
    )


@pytest.mark.parametrize("devices", [3, 4, 57, COMPLETE])
def test_small_circles_are_complete(devices: int) -> None:
    graph = made(devices)
    assert all(len(near) == devices - 1 for near in graph.neighbours.values())
    assert graph.threshold > (devices - 1) / 2
    assert graph.holds(())


def test_colluders_stay_below_the_threshold_of_a_complete_circle() -> None:
    # Eight of ten devices sent keys, four collude: half of seven neighbours would be theirs.
    assert made(8, colluders=4).threshold == 5


@pytest.mark.parametrize("devices", [101, 250, 1000])
def test_ring_is_regular_and_symmetric(devices: int) -> None:
    graph = made(devices, colluders=devices // 10, dropouts=devices // 10)
    degrees = {len(near) for near in graph.neighbours.values()}
    assert degrees == {2 * graph.half}
    assert graph.threshold == graph.half + 1
    for device, near in graph.neighbours.items():
        assert device not in near
        assert list(near) == sorted(set(near))
        assert all(device in graph.neighbours[other] for other in near)


def test_degree_grows_with_the_logarithm() -> None:
    degrees = [2 * made(n, colluders=n // 10, dropouts=n // 10).half for n in (200, 1000, 5000)]
    assert degrees == [54, 76, 88]
    assert 2 * made(1000, colluders=100, dropouts=200).half == 106


def test_too_many_colluders_give_a_complete_circle() -> None:
    graph = made(120, colluders=50, dropouts=10)
    assert graph.ring == ()
    assert len(graph.neighbours[0]) == 119
    assert graph.threshold > 50


def test_order_follows_public_randomness() -> None:
    first, again, other = made(300, seed=b"a"), made(300, seed=b"a"), made(300, seed=b"b")
    assert first.ring == again.ring != other.ring
    assert sorted(first.ring) == list(range(300))


def parts(graph: Graph, present: set[int]) -> int:
    """Number of connected parts of some devices."""
    left, found = set(present), 0
    while left:
        found += 1
        frontier = [left.pop()]
        while frontier:
            near = left & set(graph.neighbours[frontier.pop()])
            left -= near
            frontier.extend(near)
    return found


def test_graph_refuses_a_cut() -> None:
    graph = made(1000, colluders=100, dropouts=100)
    ring, half = graph.ring, graph.half
    # The server calls two runs of the ring dropouts: 60 devices lie alone between them.
    gone = {*ring[:half], *ring[half + 60 : 2 * half + 60]}
    survivors = tuple(sorted(set(THOUSAND) - gone))
    assert parts(graph, set(survivors)) == 2
    assert not graph.holds(survivors)
    # One device less in a run and colluders in the gap: still refused.
    almost = tuple(sorted(set(THOUSAND) - gone | set(ring[: graph.window - 1])))
    assert not graph.holds(almost)


def test_isolating_one_device_is_refused() -> None:
    graph = made(1000, colluders=100, dropouts=100)
    survivors = tuple(sorted(set(THOUSAND) - set(graph.neighbours[7])))
    assert 7 in survivors
    assert not graph.holds(survivors)


@pytest.mark.statistical
def test_random_dropouts_pass() -> None:
    # A tenth drops out at random: one try is refused with chance below 2^-10; none of 20 is here.
    graph = made(1000, colluders=100, dropouts=100)
    rng = np.random.default_rng(0)
    for _ in range(20):
        survivors = tuple(sorted(int(i) for i in rng.permutation(1000)[:900]))
        assert graph.holds(survivors)
        alive = set(survivors)
        least = min(len(alive & set(graph.neighbours[i])) for i in THOUSAND)
        assert least >= graph.threshold


@pytest.mark.statistical
def test_what_holds_stays_connected_without_random_colluders() -> None:
    graph = made(1000, colluders=100, dropouts=100)
    rng = np.random.default_rng(1)
    for _ in range(20):
        order = [int(i) for i in rng.permutation(1000)]
        colluders, survivors = set(order[:100]), set(order[:900])
        assert graph.holds(tuple(survivors))
        assert parts(graph, survivors - colluders) == 1
