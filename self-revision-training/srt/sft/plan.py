"""Configuration -> TrainingPlan: the stage files, read and checked, and what each stage trains on."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from srt.collect.split import metadata_path
from srt.common.errors import UserError
from srt.common.files import read_json, write_jsonl
from srt.common.models import check_gpu, check_reporter, check_saving, eot_ids, load_tokenizer
from srt.contract.checkpoint import check_mode
from srt.contract.layout import Layout, PromptFormat, TokenSequence
from srt.contract.paths import data_prefix, problems_file, sft_dir, stage_file
from srt.contract.phrases import reconcile_phrases
from srt.contract.provenance import (
    check_revisions,
    fingerprint,
    git_commit,
    known,
    model_fingerprint,
    model_revision,
    open_run,
    package_versions,
    started_identity,
    tokenizer_fingerprint,
)
from srt.sft.config import NOT_IDENTITY, SftConfig
from srt.sft.dataset import StageSequences, build_sequences, load_stage
from srt.sft.launch import Processes, find_processes


@dataclass(frozen=True)
class Stage:
    """One training run over `sequences`; `train` and `validation` are indices into it.

    `revision_starts` (joint objective only): the position at which y_revised starts in each sequence. The paper's
    loss of a tuple is the sum of two negative log-likelihoods (arXiv:2604.12002, section 2.1): generation, of
    y_init + P_r + y_revised given x, and revision, of y_revised given x + y_init + P_r. Both sum over tokens of
    the same ids in the same context, so a single forward pass computes both: a token of y_revised counts twice,
    every other supervised token once, and both sums are divided by the number of supervised tokens.
    """

    number: int
    title: str
    sequences: list[TokenSequence]
    revision_starts: list[int] | None
    train: list[int]
    validation: list[int]
    epochs: float
    learning_rate: float
    description: str
    metadata: dict[str, Any]

    @property
    def lengths(self) -> list[int]:
        return [len(sequence.ids) for sequence in self.sequences]


@dataclass(frozen=True)
class TrainingPlan:
    """Everything that training needs, read and checked; pickled for the training processes."""

    config: SftConfig
    processes: Processes
    tuples_per_update: int
    output_dir: Path
    layout: Layout
    stages: list[Stage]
    problems_file: Path | None  # the problems that the data was made of (srt/collect/consumed.py), if it says so


def make_plan(config: SftConfig) -> TrainingPlan:
    """Read the data, check it against the configuration and open the run.

    Raises UserError for data that cannot be trained on, before anything is written.
    """
    check_gpu()
    check_reporter(config.report_to)
    processes = find_processes(config.num_processes, config.master_port)
    prefix = data_prefix(config.data_prefix, config.mode, config.base_model)
    output_dir = sft_dir(config.output_dir, config.base_model, prefix)
    stage_paths = [stage_file(config.train_data_dir, prefix, stage) for stage in (1, 2)]
    generation, revision = (load_stage(path) for path in stage_paths)
    collection = read_collection_identity(stage_paths[0])
    check_mode(config.mode, collection.get("mode"), str(metadata_path(stage_paths[0])))
    layout, use_stored_ids = layout_for_data(
        config.base_model, config.control_phrases, stage_paths[0], collection, started_identity(output_dir)
    )
    check_saving(config.base_model, layout.tokenizer, layout.eot_ids)
    revisions = known({config.base_model: model_revision(config.base_model)})
    check_revisions(metadata_path(stage_paths[0]), collection.get("revisions", {}), revisions)
    fingerprints = [fingerprint(path.read_bytes()) for path in stage_paths]
    metadata = {
        "base_model": config.base_model,
        "mode": collection.get("mode", "math"),
        "control_phrases": layout.phrases.as_dict(),
        "prompt": layout.prompt.as_dict(),
        "prompt_probe": collection.get("prompt_probe") or layout.prompt_probe(),
        "revisions": collection.get("revisions", {}) | revisions,
        "git_commit": git_commit(),
        "packages": package_versions(),
    }

    def build(records: list[dict], stage: int) -> StageSequences:
        built = build_sequences(records, layout, stage, config.max_length, use_stored_ids)
        if not built.sequences:
            raise UserError(
                f"stage {stage}: all {len(built.too_long)} tuples are longer than MAX_LENGTH={config.max_length}"
            )
        return built

    revision_starts = None
    if config.srt_objective == "joint":
        metadata |= {"objective": "joint"}
        records_by_stage = {2: generation + revision}
        built_by_stage = {2: build(records_by_stage[2], 1)}
        revision_starts = [sequence.start for sequence in build(records_by_stage[2], 2).sequences]
    else:
        records_by_stage = {1: generation, 2: revision}
        built_by_stage = {number: build(records, number) for number, records in records_by_stage.items()}
    stages = [
        _make_stage(
            config,
            number,
            records_by_stage[number],
            built,
            revision_starts,
            metadata | {"stage": number, "data_fingerprint": fingerprints[number - 1]},
        )
        for number, built in built_by_stage.items()
    ]
    tuples_per_update = _tuples_per_update(config, processes, output_dir)
    identity = {name: value for name, value in asdict(config).items() if name not in NOT_IDENTITY} | {
        "tuples_per_update": tuples_per_update,
        "base_fingerprint": model_fingerprint(config.base_model),
        "data_fingerprints": fingerprints,
    }
    if layout.prompt.date:
        identity["date"] = layout.prompt.date
    if processes.machine_rank == 0:
        open_run(output_dir, identity, asdict(config), revisions)
        for number, built in built_by_stage.items():
            _write_set_aside(output_dir / f"set_aside_stage{number}.jsonl", records_by_stage[number], built)
    problems = problems_file(config.train_data_dir, prefix)
    return TrainingPlan(
        config,
        processes,
        tuples_per_update,
        output_dir,
        layout,
        stages,
        problems if problems.is_file() else None,
    )


def read_collection_identity(stage_path: Path) -> dict[str, Any]:
    """The identity of the collection, its `revisions` and `prompt_probe`, from the run.json beside the stage file;
    else empty."""
    path = metadata_path(stage_path)
    if not path.is_file():
        print(
            f"{path} is missing: assuming that the data was collected with the default prompt of MODE=math and "
            "the phrases of CONTROL_PHRASES"
        )
        return {}
    run = read_json(path)
    probe = run.get("config", {}).get("prompt_probe")  # None: collected before it was recorded
    return run["identity"] | {"revisions": run.get("revisions", {}), "prompt_probe": probe}


def layout_for_data(
    model_path: str,
    control_phrases: str | None,
    stage_path: Path,
    collection: dict[str, Any],
    started: dict[str, Any] | None = None,
) -> tuple[Layout, bool]:
    """The layout with which the data was collected, and whether its stored ids come from the model's tokenizer.

    `started`: the identity of the run that is resumed, which holds the date of its prompts.
    """
    phrases = reconcile_phrases(control_phrases, collection.get("control_phrases"), str(metadata_path(stage_path)))
    prompt = PromptFormat(**collection["prompt"]) if "prompt" in collection else PromptFormat()
    tokenizer = load_tokenizer(model_path)
    prompt = prompt.with_date(tokenizer, started)
    same_tokenizer = collection.get("tokenizer_fingerprint") == tokenizer_fingerprint(tokenizer)
    return Layout(tokenizer, phrases, prompt, eot_ids(model_path, tokenizer)), same_tokenizer


def _make_stage(
    config: SftConfig,
    number: int,
    records: list[dict],
    built: StageSequences,
    revision_starts: list[int] | None,
    metadata: dict[str, Any],
) -> Stage:
    held_out = [_is_held_out(records[index], config) for index in built.record_indices]
    train = [index for index, out in enumerate(held_out) if not out]
    validation = [index for index, out in enumerate(held_out) if out]
    if not train or (config.val_fraction and not validation):
        raise UserError(
            f"VAL_FRACTION={config.val_fraction} splits the {len(held_out)} tuples of stage {number} into "
            f"{len(train)} for training and {len(validation)} for validation; each needs at least one"
        )
    description = f"{len(train)} tuples, {len(built.too_long)} set aside as longer than MAX_LENGTH"
    if validation:
        description += f", {len(validation)} held out for validation"
    if built.num_tokenized:
        description += f", {built.num_tokenized} tokenized from text"
    joint = config.srt_objective == "joint"
    uses_stage1_knobs = joint or number == 1
    return Stage(
        number=number,
        title="generation and revision" if joint else ("generation" if number == 1 else "revision"),
        sequences=built.sequences,
        revision_starts=revision_starts,
        train=train,
        validation=validation,
        epochs=config.epochs_stage1 if uses_stage1_knobs else config.epochs_stage2,
        learning_rate=config.lr_stage1 if uses_stage1_knobs else config.lr_stage2,
        description=description,
        metadata=metadata,
    )


def _is_held_out(record: dict[str, Any], config: SftConfig) -> bool:
    """Decided by the problem, so that a validation problem is trained on in neither stage."""
    draw = int(fingerprint(str(config.seed), str(record.get("id", record["x"]))), 16) / 16**16
    return draw < config.val_fraction


def _tuples_per_update(config: SftConfig, processes: Processes, output_dir: Path) -> int:
    """The knob if set, else the number this run started with, else the product for the number of processes."""
    if config.tuples_per_update:
        return config.tuples_per_update
    default = config.batch_size_per_device * config.gradient_accumulation * processes.total
    path = output_dir / "run.json"
    started_with = read_json(path)["identity"].get("tuples_per_update") if path.is_file() else None
    if started_with and started_with != default:
        print(
            f"the run in {output_dir} started with {started_with} tuples per update and continues with that number"
        )
    return started_with or default


def _write_set_aside(path: Path, records: list[dict], built: StageSequences) -> None:
    if built.too_long:
        write_jsonl(
            path,
            [
                {"record": index + 1, "id": records[index].get("id"), "tokens": tokens, "reason": "MAX_LENGTH"}
                for index, tokens in built.too_long.items()
            ],
        )
