"""The server's own ledger: a round is charged before it is ordered, and once."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from counting import federate, made_population, plan, private_plan, user_plan

from server.charging import Charging
from shared.errors import BudgetError
from shared.privacy.accounting import epsilon_of
from shared.privacy.chain import Head
from shared.privacy.ledger import Ledger
from shared.privacy.plan import Trust
from shared.privacy.verification import cross_check, read_ledger

PLAN = private_plan(rounds=2)
TIGHT = replace(PLAN, epsilon=epsilon_of([PLAN.total_spend], delta=PLAN.delta))
ROUND: dict[str, Any] = {"run": "r", "round": 1, "state": "s", "people": np.arange(3)}
ROUND |= {"purpose": "train", "clip_norm": PLAN.clip_norm}


def test_a_round_is_charged_before_it_is_ordered_and_a_repeated_one_is_charged_once(
    tmp_path: Path,
) -> None:
    path = tmp_path / "runs" / "server-ledger.db"
    for settled in (False, True, True):
        charging = Charging(path, plan=TIGHT, settings="s")
        head = Head.from_dict(json.loads(charging.reserve(**ROUND)))
        (charge,) = charging._ledger.history()
        assert head.sound
        assert charge.reply_digest == ("sum" if settled else None)
        charging.release("sum")
        charging.release("another sum of the same round played again")
        charging.close()
    charging = Charging(path, plan=TIGHT, settings="s")
    charging.reserve(**ROUND | {"round": 2})
    with pytest.raises(BudgetError):
        charging.reserve(**ROUND | {"round": 3})
    charging.close()


def test_a_settled_round_that_this_server_noised_is_charged_again(tmp_path: Path) -> None:
    made = user_plan(trust=Trust.CENTRAL, rounds=2)
    tight = replace(made, epsilon=epsilon_of([made.total_spend], delta=made.delta))
    for settled, charges in ((False, 1), (True, 1), (False, 2)):
        charging = Charging(tmp_path / "ledger.db", plan=tight, settings="s")
        charging.reserve(**ROUND)
        assert len(charging._ledger.history()) == charges
        if settled:
            charging.release("sum")
        charging.close()
    charging = Charging(tmp_path / "ledger.db", plan=tight, settings="s")
    with pytest.raises(BudgetError):
        charging.reserve(**ROUND)
    charging.close()


def test_devices_witness_the_server(tmp_path: Path) -> None:
    """Three rounds, two nodes: each round's head is kept by the devices and is in the chain."""
    with Ledger(tmp_path / "devices.db") as ledger:
        federate(
            made_population(), nodes=2, run_plan=PLAN, ledger=ledger, directory=tmp_path / "run"
        )
    server = read_ledger(tmp_path / "run" / "server-ledger.db")
    assert server.statement.kinds == {"genesis": 1, "reserve": 3, "released": 3}
    assert cross_check(server, read_ledger(tmp_path / "devices.db")) == 3


def test_a_run_without_protection_charges_nobody(tmp_path: Path) -> None:
    federate(made_population(), nodes=2, run_plan=plan(), directory=tmp_path)
    assert not (tmp_path / "server-ledger.db").exists()
