"""report.html: the table, plots and examples of a run, in the order of its steps."""

from collections.abc import Iterator

from srt.contract.metrics import (
    AVG_AT_K,
    ENTROPY,
    GRAD_NORM,
    KL,
    LOGPROB_GAP,
    LR,
    RESPONSE_TOKENS,
    REVISIONS_TRUNCATED,
    REWARD,
    TEACHER_ENTROPY,
    TOP1_AGREEMENT,
    TRUNCATED,
    VALIDATION,
    by_reward,
)
from srt.contract.paths import model_name
from srt.report.data import RunData
from srt.report.examples import (
    TINTS,
    first_samples,
    kl_concentration,
    kl_scale,
    revision_examples,
    scale_legend,
    tinted_response,
)
from srt.report.html import Html, document, element, table
from srt.report.plots import (
    DEFAULT_COLOR,
    REWARD_COLORS,
    SECOND_COLOR,
    SHORT_NAMES,
    VALIDATION_COLOR,
    Series,
    accuracy_plot,
    line_plot,
    metric_points,
    response_length_plot,
    revision_plot,
    smoothing_window,
)
from srt.report.provenance import provenance
from srt.report.table import differing_settings, evaluation_setup, percent, shared_k, stage_table, trained_problems

TABLE_NOTE = (
    "Interval: 95% bootstrap interval over problems. Tokens: mean per response. Revise: accuracy of the revisions "
    "of wrong (r\u00a0=\u00a00) and of correct (r\u00a0=\u00a01) responses. Truncated: share of the responses, "
    "and of the revisions after each kind, that the token limit cut off."
)


def render_page(run: RunData, examples: int) -> str:
    """The whole page; a part that the run does not have gets no section."""
    base = _base_model(run)
    facts = provenance(run)
    sections = [
        _heading(run, base),
        _evaluation(run),
        _collection(run),
        _revision_examples(run, examples),
        _sft(run),
        _distillation(run),
        _localization(run, examples),
        _section("Provenance", *facts) if facts else None,
    ]
    return document(f"SD-Zero: {model_name(base)}" if base else "SD-Zero", TINTS, *(s for s in sections if s))


def _base_model(run: RunData) -> str:
    """Path or id of the base model, from the first part that names it; empty if none does."""
    evaluated = {stage.key: stage.metrics["model"] for stage in run.stages}
    return (
        run.collection.get("config", {}).get("model_path")
        or run.srt.get("config", {}).get("base_model")
        or evaluated.get("base", "")
    )


def _plot(title: str, subtitle: str, svg: Html) -> Html:
    return element("figure", element("figcaption", title, element("span", subtitle)), svg)


def _section(title: str, *children: object) -> Html:
    return element("section", element("h2", title), *children)


def _soft(*children: object) -> Html:
    return element("p", *children, class_="soft")


# The sections -------------------------------------------------------------------------------------------


def _heading(run: RunData, base: str) -> Html:
    lines = [element("h1", "Self-Distillation Zero")]
    if base:
        lines.append(_soft(f"base model: {base}"))
    by_key = {stage.key: stage.metrics for stage in run.stages}
    if {"base", "sd_zero"} <= set(by_key):
        first, last = by_key["base"], by_key["sd_zero"]
        lengths = [
            f"{by_key[key]['mean_response_tokens']:,.0f} ({name})"
            for key, name in SHORT_NAMES.items()
            if key in by_key
        ]
        text = (
            f"avg@{shared_k(run.stages)} goes from {percent(first[AVG_AT_K])} (base) to "
            f"{percent(last[AVG_AT_K])} (SD-Zero). Mean response tokens: {', '.join(lengths)}."
        )
        lines.append(element("p", text, class_="lead"))
    return element("header", *lines)


def _evaluation(run: RunData) -> Html | None:
    if not run.stages:
        return None
    stages, k = run.stages, shared_k(run.stages)
    highlighted = next((row for row, stage in enumerate(stages, start=1) if stage.key == "sd_zero"), None)
    return _section(
        "Evaluation",
        _soft(evaluation_setup(stages[0]), f". {TABLE_NOTE}"),
        table(stage_table(stages), highlighted),
        *(element("p", f"Note: {note}.") for note in differing_settings(stages) + trained_problems(stages)),
        element(
            "div",
            _plot("Accuracy", f"one response, and the best of {k}", accuracy_plot(stages, k)),
            _plot("Response length", "mean tokens per response", response_length_plot(stages)),
            _plot("Revision accuracy", "share of correct revisions", revision_plot(stages)),
            class_="plots",
        ),
    )


def _collection(run: RunData) -> Html | None:
    results = run.collection.get("results")
    if not results:
        return None
    metrics = {
        "responses": f"{results['responses']:,}",
        "correct on the first try": percent(results["first_try_accuracy"]),
        "cut off by the token limit": percent(results["truncated_share"]),
        "revisions": f"{results['revisions']:,}",
        "wrong \u2192 correct": percent(results["wrong_to_right"]),
        "cut off by the limit, of the revisions of wrong ones": percent(
            results.get(by_reward(REVISIONS_TRUNCATED, 0))
        ),
        "correct \u2192 correct": percent(results["right_to_right"]),
        "cut off by the limit, of the revisions of correct ones": percent(
            results.get(by_reward(REVISIONS_TRUNCATED, 1))
        ),
        "correct revisions": f"{results['kept']:,}",
        "tuples kept": f"{results['tuples']:,}",
        "set aside": f"{results['set_aside']:,}",
        "tokens sampled": f"{results['tokens']:,}",
    }
    shown = {name: value for name, value in metrics.items() if value != "-"}
    return _section(
        "Phase 1: collection of self-revisions",
        _soft(
            "Each response is graded, the model is told the outcome and tries again, and correct revisions are "
            "kept."
        ),
        element(
            "dl",
            *(element("div", element("dt", name), element("dd", value)) for name, value in shown.items()),
            class_="metrics",
        ),
    )


def _revision_examples(run: RunData, examples: int) -> Html | None:
    if not (run.tuples and examples):
        return None
    text = f"Evenly spaced among the {len(run.tuples):,} tuples of d_revision.json, for each reward of y_init."
    return _section("Self-revisions", _soft(text), revision_examples(run.tuples, examples))


def _sft(run: RunData) -> Html | None:
    if not run.losses:
        return None
    names = {
        1: ("Stage 1, generation", "y_init, P_r and y_revised"),
        2: ("Stage 2, revision", "y_revised"),
    }
    plots = []
    for stage, points in run.losses.items():
        title, supervised = names[stage]
        svg = line_plot(f"loss of SFT stage {stage}", [Series("loss", points)], x="update")
        plots.append(_plot(title, f"loss on {supervised}", svg))
    return _section("Phase 1: supervised fine-tuning", element("div", *plots, class_="plots"))


def _distillation(run: RunData) -> Html | None:
    if not run.steps:
        return None
    window = smoothing_window(len(run.steps))
    smoothing = f"Thin: each step. Bold: mean over {window} steps. " if window > 1 else ""
    rewards = "r\u00a0=\u00a00: responses graded wrong; r\u00a0=\u00a01: responses graded correct."
    return _section(
        "Phase 2: on-policy self-distillation",
        _soft(f"{len(run.steps):,} steps. {smoothing}{rewards}"),
        element("div", *_distillation_plots(run), class_="plots"),
    )


def _distillation_plots(run: RunData) -> Iterator[Html]:
    """Validation metrics are those of the weights after the step, all others of the weights before it."""
    k = run.distillation.get("config", {}).get("val_num_samples", "k")

    def training(label: str, name: str, color: str = DEFAULT_COLOR, exact: bool = False) -> Series:
        return Series(label, metric_points(run.steps, name), color, exact)

    def validation(label: str, name: str) -> Series:
        points = metric_points(run.steps, f"{VALIDATION}{name}", shift=1)
        return Series(label, points, VALIDATION_COLOR, exact=True)

    def for_each_reward(name: str) -> list[Series]:
        return [training(f"r = {r}", by_reward(name, r), color=REWARD_COLORS[r]) for r in (0, 1)]

    def plot(
        title: str, subtitle: str, *series: Series, share: bool = False, from_zero: bool = True
    ) -> Iterator[Html]:
        if any(curve.points for curve in series):
            svg = line_plot(f"{title} over steps", series, share=share, from_zero=from_zero)
            yield _plot(title, subtitle, svg)

    yield from plot(
        "Reward",
        "share of correct responses",
        training("training responses", REWARD),
        validation(f"validation avg@{k}", AVG_AT_K),
        share=True,
        from_zero=False,
    )
    yield from plot("KL to the teacher", "nats per token", *for_each_reward(KL))
    yield from plot(
        "Response length",
        "mean tokens",
        training("training", RESPONSE_TOKENS),
        validation("validation", RESPONSE_TOKENS),
    )
    yield from plot(
        "Truncated",
        "share of responses cut off",
        training("training", TRUNCATED),
        validation("validation", TRUNCATED),
        share=True,
    )
    yield from plot(
        "Entropy",
        "nats per token",
        training("student", ENTROPY),
        training("teacher", TEACHER_ENTROPY, color=SECOND_COLOR),
    )
    yield from plot(
        "Top-1 agreement",
        "share of tokens with the same argmax",
        *for_each_reward(TOP1_AGREEMENT),
        share=True,
        from_zero=False,
    )
    yield from plot("Log-prob gap", "between sampler and trainer, nats", training("gap", LOGPROB_GAP))
    yield from plot("Gradient norm", "before clipping", training("norm", GRAD_NORM))
    yield from plot("Learning rate", "at the end of the step", training("rate", LR, exact=True))


def _localization(run: RunData, examples: int) -> Html | None:
    samples = first_samples(run.samples, examples)
    if not samples:
        return None
    scale = kl_scale(samples)
    facts = []
    for r, verdict in ((0, "wrong"), (1, "correct")):
        if kl := kl_concentration(run.samples, r):
            facts.append(
                f"In the {kl.responses:,} logged {verdict} responses, the KL is {kl.kl_per_token:.4f} nats per "
                f"token, and a tenth of the tokens carry {kl.top_tenth_share:.0%} of it."
            )
    return _section(
        "Where the teacher disagrees",
        _soft("The KL of each token, for the first logged responses of each reward. ", " ".join(facts)),
        scale_legend(scale),
        element("div", *(tinted_response(sample, scale) for sample in samples), class_="pair"),
    )
