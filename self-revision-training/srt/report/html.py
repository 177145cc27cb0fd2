"""HTML by small functions that escape: a str is text, only what `element` made is markup."""

from html import escape

# Nothing is fetched and nothing runs, whatever a model wrote.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"

STYLE = """
:root { color-scheme: light; --ink: #1d2126; --soft: #5d656e; --line: #dfe3e7; --wash: #f6f7f8;
        --wrong: #b5460f; --right: #1f6f8b; }
* { box-sizing: border-box; }
body { margin: 0; background: #fff; color: var(--ink);
       font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 40px 24px 64px; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0 0 .3rem; letter-spacing: -.01em; }
h2 { font-size: 1.2rem; margin: 3rem 0 .4rem; padding-top: 1.4rem; border-top: 1px solid var(--line); }
p { margin: .3rem 0 .8rem; max-width: 78ch; overflow-wrap: anywhere; text-wrap: pretty; }
.soft, figcaption span { color: var(--soft); }
.lead { font-size: 1.1rem; margin: 1rem 0 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; margin: 1rem 0; font-size: .95rem;
        font-variant-numeric: tabular-nums; }
th, td { padding: .5rem .7rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
thead th { color: var(--soft); font-weight: 500; font-size: .85rem; vertical-align: bottom; }
tbody th { font-weight: 500; }
tr.main th, tr.main td { font-weight: 700; }
dl.made { margin: 1rem 0; overflow-wrap: anywhere; font-size: .95rem; }
dl.made dt { margin-top: .9rem; }
dl.made dd { margin: 0; color: var(--soft); font-size: .88rem; }
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 310px), 1fr));
         gap: 1.4rem 2rem; margin: 1.2rem 0; }
figure { margin: 0; min-width: 0; display: flex; flex-direction: column; justify-content: space-between; }
figcaption { font-weight: 600; font-size: .92rem; line-height: 1.35; margin-bottom: .2rem; }
figcaption span { font-weight: 400; display: block; font-size: .84rem; }
figure svg { display: block; width: 100%; height: auto; }
figure svg * { stroke-linejoin: round; stroke-linecap: butt; }
figure svg text { font-family: inherit !important; }
dl.figures { display: grid; grid-template-columns: repeat(auto-fill, minmax(130px, 1fr)); gap: 1rem 1.5rem;
             margin: 1.2rem 0; }
dl.figures dt { color: var(--soft); font-size: .84rem; line-height: 1.3; }
dl.figures dd { margin: 0; font-size: 1.3rem; font-weight: 600; font-variant-numeric: tabular-nums; }
dl.figures div { display: flex; flex-direction: column-reverse; justify-content: flex-end; }
article { border: 1px solid var(--line); border-radius: 8px; margin: 1rem 0; padding: .9rem 1.1rem 1.1rem; }
article > header { color: var(--soft); font-size: .84rem; margin-bottom: .4rem; overflow-wrap: anywhere; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 320px), 1fr)); gap: .9rem 1.4rem;
        margin-top: .8rem; }
.pair > * { min-width: 0; }
.pair > article { margin: 0; }
.label { font-size: .84rem; color: var(--soft); margin: 0 0 .3rem; }
.text { white-space: pre-wrap; overflow-wrap: anywhere; overflow-y: auto; max-height: 24rem;
        font: .86rem/1.6 ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; }
article > .text:not(.box) { max-height: 10rem; }
.box { background: var(--wash); border-radius: 6px; padding: .6rem .8rem; }
.phrase { font-style: italic; font-size: .95rem; margin: .4rem 0 .5rem; }
.box .phrase { margin-top: 0; font-size: inherit; }
.r0 { color: var(--wrong); font-weight: 600; }
.r1 { color: var(--right); font-weight: 600; }
.text b { font-weight: inherit; border-radius: 2px; }
.scale { display: flex; align-items: center; flex-wrap: wrap; gap: .5rem; color: var(--soft); font-size: .84rem; }
.scale i { display: inline-block; width: 1.1rem; height: .9rem; vertical-align: -.1rem; }
@media (max-width: 600px) {
  main { padding: 24px 16px 48px; } h1 { font-size: 1.45rem; }
  table { font-size: .88rem; } th, td { padding: .45rem; } tbody th { white-space: normal; min-width: 8rem; }
}
@media print { .text { max-height: none; } article, figure { break-inside: avoid; } }
"""


class Html(str):
    """Markup; any other str is text."""


def as_html(child: object) -> Html:
    return child if isinstance(child, Html) else Html(escape(str(child)))


def join(*children: object) -> Html:
    return Html("".join(map(as_html, children)))


def element(tag: str, *children: object, **attributes: object) -> Html:
    """<tag name="value">children</tag>; `class_` stands for class."""
    written = "".join(f' {name.rstrip("_")}="{escape(str(value))}"' for name, value in attributes.items())
    return Html(f"<{tag}{written}>{join(*children)}</{tag}>")


def table(rows: list[list[object]], marked: int | None = None, **attributes: object) -> Html:
    """The first row holds the headings, the first column names the rows; row `marked` stands out."""
    head = element("thead", element("tr", *(element("th", cell, scope="col") for cell in rows[0])))
    body = []
    for index, row in enumerate(rows[1:], start=1):
        cells = [element("th", row[0], scope="row"), *(element("td", cell) for cell in row[1:])]
        body.append(element("tr", *cells, **({"class_": "main"} if index == marked else {})))
    return element("div", element("table", head, element("tbody", *body), **attributes), class_="scroll")


def document(title: str, extra_style: str, *children: object) -> str:
    """A whole page that needs nothing but itself."""
    head = (
        '<meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(POLICY)}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<link rel="icon" href="data:,">'
        f"<title>{escape(title)}</title><style>{STYLE}{extra_style}</style>"
    )
    body = element("body", element("main", *children))
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head>\n{body}</html>\n'
