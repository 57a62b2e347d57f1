"""What devices are told of a run's settings."""

import numpy as np

from server.census import Census
from server.terms import settle
from shared.config import Settings


def test_a_folder_of_the_server_is_not_told(tmp_path: object) -> None:
    table = {
        "model": {"name": "two-tower", "dim": 4, "encoder": str(tmp_path)},
        "privacy": {"unit": "none"},
    }
    settings = Settings.from_table(table)
    census = Census(nodes={1: 5}, n_items=6, catalogue="c")
    method, algorithm, _, _ = settle(settings, census, np.eye(6))
    assert str(tmp_path) not in repr(method)
    assert method.settings["model.dim"] == 4
    assert algorithm.model.global_shapes["text"] == (6, 4)
