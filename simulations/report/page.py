"""`report.html`: one run on one page that asks nothing of anyone: no script, no request.

The page is made of `result.json`, `manifest.json` and `metrics.jsonl` alone, so it can be written
again at any time.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

from shared.errors import ConfigError, RunError
from shared.privacy.disclosure import not_protected
from simulations.directory import read_json, write_text
from simulations.display import protection
from simulations.report.chart import Chart, Point, Series, draw
from simulations.report.markup import element, html

__all__ = ["page", "write_report"]

Result = Mapping[str, Any]

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
  color: #222; background: #fff; }
table { border-collapse: collapse; margin: .5rem 0 1.5rem; }
th, td { padding: .25rem .75rem; text-align: right; border-bottom: 1px solid #ddd; }
th:first-child, td:first-child { text-align: left; }
.banner { padding: .75rem 1rem; margin: 1rem 0; border: 2px solid #a33; background: #fdeeee;
  font-weight: bold; }
.facts td { text-align: left; overflow-wrap: anywhere; }
svg { max-width: 100%; height: auto; }
"""

ROWS = {"popularity": "popularity", "private_popularity": "private popularity (same budget)"}
PRIVACY = (
    "unit", "trust", "epsilon", "delta", "adjacency", "accountant", "second_opinion",
    "noise_multiplier", "clip_norm", "private",
)  # fmt: skip
COST = {
    "rounds": "rounds",
    "seconds": "wall seconds",
    "client_updates_per_core_second": "updates a second of one core",
    "bytes_up_per_user": "bytes up, one device",
    "bytes_down_per_user": "bytes down, one device",
    "peak_rss_mb": "peak memory, MB",
}


def write_report(run: Path) -> Path:
    """Write the page of a finished run into its directory and return its place.

    Raises:
        ConfigError: There is no finished run.
        RunError: A file of the run cannot be read, or the page cannot be written.
    """
    if not (run / "result.json").is_file():
        raise ConfigError(
            f"No finished run in {run}: it has no result.json; finish it with fedrec simulate "
            f"--resume --out {run}."
        )
    manifest, result = read_json(run / "manifest.json"), read_json(run / "result.json")
    text = page(result=result, manifest=manifest, rounds=_rounds(run / "metrics.jsonl"))
    place = run / "report.html"
    write_text(place, text)
    return place


def page(*, result: Result, manifest: Result, rounds: Sequence[Result]) -> str:
    """Return the page as HTML.

    Args:
        result: Content of `result.json`.
        manifest: Content of `manifest.json`.
        rounds: Lines of `metrics.jsonl`.

    Guarantees:
        nothing in the data opens a tag: names of data, items and settings are text.
        the page asks nothing: no element names a place to load from.
    """
    name = f"fedrec: {result['dataset']['name']}, {result['model']}"
    body = element(
        "body",
        element("h1", name),
        *_banners(result),
        element("h2", "How good it is"),
        *_scores(result),
        element("h2", "What was protected, and what was not"),
        *_privacy(result),
        element("h2", "Over the rounds"),
        *_curves(rounds),
        element("h2", "What it cost"),
        _facts(_cost(result)),
        element("h2", "The run"),
        *_run(manifest),
    )
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", name),
        element("style", STYLE),
    )
    return "<!DOCTYPE html>\n" + html(element("html", head, body, lang="en")) + "\n"


def _rounds(path: Path) -> list[dict[str, Any]]:
    """Read the lines of a run; a last line cut off by a crash is left out."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"{path} cannot be read; run again to get a page.") from error
    found = []
    for line in lines:
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            found.append(value)
    return found


def _banners(result: Result) -> Iterator[Element]:
    privacy, floor = result["privacy"], result["baselines"].get("private_popularity")
    if result["dataset"]["synthetic"]:
        yield _banner("SYNTHETIC DATA: made people, not real ones; no number here is a claim.")
    if privacy["unit"] == "none":
        yield _banner("NOT PROTECTED: devices sent plain sums; never use such a run on people.")
    elif not privacy["private"]:
        yield _banner("NOT PRIVATE: the noise was a repeatable stand-in; this run is for tests.")
    if floor is not None and result["test"]["ndcg@10"] <= floor["ndcg@10"]:
        yield _banner(
            "FAILED: at this budget popularity from private counts recommends as well or better."
        )


def _banner(text: str) -> Element:
    return element("p", text, class_="banner", role="note")


def _scores(result: Result) -> Iterator[Element]:
    """Yield the table of scores, and the one by bucket."""
    data, test = result["dataset"], result["test"]
    yield element(
        "p",
        f"{data['users']:,} users, {data['items']:,} items, {data['interactions']:,} interactions; "
        f"protocol {result['protocol']}, {test['users']:,} users asked on test. Full ranking "
        "unless a metric says sampled; 95 % intervals over users.",
    )
    found = {f"{result['model']} (ours)": ("test", test)}
    for name, label in ROWS.items():
        if result["baselines"].get(name) is not None:
            found[label] = (name, result["baselines"][name])
    shown = [name for name in test if name != "users" and "/" not in name]
    intervals = {key: result["confidence"].get(key) or {} for key, _ in found.values()}
    rows = [
        [metric, *(_score(block, intervals[key], metric) for key, block in found.values())]
        for metric in shown
    ]
    yield _table(["test", *found], rows)
    split = [name for name in test if "/" in name]
    if split:
        yield element("h3", "Who it serves")
        cells = [[name, *(_number(b.get(name)) for _, b in found.values())] for name in split]
        yield _table(["test, by bucket", *found], cells)


def _score(block: Result, intervals: Result, metric: str) -> str:
    if metric not in block:
        return "-"
    around = intervals.get(metric)
    half = "" if around is None else f" ± {(around[1] - around[0]) / 2:.4f}"
    return f"{block[metric]:.4f}{half}"


def _privacy(result: Result) -> Iterator[Element]:
    """Yield what is protected, from whom, what is not, and the numbers behind it."""
    privacy = result["privacy"]
    for line in protection(privacy):
        yield element("p", line)
    yield element("h3", "Not protected")
    lines = not_protected(privacy["unit"], privacy["trust"])
    yield element("ul", *(element("li", line) for line in lines))
    yield element("h3", "In numbers")
    facts = [(key, _number(privacy.get(key))) for key in PRIVACY]
    bound = (privacy.get("audit") or {}).get("lower_bound")
    facts.append(("lower bound of an attack", "not measured" if bound is None else _number(bound)))
    ledger = privacy.get("ledger") or {}
    facts += [(f"ledger {key}", _number(ledger.get(key))) for key in ("seq", "digest")]
    yield _facts(facts)
    yield element("p", "Anyone with the run directory can recompute this: fedrec audit RUN.")


def _curves(rounds: Sequence[Result]) -> Iterator[Element]:
    """Yield the validation score and the spend by round."""
    drawn = False
    for key, title in (("validation_ndcg@10", "validation NDCG@10"), ("epsilon", "epsilon spent")):
        points = tuple(
            Point(x=float(line["round"]), y=float(line[key]))
            for line in rounds
            if isinstance(line.get(key), int | float) and math.isfinite(line[key])
        )
        if points:
            drawn = True
            yield draw(
                Chart(
                    title=f"{title} by round",
                    x_label="round",
                    y_label=title,
                    series=[Series(label=title, points=points)],
                    ticks=_ticks([point.x for point in points]),
                )
            )
    if not drawn:
        yield element("p", "Nothing was recorded by round.")


def _ticks(places: Sequence[float]) -> dict[float, str]:
    every = max(1, -(-len(places) // 8))
    return {place: f"{place:g}" for place in [*places[::every], places[-1]]}


def _cost(result: Result) -> list[tuple[str, str]]:
    values = {"rounds": result["rounds"], **result["cost"]}
    return [(label, _number(values.get(key))) for key, label in COST.items()]


def _run(manifest: Result) -> Iterator[Element]:
    data = [(key, _number(value)) for key, value in manifest.get("dataset", {}).items()]
    yield _facts([*data, ("settings digest", _number(manifest.get("settings_digest")))])
    versions = [(name, _number(value)) for name, value in manifest.get("versions", {}).items()]
    settings = json.dumps(manifest.get("settings", {}), indent=2, ensure_ascii=False)
    yield element("details", element("summary", "versions"), _facts(versions))
    yield element("details", element("summary", "settings"), element("pre", settings))


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Element:
    return element(
        "table",
        element("thead", element("tr", *(element("th", text, scope="col") for text in head))),
        element("tbody", *(element("tr", *(element("td", c) for c in row)) for row in rows)),
    )


def _facts(facts: Sequence[tuple[str, str]]) -> Element:
    rows = (element("tr", element("td", name), element("td", text)) for name, text in facts)
    return element("table", element("tbody", *rows), class_="facts")


def _number(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.4f}" if abs(value) >= 1e-3 or value == 0 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
