"""Charges made for tests of ledgers."""

import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shared.errors import BudgetError
from shared.privacy.accounting import Spend
from shared.privacy.chain import ROOT, Row, seal, sha
from shared.privacy.charges import Budget
from shared.privacy.identity import Identity
from shared.privacy.ledger import Ledger

__all__ = ["ONE", "WIDE", "chained", "edit", "filled", "reserve"]

ONE = Spend(noise_multiplier=5.0, sampling_rate=1.0, steps=2)
WIDE = Budget(epsilon=90.0, delta=1e-5)


def reserve(ledger: Ledger, **changes: Any) -> int:
    order: dict[str, Any] = {
        "run": "a",
        "round": 1,
        "order_digest": "d1",
        "participants": np.arange(3),
        "spend": ONE,
        "budget": WIDE,
        "noise": "os",
    }
    return ledger.reserve(**(order | changes))


def chained(signer: Identity, length: int = 5) -> list[Row]:
    rows: list[Row] = []
    for seq in range(length):
        kind = {"kind": "genesis", "public_key": signer.public_key} if not seq else {"kind": "x"}
        prev = sha(rows[-1].body) if rows else ROOT
        rows.append(seal({**kind, "value": seq}, seq=seq, prev=prev, signer=signer))
    return rows


def filled(path: Path) -> Path:
    """Two runs, one charge given up, one order refused."""
    with Ledger(path) as ledger:
        ledger.release(reserve(ledger), reply_digest="r1")
        ledger.abort(reserve(ledger, round=2), reason="no reply in time")
        with pytest.raises(BudgetError):
            reserve(ledger, round=3, budget=Budget(epsilon=0.1, delta=1e-5))
        ledger.release(reserve(ledger, round=3, participants=np.arange(2)), reply_digest="r2")
        ledger.conclude(delta=1e-5)
    return path


def edit(path: Path, statement: str) -> None:
    connection = sqlite3.connect(path)
    connection.execute(statement)
    connection.commit()
    connection.close()
