"""Noise that protects, its stand-ins, and the named streams.

Statistical checks reject at p < 1e-6, so a right source fails one check in a million runs; each
test says how many it makes. Every check is shown to reject a source that is wrong by 5 %.
"""

import os
import tracemalloc

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binomtest, chi2, kstest

from shared import randomness
from shared.randomness import NOISE_NAMES, NoNoise, OSNoise, SeededNoise, noise_source, stream

LIMIT = 1e-6
SIZE = 20_000


def scale_p(x: NDArray[np.float64], sigma: float) -> float:
    """Two-sided p of the sum of squares."""
    total = float(np.sum(np.square(x))) / sigma**2
    return 2 * min(float(chi2.cdf(total, len(x))), float(chi2.sf(total, len(x))))


def shape_p(x: NDArray[np.float64]) -> float:
    return float(kstest(x, "norm").pvalue)


def rate_p(heads: NDArray[np.bool_], rate: float) -> float:
    return float(binomtest(int(heads.sum()), len(heads), rate).pvalue)


@pytest.mark.statistical
def test_gaussian_has_unit_scale_both_ways() -> None:
    """One check that may fail falsely (1e-6); the others must reject, and do but for 1e-6."""
    x = OSNoise().gaussian((SIZE,))
    assert scale_p(x, 1.0) > LIMIT
    assert scale_p(x, 1.05) < LIMIT
    assert scale_p(x, 1 / 1.05) < LIMIT


@pytest.mark.statistical
def test_gaussian_has_normal_shape() -> None:
    """One check (1e-6); a Laplace sample of the same variance is rejected."""
    assert shape_p(OSNoise().gaussian((SIZE,))) > LIMIT
    laplace = stream(3, "laplace").laplace(scale=np.sqrt(0.5), size=SIZE)
    assert shape_p(laplace) < LIMIT


@pytest.mark.statistical
def test_both_halves_of_a_block_are_normal_and_unrelated() -> None:
    """Box-Muller makes pairs: two scales, two shapes, one correlation (five checks, 5e-6)."""
    size = 2 * randomness.BLOCK
    x = OSNoise().gaussian((size,)).reshape(-1, randomness.BLOCK // 2)
    cosines, sines = np.concatenate(x[::2]), np.concatenate(x[1::2])
    for half in (cosines, sines):
        assert scale_p(half, 1.0) > LIMIT
        assert shape_p(half) > LIMIT
    # The mean of n products of independent normals has sd 1/sqrt(n); 4.9 sd is p = 1e-6.
    assert abs(np.mean(cosines * sines)) < 4.9 / np.sqrt(len(cosines))


@pytest.mark.statistical
def test_gaussian_tail_is_there() -> None:
    """Values beyond 4 sd: binomial count of a million draws (one check, 1e-6)."""
    x = OSNoise().gaussian((1_000_000,))
    assert rate_p(np.abs(x) > 4.0, 6.334248366623984e-05) > LIMIT
    assert np.abs(x).max() < 8.6


def test_extreme_uniforms_stay_finite(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ends of the keystream give 0 and the largest radius, sqrt(2 * 53 * ln 2) = 8.57."""
    ends = np.array([0.0, 1.0 - 2.0**-53])
    monkeypatch.setattr(randomness, "_keystream", lambda: lambda size: np.resize(ends, size))
    x = OSNoise().gaussian((4,))
    assert np.isfinite(x).all()
    assert np.abs(x).max() == pytest.approx(8.57, abs=0.01)


@pytest.mark.parametrize("shape", [(), (0,), (1,), (3, 0), (7, 3), (randomness.BLOCK + 1,)])
def test_gaussian_fills_every_shape(shape: tuple[int, ...]) -> None:
    """Every value is drawn: none is exactly zero (a draw is, with probability below 1e-15)."""
    x = OSNoise().gaussian(shape)
    assert x.shape == shape
    assert x.dtype == np.float64
    assert np.all(x != 0.0)
    assert len(np.unique(x)) == x.size


@pytest.mark.statistical
@pytest.mark.parametrize("rate", [0.01, 0.3, 0.9])
def test_coins_have_their_rate_both_ways(rate: float) -> None:
    """One check a rate (1e-6 each), at a size where 5 % off is 7 sd or more."""
    heads = OSNoise().coins(3_000_000, rate)
    assert rate_p(heads, rate) > LIMIT
    assert rate_p(heads, rate * 1.05) < LIMIT
    assert rate_p(heads, rate / 1.05) < LIMIT


@pytest.mark.parametrize("noise", [OSNoise(), SeededNoise(1), NoNoise(1)])
def test_coins_at_the_ends(noise: OSNoise | SeededNoise) -> None:
    assert noise.coins(1000, 1.0, "a").all()
    assert not noise.coins(1000, 0.0, "a").any()
    assert noise.coins(0, 0.5, "a").shape == (0,)


@pytest.mark.parametrize("noise", [OSNoise(), SeededNoise(1), NoNoise(1)])
@pytest.mark.parametrize("rate", [-0.1, 1.1, float("nan")])
def test_coins_refuse_what_is_no_probability(noise: OSNoise | SeededNoise, rate: float) -> None:
    with pytest.raises(ValueError, match="rate"):
        noise.coins(3, rate)


def test_two_calls_differ() -> None:
    noise = OSNoise()
    assert not np.any(noise.gaussian((1000,), "same", 1) == noise.gaussian((1000,), "same", 1))
    assert np.any(noise.coins(1000, 0.5, "same") != noise.coins(1000, 0.5, "same"))


def test_experiment_seed_never_reaches_the_system_source() -> None:
    np.random.seed(0)  # noqa: NPY002
    first = noise_source("os", 7).gaussian((1000,), "k")
    np.random.seed(0)  # noqa: NPY002
    assert not np.any(first == noise_source("os", 7).gaussian((1000,), "k"))
    with pytest.raises(TypeError):
        OSNoise(7)  # type: ignore[call-arg]
    assert not vars(OSNoise())


def test_each_call_takes_a_fresh_key(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    real = os.urandom
    monkeypatch.setattr(os, "urandom", lambda size: sizes.append(size) or real(size))
    noise = OSNoise()
    noise.gaussian((3 * randomness.BLOCK,))
    noise.coins(10, 0.5)
    assert sizes == [32, 32]


@pytest.mark.parametrize("error", [OSError("gone"), NotImplementedError("none")])
def test_no_entropy_no_release(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: int) -> bytes:
        raise error

    monkeypatch.setattr(os, "urandom", fail)
    with pytest.raises(OSError, match="nothing is released"):
        OSNoise().gaussian((3,))
    with pytest.raises(OSError, match="nothing is released"):
        OSNoise().coins(3, 0.5)


@pytest.mark.parametrize("key", [b"", b"short"])
def test_short_entropy_no_release(key: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "urandom", lambda _: key)
    with pytest.raises(ValueError, match="key"):
        OSNoise().gaussian((3,))


def test_scratch_memory_does_not_grow() -> None:
    noise = OSNoise()
    noise.gaussian((10,))
    size = 2_000_000
    tracemalloc.start()
    noise.gaussian((size,))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * size + 100 * randomness.BLOCK


@pytest.mark.statistical
def test_seeded_noise_passes_the_same_checks() -> None:
    """50 seeds, two checks each: a false alarm somewhere with probability 1e-4 (fixed seeds)."""
    for seed in range(50):
        x = SeededNoise(seed).gaussian((SIZE,), "check")
        assert scale_p(x, 1.0) > LIMIT
        assert shape_p(x) > LIMIT


def test_seeded_noise_repeats_by_name() -> None:
    noise, again = SeededNoise(5), SeededNoise(5)
    assert np.array_equal(noise.gaussian((9,), "a", 1), again.gaussian((9,), "a", 1))
    assert not np.any(noise.gaussian((9,), "a", 1) == noise.gaussian((9,), "a", 2))
    assert np.array_equal(noise.coins(99, 0.5, "a"), again.coins(99, 0.5, "a"))


def test_stand_ins_are_stamped() -> None:
    stamps = {name: noise_source(name, 1).private for name in NOISE_NAMES}
    assert stamps == {"os": True, "seeded": False, "off": False}
    assert not noise_source("off", 1).gaussian((5,)).any()


@pytest.mark.parametrize("name", ["", "OS", "0s", "none"])
def test_unknown_source_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="Unknown noise"):
        noise_source(name, 1)


def test_stream_depends_on_every_key() -> None:
    draws = [
        int(stream(*keys).integers(2**62))
        for keys in [(7, "a", 1), (7, "a", 2), (8, "a", 1), (7, "b", 1), (7, "a", "1"), (7, "a")]
    ]
    assert len(set(draws)) == len(draws)
    assert int(stream(np.int64(7), "a", np.int64(1)).integers(2**62)) == draws[0]


def test_stream_refuses_keys_that_would_fall_together() -> None:
    with pytest.raises(TypeError):
        stream(7, "a", 1.5)  # type: ignore[arg-type]
