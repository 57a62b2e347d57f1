"""The privacy block of a result: what was asked for, what was spent, who says so."""

from collections.abc import Sequence
from typing import Any

from shared.privacy.accounting import Spend, agree
from shared.privacy.chain import Head
from shared.privacy.ledger import Ledger
from shared.privacy.plan import Plan, Unit

__all__ = ["check_claim", "privacy_block", "worst_spends"]


def check_claim(plan: Plan) -> None:
    """Ask both accountants what the whole run will cost, before anything is spent.

    Raises:
        VerificationError: They disagree, so the run would end without a claim.
    """
    if plan.unit is not Unit.NONE:
        agree((plan.total_spend,), delta=plan.delta)


def worst_spends(ledger: Ledger, plan: Plan) -> tuple[Spend, ...]:
    """Return what the device that was charged most was charged."""
    return () if plan.unit is Unit.NONE else ledger.worst(delta=plan.delta)


def privacy_block(plan: Plan, *, spends: Sequence[Spend], head: Head) -> dict[str, Any]:
    """Return the block `privacy` of a result.

    Args:
        plan: The protection of the run.
        spends: What the device that was charged most was charged, from the ledger.
        head: The end of the ledger: with it, records cut off later are missed.

    Raises:
        VerificationError: The two accountants disagree.
    """
    block: dict[str, Any] = {
        "private": plan.private,
        "unit": str(plan.unit),
        "trust": str(plan.trust),
        "epsilon": None,
        "delta": None,
        "adjacency": None,
        "accountant": None,
        "second_opinion": None,
        "noise_multiplier": plan.noise_multiplier,
        "clip_norm": plan.clip_norm,
        "separation": plan.separation,
        "bands": plan.bands,
        "audit": {"lower_bound": None},
        "ledger": head.as_dict(),
    }
    if plan.unit is Unit.NONE or not spends:
        return block
    agreed = agree(spends, delta=plan.delta)
    return block | {
        "epsilon": agreed.epsilon,
        "delta": agreed.delta,
        "adjacency": agreed.adjacency,
        "accountant": f"{agreed.accountant}; {agreed.second_accountant}",
        "second_opinion": agreed.second_opinion,
    }
