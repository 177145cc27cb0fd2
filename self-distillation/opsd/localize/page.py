"""localization.html: a self-contained page, whose only script is ours, whatever a model wrote."""

from pathlib import Path
from typing import Any

from opsd.localize import sections
from opsd.localize.page_data import page_data
from opsd.localize.records import ScoredResponse
from srt.common.files import atomic_write
from srt.report.html import Html, asset, document, element, join

SCRIPT = Path(__file__).with_name("page.js")
SHARED_SCRIPTS = ("dom.js", "export.js")  # of the report
STYLE = Path(__file__).with_name("page.css")
TITLE = "Where the reviser disagrees"
MODES = (
    ("kl", "KL"),
    ("ratio", "probability ratio"),
    ("phrase", "phrase against neutral"),
    ("studentEntropy", "student's entropy"),
    ("teacherEntropy", "teacher's entropy"),
)


def write_page(
    path: Path,
    content: dict[str, Any],
    scored: dict[str, list[ScoredResponse]],
    tokenizers: dict[str, Any],
    examples: int,
) -> None:
    """`content`: of localization.json; `scored` and `tokenizers`: by name of the pair; `examples`: responses of
    each reward to show."""
    page = render(content, page_data(scored, tokenizers, examples))
    with atomic_write(path) as temporary:
        # Surrogates (invalid Unicode in model outputs) become references, which browsers show as U+FFFD.
        temporary.write_text(page, encoding="utf-8", errors="xmlcharrefreplace")


def render(content: dict[str, Any], data: list[dict[str, Any]]) -> str:
    pairs = content["pairs"]
    waiting = content["unfinished"]
    parts: list[object] = [
        element("h1", TITLE),
        element("p", f"Responses to {content['dataset']}", class_="soft"),
    ]
    if waiting:
        parts.append(element("p", f"Not finished yet: {', '.join(waiting)}.", class_="soft"))
    parts += [sections.overview(pairs), sections.models(pairs), _heat_map(data)]
    parts += [
        _section("KL mass by token rank", "Figure 4 of the paper: is the KL on few tokens?"),
        *(join(_name(pair, pairs), element("div", sections.figure_4(pair), class_="plots")) for pair in pairs),
        _section("Copying", "How often the teacher's most likely token is the one that stands in the first y."),
        *(join(_name(pair, pairs), sections.copying(pair)) for pair in pairs),
        _section("What the phrase does", "The same y, read behind other sentences; nats per token."),
        *(join(_name(pair, pairs), sections.phrases(pair, content["neutral_phrase"])) for pair in pairs),
        _section(
            "First error",
            "Of the responses whose arithmetic can be checked, those with a wrong step: is the KL's peak there?",
        ),
        sections.first_errors(pairs),
    ]
    script, style = (path.read_text(encoding="utf-8") for path in (SCRIPT, STYLE))
    return document(
        TITLE, style, *parts, scripts=[*map(asset, SHARED_SCRIPTS), script], data={"localization": data}
    )


def _section(title: str, note: str) -> Html:
    return join(element("h2", title), element("p", note, class_="soft"))


def _name(pair: dict[str, Any], pairs: list[dict[str, Any]]) -> Html:
    return element("h3", pair["name"]) if len(pairs) > 1 else Html("")


def _heat_map(data: list[dict[str, Any]]) -> Html:
    """The frame that the script fills."""
    if not any(pair["responses"] for pair in data):
        return Html("")
    names = [element("option", pair["name"], value=index) for index, pair in enumerate(data)]
    modes = [
        element("button", label, type="button", data_mode=mode, aria_pressed=str(mode == "kl").lower())
        for mode, label in MODES
        if mode != "phrase" or any(response["variants"] for pair in data for response in pair["responses"])
    ]
    controls = element(
        "div",
        element(
            "label", "pair ", element("select", *names, id="pair"), **({"hidden": ""} if len(data) < 2 else {})
        ),
        element("span", *modes, class_="modes", role="group", aria_label="color by"),
        element("button", "previous hot token (p)", type="button", id="previous"),
        element("button", "next hot token (n)", type="button", id="next"),
        element("span", "", id="scale", class_="scale"),
        class_="heat-controls",
    )
    return join(
        _section(
            "Token by token",
            "Wrong responses on the left, right ones on the right, in problem order. Point at a token, or press "
            "n (or p) for the next (or previous) hot one.",
        ),
        controls,
        element("div", "", id="responses", class_="sides"),
        element("div", "", id="panel", class_="token-panel", role="status", hidden=""),
    )
