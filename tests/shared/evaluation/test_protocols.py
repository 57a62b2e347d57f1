import numpy as np
import pytest

from shared.data.interactions import Interactions
from shared.data.queries import Queries
from shared.errors import ConfigError
from shared.evaluation.protocols import EvaluationConfig, Scores, compare, evaluate

N_ITEMS = 120


def population(users=60, n_items=N_ITEMS, held_out=1, seed=0):
    """Histories of 8 distinct items, then `held_out` others."""
    rng = np.random.default_rng(seed)
    rows = [rng.choice(n_items, size=8 + held_out, replace=False).tolist() for _ in range(users)]
    return Queries(
        users=np.arange(users),
        histories=Interactions.from_histories([r[:8] for r in rows], n_items=n_items),
        targets=Interactions.from_histories([r[8:] for r in rows], n_items=n_items),
    )


def scorer(table):
    """Answer batches in order from a ready table."""
    position = 0

    def score(histories):
        nonlocal position
        rows = table[position : position + histories.n_users]
        position += histories.n_users
        return rows

    return score


def oracle(queries, high=1.0):
    table = np.zeros((len(queries), queries.histories.n_items))
    table[queries.targets.users, queries.targets.items] = high
    return table


def run(table, queries, **settings):
    config = EvaluationConfig(**{"batch": 7, **settings})
    popularity = np.bincount(queries.histories.items, minlength=table.shape[1]).astype(float)
    return evaluate(scorer(table), queries, config=config, seed=0, popularity=popularity)


def test_the_keys_of_a_result():
    asked = population()
    scores = run(oracle(asked), asked)
    assert list(scores.as_dict()) == [
        "hit_rate@10",
        "ndcg@10",
        "recall@20",
        "ndcg@100",
        "sampled_hit_rate@10",
        "sampled_ndcg@10",
        "users",
    ]
    assert scores.as_dict()["users"] == 60
    assert {"precision@10", "f1@10", "mrr@10", "map@10", "coverage@10", "novelty@10"} <= set(
        scores.extra
    )
    assert all(type(value) is float for value in {**scores.metrics, **scores.extra}.values())


@pytest.mark.parametrize("held_out", [1, 15])
def test_oracle_scorer_finds_everything(held_out):
    asked = population(held_out=held_out)
    assert list(run(oracle(asked), asked).metrics.values()) == pytest.approx([1.0] * 6)


def test_constant_scorer_finds_nothing():
    asked = population()
    scores = run(np.ones((60, N_ITEMS)), asked)
    assert scores.metrics["hit_rate@10"] == scores.metrics["sampled_hit_rate@10"] == 0.0


def test_nan_scores_are_misses():
    asked = population(n_items=12)  # 4 candidates: any finite rank would be a hit at 10
    table = oracle(asked)
    table[table > 0] = np.nan
    assert set(run(table, asked).metrics.values()) == {0.0}
    assert set(run(np.full_like(table, np.nan), asked).metrics.values()) == {0.0}


@pytest.mark.statistical
def test_random_scorer_is_at_chance():
    # Each hit is a coin of probability 10 / candidates; 5 standard errors: false alarm < 1e-6.
    asked = population(users=3000, seed=1)
    table = np.random.default_rng(2).random((3000, N_ITEMS))
    metrics = run(table, asked, extra=(), batch=1000).metrics
    for name, candidates in (("hit_rate@10", N_ITEMS - 8), ("sampled_hit_rate@10", 100)):
        chance = 10 / candidates
        allowed = 5 * np.sqrt(chance * (1 - chance) / 3000)
        assert abs(metrics[name] - chance) < allowed
    table[asked.targets.users, asked.targets.items] **= 0.5  # a small advantage is seen
    informed = run(table, asked, extra=(), batch=1000).metrics
    assert informed["hit_rate@10"] > 10 / (N_ITEMS - 8) + allowed


def test_batches_do_not_change_the_scores():
    asked = population(held_out=3)
    table = np.random.default_rng(0).random((60, N_ITEMS))
    one, many = run(table, asked, batch=1), run(table, asked, batch=100)
    assert one.metrics == many.metrics
    assert one.extra == many.extra


def test_draws_are_averaged():
    asked = population()
    table = np.random.default_rng(0).random((60, N_ITEMS))
    one, five = (run(table, asked, negatives=30, draws=d) for d in (1, 5))
    values = five.per_query["sampled_hit_rate@10"]
    assert set(np.round(5 * values).astype(int)) > {0, 5}
    assert not np.array_equal(one.per_query["sampled_hit_rate@10"], values)


def test_extra_metrics_by_hand():
    asked = Queries(
        users=np.array([4, 9]),
        histories=Interactions.from_histories([[0], [0, 1]], n_items=4),
        targets=Interactions.from_histories([[1], [3]], n_items=4),
    )
    table = np.array([[9.0, 3, 2, 1], [9, 9, 2, 1]])
    extra = ("recall@1/popularity", "recall@1/activity", "coverage@1", "novelty@1")
    scores = run(table, asked, extra=extra)
    # Events 2, 1, 0, 0: item 1 begins in the last third. Top-1 lists: item 1, then item 2.
    assert scores.extra == pytest.approx(
        {
            "recall@1/popularity=tail": 0.5,
            "recall@1/activity=light": 1.0,
            "recall@1/activity=heavy": 0.0,
            "coverage@1": 0.5,
            "novelty@1": (np.log2(7 / 2) + np.log2(7 / 1)) / 2,
        }
    )


def test_popularity_is_optional():
    asked = population()
    scores = evaluate(scorer(oracle(asked)), asked, config=EvaluationConfig(), seed=0)
    assert not [name for name in scores.extra if "novelty" in name or "popularity" in name]


def test_parts_can_be_left_out():
    asked = population()
    scores = run(oracle(asked), asked, full=("ndcg@10",), sampled=(), extra=())
    assert (set(scores.metrics), dict(scores.extra)) == ({"ndcg@10"}, {})


def test_no_query_scores_zero():
    none = population().histories.select(np.zeros(0, dtype=np.int64))
    empty = Queries(users=np.zeros(0, dtype=np.int64), histories=none, targets=none)
    scores = run(np.zeros((0, N_ITEMS)), empty)
    assert set(scores.metrics.values()) == {0.0}
    assert scores.intervals(method="bootstrap")["ndcg@10"] == (0.0, 0.0)


def test_wrong_shape_of_scores_is_refused():
    asked = population()
    with pytest.raises(ValueError, match="Expected scores of shape"):
        evaluate(scorer(np.zeros((60, 3))), asked, config=EvaluationConfig(), seed=0)


@pytest.mark.parametrize(
    "settings",
    [
        {"full": ("hit@10",)},
        {"full": ("ndcg",)},
        {"full": ("ndcg@0",)},
        {"full": ("coverage@10",)},
        {"sampled": ("ndcg@-1",)},
        {"extra": ("ndcg@10/popularity",)},
        {"extra": ("recall@20/age",)},
        {"negatives": 0},
        {"draws": 0},
        {"batch": -1},
    ],
)
def test_impossible_settings_are_refused(settings):
    with pytest.raises(ConfigError, match="Expected evaluation"):
        EvaluationConfig(**settings)


def made(values, users=None, name="m"):
    values = np.asarray(values, dtype=float)
    who = np.arange(len(values)) if users is None else np.asarray(users)
    return Scores(
        metrics={name: float(values.mean())}, extra={}, per_query={name: values}, users=who
    )


def test_normal_interval_by_hand():
    scores = made([0, 0, 1, 1])
    error = np.sqrt(1 / 3) / 2
    assert scores.standard_errors["m"] == pytest.approx(error)
    assert scores.intervals()["m"] == pytest.approx(
        (0.5 - 1.959964 * error, 0.5 + 1.959964 * error)
    )
    assert scores.intervals(level=0.5)["m"][1] < scores.intervals()["m"][1]
    with pytest.raises(ConfigError):
        scores.intervals(level=1.0)


def test_bootstrap_agrees_with_the_normal_interval():
    scores = made(np.random.default_rng(0).random(900) < 0.3)
    normal, bootstrap = scores.intervals()["m"], scores.intervals(method="bootstrap")["m"]
    assert bootstrap == pytest.approx(normal, abs=0.004)
    assert bootstrap == scores.intervals(method="bootstrap")["m"]


@pytest.mark.statistical
def test_intervals_cover_the_truth_as_often_as_they_say():
    # 95 % of 400 populations; 5 standard errors are 5.4 points: false alarm < 1e-6.
    rng = np.random.default_rng(7)
    covered = []
    for _ in range(400):
        low, high = made(rng.random(200) < 0.4).intervals()["m"]
        covered.append(low <= 0.4 <= high)
    allowed = 5 * np.sqrt(0.95 * 0.05 / len(covered))
    assert abs(np.mean(covered) - 0.95) < allowed


def test_compare_pairs_by_user():
    rng = np.random.default_rng(0)
    easy = rng.random(400)
    order = rng.permutation(400)
    a = made(easy[order] + 0.01, users=order)
    difference = compare(a, made(easy))["m"]
    assert difference.mean == pytest.approx(0.01)
    assert difference.clear
    assert difference.standard_error < 1e-9
    assert made(easy).standard_errors["m"] > 0.01  # unpaired it would drown


@pytest.mark.parametrize("method", ["normal", "bootstrap"])
def test_compare_is_unclear_without_a_difference(method):
    values = np.random.default_rng(3).random(300)
    difference = compare(made(values), made(values[::-1]), method=method)["m"]
    assert difference.mean == pytest.approx(0.0, abs=1e-12)
    assert difference.low < 0 < difference.high
    assert not difference.clear


def test_compare_averages_over_seeds_first():
    a = [made([1, 0, 1]), made([0, 0, 1])]
    difference = compare(a, made([0, 0, 0]))["m"]
    assert difference.mean == pytest.approx(0.5)
    assert difference.standard_error == pytest.approx(np.std([0.5, 0, 1], ddof=1) / np.sqrt(3))


def test_compare_refuses_other_users():
    with pytest.raises(ValueError, match="the same users"):
        compare(made([1, 0]), made([1, 0], users=[0, 2]))


def test_compare_keeps_common_metrics():
    assert set(compare(made([1.0, 0.0]), made([1.0, 0.0], name="other"))) == set()
