"""Phase 1, training: stage 1 (generation) from the base model, stage 2 (revision) from stage 1.

TRL's SFTTrainer trains; ours are the ids and masks (srt/sft_rows.py), resuming, and what a checkpoint says
about itself. A stage's folder appears under its name only when it is complete.
"""

import contextlib
import json
import math
import os
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import TrainerCallback
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from trl import SFTConfig, SFTTrainer

from srt.console import print_summary, progress
from srt.errors import UserError
from srt.files import read_json, write_json
from srt.knobs import knob, load_knobs
from srt.layout import Layout, PromptSettings
from srt.models import eot_ids, load_model, load_tokenizer, stored_dtype
from srt.paths import data_prefix, sft_dir, stage_file
from srt.phrases import PhraseSet, reconcile_phrases
from srt.provenance import (
    CHECKPOINT_METADATA,
    fingerprint,
    git_commit,
    model_fingerprint,
    open_run,
    package_versions,
    tokenizer_fingerprint,
    write_metadata,
)
from srt.sft_data import metadata_path
from srt.sft_rows import StageRows, build_rows, load_stage

COMPLETE = "complete"  # marks a checkpoint whose last file was written


@dataclass
class SftKnobs:
    """The knobs of configs/sft.yaml, where their meanings and defaults stand."""

    base_model: str = knob()
    mode: str = knob(choices=("math", "code"))
    data_prefix: str | None = knob()
    train_data_dir: str | None = knob()
    output_dir: str | None = knob()
    control_phrases: str | None = knob()
    epochs_stage1: float = knob(least=0.001)
    epochs_stage2: float = knob(least=0.001)
    lr_stage1: float = knob(least=0)
    lr_stage2: float = knob(least=0)
    batch_size_per_device: int = knob(least=1)
    gradient_accumulation: int = knob(least=1)
    lr_schedule: str = knob(choices=("cosine", "linear", "constant_with_warmup"))
    warmup_ratio: float = knob(least=0, most=0.999)
    weight_decay: float = knob(least=0)
    adam_beta1: float = knob(least=0, most=0.99999)
    adam_beta2: float = knob(least=0, most=0.99999)
    max_grad_norm: float = knob(least=0)
    max_length: int = knob(least=2)
    gradient_checkpointing: bool = knob()
    seed: int = knob()
    save_steps: int = knob(least=1)
    logging_steps: int = knob(least=1)
    report_to: str = knob(choices=("tensorboard", "wandb", "trackio", "none"))


def train(argv: list[str]) -> None:
    """Both stages; a stage that is complete is not trained again, one that was killed goes on."""
    knobs = load_knobs(SftKnobs, "sft", argv)
    if torch.cuda.device_count() > 1:  # the Trainer would split batches over them in one slow process
        raise UserError(
            f"{torch.cuda.device_count()} GPUs are visible and SFT trains on one yet; put CUDA_VISIBLE_DEVICES=0 "
            "before the command"
        )
    prefix = data_prefix(knobs.data_prefix, knobs.mode, knobs.base_model)
    output_dir = sft_dir(knobs.output_dir, knobs.base_model, prefix)
    stage_paths = [stage_file(knobs.train_data_dir, prefix, stage) for stage in (1, 2)]
    data = [load_stage(path) for path in stage_paths]
    made_by = _collection_of(stage_paths[0])
    phrases = reconcile_phrases(
        knobs.control_phrases, made_by.get("control_phrases"), str(metadata_path(stage_paths[0]))
    )
    prompt = PromptSettings(**made_by["prompt"]) if "prompt" in made_by else PromptSettings()
    # What cannot be trained, or trained on, must not leave a run.json behind.
    layout = _layout(knobs.base_model, phrases, prompt)
    ids_fit = made_by.get("tokenizer_fingerprint") == tokenizer_fingerprint(layout.tokenizer)
    built = [
        _rows(records, layout, stage, knobs.max_length, ids_fit) for stage, records in enumerate(data, start=1)
    ]
    identity = {
        name: value
        for name, value in asdict(knobs).items()
        if name not in ("mode", "output_dir", "save_steps", "logging_steps", "report_to", "train_data_dir")
    } | {
        "base_fingerprint": model_fingerprint(knobs.base_model),
        "data_fingerprints": [fingerprint(path.read_bytes()) for path in stage_paths],
    }
    open_run(output_dir, identity, asdict(knobs))

    model_path = knobs.base_model
    for stage, rows in enumerate(built, start=1):
        folder, work = output_dir / f"stage{stage}", output_dir / f"stage{stage}.work"
        if (folder / CHECKPOINT_METADATA).is_file():
            print(f"stage {stage} is complete: {folder}")
            shutil.rmtree(work, ignore_errors=True)  # there when the run was killed after its last rename
        else:
            metadata = {
                "base_model": knobs.base_model,
                "mode": made_by.get("mode", "math"),
                "stage": stage,
                "control_phrases": phrases.as_dict(),
                "prompt": prompt.as_dict(),
                "data_fingerprint": identity["data_fingerprints"][stage - 1],
                "git_commit": git_commit(),
                "packages": package_versions(),
            }
            _train_stage(knobs, stage, model_path, rows, layout, folder, work, metadata)
        model_path = str(folder)
    print(f"\nthe SRT model: {model_path}")


def _layout(model_path: str, phrases: PhraseSet, prompt: PromptSettings) -> Layout:
    tokenizer = load_tokenizer(model_path)
    return Layout(tokenizer, phrases, prompt, eot_ids(model_path, tokenizer))


def _collection_of(stage_path: Path) -> dict[str, Any]:
    """What the data was made with, from the file beside it; empty for data that somebody else made."""
    path = metadata_path(stage_path)
    if not path.is_file():
        print(
            f"{path} is missing: the data is taken to be made with the default prompt of MODE=math, and with "
            "the phrases of CONTROL_PHRASES"
        )
        return {}
    return read_json(path)["identity"]


def _rows(records: list[dict], layout: Layout, stage: int, max_length: int, ids_fit: bool) -> StageRows:
    built = build_rows(records, layout, stage, max_length, ids_fit)
    if not built.rows:
        raise UserError(f"stage {stage}: all {built.too_long} tuples are longer than MAX_LENGTH={max_length}")
    return built


def _train_stage(
    knobs: SftKnobs,
    stage: int,
    model_path: str,
    built: StageRows,
    layout: Layout,
    folder: Path,
    work: Path,
    metadata: dict[str, Any],
) -> None:
    print(
        f"\nstage {stage} ({'generation' if stage == 1 else 'revision'}) from {model_path}: "
        f"{len(built.rows)} tuples, {built.too_long} set aside as longer than MAX_LENGTH"
        + (f", {built.retokenized} tokenised from text" if built.retokenized else "")
    )
    started = time.monotonic()
    with contextlib.closing(_Progress(f"stage {stage}")) as bar:
        trainer = _trainer(knobs, stage, model_path, built.rows, layout, work, bar)
        trainer.train(resume_from_checkpoint=_newest_complete(work))
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]

    # The weights are stored in the base's own dtype: what vLLM and Phase 2 load is what was published.
    finished = work / "final"
    model = trainer.accelerator.unwrap_model(trainer.model)
    # The Trainer puts the tokenizer's eos there, which need not be what ends a turn.
    model.generation_config.eos_token_id = layout.eot_ids[0] if len(layout.eot_ids) == 1 else layout.eot_ids
    model.to(stored_dtype(model_path)).save_pretrained(finished)
    layout.tokenizer.save_pretrained(finished)
    write_json(finished / "training_log.json", trainer.state.log_history)
    write_metadata(finished, metadata)
    if folder.exists():
        shutil.rmtree(folder)
    os.replace(finished, folder)
    shutil.rmtree(work)
    print_summary(
        f"Stage {stage}",
        {
            "loss": f"{losses[0]:.4f} -> {losses[-1]:.4f}" if losses else "-",
            "updates": trainer.state.global_step,
            "tokens seen": int(trainer.state.num_input_tokens_seen),
            "seconds": round(time.monotonic() - started, 1),
            "peak GPU memory": f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB"
            if torch.cuda.is_available()
            else "no GPU",
            "checkpoint": folder,
        },
    )


def _trainer(
    knobs: SftKnobs, stage: int, model_path: str, rows: list, layout: Layout, work: Path, bar: TrainerCallback
) -> SFTTrainer:
    dataset = Dataset.from_list(
        [{"input_ids": row.ids, "labels": [-100] * row.start + row.ids[row.start :]} for row in rows]
    )
    on_gpu = torch.cuda.is_available()
    arguments = SFTConfig(
        output_dir=str(work),
        num_train_epochs=knobs.epochs_stage1 if stage == 1 else knobs.epochs_stage2,
        learning_rate=knobs.lr_stage1 if stage == 1 else knobs.lr_stage2,
        per_device_train_batch_size=knobs.batch_size_per_device,
        gradient_accumulation_steps=knobs.gradient_accumulation,
        lr_scheduler_type=knobs.lr_schedule,
        warmup_steps=knobs.warmup_ratio,  # below 1, a share of all updates
        weight_decay=knobs.weight_decay,
        adam_beta1=knobs.adam_beta1,
        adam_beta2=knobs.adam_beta2,
        max_grad_norm=knobs.max_grad_norm,
        max_length=None,  # the rows are final: nothing is cut
        gradient_checkpointing=knobs.gradient_checkpointing,
        bf16=on_gpu,
        seed=knobs.seed,
        save_steps=knobs.save_steps,
        save_total_limit=2,
        logging_steps=knobs.logging_steps,
        logging_nan_inf_filter=False,  # it would show a NaN loss as 0
        report_to=knobs.report_to,
        include_num_input_tokens_seen="all",
        disable_tqdm=True,
        dataloader_pin_memory=on_gpu,
        dataset_kwargs={"skip_prepare_dataset": True},
    )
    # fp32 weights under bf16 autocast: bf16 weights would lose updates at a learning rate of 5e-6.
    model = load_model(model_path, "float32")
    trainer = SFTTrainer(
        model=model,
        args=arguments,
        train_dataset=dataset,
        processing_class=layout.tokenizer,
        callbacks=[_MarkComplete(), bar],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    return trainer


def _newest_complete(work: Path) -> str | None:
    """The newest checkpoint whose last file was written; torn ones are deleted."""
    checkpoints = sorted(work.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    for checkpoint in reversed(checkpoints):
        if (checkpoint / COMPLETE).is_file():
            print(f"continuing from {checkpoint}")
            return str(checkpoint)
        print(f"{checkpoint} was cut off while it was written; deleted")
        shutil.rmtree(checkpoint)
    return None


class _MarkComplete(TrainerCallback):
    """The Trainer writes checkpoints in place, so a killed one looks whole; on_save comes after its last file."""

    def on_save(self, args, state, control, **kwargs):
        (Path(args.output_dir) / f"checkpoint-{state.global_step}" / COMPLETE).write_text(
            json.dumps({"step": state.global_step})
        )


class _Progress(TrainerCallback):
    """One bar a stage, with the loss and the rate."""

    def __init__(self, title: str):
        self.title = title
        self.bar = None

    def on_train_begin(self, args, state, control, **kwargs):
        self.bar = progress(state.max_steps, "update", initial=state.global_step)
        self.bar.set_description(self.title)
        self.started, self.tokens_before = time.monotonic(), int(state.num_input_tokens_seen)

    def on_step_end(self, args, state, control, **kwargs):
        self.bar.update(state.global_step - self.bar.n)

    def on_log(self, args, state, control, logs=None, **kwargs):
        if logs and "loss" in logs:
            if not (math.isfinite(logs["loss"]) and math.isfinite(logs.get("grad_norm", 0.0))):
                raise UserError(
                    f"{self.title}, update {state.global_step}: the loss is {logs['loss']} and the gradient's "
                    f"norm {logs.get('grad_norm')}; the newest checkpoint is from before. A lower learning rate "
                    "in a new OUTPUT_DIR is the usual remedy"
                )
            tokens = int(state.num_input_tokens_seen) - self.tokens_before
            rate = tokens / (time.monotonic() - self.started)
            self.bar.set_postfix_str(f"loss {logs['loss']:.3f}, {rate:.0f} tok/s", refresh=False)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
