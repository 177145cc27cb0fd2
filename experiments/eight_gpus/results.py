"""Figures of all jobs -> eight_gpus.json and a table in Markdown, with the scaling from one GPU to many."""

from pathlib import Path
from typing import Any

from experiments.eight_gpus.figures import figures_of
from experiments.eight_gpus.plan import Job, Layout
from experiments.one_gpu.running import record_of
from srt.common.files import read_json, write_json
from srt.contract import metrics as names

Json = dict[str, Any]
FAILURE = "failure.json"
REFERENCE_GPUS = 2  # whose losses all others are compared with
GOAL = 0.95  # of linear, for collection


def results(jobs: dict[str, Job], layout: Layout) -> Json:
    """An entry for each job that ended, well or not."""
    rows: list[Json] = []
    for job in jobs.values():
        failure = layout.folder(job.name) / FAILURE
        if record := record_of(job, layout):
            rows.append(record | _named(job) | {"figures": figures_of(job, layout)})
        elif failure.is_file():
            rows.append(read_json(failure) | _named(job))
    for row in rows:
        _compare(row, [other for other in rows if other["name"] == row["name"] and "figures" in other])
    return {"model": layout.model.name, "rows": rows}


def _named(job: Job) -> Json:
    return {"name": job.name.split("/")[0], "gpus": job.gpus}


def _compare(row: Json, same: list[Json]) -> None:
    """Efficiency: throughput on each GPU, relative to the run on the fewest. Losses: to that on two GPUs."""
    figures = row.get("figures", {})
    fewest = min(same, key=lambda other: other["gpus"], default=row)
    rate, reference = (entry.get("figures", {}).get("tokens_per_second") for entry in (row, fewest))
    if rate and reference:
        per_gpu, reference_per_gpu = rate / row["gpus"], reference / fewest["gpus"]
        figures["efficiency"] = round(per_gpu / reference_per_gpu, 3)
        figures["relative_to_gpus"] = fewest["gpus"]
    two = next((other["figures"] for other in same if other["gpus"] == REFERENCE_GPUS), None)
    if two and "losses" in figures and "losses" in two:
        pairs = zip(figures["losses"], two["losses"], strict=True)
        figures["loss_difference"] = max(abs(one - other) / other for one, other in pairs)


def table(found: Json) -> str:
    """Markdown, a row a job."""
    lines = [
        "| job | GPUs | tokens/s | of linear | step, s | peak GiB (torch) | GPU GiB in use | main memory GiB "
        "| what else | seconds | date | commit | hardware |",
        "|" + "---|" * 13,
    ]
    for row in found["rows"]:
        figures = row.get("figures", {})
        cells = [
            row["name"],
            str(row["gpus"]),
            _number(figures.get("tokens_per_second"), ",.0f"),
            _efficiency(figures),
            _step(figures),
            _number(figures.get(names.PEAK_MEMORY_GIB), ".1f"),
            _number(figures.get("gpu_in_use_gib"), ".1f"),
            _number(figures.get("host_memory_gib"), ".1f"),
            row["failed"].replace("|", "/") if "failed" in row else _rest(figures),
            _number(row.get("seconds"), ".0f"),
            *(str(row.get(key, "")) for key in ("finished", "commit", "device")),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _efficiency(figures: Json) -> str:
    return f"{figures['efficiency']:.2f} (of {figures['relative_to_gpus']} GPU)" if "efficiency" in figures else ""


def _step(figures: Json) -> str:
    if "step_seconds" not in figures:
        return ""
    parts = ", ".join(f"{part} {seconds:.1f}" for part, seconds in figures["parts"].items())
    return f"{figures['step_seconds']:.1f} ({parts})"


def _rest(figures: Json) -> str:
    """What only some jobs have."""
    said = []
    if "start_seconds" in figures:
        said.append(f"engines started in {figures['start_seconds']:.0f} s")
    if "loss" in figures:
        said.append(f"mean loss {figures['loss']:.4f}")
    if "loss_difference" in figures:
        said.append(f"losses within {figures['loss_difference']:.1e} of {REFERENCE_GPUS} GPUs'")
    if "sentence" in figures:
        said.append(f"ended with {figures['sentence']!r} after {figures['seconds_until_noticed']:.0f} s")
    if "continued_after_step" in figures:
        said.append(f"continued after step {figures['continued_after_step']} to step {figures['steps']}")
    return "; ".join(said).replace("|", "/")


def write_results(jobs: dict[str, Job], layout: Layout, folder: Path) -> None:
    """Write eight_gpus.json and eight_gpus.md into `folder`, and print the table."""
    folder.mkdir(parents=True, exist_ok=True)
    found = results(jobs, layout)
    write_json(folder / "eight_gpus.json", found)
    (folder / "eight_gpus.md").write_text(table(found), encoding="utf-8")
    print(table(found))
    print(f"written: {folder / 'eight_gpus.json'} and .md")
    slow = [
        f"{row['name']} on {row['gpus']} GPUs ({row['figures']['efficiency']:.2f})"
        for row in found["rows"]
        if row["name"] == "collect" and row.get("figures", {}).get("efficiency", 1) < GOAL
    ]
    if slow:
        print(f"below {GOAL} of linear: {', '.join(slow)}")
