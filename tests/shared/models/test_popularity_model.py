import numpy as np

from shared.data.interactions import Interactions
from shared.models.base import Model
from shared.models.popularity import PopularityModel


def test_every_history_gets_the_counts():
    model: Model = PopularityModel(n_items=4)
    counts = np.array([3.0, 0.0, -1.5, 2.0])
    histories = Interactions.from_histories([[0], [], [1, 2]], n_items=4)
    scores = model.score({"counts": counts}, histories)
    assert scores.shape == (3, 4)
    assert scores.dtype == np.float64
    assert (scores == counts).all()


def test_the_start_is_independent_of_data_and_seed():
    model = PopularityModel(n_items=4)
    assert model.initial(0)["counts"].tolist() == model.initial(9)["counts"].tolist() == [0.0] * 4
    assert {n: v.shape for n, v in model.initial(0).items()} == dict(model.global_shapes)
    assert model.local_shapes == {}


def test_scores_may_be_changed_by_the_caller():
    model, counts = PopularityModel(n_items=2), np.array([1.0, 2.0])
    histories = Interactions.from_histories([[0], [1]], n_items=2)
    model.score({"counts": counts}, histories)[0, 0] = 9.0
    assert counts.tolist() == [1.0, 2.0]
