"""What the runs of Phase 2 logged at every step, small enough to keep: <name>_<job>.json beside the results."""

import json
from pathlib import Path
from typing import Any

from experiments.one_gpu.plan import Job, Layout
from srt.common.files import read_jsonl

METRICS = (
    "step",
    "reward",
    "response_tokens",
    "truncated",
    "entropy",
    "teacher_entropy",
    "kl",
    "kl_r0",
    "kl_r1",
    "top1_agreement",
    "logprob_gap",
    "grad_norm",
    "lr",
)
DIGITS = 5  # after the point; learning rates are left as they are


def write_steps(jobs: dict[str, Job], layout: Layout, folder: Path, name: str) -> list[str]:
    """Write {"metrics", "validation"} of every run of Phase 2 that has made a step; returns the files' names."""
    written = []
    for job in jobs.values():
        metrics = layout.folder(job.name) / "metrics.jsonl"
        if job.run != "distill" or not metrics.is_file():
            continue
        validation = layout.folder(job.name) / "validation.jsonl"
        validations = read_jsonl(validation) if validation.is_file() else []
        found = {
            "metrics": [
                _short({key: line[key] for key in METRICS if key in line}) for line in read_jsonl(metrics)
            ],
            "validation": [_short(line) for line in validations],
        }
        file = f"{name}_{job.name}.json"
        (folder / file).write_text(json.dumps(found, separators=(",", ":")) + "\n", encoding="utf-8")
        written.append(file)
    return written


def _short(line: dict[str, Any]) -> dict[str, Any]:
    return {
        key: round(value, DIGITS) if isinstance(value, float) and key != "lr" else value
        for key, value in line.items()
    }
