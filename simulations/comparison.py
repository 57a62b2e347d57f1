"""`fedrec compare`: a comparison run, written to its directory and shown.

compare.json  every number
compare.csv   a row a line, for a spreadsheet
compare.svg   the utility-privacy curve
runs/ scores/ see `simulations.compare`
"""

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from shared.errors import RunError
from simulations.compare import compare
from simulations.directory import write_json, write_text
from simulations.display import Display
from simulations.lineup import Line
from simulations.report.chart import draw
from simulations.report.figure import utility_curve
from simulations.report.markup import svg
from simulations.report.table import comparison_csv, show_buckets, show_comparison

__all__ = ["compare_and_write"]


def compare_and_write(
    *,
    lines: Sequence[Line],
    baselines: Sequence[str],
    reference: str | None,
    out: Path | None,
    show: bool,
    buckets: bool,
) -> dict[str, Any]:
    """Run a comparison, write its files and show its tables.

    Args:
        lines: Federated runs.
        baselines: Names of central baselines.
        reference: Row that differences are taken to.
        out: Directory; `runs/compare-TIME-PROCESS` if absent.
        show: Print the table on standard output.
        buckets: Print the tables by bucket too.

    Returns:
        The content of `compare.json`.

    Raises:
        FedrecError: As for `simulations.compare.compare`; a file cannot be written.
    """
    stamp = time.strftime("%Y%m%d-%H%M%S")
    place = out if out is not None else Path("runs") / f"compare-{stamp}-{os.getpid()}"
    with Display() as display:
        try:
            found = compare(
                lines=lines, baselines=baselines, reference=reference, out=place, display=display
            )
        except KeyboardInterrupt:
            display.announce(f"To go on: the same command with --out {place}")
            raise
        _write(place, found)
        display.announce(f"written: {place}/compare.json, compare.csv, compare.svg")
    if show:
        console = Console(file=sys.stdout, highlight=False, no_color="NO_COLOR" in os.environ)
        # A table of numbers is no use when its columns are squeezed to nothing.
        console.width = max(console.width, 120)
        show_comparison(found, console)
        if buckets:
            show_buckets(found, console)
    return found


def _write(place: Path, found: dict[str, Any]) -> None:
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"Cannot create {place}: {error.strerror}; name another --out.") from error
    write_json(place / "compare.json", found)
    write_text(place / "compare.csv", comparison_csv(found))
    write_text(place / "compare.svg", svg(draw(utility_curve(found))))
