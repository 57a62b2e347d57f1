"""Markup escapes itself; a chart puts values where they belong."""

from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from simulations.report.chart import BOTTOM, HEIGHT, TOP, Chart, Point, Series, draw
from simulations.report.markup import element, html, svg

NASTY = "<script>alert('x')</script>&amp;\"' onload=\"x\x00\ud800"


class Seen(HTMLParser):
    """What a browser would find: tags with attributes, and the text."""

    def __init__(self):
        super().__init__()
        self.tags, self.text = [], ""

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


@given(text=st.text(st.characters()), value=st.text(st.characters()))
@settings(deadline=None, max_examples=60)
def test_markup_in_data_is_text(text, value):
    seen = Seen()
    seen.feed(html(element("p", text, element("b", text, title=value), text)))
    seen.close()
    assert [tag for tag, _ in seen.tags] == ["p", "b"]
    assert list(seen.tags[1][1]) == ["title"]


def test_nasty_text_comes_back():
    seen = Seen()
    seen.feed(html(element("p", NASTY)))
    seen.close()
    assert seen.tags == [("p", {})]
    assert seen.text == NASTY.replace("\x00", "\ufffd").replace("\ud800", "\ufffd")


def chart(values, **more):
    points = tuple(Point(x=float(x), y=y, low=y / 2, high=y * 1.5) for x, y in enumerate(values))
    ticks = {float(x): str(x) for x in range(len(values))}
    one = Series(label=NASTY, points=points)
    return Chart(title=NASTY, x_label="x", y_label="y", series=[one], ticks=ticks, **more)


def test_a_file_of_its_own_is_xml():
    root = ElementTree.fromstring(svg(draw(chart([0.1, 0.2], levels={NASTY: 0.15}))))  # noqa: S314
    assert root.tag == "{http://www.w3.org/2000/svg}svg"


def test_higher_values_are_higher_up_and_zero_is_the_base():
    circles = draw(chart([0.0, 0.1, 0.2])).findall("circle")
    heights = [float(one.get("cy")) for one in circles]
    assert heights[0] == HEIGHT - BOTTOM
    assert heights[0] - heights[2] == pytest.approx(2 * (heights[0] - heights[1]), abs=0.02)
    places = [float(one.get("cx")) for one in circles]
    assert places == sorted(places)
    assert len(set(places)) == 3


@given(values=st.lists(st.floats(min_value=0, max_value=1e9), max_size=4))
@example(values=[9.9997])
@example(values=[1000.0])
@example(values=[5e-324])
@settings(deadline=None, max_examples=200)
def test_any_values_stay_on_the_page(values):
    drawn = draw(chart(values))
    for mark in drawn.findall("circle"):
        assert TOP - 0.01 <= float(mark.get("cy")) <= HEIGHT - BOTTOM
    grid = [line for line in drawn.findall("line") if line.get("stroke") == "#dddddd"]
    assert 2 <= len(grid) <= 10
