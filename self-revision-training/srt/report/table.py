"""The table of the stages: as summary.json, on the screen, and as rows of text for the page."""

from collections.abc import Callable
from typing import Any

from srt.report.data import Stage

# Stages can be compared when these settings of their run.json are the same.
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


def summary(stages: list[Stage]) -> dict[str, dict[str, Any]]:
    """What summary.json holds: one object per stage; accuracies from 0 to 1, None where nothing was revised."""
    rows = {}
    for stage in stages:
        figures, k = stage.figures, stage.figures["k"]
        rows[stage.key] = {
            f"avg_at_{k}": figures["avg_at_k"],
            f"avg_at_{k}_interval": figures["avg_at_k_interval"],
            f"pass_at_{k}": figures["pass_at_k"],
            "mean_response_tokens": figures["mean_response_tokens"],
            "revise_r0": figures["revise_r0"],
            "revise_r1": figures["revise_r1"],
        }
    return rows


def percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


def interval(bounds: list[float]) -> str:
    return f"{100 * bounds[0]:.1f} - {100 * bounds[1]:.1f}"


def shared_k(stages: list[Stage]) -> str:
    """The k of avg@k when all stages have the same one, else the letter."""
    found = {stage.figures["k"] for stage in stages}
    return str(found.pop()) if len(found) == 1 else "k"


def stage_table(stages: list[Stage]) -> list[list[str]]:
    """A row of headings and one for each stage."""
    k = shared_k(stages)
    columns: dict[str, Callable[[dict[str, Any]], str]] = {
        f"avg@{k}": lambda f: percent(f["avg_at_k"]),
        "95% interval": lambda f: interval(f["avg_at_k_interval"]),
        f"pass@{k}": lambda f: percent(f["pass_at_k"]),
        "tokens": lambda f: f"{f['mean_response_tokens']:,.1f}",
        "truncated": lambda f: percent(f["truncated"]),
        "revise r=0": lambda f: percent(f["revise_r0"]),
        "revise r=1": lambda f: percent(f["revise_r1"]),
    }
    rows = [["", *columns]]
    for stage in stages:
        name = stage.name if k != "k" else f"{stage.name}, k={stage.figures['k']}"
        rows.append([name, *(column(stage.figures) for column in columns.values())])
    return rows


def print_stage_table(stages: list[Stage]) -> None:
    rows = stage_table(stages)
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    print(f"\n{asked(stages[0])}")
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]
        print("  " + "  ".join(cells))


def asked(stage: Stage) -> str:
    """What an evaluation asked, in one phrase."""
    figures = stage.figures
    return f"{figures['k']} responses to each of {figures['problems']:,} problems of {figures['dataset']}"


def differing_settings(stages: list[Stage]) -> list[str]:
    """A sentence for each setting that keeps the stages from being compared; those without run.json are passed."""
    notes = []
    for name in SHARED_SETTINGS:
        values = {s.name: s.run["identity"].get(name) for s in stages if "identity" in s.run}
        if len({str(value) for value in values.values()}) > 1:
            found = ", ".join(f"{stage}: {value}" for stage, value in values.items())
            notes.append(f"the stages were evaluated with different {name} ({found}); compare them with care")
    return notes
