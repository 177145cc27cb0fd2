"""HTML from small functions that escape: a str is text, and only what `element` returns is markup."""

from collections.abc import Sequence
from html import escape
from pathlib import Path

# Nothing is fetched and no script runs, whatever a model wrote.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"

STYLE_SHEET = Path(__file__).with_name("style.css")


class Html(str):
    """Markup; every other str is text."""


def as_html(child: object) -> Html:
    return child if isinstance(child, Html) else Html(escape(str(child)))


def join(*children: object) -> Html:
    return Html("".join(map(as_html, children)))


def element(tag: str, *children: object, **attributes: object) -> Html:
    """<tag name="value">children</tag>; `class_` sets the attribute class."""
    rendered = "".join(f' {name.rstrip("_")}="{escape(str(value))}"' for name, value in attributes.items())
    return Html(f"<{tag}{rendered}>{join(*children)}</{tag}>")


def table(rows: Sequence[Sequence[object]], highlighted: int | None = None, **attributes: object) -> Html:
    """The first row holds the headings, the first column the row names; row `highlighted` is bold."""
    head = element("thead", element("tr", *(element("th", cell, scope="col") for cell in rows[0])))
    body = []
    for index, row in enumerate(rows[1:], start=1):
        cells = [element("th", row[0], scope="row"), *(element("td", cell) for cell in row[1:])]
        body.append(element("tr", *cells, **({"class_": "main"} if index == highlighted else {})))
    return element("div", element("table", head, element("tbody", *body), **attributes), class_="scroll")


def document(title: str, extra_style: str, *children: object) -> str:
    """A self-contained page."""
    style = STYLE_SHEET.read_text(encoding="utf-8")
    head = (
        '<meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(POLICY)}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<link rel="icon" href="data:,">'
        f"<title>{escape(title)}</title><style>\n{style}{extra_style}</style>"
    )
    body = element("body", element("main", *children))
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head>\n{body}</html>\n'
