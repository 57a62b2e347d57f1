"""A line chart as SVG: series with intervals, and levels that are the same everywhere."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from xml.etree.ElementTree import Element

from simulations.report.markup import SVG, element

__all__ = ["Chart", "Point", "Series", "draw"]

WIDTH, HEIGHT = 760, 420
LEFT, RIGHT, TOP, BOTTOM = 64, 210, 40, 52

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#222222")
"""Okabe & Ito 2008: told apart by colour-blind readers too; dashes tell the rest apart."""

DASHES = ("7 3", "2 3", "9 3 2 3", "4 4", "1 2", "12 4")


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """One value, with an interval if it has one.

    Attributes:
        x: Place on the horizontal axis.
        y: Value.
        low: Lower end of the interval.
        high: Upper end of the interval.
    """

    x: float
    y: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """Values that a line joins.

    Attributes:
        label: Its name in the legend.
        points: In the order of x.
    """

    label: str
    points: tuple[Point, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Chart:
    """What is drawn.

    Attributes:
        title: Above, and what a screen reader says.
        x_label: Under the horizontal axis.
        y_label: Beside the vertical axis, which starts at zero.
        series: Lines.
        levels: Name -> value of dashed lines over the whole width.
        ticks: Place on the horizontal axis -> text under it.
    """

    title: str
    x_label: str
    y_label: str
    series: Sequence[Series]
    levels: Mapping[str, float] = field(default_factory=dict)
    ticks: Mapping[float, str] = field(default_factory=dict)


def draw(chart: Chart) -> Element:
    """Return the chart as one `svg` element that needs nothing from anywhere."""
    scale = _Scale.of(chart)
    return element(
        "svg",
        element("title", chart.title),
        element("rect", width=WIDTH, height=HEIGHT, fill="#ffffff"),
        element("text", chart.title, x=LEFT, y=22, font_size=15, font_weight="bold"),
        *_axes(chart, scale),
        *_levels(chart, scale),
        *(part for n, one in enumerate(chart.series) for part in _line(one, n, scale)),
        *_legend(chart),
        xmlns=SVG,
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        width=WIDTH,
        height=HEIGHT,
        role="img",
        font_family="system-ui, sans-serif",
        font_size=12,
        fill="#222222",
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Scale:
    """From values to places on the page."""

    first: float
    last: float
    top: float
    step: float

    @classmethod
    def of(cls, chart: Chart) -> "_Scale":
        points = [point for one in chart.series for point in one.points]
        xs = [*(point.x for point in points), *chart.ticks]
        highs = [point.y if point.high is None else point.high for point in points]
        most = max([*highs, *chart.levels.values()], default=0.0)
        step = _step(most if most > 1e-12 else 1.0)
        top = step * max(1, math.ceil(most / step - 1e-9))
        return cls(first=min(xs, default=0.0), last=max(xs, default=1.0), top=top, step=step)

    def x(self, value: float) -> float:
        span = self.last - self.first
        share = (value - self.first) / span if span > 0 else 0.5
        return round(LEFT + 12 + share * (WIDTH - LEFT - RIGHT - 24), 2)

    def y(self, value: float) -> float:
        share = min(max(value / self.top, 0.0), 1.0)
        return round(HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM), 2)


def _step(most: float) -> float:
    """Return a round step of which four to eight reach `most`."""
    power = 10.0 ** math.floor(math.log10(most))
    steps = (power * part for part in (0.1, 0.2, 0.25, 0.5, 1.0))
    return next((step for step in steps if most / step <= 8), 2 * power)


def _axes(chart: Chart, scale: _Scale) -> Iterator[Element]:
    end, base = WIDTH - RIGHT, HEIGHT - BOTTOM
    for n in range(round(scale.top / scale.step) + 1):
        y = scale.y(n * scale.step)
        yield element("line", x1=LEFT, x2=end, y1=y, y2=y, stroke="#dddddd")
        yield element("text", f"{n * scale.step:.4g}", x=LEFT - 8, y=y + 4, text_anchor="end")
    for value, label in chart.ticks.items():
        x = scale.x(value)
        yield element("line", x1=x, x2=x, y1=base, y2=base + 5, stroke="#222222")
        yield element("text", label, x=x, y=base + 19, text_anchor="middle")
    middle = (TOP + base) / 2
    yield element("text", chart.x_label, x=(LEFT + end) / 2, y=HEIGHT - 12, text_anchor="middle")
    turn = f"rotate(-90 16 {middle})"
    yield element("text", chart.y_label, x=16, y=middle, text_anchor="middle", transform=turn)


def _levels(chart: Chart, scale: _Scale) -> Iterator[Element]:
    for n, (name, value) in enumerate(chart.levels.items()):
        y, dash = scale.y(value), DASHES[n % len(DASHES)]
        mark = element("title", f"{name} {value:.4f}")
        yield element(
            "line", mark, x1=LEFT, x2=WIDTH - RIGHT, y1=y, y2=y, stroke="#666666",
            stroke_width=1.5, stroke_dasharray=dash,
        )  # fmt: skip


def _line(series: Series, number: int, scale: _Scale) -> Iterator[Element]:
    colour = COLOURS[number % len(COLOURS)]
    path = " ".join(f"{scale.x(point.x)},{scale.y(point.y)}" for point in series.points)
    yield element("polyline", points=path, fill="none", stroke=colour, stroke_width=2)
    for point in series.points:
        x = scale.x(point.x)
        if point.low is not None and point.high is not None:
            ends = {"y1": scale.y(point.low), "y2": scale.y(point.high)}
            yield element("line", x1=x, x2=x, stroke=colour, stroke_width=1.5, **ends)
        mark = element("title", f"{series.label} {point.y:.4f}")
        yield element("circle", mark, cx=x, cy=scale.y(point.y), r=3.5, fill=colour)


def _legend(chart: Chart) -> Iterator[Element]:
    x, y = WIDTH - RIGHT + 16, TOP + 6
    lines = [(one.label, COLOURS[n % len(COLOURS)], "none") for n, one in enumerate(chart.series)]
    lines += [(name, "#666666", DASHES[n % len(DASHES)]) for n, name in enumerate(chart.levels)]
    for label, colour, dash in lines:
        yield element(
            "line", x1=x, x2=x + 24, y1=y, y2=y, stroke=colour, stroke_width=2,
            stroke_dasharray=dash,
        )  # fmt: skip
        shown = label if len(label) <= 27 else label[:26] + "…"
        yield element("text", shown, x=x + 30, y=y + 4)
        y += 19
