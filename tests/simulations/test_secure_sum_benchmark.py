"""The benchmark of secure sums says what it measured, and fails when a sum is wrong."""

import json

import numpy as np
import pytest

from shared.privacy.secure_sum.server import Server
from simulations.benchmarks import secure_sum


def test_one_case_is_one_json_object(capsys: pytest.CaptureFixture[str]) -> None:
    assert secure_sum.main(["--devices", "20", "--dimension", "30"]) == 0
    report = json.loads(capsys.readouterr().out)
    (case,) = report["sums"]
    assert case["exact"] is True
    assert case["silent"] == 1
    assert case["goal_seconds"] is None
    assert case["bytes_up"]["MaskedVector"] == 2 + 16 + 8 + 4 * 30
    assert set(report["noise_samples_per_second"]) == {"10", "10000", "1e+06"}


def test_wrong_sum_fails_verification(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right = Server.total
    monkeypatch.setattr(Server, "total", lambda self: right(self) + np.uint32(1))
    assert secure_sum.main(["--devices", "5", "--dimension", "3"]) == 4
    assert json.loads(capsys.readouterr().out)["sums"][0]["exact"] is False


def test_impossible_case_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert secure_sum.main(["--devices", "2"]) == 2
    assert "3 or more devices" in capsys.readouterr().err
