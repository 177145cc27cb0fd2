"""report.html: the table, the curves and the examples of a run, in the order in which the run made them."""

from collections.abc import Iterator

from srt.contract.paths import model_name
from srt.report.data import RunData
from srt.report.examples import (
    TINTS,
    chosen_samples,
    concentration,
    kl_scale,
    revisions,
    scale_legend,
    tinted,
)
from srt.report.html import Html, document, element, table
from srt.report.plots import (
    RIGHT,
    SECOND,
    SHORT_NAMES,
    VALIDATION,
    WRONG,
    Series,
    curves,
    metric,
    smoothing_window,
    stage_accuracy,
    stage_revisions,
    stage_tokens,
)
from srt.report.provenance import made_by
from srt.report.table import asked, differing_settings, percent, shared_k, stage_table

TABLE_NOTE = (
    "The interval holds 95% of bootstrap draws over the problems; tokens are those of a response; revise: share "
    "of right revisions after a wrong (r\u00a0=\u00a00) and after a right (r\u00a0=\u00a01) response."
)


def page(run: RunData, examples: int) -> str:
    """The whole page; a part of the run that is missing has no section."""
    base = _base_model(run)
    made = made_by(run)
    sections = [
        _heading(run, base),
        _stages(run),
        _collection(run),
        _revision_examples(run, examples),
        _sft(run),
        _distillation(run),
        _localisation(run, examples),
        _section("What made this", *made) if made else None,
    ]
    return document(f"SD-Zero: {model_name(base)}" if base else "SD-Zero", TINTS, *(s for s in sections if s))


def _base_model(run: RunData) -> str:
    """Its path or id, from the first part that knows it; empty when none does."""
    evaluated = {stage.key: stage.figures["model"] for stage in run.stages}
    return (
        run.collection.get("config", {}).get("model_path")
        or run.srt.get("config", {}).get("base_model")
        or evaluated.get("base", "")
    )


def _figure(title: str, meaning: str, svg: Html) -> Html:
    return element("figure", element("figcaption", title, element("span", meaning)), svg)


def _section(title: str, *children: object) -> Html:
    return element("section", element("h2", title), *children)


def _soft(*children: object) -> Html:
    return element("p", *children, class_="soft")


# The sections -------------------------------------------------------------------------------------------


def _heading(run: RunData, base: str) -> Html:
    lines = [element("h1", "Self-Distillation Zero")]
    if base:
        lines.append(_soft(f"base model: {base}"))
    by_key = {stage.key: stage.figures for stage in run.stages}
    if {"base", "sd_zero"} <= set(by_key):
        first, last = by_key["base"], by_key["sd_zero"]
        lengths = [
            f"{by_key[key]['mean_response_tokens']:,.0f} ({name})"
            for key, name in SHORT_NAMES.items()
            if key in by_key
        ]
        text = (
            f"avg@{shared_k(run.stages)} goes from {percent(first['avg_at_k'])} (base) to "
            f"{percent(last['avg_at_k'])} (SD-Zero). Mean response tokens: {', '.join(lengths)}."
        )
        lines.append(element("p", text, class_="lead"))
    return element("header", *lines)


def _stages(run: RunData) -> Html | None:
    if not run.stages:
        return None
    stages, k = run.stages, shared_k(run.stages)
    marked = next((row for row, stage in enumerate(stages, start=1) if stage.key == "sd_zero"), None)
    return _section(
        "Evaluation",
        _soft(asked(stages[0]), f". {TABLE_NOTE}"),
        table(stage_table(stages), marked),
        *(element("p", f"Note: {note}.") for note in differing_settings(stages)),
        element(
            "div",
            _figure("Accuracy", f"one response, and the best of {k}", stage_accuracy(stages, k)),
            _figure("Response length", "mean tokens of a response", stage_tokens(stages)),
            _figure("Asked to revise", "share of right revisions", stage_revisions(stages)),
            class_="plots",
        ),
    )


def _collection(run: RunData) -> Html | None:
    results = run.collection.get("results")
    if not results:
        return None
    figures = {
        "responses": f"{results['responses']:,}",
        "right at the first try": percent(results["first_try_accuracy"]),
        "cut off by the token limit": percent(results["truncated_share"]),
        "revisions": f"{results['revisions']:,}",
        "wrong \u2192 right": percent(results["wrong_to_right"]),
        "right \u2192 right": percent(results["right_to_right"]),
        "right revisions": f"{results['kept']:,}",
        "tuples kept": f"{results['tuples']:,}",
        "set aside": f"{results['set_aside']:,}",
        "tokens sampled": f"{results['tokens']:,}",
    }
    shown = {name: value for name, value in figures.items() if value != "-"}
    return _section(
        "Phase 1: collection of self-revisions",
        _soft("Each response is graded; the model is told the outcome and tries again; right revisions are kept."),
        element(
            "dl",
            *(element("div", element("dt", name), element("dd", value)) for name, value in shown.items()),
            class_="figures",
        ),
    )


def _revision_examples(run: RunData, examples: int) -> Html | None:
    if not (run.tuples and examples):
        return None
    text = f"Taken evenly from the {len(run.tuples):,} tuples of d_revision.json, by the reward of y_init."
    return _section("Self-revisions", _soft(text), revisions(run.tuples, examples))


def _sft(run: RunData) -> Html | None:
    if not run.losses:
        return None
    names = {
        1: ("Stage 1, generation", "y_init, P_r and y_revised"),
        2: ("Stage 2, revision", "y_revised"),
    }
    figures = []
    for stage, points in run.losses.items():
        title, what = names[stage]
        svg = curves(f"loss of SFT stage {stage}", [Series("loss", points)], x="update")
        figures.append(_figure(title, f"loss on {what}", svg))
    return _section("Phase 1: supervised fine-tuning", element("div", *figures, class_="plots"))


def _distillation(run: RunData) -> Html | None:
    if not run.steps:
        return None
    window = smoothing_window(len(run.steps))
    drawn = f"Thin: each step. Bold: mean over {window} steps. " if window > 1 else ""
    rewards = "r\u00a0=\u00a00: responses that were graded wrong; r\u00a0=\u00a01: right ones."
    return _section(
        "Phase 2: on-policy self-distillation",
        _soft(f"{len(run.steps):,} steps. {drawn}{rewards}"),
        element("div", *_distillation_figures(run), class_="plots"),
    )


def _distillation_figures(run: RunData) -> Iterator[Html]:
    """A validation has the weights after its step, all other figures those before it."""
    steps = run.steps
    k = run.distillation.get("config", {}).get("val_num_samples", "k")

    def by_reward(name: str) -> list[Series]:
        return [
            Series("r = 0", metric(steps, f"{name}_r0"), WRONG),
            Series("r = 1", metric(steps, f"{name}_r1"), RIGHT),
        ]

    def figure(title: str, meaning: str, series: list[Series], **options: bool) -> Iterator[Html]:
        if any(one.points for one in series):
            yield _figure(title, meaning, curves(f"{title} over steps", series, **options))

    validation = Series(f"validation avg@{k}", metric(steps, "val_avg_at_k", 1), VALIDATION, exact=True)
    rewards = [Series("training responses", metric(steps, "reward")), validation]
    yield from figure("Reward", "share of right responses", rewards, share=True, from_zero=False)
    yield from figure("KL to the teacher", "nats per token", by_reward("kl"))
    lengths = [
        Series("training", metric(steps, "response_tokens")),
        Series("validation", metric(steps, "val_response_tokens", 1), VALIDATION, exact=True),
    ]
    yield from figure("Response length", "mean tokens", lengths)
    truncated = [Series("truncated", metric(steps, "truncated"))]
    yield from figure("Truncated", "share of responses cut off", truncated, share=True)
    entropies = [
        Series("student", metric(steps, "entropy")),
        Series("teacher", metric(steps, "teacher_entropy"), SECOND),
    ]
    yield from figure("Entropy", "nats per token", entropies)
    yield from figure(
        "Agreement", "on the likeliest token", by_reward("top1_agreement"), share=True, from_zero=False
    )
    gap = [Series("gap", metric(steps, "logprob_gap"))]
    yield from figure("Log-prob gap", "sampler against trainer, nats", gap)
    yield from figure("Gradient norm", "before clipping", [Series("norm", metric(steps, "grad_norm"))])
    yield from figure("Learning rate", "at the end of the step", [Series("rate", metric(steps, "lr"), exact=True)])


def _localisation(run: RunData, examples: int) -> Html | None:
    chosen = chosen_samples(run.samples, examples)
    if not chosen:
        return None
    scale = kl_scale(chosen)
    facts = []
    for r, name in ((0, "wrong"), (1, "right")):
        if found := concentration(run.samples, r):
            count, mean, share = found
            facts.append(
                f"In the {count:,} logged {name} responses the KL is {mean:.4f} nats per token, and a tenth of "
                f"the tokens holds {share:.0%} of it."
            )
    return _section(
        "Where the teacher disagrees",
        _soft("The KL of each token, for the first responses of each kind in the log. ", " ".join(facts)),
        scale_legend(scale),
        element("div", *(tinted(sample, scale) for sample in chosen), class_="pair"),
    )
