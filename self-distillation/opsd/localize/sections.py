"""The tables and charts of the page, one function for each section."""

from typing import Any

from opsd.localize.charts import Series, bar_chart, line_chart
from opsd.localize.copying import PARTS
from opsd.localize.first_error import NEAR
from opsd.localize.mass import TOP
from opsd.localize.phrase_effect import VARIANTS
from opsd.localize.token_kinds import KINDS
from srt.report.html import Html, element, join, table

REWARDS = ((0, "wrong"), (1, "right"))
MAX_OFFSET = 20
MAX_SHOWN = 24  # characters of a token in a table
SHORT_KINDS = {"style word": "style", "punctuation": "punct.", "end of turn": "end"}


def percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def nats(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def short_number(value: float) -> str:
    return f"{value:.3g}"


def overview(pairs: list[dict[str, Any]]) -> Html:
    rows: list[list[object]] = [
        ["pair", "responses", "wrong", "cut off", "KL wrong", "KL right", f"top {TOP} wrong", f"top {TOP} right"]
    ]
    for pair in pairs:
        masses = [pair["figure_4"][f"r{r}"] for r in (0, 1)]
        rows.append(
            [
                pair["name"],
                pair["responses"],
                percent(pair["wrong"] / pair["responses"]),
                percent(pair["cut_off"] / pair["responses"]),
                *(nats(mass and mass["kl_per_token"]) for mass in masses),
                *(percent(mass and mass["top_share"]) for mass in masses),
            ]
        )
    note = element(
        "p",
        f"KL in nats per token. Top {TOP}: what the {TOP} tokens with the highest KL hold of a response's KL.",
        class_="soft",
    )
    return join(table(rows), note)


def models(pairs: list[dict[str, Any]]) -> Html:
    entries = []
    for pair in pairs:
        entries.append(element("dt", pair["name"]))
        same = pair["teacher"] == pair["student"]
        entries.append(
            element("dd", f"student {pair['student']}, teacher {'the same' if same else pair['teacher']}")
        )
    return element("details", element("summary", "models"), element("dl", *entries, class_="provenance"))


def figure_4(pair: dict[str, Any]) -> Html:
    by_rank, cumulative = [], []
    notes = []
    for r, name in REWARDS:
        mass = pair["figure_4"][f"r{r}"]
        if mass is None:
            continue
        kl = mass["kl_by_rank"]
        ranks = list(range(1, len(kl) + 1))
        total, sums, so_far = sum(kl), [], 0.0
        for value in kl:
            so_far += value
            sums.append(so_far / total if total else None)
        label = f"{name} (r = {r}), {mass['responses']} responses"
        by_rank.append(Series(label, f"r{r}", ranks, kl))
        cumulative.append(Series(label, f"r{r}", ranks, sums))
        notes.append(
            f"{name}: top {TOP} {percent(mass['top_share'])} (flat: {percent(mass['uniform_share'])}), "
            f"top tenth {percent(mass['top_tenth_share'])}"
        )
    note = "; ".join(notes)
    return join(
        line_chart(
            f"{pair['name']} kl by rank",
            by_rank,
            "KL by token rank",
            "nats, mean over responses",
            "rank",
            short_number,
            log_x=True,
        ),
        line_chart(
            f"{pair['name']} kl up to rank",
            cumulative,
            "Share of the KL up to this rank",
            note,
            "rank",
            percent_tick,
            log_x=True,
        ),
        _kinds_chart(pair),
    )


def percent_tick(value: float) -> str:
    return f"{value:.0%}"


def _kinds_chart(pair: dict[str, Any]) -> Html:
    series, notes = [], []
    for r, name in REWARDS:
        if mass := pair["figure_4"][f"r{r}"]:
            kinds = mass["kinds"]
            series.append(Series(f"KL, {name}", f"r{r}", (), [kinds[kind]["kl"] for kind in KINDS]))
            series.append(Series(f"tokens, {name}", f"r{r} faint", (), [kinds[kind]["tokens"] for kind in KINDS]))
            notes.append(
                f"{name}: style tokens are {percent(kinds['style']['tokens'])} of the tokens and hold "
                f"{percent(kinds['style']['kl'])} of the KL"
            )
    return bar_chart(
        f"{pair['name']} kl by kind",
        [SHORT_KINDS.get(kind, kind) for kind in KINDS],
        series,
        "Share of tokens and of KL by kind",
        "; ".join(notes),
        percent_tick,
    )


def copying(pair: dict[str, Any]) -> Html:
    copied, kl, rows = (
        [],
        [],
        [
            [
                "responses",
                "tokens",
                "copied",
                "student's first",
                "KL copied",
                "KL changed",
                "share of the KL where changed",
                "copied as a whole",
            ]
        ],
    )
    positions = [(index + 0.5) / PARTS for index in range(PARTS)]
    for r, name in REWARDS:
        copies = pair["copying"][f"r{r}"]
        if copies is None:
            continue
        rows.append(
            [
                name,
                f"{copies['tokens']:,}",
                percent(copies["copied"]),
                percent(copies["student_first"]),
                nats(copies["kl_copied"]),
                nats(copies["kl_changed"]),
                percent(copies["kl_share_changed"]),
                percent(copies["whole_response_copied"]),
            ]
        )
        changed = [None if share is None else 1 - share for share in copies["by_position"]["copied"]]
        copied.append(Series(name, f"r{r}", positions, changed))
        kl.append(Series(name, f"r{r}", positions, copies["by_position"]["kl"]))
    x_label = "position in the response, from 0 to 1"
    plots = element(
        "div",
        line_chart(
            f"{pair['name']} changed tokens",
            copied,
            "Tokens that the teacher would change",
            "its most likely token is not y's",
            x_label,
            percent_tick,
        ),
        line_chart(
            f"{pair['name']} kl by position", kl, "KL by position", "nats per token", x_label, short_number
        ),
        class_="plots",
    )
    return join(table(rows), plots)


def phrases(pair: dict[str, Any], neutral: str) -> Html:
    texts = {"P_0": pair["phrases"]["P_0"], "P_1": pair["phrases"]["P_1"], "none": "", "neutral": neutral}
    parts: list[Html] = []
    for r, name in REWARDS:
        effect = pair["phrase_effect"][f"r{r}"]
        if effect is None:
            continue
        rows: list[list[object]] = [
            [f"{name} responses read with", "KL", "log-prob of y", f"KL from {effect['phrase']}"]
        ]
        for variant in VARIANTS:
            label = f"{variant}: {texts[variant]}" if texts[variant] else "no phrase"
            moved = effect["moved"].get(variant)
            rows.append([label, nats(effect["kl"][variant]), nats(effect["logprob"][variant]), nats(moved)])
        parts.append(table(rows, highlighted=1 + VARIANTS.index(effect["phrase"])))
        if r == 0:
            parts.append(_moved_tokens(effect))
    return join(*parts) if parts else element("p", "Not measured (COMPARE_PHRASES=0).", class_="soft")


def _moved_tokens(effect: dict[str, Any]) -> Html:
    rows: list[list[object]] = [
        ["token", "occurrences", "moved (nats)", "share of all", "change of its log-prob", "changed", "mostly to"]
    ]
    for entry in effect["moved_tokens"]:
        rows.append(
            [
                visible(entry["token"]),
                entry["count"],
                nats(entry["moved"]),
                percent(entry["share"]),
                f"{entry['logprob_change']:+.3f}",
                percent(entry["instead_share"]),
                "-" if entry["instead"] is None else visible(entry["instead"]),
            ]
        )
    caption = element(
        "p", f"Tokens of wrong responses that {effect['phrase']} moves most against the neutral sentence:"
    )
    return join(caption, table(rows))


def visible(text: str) -> Html:
    """A token with its spaces and line breaks; of a long one the beginning."""
    text = text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN] + "\u2026"
    return element("code", text.replace("\n", "\u21b5").replace(" ", "\u00b7") or "(empty)")


def first_errors(pairs: list[dict[str, Any]]) -> Html:
    rows: list[list[object]] = [
        [
            "pair",
            "errors",
            "peak at it",
            f"within {NEAR} tokens",
            "by chance",
            "before a revision",
            "median rank",
            "copied there",
            "KL if copied",
            "KL there",
            "KL elsewhere",
        ]
    ]
    plots = []
    for pair in pairs:
        found = [(name, error) for r, name in REWARDS if (error := pair["first_error"][f"r{r}"])]
        if not found:
            rows.append([pair["name"], 0, *["-"] * 9])
        for name, error in found:
            rows.append([f"{pair['name']}, {name} responses", *_error_cells(error)])
            if name == "wrong":
                plots.append(_offsets(pair["name"], error["offsets"]))
    return join(table(rows, class_="wide"), element("div", *plots, class_="plots"))


def _error_cells(error: dict[str, Any]) -> list[object]:
    at_error = error["at_error"]
    low, high = error["near_interval"]
    return [
        f"{error['errors']} of {error['checkable']}",
        percent(error["at"]),
        f"{percent(error['near'])} ({low:.0%} to {high:.0%})",
        percent(error["chance"]),
        percent(error["in_attempt"]["near"]),
        f"{error['median_rank']:g}",
        percent(at_error["copied"]),
        nats(at_error["kl_copied"]),
        nats(at_error["kl"]),
        nats(at_error["kl_elsewhere"]),
    ]


def _offsets(name: str, offsets: list[int]) -> Html:
    labels = [str(offset) for offset in range(-MAX_OFFSET, MAX_OFFSET + 1)]
    counts = [0.0] * len(labels)
    for offset in offsets:
        counts[max(-MAX_OFFSET, min(MAX_OFFSET, offset)) + MAX_OFFSET] += 1 / len(offsets)
    series = [Series("share of the responses", "r0", (), counts)]
    note = f"tokens; the outermost bars hold all beyond {MAX_OFFSET}"
    return bar_chart(
        f"{name} kl peak",
        labels,
        series,
        f"{name}: where the KL's peak is",
        note,
        percent_tick,
        "tokens behind the error",
        every=5,
    )
