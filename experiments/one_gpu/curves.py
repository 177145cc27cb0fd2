"""Validation curves of the runs of Phase 2, laid over each other: a plot, a table in Markdown, and JSON.

    bash scripts/experiments/one_gpu.sh --curves FOLDER

Runs that differ in their seed alone, named <curve>_seed1 and so on, are one curve. Every validation of a run has
the same problems and its own responses, so two runs of one curve differ by sampling, too: their spread is what a
difference between curves has to be held against.
"""

import re
from pathlib import Path
from typing import Any

from experiments.one_gpu.plan import Job, Layout
from experiments.one_gpu.tables import mean, percent, points
from srt.common.errors import UserError
from srt.common.files import read_jsonl, write_json
from srt.contract.metrics import AVG_AT_K, RESPONSE_TOKENS

Json = dict[str, Any]
SEED = re.compile(r"_seed\d+$")


def read_curves(jobs: dict[str, Job], layout: Layout) -> dict[str, dict[str, list[Json]]]:
    """curve -> run -> its validations. Raises UserError when no run of Phase 2 has any."""
    curves: dict[str, dict[str, list[Json]]] = {}
    for name, job in jobs.items():
        file = layout.folder(name) / "validation.jsonl"
        if job.run == "distill" and file.is_file():
            curves.setdefault(SEED.sub("", name), {})[name] = read_jsonl(file)
    if not curves:
        raise UserError(f"{layout.output}: no run of Phase 2 has been validated there")
    return curves


def summary(curves: dict[str, dict[str, list[Json]]]) -> Json:
    """For each curve and number of finished steps: the mean of avg@k over its runs, each run's, and tokens."""
    found: Json = {}
    for curve, runs in curves.items():
        steps: dict[int, list[Json]] = {}
        for lines in runs.values():
            for line in lines:
                steps.setdefault(line["step"] + 1, []).append(line)
        found[curve] = {
            str(step): {
                AVG_AT_K: mean([line[AVG_AT_K] for line in lines]),
                "runs": [line[AVG_AT_K] for line in lines],
                RESPONSE_TOKENS: mean([line[RESPONSE_TOKENS] for line in lines]),
            }
            for step, lines in sorted(steps.items())
            if len(lines) == len(runs)
        }
    return found


def table(found: Json) -> str:
    """A row for each curve: percentages, and of the last validation each run's and the difference to the first
    curve, in points."""
    steps = sorted({int(step) for curve in found.values() for step in curve})
    lines = ["| after step | " + " | ".join(map(str, steps)) + " | runs | to the first |"]
    lines += ["|---" * (len(steps) + 3) + "|"]
    first = next(iter(found.values()))
    for name, curve in found.items():
        cells = [percent(curve.get(str(step), {}).get(AVG_AT_K)) for step in steps]
        last = next(reversed(curve))
        runs = ", ".join(map(percent, curve[last]["runs"]))
        to_first = curve[last][AVG_AT_K] - first[last][AVG_AT_K] if last in first else None
        lines.append(f"| {name} | " + " | ".join([*cells, runs, points(to_first)]) + " |")
    return "\n".join(lines) + "\n"


def plot(curves: dict[str, dict[str, list[Json]]], path: Path) -> None:
    """A color for each curve, a thin line for each run, a thick one for their mean."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    means = summary(curves)
    for axis, key, scale, label in (
        (axes[0], AVG_AT_K, 100, "avg@k on validation problems, %"),
        (axes[1], RESPONSE_TOKENS, 1, "tokens of a validation response"),
    ):
        for number, (name, runs) in enumerate(curves.items()):
            color = f"C{number % 10}"
            for lines in runs.values():
                values = [scale * line[key] for line in lines]
                axis.plot([line["step"] + 1 for line in lines], values, color=color, linewidth=0.7, alpha=0.6)
            steps = list(map(int, means[name]))
            values = [scale * means[name][str(step)][key] for step in steps]
            axis.plot(steps, values, color=color, linewidth=2, marker="o", label=name.replace("_", " "))
        axis.set_xlabel("step")
        axis.set_ylabel(label)
        axis.grid(alpha=0.3)
    axes[0].legend(frameon=False)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def write_curves(jobs: dict[str, Job], layout: Layout, folder: Path) -> None:
    """Write curves.json, curves.md and curves.png into `folder`, and print the table."""
    folder.mkdir(parents=True, exist_ok=True)
    curves = read_curves(jobs, layout)
    found = summary(curves)
    write_json(folder / "curves.json", found)
    (folder / "curves.md").write_text(table(found), encoding="utf-8")
    plot(curves, folder / "curves.png")
    print(table(found))
    print(f"written: {folder / 'curves.json'}, .md and .png")
