"""Phase 1, training: stage 1 (generation) from the base model, stage 2 (revision) from stage 1.

TRL's SFTTrainer trains; ours are the ids and masks (srt/sft/dataset.py), which tuples an update holds
(srt/sft/batching.py), resuming, and what a checkpoint says about itself. The command reads and checks everything
once; then one process trains here, or several do that are given what was read (srt/sft/worker.py). A stage's
folder appears under its name only when it is complete.
"""

import contextlib
import os
import pickle
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from srt.collect.split import metadata_path
from srt.common.console import print_summary
from srt.common.errors import UserError
from srt.common.files import atomic_write, read_json, write_json, write_jsonl
from srt.common.models import (
    check_gpu,
    check_reporter,
    check_saving,
    eot_ids,
    load_model,
    load_tokenizer,
    stored_dtype,
)
from srt.config import load_config
from srt.contract.checkpoint import check_mode
from srt.contract.layout import Layout, PromptFormat, TokenSequence
from srt.contract.paths import data_prefix, sft_dir, stage_file
from srt.contract.phrases import reconcile_phrases
from srt.contract.provenance import (
    CHECKPOINT_METADATA,
    begun_identity,
    check_revisions,
    fingerprint,
    git_commit,
    known,
    model_fingerprint,
    model_revision,
    open_run,
    package_versions,
    tokenizer_fingerprint,
    write_metadata,
)
from srt.sft.batching import Plan, plan_packed, plan_padded, plan_updates
from srt.sft.callbacks import COMPLETE, Progress
from srt.sft.config import NOT_IDENTITY, SftConfig
from srt.sft.dataset import StageRows, build_rows, load_stage
from srt.sft.launch import Processes, find_processes, launch
from srt.sft.packed_attention import choose_attention
from srt.sft.trainer import (
    WEIGHTS,
    PassCollator,
    load_trained,
    make_trainer,
    new_model,
    trained_weights,
    training_arguments,
    with_adapters,
)


@dataclass
class Stage:
    """One training: `train` and `validation` are indexes of rows.

    `revision_starts` (joint objective only) says where y_revised begins in each row. The paper's loss of a tuple
    is the sum of two negative log-likelihoods (arXiv:2604.12002, section 2.1): generation, of
    y_init + P_r + y_revised given x, and revision, of y_revised given x + y_init + P_r. Both are sums over tokens
    of the very same ids in the same context, so one forward pass serves both: a token of y_revised counts twice,
    every other supervised token once, and both sums have one denominator, the number of supervised tokens.
    """

    number: int
    title: str
    rows: list[TokenSequence]
    revision_starts: list[int] | None
    train: list[int]
    validation: list[int]
    epochs: float
    learning_rate: float
    notes: str
    metadata: dict[str, Any]


@dataclass
class Prepared:
    """Everything that training needs, read and checked."""

    config: SftConfig
    processes: Processes
    tuples_per_update: int
    output_dir: Path
    layout: Layout
    stages: list[Stage]


def train(argv: list[str]) -> None:
    """All stages; a stage that is complete is not trained again, one that was killed goes on."""
    prepared = prepare(load_config(SftConfig, "sft", argv))
    path = prepared.output_dir / f".prepared{prepared.processes.machine}.pickle"
    path.unlink(missing_ok=True)  # there when the run was killed
    if prepared.processes.total == 1:
        _say_which_gpu()
        train_stages(prepared)
    else:
        with atomic_write(path) as temporary:
            temporary.write_bytes(pickle.dumps(prepared))
        try:
            launch(prepared.processes, path)
        finally:
            path.unlink(missing_ok=True)
            path.with_suffix(".error").unlink(missing_ok=True)
    print(f"\nthe SRT model: {prepared.output_dir / 'stage2'}")


def prepare(config: SftConfig) -> Prepared:
    """Reads the data, checks it against the knobs, and opens the run; what cannot be trained leaves no trace."""
    check_gpu()
    check_reporter(config.report_to)
    processes = find_processes(config.num_processes, config.master_port)
    prefix = data_prefix(config.data_prefix, config.mode, config.base_model)
    output_dir = sft_dir(config.output_dir, config.base_model, prefix)
    stage_paths = [stage_file(config.train_data_dir, prefix, stage) for stage in (1, 2)]
    data = [load_stage(path) for path in stage_paths]
    made_by = collection_of(stage_paths[0])
    check_mode(config.mode, made_by.get("mode"), str(metadata_path(stage_paths[0])))
    begun = begun_identity(output_dir)
    layout, ids_fit = layout_of_data(config.base_model, config.control_phrases, stage_paths[0], made_by, begun)
    check_saving(config.base_model, layout.tokenizer, layout.eot_ids)
    revisions = known({config.base_model: model_revision(config.base_model)})
    check_revisions(metadata_path(stage_paths[0]), made_by.get("revisions", {}), revisions)
    fingerprints = [fingerprint(path.read_bytes()) for path in stage_paths]
    metadata = {
        "base_model": config.base_model,
        "mode": made_by.get("mode", "math"),
        "control_phrases": layout.phrases.as_dict(),
        "prompt": layout.prompt.as_dict(),
        "revisions": made_by.get("revisions", {}) | revisions,
        "git_commit": git_commit(),
        "packages": package_versions(),
    }
    if config.srt_objective == "joint":
        built = {2: (data[0] + data[1], _rows(data[0] + data[1], layout, 1, config.max_length, ids_fit))}
        metadata |= {"objective": "joint"}
    else:
        built = {
            stage: (records, _rows(records, layout, stage, config.max_length, ids_fit))
            for stage, records in enumerate(data, start=1)
        }
    stages = [
        _stage(
            config,
            number,
            records,
            rows,
            metadata | {"stage": number, "data_fingerprint": fingerprints[number - 1]},
        )
        for number, (records, rows) in built.items()
    ]
    if config.srt_objective == "joint":
        (joint,) = stages
        revisions = build_rows(built[2][0], layout, 2, config.max_length, ids_fit)
        joint.revision_starts = [row.start for row in revisions.rows]
    per_update = _tuples_per_update(config, processes, output_dir)
    identity = {name: value for name, value in asdict(config).items() if name not in NOT_IDENTITY} | {
        "tuples_per_update": per_update,
        "base_fingerprint": model_fingerprint(config.base_model),
        "data_fingerprints": fingerprints,
    }
    if layout.prompt.date:
        identity["date"] = layout.prompt.date
    if processes.machine == 0:
        open_run(output_dir, identity, asdict(config), revisions)
        for number, (records, rows) in built.items():
            _write_set_aside(output_dir / f"set_aside_stage{number}.jsonl", records, rows)
    return Prepared(config, processes, per_update, output_dir, layout, stages)


def train_stages(prepared: Prepared) -> None:
    """Each stage from the one before; runs in every training process."""
    model_path = prepared.config.base_model
    for stage in prepared.stages:
        folder = prepared.output_dir / f"stage{stage.number}"
        work = prepared.output_dir / f"stage{stage.number}.work"
        if (folder / CHECKPOINT_METADATA).is_file():
            print(f"stage {stage.number} is complete: {folder}")
            if _is_first():
                shutil.rmtree(work, ignore_errors=True)  # there when the run was killed after its last rename
        else:
            _train_stage(prepared, stage, model_path, folder, work)
        model_path = str(folder)


def _is_first() -> bool:
    return os.environ.get("RANK", "0") == "0"


def _say_which_gpu() -> None:
    if torch.cuda.device_count() > 1:
        first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
        print(f"one process: of {torch.cuda.device_count()} visible GPUs it uses GPU {first}")


def layout_of_data(
    model_path: str,
    control_phrases: str | None,
    stage_path: Path,
    made_by: dict[str, Any],
    begun: dict[str, Any] | None = None,
) -> tuple[Layout, bool]:
    """The layout that the data was made with, and whether its ids come from the model's tokenizer.

    `begun`: the identity of the run that continues, which holds the date of its prompts.
    """
    phrases = reconcile_phrases(control_phrases, made_by.get("control_phrases"), str(metadata_path(stage_path)))
    prompt = PromptFormat(**made_by["prompt"]) if "prompt" in made_by else PromptFormat()
    tokenizer = load_tokenizer(model_path)
    prompt = prompt.with_date(tokenizer, begun)
    ids_fit = made_by.get("tokenizer_fingerprint") == tokenizer_fingerprint(tokenizer)
    return Layout(tokenizer, phrases, prompt, eot_ids(model_path, tokenizer)), ids_fit


def collection_of(stage_path: Path) -> dict[str, Any]:
    """What the data was made with, from the file beside it; empty for data that somebody else made."""
    path = metadata_path(stage_path)
    if not path.is_file():
        print(
            f"{path} is missing: the data is taken to be made with the default prompt of MODE=math, and with "
            "the phrases of CONTROL_PHRASES"
        )
        return {}
    run = read_json(path)
    return run["identity"] | {"revisions": run.get("revisions", {})}


def _rows(records: list[dict], layout: Layout, stage: int, max_length: int, ids_fit: bool) -> StageRows:
    built = build_rows(records, layout, stage, max_length, ids_fit)
    if not built.rows:
        raise UserError(f"stage {stage}: all {built.too_long} tuples are longer than MAX_LENGTH={max_length}")
    return built


def _stage(
    config: SftConfig, number: int, records: list[dict], built: StageRows, metadata: dict[str, Any]
) -> Stage:
    held_out = [_is_held_out(records[index], config) for index in built.kept]
    train = [row for row, out in enumerate(held_out) if not out]
    validation = [row for row, out in enumerate(held_out) if out]
    if not train or (config.val_fraction and not validation):
        raise UserError(
            f"VAL_FRACTION={config.val_fraction}: of the {len(held_out)} tuples of stage {number}, {len(train)} "
            f"are left to train and {len(validation)} to validate; each needs at least one"
        )
    notes = f"{len(train)} tuples, {built.too_long} set aside as longer than MAX_LENGTH"
    if validation:
        notes += f", {len(validation)} held out for validation"
    if built.retokenized:
        notes += f", {built.retokenized} tokenised from text"
    joint = config.srt_objective == "joint"
    first = joint or number == 1
    return Stage(
        number=number,
        title="generation and revision" if joint else ("generation" if first else "revision"),
        rows=built.rows,
        revision_starts=None,
        train=train,
        validation=validation,
        epochs=config.epochs_stage1 if first else config.epochs_stage2,
        learning_rate=config.lr_stage1 if first else config.lr_stage2,
        notes=notes,
        metadata=metadata,
    )


def _is_held_out(record: dict[str, Any], config: SftConfig) -> bool:
    """By the problem, so that one that is validated is trained in neither stage."""
    draw = int(fingerprint(str(config.seed), str(record.get("id", record["x"]))), 16) / 16**16
    return draw < config.val_fraction


def _tuples_per_update(config: SftConfig, processes: Processes, output_dir: Path) -> int:
    """The knob, else what the run in `output_dir` began with, else what follows from the number of processes."""
    if config.tuples_per_update:
        return config.tuples_per_update
    followed = config.batch_size_per_device * config.gradient_accumulation * processes.total
    path = output_dir / "run.json"
    begun = read_json(path)["identity"].get("tuples_per_update") if path.is_file() else None
    if begun and begun != followed:
        print(f"the run in {output_dir} began with {begun} tuples an update and keeps them")
    return begun or followed


def _write_set_aside(path: Path, records: list[dict], built: StageRows) -> None:
    if built.set_aside:
        write_jsonl(
            path,
            [
                {"record": index + 1, "id": records[index].get("id"), "tokens": tokens, "reason": "MAX_LENGTH"}
                for index, tokens in built.set_aside.items()
            ],
        )


def _train_stage(prepared: Prepared, stage: Stage, model_path: str, folder: Path, work: Path) -> None:
    config, layout = prepared.config, prepared.layout
    print(f"\nstage {stage.number} ({stage.title}) from {model_path}: {stage.notes}")
    attention, packed, words = choose_attention(config.packing)
    plan, validation = _plans(prepared, stage, packed)
    print(
        f"attention: {words}; loss: TRL's fused head, in tiles\n"
        f"an update: {prepared.tuples_per_update} tuples, in {plan.passes_per_update} "
        f"{'packed' if packed else 'padded'} pass{'es' if plan.passes_per_update > 1 else ''} "
        f"on {plan.processes} process{'es (FSDP2)' if plan.processes > 1 else ''}"
    )
    started = time.monotonic()
    checkpoint = _newest_complete(work)
    model = new_model(model_path, config, attention)
    if checkpoint:
        load_trained(model, load_file(checkpoint / WEIGHTS))
    arguments = training_arguments(config, work, plan, stage.learning_rate, bool(validation))
    arguments.eval_on_start &= checkpoint is None
    pad_id = layout.tokenizer.pad_token_id if layout.tokenizer.pad_token_id is not None else layout.eot_ids[0]
    collator = PassCollator(stage.rows, pad_id, packed, stage.revision_starts)
    with contextlib.closing(Progress(f"stage {stage.number}", plan, [len(row.ids) for row in stage.rows])) as bar:
        trainer = make_trainer(model, arguments, collator, plan, validation, layout.tokenizer, [bar])
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    weights = trained_weights(trainer.model)
    if _is_first():
        _export(prepared, stage, model_path, weights, trainer.state.log_history, work, folder)
    trainer.accelerator.wait_for_everyone()
    seconds = time.monotonic() - started
    entries = trainer.state.log_history
    losses = [entry["loss"] for entry in entries if "loss" in entry]
    validated = [entry["eval_loss"] for entry in entries if "eval_loss" in entry]
    tokens = bar.tokens(trainer.state.global_step)
    print_summary(
        f"Stage {stage.number}",
        {"loss": f"{losses[0]:.4f} -> {losses[-1]:.4f}" if losses else "-"}
        | ({"validation loss": f"{validated[0]:.4f} -> {validated[-1]:.4f}"} if validated else {})
        | {
            "updates": trainer.state.global_step,
            "tokens seen": tokens,
            "tokens/s in updates": round(rate) if (rate := bar.rate()) else None,
            "seconds": round(seconds, 1),
            "peak GPU memory": f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB"
            if torch.cuda.is_available()
            else "no GPU",
            "checkpoint": folder,
        },
    )


def _plans(prepared: Prepared, stage: Stage, packed: bool) -> tuple[Plan, Plan | None]:
    config, processes = prepared.config, prepared.processes.total
    lengths = [len(row.ids) for row in stage.rows]

    def spread(updates: list[list[int]]) -> Plan:
        if packed:
            return plan_packed(updates, lengths, config.max_tokens_per_pass, processes)
        return plan_padded(updates, lengths, config.batch_size_per_device, processes)

    numbered = plan_updates(len(stage.train), stage.epochs, prepared.tuples_per_update, config.seed)
    updates = [[stage.train[number] for number in update] for update in numbered]
    return spread(updates), spread([stage.validation]) if stage.validation else None


def _export(
    prepared: Prepared,
    stage: Stage,
    model_path: str,
    weights: dict[str, torch.Tensor],
    log: list[dict],
    work: Path,
    folder: Path,
) -> None:
    """The finished stage as an ordinary checkpoint, adapters merged, then the work folder's end."""
    layout = prepared.layout
    finished = work / "final"
    # The weights are stored in the base's own dtype: what vLLM and Phase 2 load is what was published.
    stored = stored_dtype(model_path)
    if prepared.config.lora_rank:  # merged in fp32
        model = with_adapters(load_model(model_path, "float32", "cpu"), prepared.config)
        load_trained(model, weights)
        model = model.merge_and_unload().to(stored)
    else:
        model = load_model(model_path, str(stored).removeprefix("torch."), "cpu").to(stored)
        load_trained(model, weights)
    # The Trainer puts the tokenizer's eos there, which need not be what ends a turn.
    model.generation_config.eos_token_id = layout.eot_ids[0] if len(layout.eot_ids) == 1 else layout.eot_ids
    model.save_pretrained(finished)
    layout.tokenizer.save_pretrained(finished)
    write_json(finished / "training_log.json", log)
    write_metadata(finished, stage.metadata)
    if folder.exists():
        shutil.rmtree(folder)
    os.replace(finished, folder)
    shutil.rmtree(work)


def _newest_complete(work: Path) -> Path | None:
    """The newest checkpoint whose last file was written; torn ones are deleted."""
    checkpoints = sorted(work.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    for checkpoint in reversed(checkpoints):
        if (checkpoint / COMPLETE).is_file():
            print(f"continuing from {checkpoint}")
            return checkpoint
        if _is_first():
            print(f"{checkpoint} was cut off while it was written; deleted")
            shutil.rmtree(checkpoint, ignore_errors=True)
    return None
