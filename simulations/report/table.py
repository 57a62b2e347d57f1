"""A comparison as a table for a terminal, and as CSV: one row a line, one column a number."""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

__all__ = ["comparison_csv", "show_buckets", "show_comparison"]

Found = Mapping[str, Any]

ABOUT = ("name", "kind", "model", "algorithm", "unit", "trust", "epsilon", "delta", "runs")
COST = ("rounds", "bytes_up_per_user", "bytes_down_per_user", "device_seconds", "seconds")


def comparison_csv(found: Found) -> str:
    """Return a comparison as CSV; what a row does not have is an empty cell."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    metrics: Sequence[str] = found["metrics"]
    parts = ("", " sd", " low", " high", " above", " above low", " above high")
    writer.writerow([*ABOUT, *(m + part for m in metrics for part in parts), *COST])
    for row in found["rows"]:
        values = [row[key] for key in ABOUT]
        for metric in metrics:
            one = row["metrics"][metric]
            values += [one["mean"], one["sd"], *one["interval"], *one["above_reference"]]
        writer.writerow([*values, *(row["cost"].get(key) for key in COST)])
    return text.getvalue()


def show_comparison(found: Found, out: Console) -> None:
    """Print the table: scores, difference to the reference, cost."""
    if found["dataset"]["synthetic"]:
        out.print(
            "SYNTHETIC DATA: made people, not real ones; no number here is a claim.", style="bold"
        )
    first = found["metrics"][0]
    shown = [name for name in ("hit_rate@10", "ndcg@10") if name in found["metrics"]] or [first]
    table = Table(title=escape(_title(found)), title_justify="left", box=None, pad_edge=False)
    for name in ("", *shown, f"{shown[0]} - {found['reference']}", *_cost_titles(found)):
        table.add_column(escape(name), justify="left" if not name else "right", no_wrap=True)
    for row in found["rows"]:
        gap = row["metrics"][shown[0]]
        low, high = gap["above_reference"][1:]
        itself = row["name"] == found["reference"]
        apart = "" if itself else f"{low:+.4f} .. {high:+.4f}{' *' if gap['clear'] else '  '}"
        values = [_spread(row["metrics"][name]) for name in shown]
        table.add_row(escape(row["name"]), *values, apart, *_cost(row, found))
    out.print(table)
    for line in _notes(found):
        out.print(escape(line))


def show_buckets(found: Found, out: Console) -> None:
    """Print who pays: the first metric by bucket, and its share of what the best row has there."""
    metric = found["metrics"][0]
    best = max(found["rows"], key=lambda row: float(row["metrics"][metric]["mean"]))
    for kind, title in (
        ("activity", "by events in the user's known history"),
        ("popularity", "by training events of the target (equal shares of events, head first)"),
    ):
        table = Table(title=f"{metric} {title}", title_justify="left", box=None, pad_edge=False)
        table.add_column("", no_wrap=True)
        for part in found["rows"][0]["buckets"][kind]:
            table.add_column(f"{part['label']} ({part['users']:,})", justify="right")
        for row in found["rows"]:
            pairs = zip(row["buckets"][kind], best["buckets"][kind], strict=True)
            table.add_row(
                escape(row["name"]), *(_share(one[metric], m[metric]) for one, m in pairs)
            )
        out.print()
        out.print(table)
    out.print(escape(f"Percentages: share of {best['name']}, the best row over all."))


def _share(value: float | None, best: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.4f} {value / best:5.0%}" if best else f"{value:.4f}"


def _title(found: Found) -> str:
    data = found["dataset"]
    seeds = ", ".join(map(str, found["seeds"]))
    return (
        f"{data['name']}: {data['users']:,} users, {data['items']:,} items, {found['protocol']}, "
        f"{found['users_asked']:,} users asked, seeds {seeds}"
    )


def _notes(found: Found) -> Iterator[str]:
    yield (
        "Mean (sd over seeds). Differences: 95 % interval, paired over users, pooled over seeds, "
        "not widened for the number of rows; * does not hold zero."
    )
    central = [row for row in found["rows"] if row["kind"] == "central"]
    if central:
        tried = ", ".join(f"{row['name']} {row['tried']}" for row in central)
        yield (
            "Central baselines collect every history in one place and protect nobody; settings "
            f"tried on validation: {tried}."
        )


def _spread(metric: Found) -> str:
    sd = metric["sd"]
    return f"{metric['mean']:.4f}" + ("" if sd is None else f" ({sd:.4f})")


def _cost_titles(found: Found) -> tuple[str, ...]:
    federated = any(row["kind"] == "federated" for row in found["rows"])
    return ("rounds", "kB up", "kB down", "device s") if federated else ()


def _cost(row: Found, found: Found) -> list[str]:
    if not _cost_titles(found):
        return []
    cost = row["cost"]
    if "rounds" not in cost:
        return ["-"] * 4
    seconds = cost["device_seconds"]
    return [
        f"{cost['rounds']:g}",
        f"{cost['bytes_up_per_user'] / 1000:,.1f}",
        f"{cost['bytes_down_per_user'] / 1000:,.1f}",
        "-" if seconds is None else f"{seconds:.3f}",
    ]
