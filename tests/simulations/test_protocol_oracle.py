import json

import pytest

from simulations.benchmarks import protocol_oracle


@pytest.fixture
def pairs(tmp_path):
    """Three users of six items in the "user item" text, oldest first."""
    path = tmp_path / "pairs.txt"
    histories = {1: [1, 2, 3, 4], 2: [1, 2, 4, 5], 3: [1, 3, 2, 6]}
    lines = [f"{user} {item}" for user, items in histories.items() for item in items]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_it_prints_one_object(pairs, capsys):
    assert protocol_oracle.main([str(pairs)]) == 0
    result = json.loads(capsys.readouterr().out)[str(pairs)]
    assert result["dataset"] == {"users": 3, "items": 6, "interactions": 12}
    assert (result["test"]["users"], result["agrees"]) == (3, None)
    # Training counts 3, 2, 1, 0, 0, 0. Each held-out item has a count of 0 and two unseen rivals
    # that count no less, so its pessimistic rank is 2.
    assert result["test"]["hit_rate@10"] == 1.0
    assert result["test"]["ndcg@10"] == pytest.approx(0.5)


def test_a_difference_is_a_failure(pairs, capsys, monkeypatch):
    monkeypatch.setattr(protocol_oracle, "EXPECTED", {(3, 6, 12): {"ndcg@10": 0.4994}})
    assert protocol_oracle.main([str(pairs)]) == 4
    assert json.loads(capsys.readouterr().out)[str(pairs)]["agrees"] is False
    monkeypatch.setattr(protocol_oracle, "EXPECTED", {(3, 6, 12): {"ndcg@10": 0.4996}})
    assert protocol_oracle.main([str(pairs)]) == 0


def test_a_missing_file_is_one_sentence(tmp_path, capsys):
    assert protocol_oracle.main([str(tmp_path / "absent.txt")]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
