"""What a person sees: progress on standard error, the answer on standard output.

Nothing here computes a result. On a terminal progress is a bar; elsewhere it is a line now and
then. Boxes and bars fall back to ASCII where the encoding has no others, colour obeys NO_COLOR.
"""

import math
import os
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Self, TextIO

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

__all__ = ["Display", "announce", "protection", "show_profile", "show_result"]

Result = Mapping[str, Any]

COLUMNS = {
    "hit_rate@10": "hit rate@10",
    "ndcg@10": "NDCG@10",
    "recall@20": "recall@20",
    "sampled_hit_rate@10": "sampled HR@10",
}
ROWS = {"popularity": "popularity", "private_popularity": "private popularity"}


class Display:
    """Progress of one run; use as a context manager, so that the terminal is left clean.

    Args:
        silent: Show nothing (a baseline beside the main run).
    """

    def __init__(self, *, silent: bool = False) -> None:
        self._console = _console(sys.stderr)
        self._console.quiet = silent
        self._progress = Progress(
            TextColumn("round"),
            MofNCompleteColumn(),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[score]}  {task.fields[epsilon]}"),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
            disable=silent or not self._console.is_terminal,
        )
        self._rounds = 0
        self._task: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def announce(self, text: str) -> None:
        """Print a line above the bar."""
        self._console.print(escape(text), soft_wrap=True)

    def begin(self, rounds: int) -> None:
        """Show the bar."""
        self._rounds = rounds
        self._task = self._progress.add_task("", total=rounds, score="", epsilon="")
        self._progress.start()

    def advance(self, *, done: int, score: float | None, epsilon: float | None) -> None:
        """Show that a round is over.

        Args:
            done: Rounds behind us.
            score: Validation NDCG@10, if it was measured this round.
            epsilon: Largest spend of a device so far; nothing in a run without protection.
        """
        shown = "no protection" if epsilon is None else f"epsilon {epsilon:.2f}"
        fields: dict[str, Any] = {"epsilon": shown}
        if score is not None:
            fields["score"] = f"validation NDCG@10 {score:.4f}"
        if self._console.is_terminal:
            self._progress.update(self._task, completed=done, **fields)
        elif done == self._rounds or done % max(1, self._rounds // 10) == 0:
            self.announce("  ".join([f"round {done}/{self._rounds}", *sorted(fields.values())]))

    def result(self, result: Result) -> None:
        """Print the answer on standard output."""
        self._progress.stop()
        show_result(result, _console(sys.stdout))


def _console(stream: TextIO) -> Console:
    """Return a console that never colours where NO_COLOR or a pipe forbids it."""
    return Console(file=stream, highlight=False, no_color="NO_COLOR" in os.environ or None)


def announce(text: str) -> None:
    """Print a line on standard error."""
    _console(sys.stderr).print(escape(text), soft_wrap=True)


def show_result(result: Result, out: Console) -> None:
    """Print a run's answer: how good, what was spent, what that does and does not protect."""
    if result["dataset"]["synthetic"]:
        out.print(
            "SYNTHETIC DATA: made people, not real ones; no number here is a claim.", style="bold"
        )
    sign = "±" if out.encoding.startswith("utf") else "+-"
    table = _scores(result, sign)
    if out.width >= 78:
        out.print(table)
    else:
        for row in zip(*(column.cells for column in table.columns), strict=True):
            pairs = zip(table.columns[1:], row[1:], strict=True)
            out.print(f"{row[0]}: " + ", ".join(f"{c.header} {cell}" for c, cell in pairs))
    for line in [*_worth(result), *_facts(result)]:
        out.print(escape(line))
    for line in protection(result["privacy"]):
        out.print()
        out.print(escape(line))


def _scores(result: Result, sign: str) -> Table:
    """Return the table of our model and what it has to beat."""
    data = result["dataset"]
    table = Table(
        title_justify="left",
        caption_justify="left",
        title=f"{escape(data['name'])}: {data['users']:,} users, {data['items']:,} items",
        caption=f"{result['protocol']}, {result['test']['users']:,} users asked, 95 % intervals",
    )
    table.add_column("model")
    shown = [name for name in COLUMNS if name in result["test"]]
    for name in shown:
        table.add_column(COLUMNS[name], justify="right")
    rows = {f"{result['model']} (ours)": (result["test"], result["confidence"]["test"])}
    for name, label in ROWS.items():
        scores = result["baselines"][name]
        if scores is not None:
            rows[label] = (scores, result["confidence"][name])
    for label, (scores, intervals) in rows.items():
        table.add_row(label, *(_cell(scores[name], intervals.get(name), sign) for name in shown))
    return table


def _worth(result: Result) -> list[str]:
    """Say that a private model is not worth its budget: simple counts do as well for the same."""
    floor = result["baselines"]["private_popularity"]
    if floor is None or result["test"]["ndcg@10"] > floor["ndcg@10"]:
        return []
    return [
        "FAILED: at this budget popularity from private counts recommends as well or better; use "
        "--model popularity."
    ]


def _cell(value: float, interval: list[float] | None, sign: str) -> str:
    if interval is None:
        return f"{value:.4f}"
    half = f"{(interval[1] - interval[0]) / 2:.3f}".removeprefix("0")
    return f"{value:.4f}{sign}{half}"


def _facts(result: Result) -> list[str]:
    """Return what the run cost, a line a fact."""
    privacy, cost = result["privacy"], result["cost"]
    lines = []
    if privacy["epsilon"] is not None:
        lines += [
            f"epsilon per device {privacy['epsilon']:.3f} at delta {privacy['delta']:g} "
            f"({privacy['unit']}, {privacy['trust']}, {privacy['adjacency']})",
            f"  accountant {privacy['accountant']}; "
            f"second opinion {_number(privacy['second_opinion'])}",
            f"  noise multiplier {privacy['noise_multiplier']:.4g}, "
            f"clip norm {privacy['clip_norm']:g}",
            f"  audit: {_audited(privacy.get('audit', {}))}",
        ]
    if measured := result.get("measured_by_devices"):
        lines.append(
            "devices measured the final model, for their share of that epsilon: hit rate@10 "
            f"{measured['hit_rate@10']:.4f}, NDCG@10 {measured['ndcg@10']:.4f} "
            f"(noise {measured['noise']:.4f})"
        )
    lines += [
        f"per user: {_bytes(cost['bytes_up_per_user'])} up, "
        f"{_bytes(cost['bytes_down_per_user'])} down over {result['rounds']} rounds; "
        f"the model is {_bytes(cost['bytes_of_model'])}",
        f"{cost['seconds']:.1f} s, {cost['client_updates_per_core_second']:,.0f} client updates "
        f"a core second, peak memory {cost['peak_rss_mb']:,.0f} MB",
    ]
    return lines


def _audited(audit: Mapping[str, Any]) -> str:
    if audit.get("lower_bound") is None:
        return "not run (fedrec audit --attack RUN_DIRECTORY)"
    return f"{audit['verdict']}, epsilon at least {audit['lower_bound']:.3f} (95 %)"


def protection(privacy: Mapping[str, Any]) -> list[str]:
    """Say in plain words what the run protects and what it does not.

    The odds are the best possible guess from an even prior,
    (e^epsilon + delta) / (1 + e^epsilon) (Kairouz, Oh and Viswanath 2015).

    >>> protection({"unit": "none", "private": False})
    ['NOT PROTECTED: devices sent plain sums; use such a run as a ceiling, never on real people.']
    """
    if privacy["unit"] == "none":
        return [
            "NOT PROTECTED: devices sent plain sums; use such a run as a ceiling, never on real "
            "people."
        ]
    lines = []
    if not privacy["private"]:
        lines.append("NOT PRIVATE: the noise was a repeatable stand-in; this run is for tests.")
    whole = "one interaction" if privacy["unit"] == "interaction" else "a person's whole history"
    trusted = {
        "local": "from everyone, the server too",
        "distributed": "from everyone, the server too, while enough devices are honest",
        "central": "from everyone but the server",
    }[privacy["trust"]]
    seen = "a device sent" if privacy["trust"] == "local" else "was summed and noised"
    lines += [
        f"Protected: {whole}, {trusted}. Who sees all that {seen} over the run and knows "
        f"everything else can guess whether it is there right at most {_odds(privacy)} times "
        "of 100 (50 is a coin toss).",
        "Not protected: who took part and when, the catalogue, settings chosen by looking at "
        "validation scores, and the scores above, which this simulation computes from raw "
        "held-out data.",
    ]
    if privacy["unit"] == "interaction":
        lines.append(
            "A whole history is protected less than one interaction: the bound on k of them "
            "grows to k times epsilon."
        )
    return lines


def _odds(privacy: Mapping[str, float]) -> str:
    """Return the best possible guess from an even prior, in percent.

    It is a bound, so it is rounded up, with as many digits as keep it off certainty.
    """
    small = math.exp(-privacy["epsilon"])
    percent = 100 * (1 + privacy["delta"] * small) / (1 + small)
    for digits in range(1, 9):
        rounded = math.ceil(percent * 10**digits) / 10**digits
        if rounded < 100:
            return f"{rounded:.{digits}f}"
    return "100"


def show_profile(profile: Mapping[str, Any]) -> None:
    """Print a data set's profile on standard output."""
    out = _console(sys.stdout)
    if profile["synthetic"]:
        out.print("SYNTHETIC DATA: made people, not real ones.", style="bold")
    table = Table(show_header=False, box=None, pad_edge=False)
    for name, value in _facts_of_data(profile):
        table.add_row(name, escape(value), style=None)
    table.columns[1].overflow = "fold"
    out.print(table)


def _facts_of_data(profile: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the profile as pairs of a name and a value in words."""
    lengths = profile["length_quantiles"]
    quantiles = ", ".join(f"{float(q):.0%} {length:,.0f}" for q, length in lengths.items())
    facts = [(name, _number(profile[name])) for name in ("name", "users", "items", "interactions")]
    facts.append(("density", f"{profile['density']:.3%}"))
    for share, events in profile["top_shares"].items():
        bar = "#" * round(40 * events)
        facts.append((f"top {float(share):.0%} of items", f"{events:6.1%} of events  {bar}"))
    facts += [
        ("Gini of items", _number(profile["gini"])),
        ("events a user", f"mean {profile['mean_length']:,.1f}; {quantiles}"),
        ("users under 3 events", _number(profile["short_users"])),
    ]
    if profile["first_time"] is not None:
        days = (_day(profile["first_time"]), _day(profile["last_time"]))
        facts.append(("times", f"{' to '.join(days)}, {profile['tied_share']:.1%} tied"))
    facts.append(("items with a title", _number(profile["with_title"])))
    facts.append(("categories", _number(profile["categories"])))
    facts.append(("digest", profile["digest"]))
    return facts


def _day(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, tz=UTC).date().isoformat()


def _number(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.4f}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value)


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:,.0f} {unit}" if unit == "B" else f"{count:,.1f} {unit}"
        count /= 1000
    return f"{count:,.1f} GB"
