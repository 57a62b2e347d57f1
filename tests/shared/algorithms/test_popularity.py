from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2, kstest

from shared.algorithms.base import Algorithm, Cohort
from shared.algorithms.popularity import Popularity, PopularityConfig
from shared.data.interactions import Interactions
from shared.errors import ConfigError
from shared.privacy.plan import Plan, Trust, Unit
from shared.privacy.release import expose
from shared.randomness import NoNoise, OSNoise, SeededNoise

N_ITEMS = 6
HISTORIES = [[0, 1, 1, 2], [1, 5], [1]]
PRIVATE = Plan(
    unit=Unit.INTERACTION,
    trust=Trust.LOCAL,
    epsilon=4.0,
    delta=1e-5,
    clip_norm=1.0,
    noise_multiplier=2.0,
    sampling_rate=1.0,
    steps_per_round=1,
    participations=1,
    rounds=1,
    expected_cohort=3,
    noise="seeded",
)
OPEN = replace(PRIVATE, unit=Unit.NONE, epsilon=np.inf, delta=0.0, noise_multiplier=0.0)


def scale_p(values, sigma):
    s = float(np.sum(np.square(values))) / sigma**2
    return 2 * min(chi2.cdf(s, len(values)), chi2.sf(s, len(values)))


def cohort(histories=HISTORIES, *, n_items=N_ITEMS, keys=None):
    return Cohort(
        histories=Interactions.from_histories(histories, n_items=n_items),
        keys=np.arange(len(histories)) if keys is None else np.asarray(keys),
        memory={},
        round=1,
        seed=0,
    )


def privately(plan, noise, asked=None, *, n_items=N_ITEMS):
    method = Popularity(n_items=n_items)
    release, memory = method.contribute_per_interaction(
        method.start(0), asked or cohort(n_items=n_items), plan, noise
    )
    assert memory == {}
    return release


def test_one_exact_round_counts_users_per_item():
    method: Algorithm = Popularity(n_items=N_ITEMS)
    state = method.start(0)
    update, memory = method.contribute(state, cohort(), OPEN)
    assert memory == method.memory(np.arange(3), 0) == {}
    state = method.absorb(state, expose(update, OPEN).tensors, OPEN)
    assert state.tensors["counts"].tolist() == [1, 3, 1, 0, 0, 1]
    assert state.round == 1


def test_rows_belong_to_their_users():
    rows = Popularity(n_items=N_ITEMS).contribute(None, cohort(), OPEN)[0].tensors["counts"]
    assert rows.owner.tolist() == [0, 0, 0, 1, 1, 2]
    assert rows.index.tolist() == [0, 1, 2, 1, 5, 1]
    assert rows.values.tolist() == [1.0] * 6


@given(
    histories=st.lists(st.lists(st.integers(0, 5), max_size=5), min_size=1, max_size=6),
    cut=st.integers(0, 6),
)
@settings(deadline=None, max_examples=50)
def test_packing_does_not_change_the_sum(histories, cut):
    parts = [part for part in (histories[:cut], histories[cut:]) if part]
    whole = privately(PRIVATE, NoNoise(0), cohort(histories))
    some = [privately(PRIVATE, NoNoise(0), cohort(part)) for part in parts]
    assert sum(r.users for r in some) == whole.users
    total = sum(r.tensors["counts"] for r in some)
    np.testing.assert_allclose(total, whole.tensors["counts"])


@pytest.mark.parametrize("clip_norm", [0.25, 1.0, 3.0])
def test_an_interaction_moves_the_sum_by_at_most_the_clip_norm(clip_norm):
    plan = replace(PRIVATE, clip_norm=clip_norm)
    whole = privately(plan, SeededNoise(0)).tensors["counts"]
    for user, history in enumerate(HISTORIES):
        for position in range(len(history)):
            fewer = [list(h) for h in HISTORIES]
            del fewer[user][position]
            moved = whole - privately(plan, SeededNoise(0), cohort(fewer)).tensors["counts"]
            assert np.linalg.norm(moved) <= clip_norm + 1e-12
    moved = whole - privately(plan, SeededNoise(0), cohort([[0, 1, 2], [1], [1]])).tensors["counts"]
    assert np.linalg.norm(moved) == pytest.approx(min(1.0, clip_norm))


@pytest.mark.statistical
@pytest.mark.parametrize("clip_norm", [0.5, 2.0])
def test_a_packed_cohort_has_every_users_noise(clip_norm):
    # Three users, each N(0, (2 clip)^2): thresholds have a false-alarm rate of 1e-6.
    plan, n = replace(PRIVATE, clip_norm=clip_norm), 40_000
    counts = np.zeros(n)
    counts[[0, 1, 2, 5]] = [1, 3, 1, 1]
    release = privately(plan, OSNoise(), n_items=n)
    added = release.tensors["counts"] - counts * min(1.0, clip_norm)
    sigma = np.sqrt(3.0) * 2.0 * clip_norm
    assert scale_p(added, sigma) > 1e-6
    assert scale_p(added, sigma * 1.05) < 1e-6
    assert scale_p(added, sigma / 1.05) < 1e-6
    assert kstest(added / sigma, "norm").pvalue > 1e-6
    assert (release.users, release.private) == (3, True)


def test_every_item_is_noised():
    counts = privately(PRIVATE, OSNoise(), n_items=500).tensors["counts"]
    assert (counts != np.round(counts)).all()


def test_a_stand_in_is_stamped():
    assert not privately(PRIVATE, NoNoise(0)).private


@pytest.mark.statistical
def test_coins_let_in_the_public_rate_and_absorb_divides_it_out():
    # 4,000 coins of rate 0.25; 5 standard errors: false alarm < 1e-6.
    plan, asked = replace(PRIVATE, sampling_rate=0.25), cohort([[0, 1]] * 2000)
    counts = privately(plan, NoNoise(3), asked).tensors["counts"]
    assert abs(counts.sum() - 1000) < 5 * np.sqrt(4000 * 0.25 * 0.75)
    assert not np.array_equal(counts, privately(plan, NoNoise(4), asked).tensors["counts"])
    method = Popularity(n_items=N_ITEMS, config=PopularityConfig(sampling_rate=0.25))
    assert method.sampling_rate == 0.25
    state = method.absorb(method.start(0), {"counts": counts}, plan)
    np.testing.assert_allclose(state.tensors["counts"], counts * 4)


def test_clipped_counts_stay_in_events():
    plan, method = replace(PRIVATE, clip_norm=0.5), Popularity(n_items=N_ITEMS)
    total = privately(plan, NoNoise(0)).tensors
    state = method.absorb(method.start(0), total, plan)
    np.testing.assert_allclose(state.tensors["counts"], [1, 3, 1, 0, 0, 1])


def test_a_run_without_protection_is_refused():
    with pytest.raises(ConfigError, match="found unit=none"):
        privately(OPEN, NoNoise(0))


@pytest.mark.parametrize("rate", [0.0, -0.1, 1.1, float("nan")])
def test_an_impossible_sampling_rate_is_refused(rate):
    with pytest.raises(ConfigError, match="sampling_rate"):
        PopularityConfig(sampling_rate=rate)


def test_a_cohort_of_nobody_releases_nothing():
    with pytest.raises(ConfigError, match="users=0"):
        privately(PRIVATE, OSNoise(), cohort([]))
