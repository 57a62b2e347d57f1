"""A secret cannot be encoded: the type checker says so."""

from pathlib import Path

import pytest

SNIPPET = """
from shared.privacy.release import LocalUpdate, Release, Unprotected
from shared.protocol import Order, Reply, encode_reply, encode_unprotected

def good(release: Release, sums: Unprotected, order: Order) -> tuple[Reply, Reply]:
    return encode_reply(release, order=order), encode_unprotected(sums, order=order)

def bad(update: LocalUpdate, order: Order) -> Reply:
    return encode_reply(update, order=order)  # line 9

def worse(update: LocalUpdate, order: Order) -> Reply:
    return encode_unprotected(update, order=order)  # line 12

def crossed(sums: Unprotected, order: Order) -> Reply:
    return encode_reply(sums, order=order)  # line 15
"""


@pytest.mark.slow
def test_local_update_cannot_be_encoded(tmp_path: Path) -> None:
    api = pytest.importorskip("mypy.api")
    snippet = tmp_path / "snippet.py"
    snippet.write_text(SNIPPET)
    cache = f"--cache-dir={tmp_path / 'cache'}"
    out, _, code = api.run(["--strict", "--follow-imports=silent", cache, str(snippet)])
    wrong = {line.split(":")[1] for line in out.splitlines() if "[arg-type]" in line}
    assert (code, wrong) == (1, {"9", "12", "15"}), out
