"""What Phase 2 hands over: an ordinary Hugging Face folder with a record of where it comes from."""

import os
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

from opsd.engine import Engine
from opsd.run import Run
from opsd.token_age import off_policy, off_policy_line
from opsd.validation import BestStudent, validation_after
from srt.collect.consumed import DISTILL_PROBLEMS, SRT_PROBLEMS, write_consumed
from srt.common.console import print_next, print_summary
from srt.common.disk import disk_bytes, shown_bytes
from srt.common.files import read_jsonl
from srt.contract import metrics as names
from srt.contract.model_card import write_model_card
from srt.contract.provenance import close_run, read_metadata, write_metadata
from srt.recipe import recipe_record


def export_student(
    run: Run,
    engine: Engine,
    finished_steps: int,
    seconds: float,
    best: BestStudent | None,
    validations: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Write the results into run.json, then <output_dir>/student, whose appearance completes the run.

    best: exported instead of the last student (STOP_ON_COLLAPSE). validations: the lines of validation.jsonl, for
    the summary.
    """
    results: dict[str, object] = {
        "steps": finished_steps,
        "seconds": round(seconds, 1),
        "student": str(run.student_folder),
    }
    stale = off_policy(read_jsonl(run.output_dir / "metrics.jsonl")) if run.ahead else None
    if stale:
        results["off_policy"] = off_policy_line(stale)
    if best:
        results["student_of_step"] = best.finished_steps
    temporary = run.output_dir / ".student.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    engine.export(temporary, best.folder if best else None)
    run.layout.tokenizer.save_pretrained(temporary)
    srt_model = run.config.student_model
    metadata = read_metadata(srt_model) or {}
    exported = {
        "base_model": metadata.get("base_model", srt_model),
        "srt_model": srt_model,
        "recipe": metadata.get("recipe", {}) | {"distill": recipe_record(run.config, "distill")},
        "revisions": metadata.get("revisions", {}) | run.revisions(),
        "mode": run.config.mode,
        "stage": "sd_zero",
        "control_phrases": run.layout.phrases.as_dict(),
        "prompt": run.layout.prompt.as_dict(),
        "prompt_probe": run.layout.prompt_probe(),
        "data_fingerprint": run.train_set.fingerprint,
    }
    write_model_card(temporary, exported, _figures(run, finished_steps, best, validations))
    if run.srt_problems is not None:
        (temporary / SRT_PROBLEMS).write_bytes(run.srt_problems)
    write_consumed(temporary / DISTILL_PROBLEMS, run.used_problems(finished_steps))
    write_metadata(temporary, exported)
    close_run(run.output_dir, results)
    os.replace(temporary, run.student_folder)
    run.drop_checkpoints()
    accuracy = accuracy_before_and_after(validations, finished_steps if best is None else best.finished_steps)
    label = f"validation avg@{run.config.val_num_samples}"
    shown = {"seconds of this call" if name == "seconds" else name: value for name, value in results.items()}
    summary = shown | ({label: accuracy} if accuracy else {})
    summary |= {"metrics": run.output_dir / "metrics.jsonl", "disk used": shown_bytes(disk_bytes(run.output_dir))}
    print_summary("Self-distillation", summary)
    mode = run.config.mode if run.config.mode != "math" else None
    print_next("evaluate", {"MODEL_PATH": run.student_folder, "MODE": mode})


def accuracy_before_and_after(validations: Sequence[Mapping[str, Any]], finished_steps: int) -> str | None:
    """48.5% before the first step, 66.5% after step 30. None without a validation."""
    parts = []
    for steps in dict.fromkeys((0, finished_steps)):  # the student may be the one before the first step
        when = "before the first step" if steps == 0 else f"after step {steps}"
        if line := validation_after(validations, steps):
            parts.append(f"{line[names.AVG_AT_K]:.1%} {when}")
    return ", ".join(parts) or None


def _figures(
    run: Run, finished_steps: int, best: BestStudent | None, validations: Sequence[Mapping[str, Any]]
) -> dict[str, object]:
    """For the model card."""
    figures: dict[str, object] = {"steps": finished_steps, "prompts per step": run.config.num_prompts_per_step}
    if best:
        figures["steps of this student, the best one"] = best.finished_steps
    name = f"validation avg@{run.config.val_num_samples}"
    for line in (validations[0], validations[-1]) if validations else ():
        figures[f"{name} after {line['step'] + 1} steps"] = line[names.AVG_AT_K]
    return figures
