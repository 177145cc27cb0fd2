"""What a finished job measured, from the files that its scripts wrote."""

import json
import re
from pathlib import Path
from typing import Any

from experiments.eight_gpus.kill import FIGURES
from experiments.eight_gpus.plan import DISTILLS, Job, Layout
from srt.common.files import read_json, read_jsonl
from srt.contract import metrics as names

Json = dict[str, Any]
WATCHED = "watched.json"  # of MemoryWatch


def figures_of(job: Job, layout: Layout) -> Json:
    """Figures by name; `tokens_per_second` is over all GPUs."""
    folder = layout.folder(job.name)
    found: Json = {}
    for extra in (FIGURES, WATCHED):
        if (folder / extra).is_file():
            found |= read_json(folder / extra)
    if job.run == "collect":
        found |= of_collection(folder / "samples")
    elif job.run == "sft":
        found |= of_sft(folder)
    elif job.run in DISTILLS:
        found |= of_distillation(folder / "run", {0, found.get("continued_after_step", 0)})
    return found


def of_collection(output: Path) -> Json:
    """Tokens per second while it sampled: without the start of engines, imports and problems."""
    results = read_json(output / "run.json")["results"]
    attempts = read_jsonl(output / "attempts.jsonl")
    start = results["sampler_start_seconds"]
    sampling = results["seconds"] - start
    return {
        "tokens": results["tokens"],
        "attempts": len(attempts),
        "start_seconds": start,
        "sampling_seconds": round(sampling, 1),
        "tokens_per_second": round(results["tokens"] / sampling),
    }


def of_sft(folder: Path) -> Json:
    """Its rate is that of the updates after the first; `losses`: of every update."""
    text = (folder / "job.log").read_text("utf-8", errors="replace")
    log = json.loads((folder / "srt" / "stage2" / "training_log.json").read_text("utf-8"))
    losses = [entry["loss"] for entry in log if "loss" in entry]
    rate = re.findall(r"tokens/s during updates +([\d,]+)", text)
    peak = re.findall(r"peak GPU memory +([\d.]+) GiB", text)
    found: Json = {"updates": len(losses), "loss": round(sum(losses) / len(losses), 5), "losses": losses}
    found |= {"tokens_per_second": int(rate[-1].replace(",", ""))} if rate else {}
    return found | ({names.PEAK_MEMORY_GIB: float(peak[-1])} if peak else {})


def of_distillation(output: Path, firsts: set[int]) -> Json:
    """Means over the steps other than `firsts`, the first one of each process, in which kernels are compiled; over
    all if there is no other."""
    lines = read_jsonl(output / "metrics.jsonl")
    steady = [line for step, line in enumerate(lines) if step not in firsts] or lines
    parts: dict[str, float] = {}
    for line in steady:
        for part, seconds in line[names.SECONDS].items():
            parts[part] = parts.get(part, 0.0) + seconds / len(steady)
    step = sum(parts.values())
    tokens = sum(line[names.TRAINED_TOKENS] for line in steady) / len(steady)
    found: Json = {
        "steps": len(lines),
        "step_seconds": round(step, 2),
        "parts": {part: round(seconds, 2) for part, seconds in sorted(parts.items(), key=lambda p: -p[1])},
        "tokens_per_second": round(tokens / step),
        names.KL: lines[-1].get(names.KL),
    }
    peaks = [line[names.PEAK_MEMORY_GIB] for line in lines if names.PEAK_MEMORY_GIB in line]
    return found | ({names.PEAK_MEMORY_GIB: max(peaks)} if peaks else {})
