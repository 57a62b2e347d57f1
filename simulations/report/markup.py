"""Elements of HTML and SVG as a tree; writing it escapes every text and every attribute.

Nothing builds markup from strings, so the name of a data set or of a setting cannot become a tag.
"""

import re
from xml.etree.ElementTree import Element, tostring

__all__ = ["element", "html", "svg"]

SVG = "http://www.w3.org/2000/svg"

# What XML 1.0 cannot hold, surrogates of undecodable file names included.
_ILLEGAL = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def element(tag: str, *children: Element | str, **attributes: object) -> Element:
    """Return an element.

    Args:
        tag: Its name.
        *children: Elements and texts, in order.
        **attributes: `stroke_width=2` is written `stroke-width="2"`, `class_` is written `class`.

    >>> html(element("p", "a < b", element("b", "c"), " d", class_="x"))
    '<p class="x">a &lt; b<b>c</b> d</p>'
    """
    made = Element(tag, {_name(name): _clean(str(value)) for name, value in attributes.items()})
    for child in children:
        if isinstance(child, Element):
            made.append(child)
        elif len(made):
            made[-1].tail = (made[-1].tail or "") + _clean(child)
        else:
            made.text = (made.text or "") + _clean(child)
    return made


def html(root: Element) -> str:
    """Return an element as HTML.

    Guarantees:
        markup in data is text: no text or attribute opens a tag or ends an attribute.
    """
    return tostring(root, encoding="unicode", method="html")


def svg(root: Element) -> str:
    """Return an SVG element as the text of a file of its own."""
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + tostring(root, encoding="unicode") + "\n"


def _name(name: str) -> str:
    return name.rstrip("_").replace("_", "-")


def _clean(text: str) -> str:
    return _ILLEGAL.sub("\ufffd", text)
