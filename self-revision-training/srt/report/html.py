"""HTML from small functions that escape: a str is text, and only what `element` returns is markup.

Also the head that every page shares: its style, light and dark, the scripts that it inlines, and its data.
"""

import base64
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from functools import cache
from html import escape
from pathlib import Path
from typing import Any

ASSETS = Path(__file__).with_name("assets")
STYLE_SHEET = ASSETS / "style.css"

# Nothing is fetched, and no script runs but those of `document`, whatever a model wrote.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
LIVE_POLICY = f"{POLICY}; connect-src 'self'"  # a page that asks its own server for news


class Html(str):
    """Markup; every other str is text."""


def as_html(child: object) -> Html:
    return child if isinstance(child, Html) else Html(escape(str(child)))


def join(*children: object) -> Html:
    return Html("".join(map(as_html, children)))


def element(tag: str, *children: object, **attributes: object) -> Html:
    """<tag name="value">children</tag>; `class_` sets the attribute class, `data_run` the attribute data-run."""
    rendered = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{escape(str(value))}"' for name, value in attributes.items()
    )
    return Html(f"<{tag}{rendered}>{join(*children)}</{tag}>")


def table(rows: Sequence[Sequence[object]], highlighted: int | None = None, **attributes: object) -> Html:
    """The first row holds the headings, the first column the row names; row `highlighted` is bold.

    On a narrow screen each row is a block of its own, in which every cell repeats its heading.
    """
    head = element("thead", element("tr", *(element("th", cell, scope="col") for cell in rows[0])))
    body = []
    for index, row in enumerate(rows[1:], start=1):
        cells = [
            element("th", row[0], scope="row"),
            *(element("td", cell, data_label=label) for label, cell in zip(rows[0][1:], row[1:], strict=True)),
        ]
        body.append(element("tr", *cells, **({"class_": "main"} if index == highlighted else {})))
    return element(
        "div", element("table", head, element("tbody", *body), **attributes), class_="scroll", tabindex=0
    )


def document(
    title: str,
    extra_style: str,
    *children: object,
    scripts: Sequence[str] = (),
    data: Mapping[str, Any] | None = None,
    live: bool = False,
) -> str:
    """A self-contained page.

    scripts: sources to run in this order, `asset("heat.js")` for example. data: JSON values that they read with
    `JSON.parse(document.getElementById("data-<name>").textContent)`. live: scripts may fetch from the page's own
    server.
    """
    hashes = " ".join(f"'sha256-{_sha256(script)}'" for script in scripts) or "'none'"
    policy = f"{LIVE_POLICY if live else POLICY}; script-src {hashes}"
    head = (
        '<meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(policy, quote=False)}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        '<link rel="icon" href="data:,">'
        f"<title>{escape(title)}</title><style>\n{asset('style.css')}{extra_style}</style>"
    )
    values = "".join(
        f'<script type="application/json" id="data-{escape(name)}">{json_text(value)}</script>\n'
        for name, value in (data or {}).items()
    )
    code = "".join(f"<script>{script}</script>\n" for script in scripts)
    body = f"<body>{element('main', *children)}\n{values}{code}</body>"
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head>\n{body}</html>\n'


@cache
def asset(name: str) -> str:
    """A file of srt/report/assets. In a script, "</" could end its element; none has it."""
    text = (ASSETS / name).read_text(encoding="utf-8")
    assert "</script" not in text.lower(), name
    return text


def json_text(value: Any) -> str:
    """JSON that can stand within an element of HTML: "<" is escaped, numbers that are not finite are null, and
    surrogates (invalid Unicode in model outputs) are U+FFFD."""
    text = json.dumps(_finite(value), ensure_ascii=False, separators=(",", ":"))
    valid = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return valid.replace("<", "\\u003c")


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_finite(item) for item in value]
    return value


def _sha256(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
