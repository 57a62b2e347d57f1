"""A secret cannot be encoded: the type checker says so."""

from pathlib import Path

import pytest

SNIPPET = """
from shared.privacy.distributed import PartialSum, Rounded, Veiled
from shared.privacy.release import ClippedUpdate, Entrusted, LocalUpdate, Release, Unprotected
from shared.protocol import (
    Order, Reply, encode_entrusted, encode_partial, encode_reply, encode_unprotected)

def partial(sums: PartialSum, order: Order) -> Reply:
    return encode_partial(sums, order=order)

def good(a: Release, b: Unprotected, c: Entrusted, order: Order) -> tuple[Reply, Reply, Reply]:
    first, second = encode_reply(a, order=order), encode_unprotected(b, order=order)
    return first, second, encode_entrusted(c, order=order)

def bad(update: LocalUpdate, order: Order) -> Reply:
    return encode_reply(update, order=order)  # line 15

def worse(update: LocalUpdate, order: Order) -> Reply:
    return encode_unprotected(update, order=order)  # line 18

def crossed(sums: Unprotected, order: Order) -> Reply:
    return encode_reply(sums, order=order)  # line 21

def clipped(update: ClippedUpdate, order: Order) -> Reply:
    return encode_reply(update, order=order)  # line 24

def entrusted(update: ClippedUpdate, order: Order) -> Reply:
    return encode_entrusted(update, order=order)  # line 27

def mistaken(sums: Entrusted, order: Order) -> Reply:
    return encode_reply(sums, order=order)  # line 30

def rounded(sums: Rounded, order: Order) -> Reply:
    return encode_partial(sums, order=order)  # line 33

def veiled(sums: Veiled, order: Order) -> Reply:
    return encode_partial(sums, order=order)  # line 36

def veiled_as_release(sums: Veiled, order: Order) -> Reply:
    return encode_reply(sums, order=order)  # line 39
"""


@pytest.mark.slow
def test_local_update_cannot_be_encoded(tmp_path: Path) -> None:
    api = pytest.importorskip("mypy.api")
    snippet = tmp_path / "snippet.py"
    snippet.write_text(SNIPPET)
    cache = f"--cache-dir={tmp_path / 'cache'}"
    out, _, code = api.run(["--strict", "--follow-imports=silent", cache, str(snippet)])
    wrong = {line.split(":")[1] for line in out.splitlines() if "[arg-type]" in line}
    assert (code, wrong) == (1, {"15", "18", "21", "24", "27", "30", "33", "36", "39"}), out
