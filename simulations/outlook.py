"""The plan of a run in words and a table: what `fedrec simulate --plan-only` shows."""

import sys
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

__all__ = ["show_forecast"]

ROWS = {
    "unit": "unit",
    "trust": "trust",
    "rounds": "rounds",
    "participations": "rounds of one device",
    "noise_multiplier": "noise multiplier",
    "clip_norm": "clip norm",
    "noise_of_mean": "noise of the mean, clip norms",
    "separation": "separation of one device, rounds",
    "bands": "rounds of correlated noise",
    "noise_of_iterate": "rms noise of the means added up",
    "epsilon": "epsilon",
    "second_opinion": "second opinion",
    "delta": "delta",
    "bytes_up_per_user": "bytes up, one device",
    "bytes_down_per_user": "bytes down, one device",
}


def show_forecast(forecast: Mapping[str, Any], *, out: Console | None = None) -> None:
    """Print a forecast: a column the plan, a column each alternative.

    Args:
        forecast: As `simulations.forecast.forecast` returns it.
        out: Where to; standard output unless told otherwise.
    """
    console = out or Console(file=sys.stdout, highlight=False)
    table = Table(
        title=f"{forecast['model']}, {forecast['algorithm']}: {forecast['users']:,} users, "
        f"{forecast['items']:,} items",
        title_justify="left",
    )
    plans = {"plan": forecast["plan"], **forecast["alternatives"]}
    table.add_column("")
    for name in plans:
        table.add_column(name, justify="right")
    for key, label in ROWS.items():
        table.add_row(label, *(_cell(plan[key]) for plan in plans.values()))
    console.print(table)
    console.print("Nothing was learned, spent or written.")


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
