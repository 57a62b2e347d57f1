import numpy as np
import pytest
from scipy.stats import chi2, kstest

from shared.errors import ConfigError, RunError
from shared.privacy.gaussian import perturb
from shared.randomness import NoNoise, OSNoise, SeededNoise


def scale_p(values, sigma):
    s = float(np.sum(np.square(values))) / sigma**2
    return 2 * min(chi2.cdf(s, len(values)), chi2.sf(s, len(values)))


def released(sums, variance, noise=None, users=3):
    return perturb(sums, variance=variance, users=users, noise=noise or SeededNoise(0))


@pytest.mark.statistical
def test_perturb_adds_gaussian_noise_of_the_named_variance():
    # Each threshold has a false-alarm rate of 1e-6; 5 % more or less noise is caught.
    total = np.arange(40_000.0).reshape(200, 200)
    noised = released({"a": total}, {"a": 9.0}, OSNoise()).tensors["a"]
    added = (noised - total).ravel()
    assert scale_p(added, 3.0) > 1e-6
    assert scale_p(added, 3.0 * 1.05) < 1e-6
    assert scale_p(added, 3.0 / 1.05) < 1e-6
    assert kstest(added / 3.0, "norm").pvalue > 1e-6


@pytest.mark.statistical
def test_a_row_can_have_its_own_variance():
    variance = np.array([[1.0], [100.0]])
    noised = released({"a": np.zeros((2, 20_000))}, {"a": variance}, OSNoise()).tensors["a"]
    for row, sigma in zip(noised, (1.0, 10.0), strict=True):
        assert scale_p(row, sigma) > 1e-6
        assert scale_p(row, sigma * 1.05) < 1e-6
        assert scale_p(row, sigma / 1.05) < 1e-6


def test_perturb_noises_every_row():
    sums = {"a": np.zeros((50, 3)), "b": np.zeros(50)}
    tensors = released(sums, {"a": 1.0, "b": np.full(50, 1e-6)}, OSNoise()).tensors
    assert all((values != 0.0).all() for values in tensors.values())


def test_tensors_have_their_own_draws():
    tensors = released({"a": np.zeros(9), "b": np.zeros(9)}, {"a": 1.0, "b": 1.0}).tensors
    assert not np.array_equal(tensors["a"], tensors["b"])


@pytest.mark.parametrize(("noise", "private"), [(OSNoise(), True), (SeededNoise(1), False)])
def test_perturb_stamps_stand_ins(noise, private):
    release = released({"a": np.zeros(2)}, {"a": 1.0}, noise, users=7)
    assert (release.private, release.users) == (private, 7)
    assert not released({"a": np.zeros(2)}, {"a": 1.0}, NoNoise(0)).private


def test_sums_are_left_alone():
    total = np.zeros(5)
    released({"a": total}, {"a": 1.0})
    assert total.tolist() == [0.0] * 5


@pytest.mark.parametrize(
    "variance",
    [
        {"a": 0.0},
        {"a": -1.0},
        {"a": np.nan},
        {"a": np.inf},
        {"a": np.array([1.0, 1.0, 0.0, 1.0])},
        {"a": np.array([1.0, np.nan, 1.0, 1.0])},
        {"a": np.ones(3)},
        {"a": np.ones((4, 1))},
        {},
        {"a": 1.0, "b": 1.0},
    ],
)
def test_an_impossible_variance_is_refused(variance):
    with pytest.raises(ConfigError, match="Expected a"):
        released({"a": np.zeros(4)}, variance, OSNoise())


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_sum_that_is_not_finite_is_not_released(value):
    with pytest.raises(RunError, match="nothing was released"):
        released({"a": np.array([0.0, value])}, {"a": 1.0}, OSNoise())


def test_a_release_needs_a_user():
    with pytest.raises(ConfigError, match="users=0"):
        released({"a": np.zeros(2)}, {"a": 1.0}, users=0)
