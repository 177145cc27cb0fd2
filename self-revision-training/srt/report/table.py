"""The table of evaluated stages: for summary.json, for the terminal, and as rows of text for the page."""

from collections.abc import Callable
from typing import Any

from srt.contract.metrics import AVG_AT_K, REVISE, REVISIONS_TRUNCATED, SET_ASIDE, TRAINED_ON, TRUNCATED, by_reward
from srt.report.charts import is_number
from srt.report.data import EvaluatedStage, record_of

# Stages are comparable if these settings in their run.json are equal.
SHARED_SETTINGS = (
    "dataset_fingerprint",
    "max_samples",
    "num_samples",
    "prompt",
    "control_phrases",
    "temperature",
    "top_p",
    "max_tokens",
)


def summary(stages: list[EvaluatedStage]) -> dict[str, dict[str, Any]]:
    """The content of summary.json: one object per stage; accuracies in [0, 1], None where nothing was revised."""
    summaries = {}
    for stage in stages:
        metrics, k = stage.metrics, stage.metrics.get("k", "k")
        summaries[stage.name if stage.run_label else stage.key] = {
            f"avg_at_{k}": metrics[AVG_AT_K],
            f"avg_at_{k}_interval": metrics.get("avg_at_k_interval"),
            f"pass_at_{k}": metrics.get("pass_at_k"),
            "mean_response_tokens": metrics.get("mean_response_tokens"),
            TRUNCATED: metrics.get(TRUNCATED),
            **{
                by_reward(name, r): metrics.get(by_reward(name, r))
                for name in (REVISE, REVISIONS_TRUNCATED)
                for r in (0, 1)
            },
        }
    return summaries


def percent(share: object) -> str:
    return f"{share:.1%}" if is_number(share) else "-"


def interval(bounds: Any) -> str:
    is_pair = isinstance(bounds, list) and len(bounds) == 2 and all(map(is_number, bounds))
    return f"{100 * bounds[0]:.1f} - {100 * bounds[1]:.1f}" if is_pair else "-"


def number(value: object, form: str = ",") -> str:
    return format(value, form) if is_number(value) else "-"


def shared_k(stages: list[EvaluatedStage]) -> str:
    """The k of avg@k if all stages have the same one, else the letter k."""
    ks = {str(stage.metrics.get("k", "k")) for stage in stages}
    return ks.pop() if len(ks) == 1 else "k"


def stage_table(stages: list[EvaluatedStage]) -> list[list[str]]:
    """A row of headings, then one row per stage."""
    k = shared_k(stages)
    columns: dict[str, Callable[[dict[str, Any]], str]] = {
        f"avg@{k}": lambda m: percent(m[AVG_AT_K]),
        "95% interval": lambda m: interval(m.get("avg_at_k_interval")),
        f"pass@{k}": lambda m: percent(m.get("pass_at_k")),
        "tokens": lambda m: number(m.get("mean_response_tokens"), ",.1f"),
        "truncated": lambda m: percent(m.get(TRUNCATED)),
        "revise r=0": lambda m: percent(m.get(by_reward(REVISE, 0))),
        "truncated r=0": lambda m: percent(m.get(by_reward(REVISIONS_TRUNCATED, 0))),
        "revise r=1": lambda m: percent(m.get(by_reward(REVISE, 1))),
        "truncated r=1": lambda m: percent(m.get(by_reward(REVISIONS_TRUNCATED, 1))),
    }
    rows = [["", *columns]]
    for stage in stages:
        name = stage.name if k != "k" else f"{stage.name}, k={stage.metrics.get('k')}"
        rows.append([name, *(column(stage.metrics) for column in columns.values())])
    return rows


def print_stage_table(stages: list[EvaluatedStage]) -> None:
    rows = stage_table(stages)
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    print(f"\n{evaluation_setup(stages[0])}")
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]
        print("  " + "  ".join(cells))


def evaluation_setup(stage: EvaluatedStage) -> str:
    """How a stage was evaluated, in one phrase."""
    metrics = stage.metrics
    problems = number(metrics.get("problems"))
    return f"{metrics.get('k')} responses to each of {problems} problems of {metrics.get('dataset')}"


def differing_settings(stages: list[EvaluatedStage]) -> list[str]:
    """A sentence for each setting in which the stages differ; stages without run.json are skipped."""
    notes = []
    for name in SHARED_SETTINGS:
        values = {s.name: record_of(s.run, "identity").get(name) for s in stages if "identity" in s.run}
        if len({str(value) for value in values.values()}) > 1:
            listed = ", ".join(f"{stage}: {value}" for stage, value in values.items())
            notes.append(f"the stages were evaluated with different {name} ({listed}); compare them with care")
    return notes


def notes(stages: list[EvaluatedStage]) -> list[str]:
    """What has to be known to compare the stages, a sentence each."""
    return differing_settings(stages) + set_aside_samples(stages) + trained_problems(stages)


def set_aside_samples(stages: list[EvaluatedStage]) -> list[str]:
    """A sentence for each stage with samples that the verifier could not judge."""
    return [
        f"{stage.name}: samples without a verdict, which do not count: {count:,}"
        for stage in stages
        if is_number(count := stage.metrics.get(SET_ASIDE)) and count
    ]


def trained_problems(stages: list[EvaluatedStage]) -> list[str]:
    """A sentence for each stage that was evaluated on problems it was trained on."""
    notes = []
    for stage in stages:
        if counts := record_of(stage.metrics, TRAINED_ON):
            phases = ", ".join(f"{count} in {phase}" for phase, count in counts.items())
            notes.append(
                f"{stage.name} was trained on some of its {stage.metrics.get('problems')} problems ({phases})"
            )
    return notes
