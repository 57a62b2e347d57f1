import numpy as np
import pytest
from counting import private_plan, user_plan
from scipy.stats import chi2, kstest

from shared.errors import ConfigError, RunError
from shared.privacy.gaussian import ROUNDING, perturb, privatise, privatise_total
from shared.privacy.plan import Trust
from shared.privacy.release import LocalUpdate, Rows, clip
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


def clipped(users=4, clip_norm=0.5):
    """Contributions to a tensor of 20,000 rows, of which each user touches one."""
    rows = Rows(
        owner=np.arange(users), index=np.arange(users), values=np.ones(users), shape=(20_000,)
    )
    return clip(LocalUpdate(tensors={"a": rows}, users=users), clip_norm=clip_norm)


@pytest.mark.statistical
def test_privatise_noises_every_value():
    # Four devices' own noise: 4 (2 * 0.5)^2. False alarms 1e-6 each; 5 % of scale is caught.
    plan = user_plan(trust=Trust.LOCAL, clip_norm=0.5)
    release = privatise(clipped(), plan, OSNoise())
    values = release.tensors["a"]
    assert (release.users, release.private, (values == 0.0).any()) == (4, True, False)
    added = values - np.where(np.arange(20_000) < 4, 0.5, 0.0)
    assert scale_p(added, 2.0) > 1e-6
    assert scale_p(added, 2.0 * 1.05) < 1e-6
    assert scale_p(added, 2.0 / 1.05) < 1e-6
    assert kstest(added / 2.0, "norm").pvalue > 1e-6


@pytest.mark.statistical
@pytest.mark.parametrize("users", [1, 900])
def test_privatise_total_noises_once(users):
    plan = user_plan(trust=Trust.CENTRAL, clip_norm=0.5)
    total = {"a": np.zeros(20_000)}
    release = privatise_total(total, users=users, plan=plan, noise=OSNoise())
    values = release.tensors["a"]
    assert scale_p(values, 1.0) > 1e-6
    assert scale_p(values, 1.05) < 1e-6
    assert scale_p(values, 1.0 / 1.05) < 1e-6
    assert (release.users, release.private, (values == 0.0).any()) == (users, True, False)


def test_noise_of_the_server_covers_the_rounding_on_the_wire():
    plan = user_plan(trust=Trust.CENTRAL, noise="seeded")
    found = privatise_total({"a": np.zeros(9)}, users=1, plan=plan, noise=SeededNoise(0))
    bare = perturb({"a": np.zeros(9)}, variance={"a": 4.0}, users=1, noise=SeededNoise(0))
    np.testing.assert_allclose(found.tensors["a"], bare.tensors["a"] * ROUNDING, rtol=1e-12)
    rounded = np.float32(np.random.default_rng(0).normal(size=10_000)).astype(np.float64)
    exact = np.random.default_rng(0).normal(size=10_000)
    assert np.linalg.norm(rounded) <= np.linalg.norm(exact) * ROUNDING


def test_who_adds_the_noise_is_the_plan_s_to_say():
    central, local = user_plan(trust=Trust.CENTRAL), user_plan(trust=Trust.LOCAL)
    for plan in (central, private_plan()):
        with pytest.raises(ConfigError, match="unit=user with trust=local"):
            privatise(clipped(clip_norm=1.0), plan, OSNoise())
    for plan in (local, private_plan()):
        with pytest.raises(ConfigError, match="unit=user with trust=central"):
            privatise_total({"a": np.zeros(2)}, users=1, plan=plan, noise=OSNoise())
    with pytest.raises(ConfigError, match="clip_norm=1"):
        privatise(clipped(clip_norm=0.5), local, OSNoise())
