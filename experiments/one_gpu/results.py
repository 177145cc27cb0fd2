"""Evaluated models -> docs/results/one_gpu.json, a table in Markdown, and the plot of accuracy against samples.

    bash scripts/experiments/one_gpu.sh --results FOLDER

Accuracies are of the problems of the trained tasks; those of GSM8K, which nothing trained on, stand apart. Every
interval is a bootstrap over problems, every difference to the base model is paired (srt/evaluation/).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments.one_gpu.budget import Budget, budget_of
from experiments.one_gpu.plan import BASE, EVALUATE, WORLD, Job, Layout
from experiments.one_gpu.problems import GSM8K
from experiments.one_gpu.reuse import model_of
from experiments.one_gpu.running import record_of
from experiments.one_gpu.steps import write_steps
from experiments.one_gpu.tables import mean, percent, points
from srt.common.errors import UserError
from srt.common.files import read_json, read_jsonl, write_json
from srt.contract.metrics import (
    AVG_AT_K,
    ENTROPY,
    GREEDY_ACCURACY,
    MAJORITY_AT,
    MEAN_RESPONSE_TOKENS,
    PASS_AT,
    REVISE,
    TRUNCATED,
    at,
    by_reward,
)
from srt.contract.records import from_line
from srt.evaluation.metrics import differences, measure, metrics_of
from srt.evaluation.samples import EvaluatedSample, ProblemSamples, group_by_problem
from srt.problems import load_problems

Json = dict[str, Any]
MODE, SEED = "math", 0
WORLD_KEYS = ("seed", "slip_probability")
MARKERS = "osD^v"  # for ten rows each, which differ in color


@dataclass(frozen=True)
class Row:
    """An evaluated model. `samples`: of the trained tasks; `elsewhere`: of GSM8K."""

    name: str
    samples: list[ProblemSamples]
    elsewhere: list[ProblemSamples]
    budget: Budget
    evaluation: Json  # the record of its job


def read_rows(jobs: dict[str, Job], layout: Layout) -> list[Row]:
    """The models that are evaluated, in the order of the plan. Raises UserError without the base model."""
    problems = load_problems(str(layout.problems("test")), MODE, None, "train", 0).problems
    rows = []
    for name, job in jobs.items():
        record = record_of(job, layout)
        if job.run != EVALUATE or record is None:
            continue
        lines = read_jsonl(layout.folder(name) / "attempts.jsonl")
        samples = group_by_problem([EvaluatedSample.of(from_line(line)) for line in lines], problems)
        rows.append(
            Row(
                job.source,
                [problem for problem in samples if problem.source != GSM8K],
                [problem for problem in samples if problem.source == GSM8K],
                budget_of(job.source, jobs, layout),
                record,
            )
        )
    if not rows or rows[0].name != BASE:
        raise UserError(f"{layout.output}: the base model is not evaluated yet, to which all others are compared")
    return rows


def results(jobs: dict[str, Job], layout: Layout) -> Json:
    """Everything that the table shows, as JSON."""
    rows = read_rows(jobs, layout)
    k = read_json(layout.folder(f"{EVALUATE}/{BASE}") / "evaluation.json")["k"]
    base = rows[0]
    majority_right = {problem.index: _majority_is_right(problem) for problem in base.samples}
    entries = []
    for row in rows:
        entry = {
            "name": row.name,
            "budget": row.budget.as_dict(),
            "env": jobs[row.name].env if row.name != BASE else {},
        }
        entry |= {key: row.evaluation[key] for key in ("finished", "commit", "device")}
        for part, ours, theirs in (("tasks", row.samples, base.samples), (GSM8K, row.elsewhere, base.elsewhere)):
            if ours:
                entry[part] = {"problems": len(ours), "metrics": _some(measure(ours, k, MODE, SEED), k)}
                if row is not base:
                    entry[part]["to_base"] = _some(differences(ours, theirs, k, MODE, SEED)["metrics"], k)
        entry["against_majority"] = against_majority(row.samples, majority_right)
        entries.append(entry)
    found = {"k": k, "model": model_of(layout.output, layout.model), "rows": entries}
    world = layout.output / WORLD
    if world.is_dir():
        settings = read_json(world / "world.json")
        found |= {"model": "quickstart", "world": {key: settings[key] for key in WORLD_KEYS}}
    return found


def _some(metrics: Json, k: int) -> Json:
    """Without majority@j and pass@j of the other j, and without percentiles of lengths."""
    kept = {AVG_AT_K, GREEDY_ACCURACY, at(MAJORITY_AT, k), at(PASS_AT, k), MEAN_RESPONSE_TOKENS, TRUNCATED}
    kept |= {ENTROPY, *(by_reward(REVISE, r) for r in (0, 1))}
    return {name: metric for name, metric in metrics.items() if name in kept}


def against_majority(ours: list[ProblemSamples], majority_right: dict[int, bool]) -> Json:
    """Learning or sharpening: accuracy on the problems that the base model's majority of k gets right and wrong.

    A model that only answers as the base's majority does is right on the first and wrong on the second.
    `majority_right`: problem index -> whether the base's majority is right.
    """
    accuracy = {problem.index: mean([sample.correct for sample in problem.responses]) for problem in ours}
    groups: dict[bool, list[float]] = {True: [], False: []}
    solved = 0
    for index, right in majority_right.items():
        if index in accuracy:
            groups[right].append(accuracy[index])
            solved += not right and accuracy[index] > 0.5
    return {
        "majority_right": {"problems": len(groups[True]), "accuracy": mean(groups[True])},
        "majority_wrong": {
            "problems": len(groups[False]),
            "accuracy": mean(groups[False]),
            "mostly_solved": solved,
        },
    }


def _majority_is_right(problem: ProblemSamples) -> bool:
    k = len(problem.responses)
    return float(metrics_of([problem], k, MODE, SEED)[at(MAJORITY_AT, k)].of(np.ones((1, 1)))[0]) > 0.5


# The table ---------------------------------------------------------------------------------------------------


def table(found: Json) -> str:
    """A Markdown table: one row for each model, percentages, differences to the base in points."""
    k = found["k"]
    lines = [
        f"| | avg@{k} (95%) | to base | greedy | majority@{k} | pass@{k} | tokens | truncated | repairs | keeps "
        f"| nats/token | GSM8K avg@{k} | base majority wrong, now right | samples | GPU s |",
        "|" + "---|" * 15,
    ]
    for row in found["rows"]:
        metrics = row["tasks"]["metrics"]
        difference = row["tasks"].get("to_base", {}).get(AVG_AT_K)
        wrong = row["against_majority"]["majority_wrong"]
        cells = [
            row["name"],
            _with_interval(metrics[AVG_AT_K]),
            "" if difference is None else _difference(difference),
            _percent(metrics.get(GREEDY_ACCURACY)),
            _percent(metrics.get(at(MAJORITY_AT, k))),
            _percent(metrics[at(PASS_AT, k)]),
            f"{metrics[MEAN_RESPONSE_TOKENS]['value']:.0f}",
            _percent(metrics[TRUNCATED]),
            _percent(metrics.get(by_reward(REVISE, 0))),
            _percent(metrics.get(by_reward(REVISE, 1))),
            f"{metrics[ENTROPY]['value']:.3f}" if ENTROPY in metrics else "-",
            _percent(row[GSM8K]["metrics"][AVG_AT_K]) if GSM8K in row else "-",
            f"{wrong['mostly_solved']} of {wrong['problems']}",
            f"{row['budget']['samples']:,}",
            f"{row['budget']['gpu_seconds']:,.0f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _percent(metric: Json | None) -> str:
    return percent(metric["value"] if metric else None)


def _with_interval(metric: Json) -> str:
    interval = metric["interval"]
    return _percent(metric) + (f" ({'-'.join(map(percent, interval))})" if interval else "")


def _difference(difference: Json) -> str:
    return f"{points(difference['difference'])} ({' to '.join(map(points, difference['interval']))})"


def plot(found: Json, path: Path) -> None:
    """avg@k and its interval against the samples drawn in training, and against GPU seconds."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(12, 5.5), sharey=True, layout="constrained")
    for axis, (key, label) in zip(
        axes, (("samples", "responses sampled"), ("gpu_seconds", "GPU seconds")), strict=True
    ):
        for number, row in enumerate(found["rows"]):
            metric = row["tasks"]["metrics"][AVG_AT_K]
            x, y = row["budget"][key], 100 * metric["value"]
            low, high = (100 * end for end in metric["interval"])
            marker, name = MARKERS[number // 10 % len(MARKERS)], row["name"].replace("_", " ")
            style = {"color": f"C{number % 10}", "fmt": marker, "capsize": 3, "markersize": 5}
            axis.errorbar(x, y, [[y - low], [high - y]], label=name, **style)
        majority = found["rows"][0]["tasks"]["metrics"].get(at(MAJORITY_AT, found["k"]))
        if majority:
            axis.axhline(100 * majority["value"], linestyle="--", color="gray", linewidth=1)
            axis.annotate(f"base, majority@{found['k']}", (0, 100 * majority["value"]), xytext=(4, 4),
                          textcoords="offset points", fontsize=8, color="gray")  # fmt: skip
        axis.set_xlabel(label)
        axis.grid(alpha=0.3)
        axis.set_xlim(left=0 - 0.03 * axis.get_xlim()[1])
    axes[0].set_ylabel(f"avg@{found['k']} on held-out problems, %")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right upper", fontsize=8, frameon=False)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def write_results(jobs: dict[str, Job], layout: Layout, folder: Path, name: str) -> None:
    """Write <name>.json, <name>.md, <name>.png and the steps of Phase 2 into `folder`, and print the table."""
    folder.mkdir(parents=True, exist_ok=True)
    found = results(jobs, layout)
    write_json(folder / f"{name}.json", found)
    (folder / f"{name}.md").write_text(table(found), encoding="utf-8")
    plot(found, folder / f"{name}.png")
    files = [f"{name}.{ending}" for ending in ("json", "md", "png")] + write_steps(jobs, layout, folder, name)
    print(table(found))
    print("\n".join(["written:", *(str(folder / file) for file in files)]))
