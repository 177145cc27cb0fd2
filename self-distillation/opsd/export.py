"""What Phase 2 hands over: an ordinary Hugging Face folder with a record of where it comes from."""

import os
import shutil

from opsd.engine import Engine
from opsd.run import Run
from opsd.validation import BestStudent
from srt.collect.consumed import DISTILL_PROBLEMS, SRT_PROBLEMS, write_consumed
from srt.common.console import print_summary
from srt.common.files import read_jsonl
from srt.contract.metrics import AVG_AT_K
from srt.contract.model_card import write_model_card
from srt.contract.provenance import close_run, read_metadata, write_metadata
from srt.recipe import recipe_record


def export_student(
    run: Run, engine: Engine, finished_steps: int, seconds: float, best: BestStudent | None
) -> None:
    """Write the results into run.json, then <output_dir>/student, whose appearance completes the run.

    best: exported instead of the last student (STOP_ON_COLLAPSE).
    """
    results: dict[str, object] = {
        "steps": finished_steps,
        "seconds": round(seconds, 1),
        "student": str(run.student_folder),
    }
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
    write_model_card(temporary, exported, _figures(run, finished_steps, best))
    if run.srt_problems:
        shutil.copyfile(run.srt_problems, temporary / SRT_PROBLEMS)
    write_consumed(temporary / DISTILL_PROBLEMS, run.used_problems(finished_steps))
    write_metadata(temporary, exported)
    close_run(run.output_dir, results)
    os.replace(temporary, run.student_folder)
    print_summary("Self-distillation", results | {"metrics": run.output_dir / "metrics.jsonl"})


def _figures(run: Run, finished_steps: int, best: BestStudent | None) -> dict[str, object]:
    """For the model card."""
    figures: dict[str, object] = {"steps": finished_steps, "prompts per step": run.config.num_prompts_per_step}
    if best:
        figures["steps of this student, the best one"] = best.finished_steps
    path = run.output_dir / "validation.jsonl"
    lines = [line for line in read_jsonl(path) if AVG_AT_K in line] if path.is_file() else []
    name = f"validation avg@{run.config.val_num_samples}"
    for line in dict.fromkeys((0, len(lines) - 1)) if lines else ():
        figures[f"{name} after {lines[line]['step'] + 1} steps"] = lines[line][AVG_AT_K]
    return figures
