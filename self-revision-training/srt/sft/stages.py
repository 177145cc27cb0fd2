"""Train the stages one after the other and export each as an ordinary checkpoint; runs in every training process.

The folder of a stage appears under its name only when it is complete.
"""

import contextlib
import os
import shutil
import time
from pathlib import Path

import torch

from srt.collect.consumed import SRT_PROBLEMS
from srt.common.console import print_summary
from srt.common.files import write_json
from srt.common.models import load_model, stored_dtype
from srt.common.resume import set_aside, why_damaged
from srt.contract.model_card import write_model_card
from srt.contract.provenance import write_metadata
from srt.sft.callbacks import COMPLETE, ProgressBar
from srt.sft.plan import Stage, TrainingPlan
from srt.sft.trainer import PassCollator, make_trainer, training_arguments
from srt.sft.weights import is_rank0, load_trained, new_model, trained_weights, with_adapters


def train_stages(plan: TrainingPlan) -> None:
    """Train each stage from the previous one; complete stages are skipped, interrupted ones resumed."""
    model_path = plan.config.base_model
    for stage in plan.stages:
        folder = plan.stage_dir(stage)
        work_dir = plan.output_dir / f"stage{stage.number}.work"
        if plan.is_complete(stage):
            print(f"stage {stage.number} is complete: {folder}")
            if is_rank0():
                shutil.rmtree(work_dir, ignore_errors=True)  # left if the run was killed right after the export
        else:
            _train_stage(plan, stage, model_path, folder, work_dir)
        model_path = str(folder)


def _train_stage(plan: TrainingPlan, stage: Stage, model_path: str, folder: Path, work_dir: Path) -> None:
    config, layout = plan.config, plan.layout
    print(f"\nstage {stage.number} ({stage.title}) from {model_path}: {stage.description}")
    attention = plan.attention
    batches, validation = plan.batches(stage)
    passes = f"{batches.passes_per_update} {'packed' if attention.packed else 'padded'} pass"
    passes = passes if batches.passes_per_update == 1 else f"at most {passes}es"
    print(
        f"attention: {attention.description}; loss: TRL's fused head, in tiles\n"
        f"{len(batches.updates):,} update{'s' if len(batches.updates) > 1 else ''} of {plan.tuples_per_update} "
        f"tuple{'s' if plan.tuples_per_update > 1 else ''}, each in {passes} "
        f"on {batches.processes} process{'es (FSDP2)' if batches.processes > 1 else ''}"
    )
    if warning := stage.few_updates(plan.tuples_per_update):
        print(f"warning: {warning}")
    started = time.monotonic()
    checkpoint = _newest_complete_checkpoint(work_dir)
    model = new_model(model_path, config, attention.implementation, checkpoint)
    arguments = training_arguments(config, work_dir, batches, stage.learning_rate, bool(validation))
    arguments.eval_on_start &= checkpoint is None
    collator = PassCollator(stage.sequences, plan.pad_id, attention.packed, stage.revision_starts)
    with contextlib.closing(ProgressBar(f"stage {stage.number}", batches, stage.lengths)) as bar:
        trainer = make_trainer(model, arguments, collator, batches, validation, layout.tokenizer, [bar])
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    weights = trained_weights(trainer.model)
    if is_rank0():
        _export(plan, stage, model_path, weights, trainer.state.log_history, work_dir, folder)
    trainer.accelerator.wait_for_everyone()
    seconds = time.monotonic() - started
    _print_summary(stage, trainer.state.log_history, trainer.state.global_step, bar, seconds, folder)


def _export(
    plan: TrainingPlan,
    stage: Stage,
    model_path: str,
    weights: dict[str, torch.Tensor],
    log: list[dict],
    work_dir: Path,
    folder: Path,
) -> None:
    """Write the finished stage as an ordinary checkpoint with merged adapters, then delete the work folder."""
    layout = plan.layout
    finished = work_dir / "final"
    if finished.exists():  # of an export that was killed: its parts must not end up in the checkpoint
        shutil.rmtree(finished)
    # In the dtype of the base model, so that vLLM and Phase 2 load the weights exactly as published.
    dtype = stored_dtype(model_path)
    if plan.config.lora_rank:  # merged in fp32
        model = with_adapters(load_model(model_path, "float32", "cpu"), plan.config)
        load_trained(model, weights)
        model = model.merge_and_unload().to(dtype)
    else:
        model = load_model(model_path, str(dtype).removeprefix("torch."), "cpu").to(dtype)
        load_trained(model, weights)
    # The Trainer sets the tokenizer's eos token here, which may differ from the end-of-turn tokens.
    model.generation_config.eos_token_id = layout.eot_ids[0] if len(layout.eot_ids) == 1 else layout.eot_ids
    model.save_pretrained(finished)
    layout.tokenizer.save_pretrained(finished)
    write_json(finished / "training_log.json", log)
    if plan.problems is not None:
        (finished / SRT_PROBLEMS).write_bytes(plan.problems)
    updates = stage.count_updates(plan.tuples_per_update)
    metadata = stage.metadata | {"tuples_per_update": plan.tuples_per_update, "updates": updates}
    write_model_card(finished, metadata, _metrics(plan, stage, log, updates))
    write_metadata(finished, metadata)
    if folder.exists():
        shutil.rmtree(folder)
    os.replace(finished, folder)
    shutil.rmtree(work_dir)


def _metrics(plan: TrainingPlan, stage: Stage, log: list[dict], updates: int) -> dict[str, object]:
    """For the model card."""
    losses = {key: [entry[key] for entry in log if key in entry] for key in ("loss", "eval_loss")}
    return {
        "tuples": len(stage.train),
        "tuples per update": plan.tuples_per_update,
        "updates": updates,
        "loss of the last logged update": losses["loss"][-1] if losses["loss"] else None,
        "validation loss at the end": losses["eval_loss"][-1] if losses["eval_loss"] else None,
    }


def _newest_complete_checkpoint(work_dir: Path) -> Path | None:
    """The newest checkpoint with the completeness marker; newer, incomplete ones are deleted."""
    checkpoints = sorted(work_dir.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    for checkpoint in reversed(checkpoints):
        if not (checkpoint / COMPLETE).is_file():
            if is_rank0():
                print(f"{checkpoint} was cut off while it was written; deleted")
                shutil.rmtree(checkpoint, ignore_errors=True)
        elif reason := why_damaged(checkpoint):
            if is_rank0():
                print(f"warning: {checkpoint} is damaged ({reason}); set aside as {set_aside(checkpoint).name}")
        else:
            print(f"continuing from {checkpoint}")
            return checkpoint
    return None


def _print_summary(
    stage: Stage, log: list[dict], updates: int, bar: ProgressBar, seconds: float, folder: Path
) -> None:
    summary: dict[str, object] = {"loss": "-"}
    for name, key in (("loss", "loss"), ("validation loss", "eval_loss")):
        if losses := [entry[key] for entry in log if key in entry]:
            summary[name] = f"{losses[0]:.4f} -> {losses[-1]:.4f}"
    peak = f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB" if torch.cuda.is_available() else "no GPU"
    summary |= {
        "updates": updates,
        "tokens": bar.tokens(updates),
        "tokens/s during updates": round(rate) if (rate := bar.rate()) else None,
        "seconds": round(seconds, 1),
        "peak GPU memory": peak,
        "checkpoint": folder,
    }
    print_summary(f"Stage {stage.number}", summary)
