"""What is printed: true odds, plain words, no datum lost on a poor terminal."""

import io
from typing import Any

import pytest
from rich.console import Console

from simulations.display import protection, show_result

PRIVACY = {
    "private": True,
    "unit": "interaction",
    "trust": "local",
    "epsilon": 2.0,
    "delta": 1e-5,
    "adjacency": "add-or-remove",
    "accountant": "PLD",
    "second_opinion": 2.004,
    "noise_multiplier": 1.5,
    "clip_norm": 1.0,
}
SCORES = {"hit_rate@10": 0.1, "ndcg@10": 0.05, "users": 40}


def result(**changes: Any) -> dict[str, Any]:
    dataset = {"name": "made", "users": 40, "items": 30, "synthetic": False}
    return {
        "dataset": dataset,
        "protocol": "leave-last-out",
        "model": "mf",
        "rounds": 2,
        "test": SCORES,
        "baselines": {"popularity": SCORES, "private_popularity": SCORES},
        "confidence": {name: {} for name in ("test", "popularity", "private_popularity")},
        "privacy": PRIVACY,
        "cost": {
            "seconds": 1.0,
            "client_updates_per_core_second": 10.0,
            "bytes_up_per_user": 1500,
            "bytes_down_per_user": 2_500_000,
            "bytes_of_model": 4096,
            "peak_rss_mb": 100.0,
        },
    } | changes


def shown(value: dict[str, Any], width: int = 100) -> str:
    stream = io.StringIO()
    show_result(value, Console(file=stream, width=width))
    return " ".join(stream.getvalue().split())


def test_odds_are_the_best_guess_from_an_even_prior() -> None:
    assert "88.1 times of 100" in " ".join(protection(PRIVACY))
    near = protection(PRIVACY | {"epsilon": 0.2})
    assert "55.0 times of 100" in " ".join(near)
    weak = protection(PRIVACY | {"epsilon": 12.0})
    assert "99.9994 times of 100" in " ".join(weak)


@pytest.mark.parametrize("width", [30, 60, 100])
def test_every_number_is_there_at_any_width(width: int) -> None:
    text = shown(result(), width)
    for part in ("0.1000", "0.0500", "2.000", "1e-05", "1.5 kB", "2.5 MB", "private popularity"):
        assert part in text


def test_synthetic_data_is_said_loudly() -> None:
    dataset = {"name": "synthetic", "users": 1, "items": 1, "synthetic": True}
    assert shown(result(dataset=dataset)).startswith("SYNTHETIC")
    assert "SYNTHETIC" not in shown(result())


def test_a_stand_in_and_an_open_run_are_called_so() -> None:
    assert "NOT PRIVATE" in " ".join(protection(PRIVACY | {"private": False}))
    assert "NOT PROTECTED" in " ".join(protection({"unit": "none", "private": False}))
    assert "NOT" not in protection(PRIVACY)[0]


def test_names_are_not_markup() -> None:
    dataset = {"name": "[bold]x[/bold]", "users": 1, "items": 1, "synthetic": False}
    assert "[bold]x[/bold]" in shown(result(dataset=dataset))
