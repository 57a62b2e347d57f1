"""Honest rounds: the sum bit for bit, with devices falling silent in every phase."""

from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from scipy import stats
from summing import Round, SeededWords, identity, session

from shared.errors import ConfigError, ProtocolError, RunError
from shared.privacy.noise_shares import NoiseShares
from shared.privacy.quantisation import Grid
from shared.privacy.secure_sum.device import Device

PHASES = ("advertise", "share", "mask", "vote", "unmask")
RING = {"colluders": 6, "dropouts": 12, "minimum": 80}


@pytest.mark.parametrize("devices", [3, 4, 9])
def test_total_is_the_plain_sum(devices: int) -> None:
    played = Round(session(devices, dimension=70_000 if devices == 4 else 5))
    total = played.total()
    assert total.dtype == np.uint32
    assert np.array_equal(total, played.vectors.sum(axis=0, dtype=np.uint32))


def test_total_of_a_ring_is_the_plain_sum() -> None:
    played = Round(session(120, **RING), {"share": [5], "mask": [1, 2], "unmask": [9]})
    total = played.total()
    assert 0 < played.server._circle.graph.half < 59
    assert len(played.survivors.devices) == 117
    assert np.array_equal(total, played.expected())


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("silent", [[0], [2, 8], [1, 3, 8]])
def test_dropouts_above_the_threshold_change_nothing_else(phase: str, silent: list[int]) -> None:
    played = Round(session(9), {phase: silent})
    total = played.total()
    early = phase in {"advertise", "share", "mask"}
    assert set(played.survivors.devices) == set(range(9)) - (set(silent) if early else set())
    assert np.array_equal(total, played.expected())


def test_one_dropout_in_every_phase() -> None:
    played = Round(session(11), {phase: [place] for place, phase in enumerate(PHASES)})
    assert np.array_equal(played.total(), played.expected())
    assert played.survivors.devices == tuple(range(3, 11))


@pytest.mark.parametrize("phase", PHASES)
def test_server_aborts_below_the_thresholds(phase: str) -> None:
    played = Round(session(9), {phase: [0, 1, 2, 3, 4]})
    with pytest.raises(RunError, match="aborted"):
        played.total()
    with pytest.raises((RunError, ProtocolError)):
        played.server.total()
    if phase != "unmask":
        assert played.server._openings == {}


def test_late_dropouts_are_taken_off_whichever_end_they_are() -> None:
    for gone in ([0], [6], [3], [0, 6]):
        played = Round(session(7), {"mask": gone})
        assert np.array_equal(played.total(), played.expected())


@pytest.mark.statistical
def test_masked_vector_is_uniform() -> None:
    # Fresh keys: each of 3 p-values falls below 1e-7 once in ten million runs.
    played = Round(session(3, dimension=60_000)).until("share")
    zeros = np.zeros(60_000, dtype=np.uint32)
    masked = [played.devices[i].mask(played.deliveries[i], zeros).words for i in range(3)]
    for words in masked:
        counts = np.bincount(words.view(np.uint8), minlength=256)
        assert stats.chisquare(counts).pvalue > 1e-7
    assert not np.array_equal(masked[0], masked[1])
    # The test sees what it should: a sum of small numbers, or a mask of 31 bits, is caught.
    narrow = np.bincount((masked[0] >> 1).view(np.uint8), minlength=256)
    assert stats.chisquare(narrow).pvalue < 1e-7


def test_keys_and_masks_are_fresh_each_time() -> None:
    first, second = (Round(session(3)).until("advertise") for _ in range(2))
    for one, other in zip(first.keys.adverts, second.keys.adverts, strict=True):
        assert len({one.mask, one.channel, one.commitment, other.mask, other.channel}) == 5


def test_noised_contributions_come_out_as_their_noised_sum() -> None:
    grid = Grid(dimension=400, clip_norm=1.0)
    shares = NoiseShares(grid=grid, noise_multiplier=0.5, minimum=4, devices=6)
    played = Round(session(6, dimension=400, minimum=5), {"mask": [2]})
    rng = np.random.default_rng(0)
    plain = rng.normal(size=(6, 400)) / 40
    source = SeededWords(1)
    played.vectors = np.array([shares.contribution(row, source=source) for row in plain])
    estimate = shares.estimate(played.total())
    deviation = shares.realised(5) * grid.sensitivity * grid.step
    error = estimate - plain[list(played.survivors.devices)].sum(axis=0)
    assert np.abs(error).max() < 6 * deviation
    assert error.std() == pytest.approx(deviation, rel=0.2)


def test_identity_of_another_device_is_refused() -> None:
    terms = session(3)
    for number in (1, 7, -1):
        with pytest.raises(ConfigError, match="roster"):
            Device(session=terms, number=number, identity=identity(0))
    with pytest.raises(ConfigError, match="roster"):
        Device(session=terms, number=0, identity=Ed25519PrivateKey.generate())


@pytest.mark.parametrize(
    "changes",
    [
        {"devices": 2, "minimum": 2},
        {"minimum": 3},
        {"minimum": 7},
        {"colluders": 3, "minimum": 6},
        {"colluders": 2, "minimum": 4},
        {"dropouts": -1},
        {"dimension": 0},
        {"round": -1},
    ],
)
def test_impossible_terms_are_refused(changes: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        session(**{"devices": 6, **changes})


def test_roster_names_each_device_once() -> None:
    terms = session(3)
    with pytest.raises(ConfigError, match="different 32-byte keys"):
        type(terms)(
            run="made",
            round=1,
            roster=(terms.roster[0],) * 3,
            dimension=1,
            minimum=2,
            colluders=0,
            dropouts=0,
        )


def test_every_term_changes_the_context() -> None:
    changes: list[dict[str, Any]] = [
        {},
        {"run": "other"},
        {"round": 2},
        {"dimension": 5},
        {"minimum": 5},
        {"dropouts": 1},
        {"terms": b"plan"},
        {"devices": 8, "minimum": 5},
    ]
    digests = {session(**{"devices": 7, **change}).digest for change in changes}
    assert len(digests) == len(changes)
