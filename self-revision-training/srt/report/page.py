"""report.html: tables, curves and texts of a run or of several, in the order of their steps."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from srt.contract.metrics import AVG_AT_K, REVISIONS_TRUNCATED, by_reward
from srt.contract.paths import model_name
from srt.report.browse import collection_attempts, kl_concentration, kl_samples, right_revisions, shared_problems
from srt.report.charts import Chart, charts_data, figure, figures, is_number
from srt.report.curves import distillation_charts, sft_charts
from srt.report.data import SHORT_NAMES, EvaluatedStage, RunData, record_of
from srt.report.html import Html, asset, document, element, join, table
from srt.report.knobs import knob_table
from srt.report.plots import accuracy_plot, response_length_plot, revision_plot
from srt.report.provenance import provenance
from srt.report.table import evaluation_setup, notes, number, percent, shared_k, stage_table

UPLOT = "uplot-1.6.32"
SCRIPTS = ("dom.js", "heat.js", "export.js", "charts.js", "chart_svg.js", "browse.js")
TABLE_NOTE = (
    "Interval: 95% bootstrap interval over problems. Tokens: mean per response. Revise: accuracy of the revisions "
    "of wrong (r\u00a0=\u00a00) and of correct (r\u00a0=\u00a01) responses. Truncated: share of the responses, "
    "and of the revisions after each kind, that the token limit cut off."
)
HELP = (
    "Point at a curve to read its values, drag to zoom in, double-click to see all again; a name in the legend "
    "hides or shows its curve."
)


@dataclass
class PageData:
    """What the scripts of the page read, by the name of its element, and the charts so far."""

    charts: list[Chart]
    widgets: dict[str, Any]


def render_page(runs: Sequence[RunData], examples: int, browse: int, live: bool = False) -> str:
    """The whole page; a part that no run has gets no section.

    examples: texts to show at once, 0 for none. browse: texts of each kind to embed. live: for the server of
    watch.py, with a script that asks it for news.
    """
    data = PageData([], {})
    sections = [
        _heading(runs, live),
        _differences(runs),
        _warnings(runs),
        _evaluation(runs),
        *([_problems(runs, browse, data)] if examples else []),
        _collection(runs, examples, browse, data),
        _sft(runs, data),
        _distillation(runs, data),
        *([_localization(runs, examples, data)] if examples else []),
        _provenance(runs),
        _missing(runs),
    ]
    base = _base_model(runs[0])
    title = f"SD-Zero: {model_name(base)}" if base else "SD-Zero"
    return document(
        title,
        asset(f"{UPLOT}/uPlot.min.css"),
        *(section for section in sections if section),
        scripts=[_uplot(), *map(asset, (*SCRIPTS, *(["live.js"] if live else []), "start.js"))],
        data={
            "charts": charts_data(data.charts, [run.label for run in runs]),
            "widgets": data.widgets | {"examples": examples},
        },
        live=live,
    )


def _uplot() -> str:
    """The library with its license, which every copy must hold."""
    return f"/*\n{asset(f'{UPLOT}/LICENSE')}*/\n{asset(f'{UPLOT}/uPlot.iife.min.js')}"


def _base_model(run: RunData) -> str:
    """Path or id of the base model, from the first part that names it; empty if none does."""
    evaluated = {stage.key: stage.metrics.get("model", "") for stage in run.stages}
    return str(
        record_of(run.collection, "config").get("model_path")
        or record_of(run.srt, "config").get("base_model")
        or evaluated.get("base")
        or ""
    )


def _block(key: str, *children: object) -> Html:
    """A part of the page that a live page replaces when it changes."""
    return element("div", *children, data_block=key)


def _section(key: str, title: str, *children: object) -> Html:
    return element("section", element("h2", title), *children, data_section=key)


def _soft(*children: object) -> Html:
    return element("p", *children, class_="soft")


def _of(run: RunData, runs: Sequence[RunData]) -> str:
    return f"{run.label}: " if len(runs) > 1 else ""


def _stages(runs: Sequence[RunData]) -> list[EvaluatedStage]:
    if len(runs) == 1:
        return runs[0].stages
    return [replace(stage, run_label=run.label) for run in runs for stage in run.stages]


# The sections -------------------------------------------------------------------------------------------


def _heading(runs: Sequence[RunData], live: bool) -> Html:
    lines = [element("h1", "Self-Distillation Zero")]
    bases = dict.fromkeys(filter(None, map(_base_model, runs)))
    if bases:
        lines.append(_soft(f"base model: {', '.join(bases)}"))
    if len(runs) > 1:
        lines.append(_soft(f"runs: {', '.join(run.label for run in runs)}"))
    lines += [element("p", text, class_="lead") for run in runs if (text := _lead(run, _of(run, runs)))]
    lines += [element("p", text) for run in runs if (text := _progress(run, _of(run, runs)))]
    live_line = [element("p", "live", id="live", class_="soft", role="status")] if live else []
    script_note = element("noscript", element("p", "Curves and texts of this page need JavaScript."))
    return element("header", _block("heading", *lines), *live_line, script_note, data_section="header")


def _lead(run: RunData, name: str) -> str:
    by_key = {stage.key: stage.metrics for stage in run.stages}
    if not {"base", "sd_zero"} <= set(by_key):
        return ""
    lengths = [
        f"{number(by_key[key].get('mean_response_tokens'), ',.0f')} ({short})"
        for key, short in SHORT_NAMES.items()
        if key in by_key
    ]
    return (
        f"{name}avg@{shared_k(run.stages)} goes from {percent(by_key['base'][AVG_AT_K])} (base) to "
        f"{percent(by_key['sd_zero'][AVG_AT_K])} (SD-Zero). Mean response tokens: {', '.join(lengths)}."
    )


def _progress(run: RunData, name: str) -> str:
    """How far Phase 2 is, while it is not finished."""
    if not run.in_progress:
        return ""
    total = record_of(run.distillation, "config").get("max_num_steps")
    done = max((line["step"] + 1 for line in run.steps), default=0)
    return f"{name}self-distillation is not finished: {done:,} of at most {number(total)} steps."


def _differences(runs: Sequence[RunData]) -> Html | None:
    if len(runs) < 2:
        return None
    return _section("differences", "Differences of the runs", _block("differences", knob_table(runs)))


def _warnings(runs: Sequence[RunData]) -> Html | None:
    rows = [
        [f"{_of(run, runs)}{'start' if line['step'] < 0 else line['step'] + 1}", str(line["warning"])]
        for run in runs
        for line in run.warnings
    ]
    if not rows:
        return None
    listed = table([["after step", "warning"], *rows], class_="prose")
    return _section("warnings", "Warnings of self-distillation", _block("warnings", listed))


def _evaluation(runs: Sequence[RunData]) -> Html | None:
    stages = _stages(runs)
    if not stages:
        return None
    k = shared_k(stages)
    highlighted = next((row for row, stage in enumerate(stages, start=1) if stage.key == "sd_zero"), None)
    rows = stage_table(stages)
    plots = [
        ("accuracy", "Accuracy", f"one response, and the best of {k}", accuracy_plot(stages, k)),
        ("lengths", "Response length", "mean tokens per response", response_length_plot(stages)),
        ("revisions", "Revision accuracy", "share of correct revisions", revision_plot(stages)),
    ]
    return _section(
        "evaluation",
        "Evaluation",
        _block(
            "evaluation",
            _soft(evaluation_setup(stages[0]), f". {TABLE_NOTE}"),
            table(rows, highlighted if len(runs) == 1 else None),
            *(element("p", f"Note: {note}.") for note in notes(stages)),
            element("div", *(figure(*plot, rows=rows) for plot in plots), class_="plots"),
        ),
    )


def _problems(runs: Sequence[RunData], browse: int, data: PageData) -> Html | None:
    shared = shared_problems(_stages(runs), browse)
    if not shared["problems"]:
        return None
    data.widgets["problems"] = shared
    text = (
        f"Of the {shared['total']:,} problems that every stage answered, {len(shared['problems']):,} are here; "
        "the text is the first response of each stage, the counts are over all of its responses."
    )
    body = [_block("problems", _soft(text)), element("div", data_widget="problems")]
    return _section("problems", "The same problem, stage by stage", *body)


def _collection(runs: Sequence[RunData], examples: int, browse: int, data: PageData) -> Html | None:
    parts = [part for run in runs for part in _collection_of(run, _of(run, runs))]
    browsed = {run.label: found for run in runs if (found := collection_attempts(run, browse))["attempts"]}
    if not parts and not browsed:
        return None
    intro = (
        "Each response is graded, the model is told the outcome and tries again, and correct revisions are kept."
    )
    children: list[Html] = [_block("collection", _soft(intro), *parts)]
    if browsed and examples:
        data.widgets["attempts"] = browsed
        children += [element("h3", "Attempts"), element("div", data_widget="attempts")]
    return _section("collection", "Phase 1: collection of self-revisions", *children)


def _collection_of(run: RunData, name: str) -> Iterator[Html]:
    results = record_of(run.collection, "results")
    if not results:
        return
    rights = right_revisions(run)
    changes = ", ".join(f"{kind} {number(count)}" for kind, count in record_of(results, "cleaned").items())
    metrics = {
        "responses": number(results.get("responses")),
        "correct on the first try": percent(results.get("first_try_accuracy")),
        "cut off by the token limit": percent(results.get("truncated_share")),
        "revisions": number(results.get("revisions")),
        "wrong \u2192 correct": percent(results.get("wrong_to_right")),
        "cut off by the limit, of the revisions of wrong ones": percent(
            results.get(by_reward(REVISIONS_TRUNCATED, 0))
        ),
        "correct \u2192 correct": percent(results.get("right_to_right")),
        "cut off by the limit, of the revisions of correct ones": percent(
            results.get(by_reward(REVISIONS_TRUNCATED, 1))
        ),
        "correct revisions": number(rights),
        "of these usable: unique, and not dropped by cleaning": number(results.get("kept")),
        "tuples written": number(results.get("tuples")),
        "set aside": number(results.get("set_aside")),
        "tokens sampled": number(results.get("tokens")),
        "seconds of the last call": number(results.get("seconds")),  # a continued run samples only the rest
    }
    if name:
        yield element("h3", name.removesuffix(": "))
    shown = {title: value for title, value in metrics.items() if value != "-"}
    yield element(
        "dl",
        *(element("div", element("dt", title), element("dd", value)) for title, value in shown.items()),
        class_="metrics",
    )
    if changes:
        yield _soft(f"Changes by cleaning: {changes}.")


def _curves(key: str, title: str, note: Html, charts: list[Chart], data: PageData) -> Html | None:
    plots = figures(charts)
    if plots is None:
        return None
    data.charts += charts
    return _section(key, title, _block(key, note), _block(f"{key}-curves", plots))


def _sft(runs: Sequence[RunData], data: PageData) -> Html | None:
    facts = [
        f"{_of(run, runs)}stage {stage}: {number(log[-1].get('step', len(log)))} updates" + _speed(log)
        for run in runs
        for stage, log in run.sft_logs.items()
    ]
    note = _soft(f"{'; '.join(facts)}. {HELP}")
    return _curves("sft", "Phase 1: supervised fine-tuning", note, list(sft_charts(runs)), data)


def _speed(log: list[dict[str, Any]]) -> str:
    """Of a stage that has finished: how long its updates took, and the rate in tokens."""
    seconds = log[-1].get("train_runtime")
    if not is_number(seconds) or seconds <= 0:
        return ""
    tokens = max((line["num_tokens"] for line in log if is_number(line.get("num_tokens"))), default=None)
    return f" in {_duration(seconds)}" + (f", {tokens / seconds:,.0f} tokens per second" if tokens else "")


def _duration(seconds: float) -> str:
    return f"{seconds:,.0f} s" if seconds < 120 else f"{seconds / 60:,.0f} min"


def _distillation(runs: Sequence[RunData], data: PageData) -> Html | None:
    counts = "; ".join(f"{_of(run, runs)}{len(run.steps):,} steps" for run in runs if run.steps)
    rewards = "r\u00a0=\u00a00: responses graded wrong; r\u00a0=\u00a01: responses graded correct."
    syncs = " Vertical lines: the teacher became the student." if any(run.teacher_syncs for run in runs) else ""
    note = _soft(f"{counts}. Thin: each step. Bold: moving average. {rewards}{syncs} {HELP}")
    charts = list(distillation_charts(runs))
    return _curves("distillation", "Phase 2: on-policy self-distillation", note, charts, data)


def _localization(runs: Sequence[RunData], examples: int, data: PageData) -> Html | None:
    logged = {run.label: kl_samples(run.samples) for run in runs if run.samples}
    if not logged:
        return None
    data.widgets["samples"] = logged
    facts = []
    for run in runs:
        for r, verdict in ((0, "wrong"), (1, "correct")):
            if kl := kl_concentration(run.samples, r):
                facts.append(
                    f"{_of(run, runs)}In the {kl.responses:,} logged {verdict} responses, the KL is "
                    f"{kl.kl_per_token:.4f} nats per token, and a tenth of the tokens carry "
                    f"{kl.top_tenth_share:.0%} of it."
                )
    intro = (
        "The KL of each token of the logged responses, step by step. The strongest tint is at the 99th percentile "
        "of the tokens that are not part of a control phrase (underlined), so that the phrase does not make all "
        "others pale. "
    )
    return _section(
        "localization",
        "Where the teacher disagrees",
        _block("localization", _soft(intro, " ".join(facts))),
        element("div", data_widget="samples"),
    )


def _provenance(runs: Sequence[RunData]) -> Html | None:
    parts = []
    for run in runs:
        if facts := provenance(run):
            parts.append(join(*([element("h3", run.label)] if len(runs) > 1 else []), *facts))
    return _section("provenance", "Provenance", _block("provenance", *parts)) if parts else None


def _missing(runs: Sequence[RunData]) -> Html | None:
    lines = [f"{_of(run, runs)}{phrase}" for run in runs for phrase in run.missing]
    if not lines:
        return None
    listed = element("ul", *(element("li", line) for line in lines))
    return _section("missing", "Not in this report", _block("missing", listed))
