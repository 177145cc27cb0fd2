"""Configuration -> TrainingPlan: the stage files, read and checked, and what each stage trains on."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from srt.collect.split import metadata_path
from srt.common.distillable import warn_before_phase1
from srt.common.errors import UserError
from srt.common.files import write_jsonl
from srt.common.machine import Machine, stated_machine, this_machine
from srt.common.memory_plan import MemoryPlan, ModelShape, sft_terms
from srt.common.memory_plan import make_plan as make_memory_plan
from srt.common.models import (
    check_gpu,
    check_reporter,
    check_saving,
    check_token_ids,
    count_parameters,
    eot_ids,
    load_model_config,
    load_tokenizer,
    padding_id,
)
from srt.common.packed_attention import AttentionChoice, choose_attention
from srt.common.remote_code import allow_remote_code
from srt.contract.checkpoint import check_mode
from srt.contract.layout import Layout, PromptFormat, TokenSequence
from srt.contract.model_identity import model_identity
from srt.contract.paths import data_prefix, problems_file, sft_dir, stage_file
from srt.contract.phrases import reconcile_phrases
from srt.contract.provenance import (
    CHECKPOINT_METADATA,
    check_revisions,
    fingerprint,
    git_commit,
    known,
    model_revision,
    open_run,
    package_versions,
    read_metadata,
    started_identity,
    tokenizer_fingerprint,
)
from srt.recipe import print_recipe, recipe_record
from srt.sft.batching import BatchPlan, count_updates, plan_packed, plan_padded, plan_updates
from srt.sft.collection import check_same_collection, read_collection_identity
from srt.sft.config import NOT_IDENTITY, SftConfig
from srt.sft.dataset import StageSequences, build_sequences, load_stage
from srt.sft.launch import Processes, find_processes
from srt.sft.model_check import check_model, check_model_before_launch

FEW_UPDATES = 200  # the paper makes 3 000 and more
USUAL_LEARNING_RATES = 2e-4  # of all weights 5e-6, of adapters 1e-4; the quickstart's tiny model takes more


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

    def count_updates(self, tuples_per_update: int) -> int:
        return count_updates(len(self.train), self.epochs, tuples_per_update)

    def few_updates(self, tuples_per_update: int) -> str | None:
        """A warning in words when the stage makes too few updates to learn much; None otherwise."""
        updates = self.count_updates(tuples_per_update)
        if updates >= FEW_UPDATES or self.learning_rate > USUAL_LEARNING_RATES:
            return None
        epochs_knob = f"EPOCHS_STAGE{1 if self.revision_starts else self.number}"
        return (
            f"stage {self.number} makes {updates} update{'s' if updates > 1 else ''} ({len(self.train)} tuples, "
            f"{self.epochs:g} epoch{'' if self.epochs == 1 else 's'}, {tuples_per_update} tuples an update); "
            f"below about {FEW_UPDATES} a model hardly changes at the usual learning rates: collect more tuples, "
            f"raise {epochs_knob}, or lower TUPLES_PER_UPDATE"
        )


@dataclass(frozen=True)
class TrainingPlan:
    """Everything that training needs, read and checked; pickled for the training processes."""

    config: SftConfig
    processes: Processes
    tuples_per_update: int
    output_dir: Path
    layout: Layout
    pad_id: int
    attention: AttentionChoice
    stages: list[Stage]
    problems: bytes | None  # of the file with the problems that the data was made of, if there is one

    def stage_dir(self, stage: Stage) -> Path:
        return self.output_dir / f"stage{stage.number}"

    def is_complete(self, stage: Stage) -> bool:
        """Raises UserError for a finished stage that lacks files by now: it is no start for the next one."""
        folder = self.stage_dir(stage)
        return (folder / CHECKPOINT_METADATA).is_file() and read_metadata(str(folder)) is not None

    def batches(self, stage: Stage) -> tuple[BatchPlan, BatchPlan | None]:
        """The passes of training, and of a validation if tuples are held out."""
        config, processes = self.config, self.processes.total

        def plan_passes(updates: list[list[int]]) -> BatchPlan:
            if self.attention.packed:
                return plan_packed(updates, stage.lengths, config.max_tokens_per_pass, processes)
            return plan_padded(updates, stage.lengths, config.batch_size_per_device, processes)

        updates = [
            [stage.train[index] for index in update]
            for update in plan_updates(len(stage.train), stage.epochs, self.tuples_per_update, config.seed)
        ]
        return plan_passes(updates), plan_passes([stage.validation]) if stage.validation else None


def make_plan(config: SftConfig, dry_run: bool = False) -> TrainingPlan:
    """Read the data, check it against the configuration and open the run (unless `dry_run`).

    Raises UserError for data that cannot be trained on, before anything is written.
    """
    allow_remote_code(config.trust_remote_code)
    stated = stated_machine(config.plan_for, dry_run)
    if not dry_run:
        check_gpu()
    check_reporter(config.report_to)
    print_recipe(config, "sft")
    recipe = recipe_record(config, "sft")
    warn_before_phase1(config.base_model)
    processes = find_processes(config.num_processes, config.master_port, stated=stated)
    prefix = data_prefix(config.data_prefix, config.mode, config.base_model)
    output_dir = sft_dir(config.output_dir, config.base_model, prefix)
    stage_paths = [stage_file(config.train_data_dir, prefix, stage) for stage in (1, 2)]
    generation, revision = (load_stage(path) for path in stage_paths)
    collection = read_collection_identity(stage_paths[0])
    check_same_collection(stage_paths)
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
        "recipe": collection.get("recipe", {}) | {"sft": recipe},
        "prompt_probe": collection.get("prompt_probe") or layout.prompt_probe(),
        "revisions": collection.get("revisions", {}) | revisions,
        "git_commit": git_commit(),
        "packages": package_versions(),
    }

    def build(records: list[dict], stage: int) -> StageSequences:
        try:
            built = build_sequences(records, layout, stage, config.max_length, use_stored_ids)
        except UserError as error:
            where = stage_paths[stage - 1] if config.srt_objective != "joint" else "the tuples of both stages"
            raise UserError(f"{where}, {error}") from None
        if not built.sequences:
            raise UserError(
                f"stage {stage}: all {len(built.too_long)} tuples are longer than MAX_LENGTH={config.max_length}"
            )
        ids = (index for sequence in built.sequences for index in sequence.ids)
        check_token_ids(config.base_model, layout.tokenizer, ids)
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
        "base_model": model_identity(config.base_model),
        "data_fingerprints": fingerprints,
    }
    if layout.prompt.date:
        identity["date"] = layout.prompt.date
    problems = problems_file(config.train_data_dir, prefix)
    plan = TrainingPlan(
        config,
        processes,
        tuples_per_update,
        output_dir,
        layout,
        padding_id(config.base_model, layout.tokenizer, layout.eot_ids[0]),
        attention_of(config.packing, stated),
        stages,
        problems.read_bytes() if problems.is_file() else None,
    )
    complete = [plan.is_complete(stage) for stage in stages]  # each, since any may have lost files
    if not dry_run and not all(complete):
        machine = this_machine()
        memory_plan(plan, machine).check(config.check_memory)
        longest = max(length for stage in stages for length in stage.lengths)
        if processes.total > 1:
            plan = replace(plan, attention=check_model_before_launch(config, longest, machine))
        else:
            plan = replace(plan, attention=check_model(config, longest))
    if processes.machine_rank == 0 and not dry_run:
        open_run(output_dir, identity, asdict(config) | {"recipe": recipe}, revisions, [config.base_model])
        for number, built in built_by_stage.items():
            _write_set_aside(output_dir / f"set_aside_stage{number}.jsonl", records_by_stage[number], built)
    return plan


def attention_of(packing: str, stated: Machine | None) -> AttentionChoice:
    """The attention on this machine; what matters of a stated one is whether its GPUs pack."""
    choice = choose_attention(packing)
    return choice._replace(packed=packing != "0") if stated else choice


def memory_plan(plan: TrainingPlan, machine: Machine) -> MemoryPlan:
    """Of the stage that takes the most, with the passes that it will make."""
    config, processes = plan.config, plan.processes
    model_config = load_model_config(config.base_model)
    shape = ModelShape.of(model_config, count_parameters(model_config))
    packed = plan.attention.packed

    def of_stage(stage: Stage) -> MemoryPlan:
        batches, _ = plan.batches(stage)
        passes = [[stage.lengths[index] for index in indices] for indices in batches.passes if indices]
        terms = sft_terms(
            shape,
            tokens=max(sum(lengths) if packed else len(lengths) * max(lengths) for lengths in passes),
            processes=processes.total,
            machines=processes.machines,
            several_passes=batches.passes_per_update > 1,
            checkpointing=config.gradient_checkpointing,
            trained=shape.adapters(config.lora_rank) if config.lora_rank else shape.parameters,
        )
        changes = ["more GPUs"]
        changes += [] if config.gradient_checkpointing else ["GRADIENT_CHECKPOINTING=1"]
        changes += ["a smaller MAX_TOKENS_PER_PASS" if packed else "a smaller BATCH_SIZE_PER_DEVICE"]
        changes += ["a smaller MAX_LENGTH"]
        changes += [] if config.lora_rank else ["LORA_RANK=32 LR_STAGE1=1e-4 LR_STAGE2=1e-4"]
        return make_memory_plan(f"stage {stage.number}", terms, machine, processes.per_machine, changes)

    return max(map(of_stage, plan.stages), key=lambda stage: (stage.gpu_bytes, stage.host_bytes))


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
    prompt = PromptFormat.from_dict(collection["prompt"]) if "prompt" in collection else PromptFormat()
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
    if built.num_edited:
        description += f", {built.num_edited} edited since they were sampled, so that their ids were made again"
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
    """TUPLES_PER_UPDATE, or what its factors make of it: then a run that is continued keeps its number, since the
    number of processes may be another one."""
    if not config.gradient_accumulation:
        return config.tuples_per_update
    product = config.batch_size_per_device * config.gradient_accumulation * processes.total
    started_with = (started_identity(output_dir) or {}).get("tuples_per_update")
    if started_with and started_with != product:
        print(
            f"the run in {output_dir} started with {started_with} tuples per update and continues with that number"
        )
    elif product != config.tuples_per_update:
        print(
            f"TUPLES_PER_UPDATE: {product}, set by BATCH_SIZE_PER_DEVICE={config.batch_size_per_device} x "
            f"GRADIENT_ACCUMULATION={config.gradient_accumulation} x {processes.total} "
            f"process{'es' if processes.total > 1 else ''}"
        )
    return started_with or product


def _write_set_aside(path: Path, records: list[dict], built: StageSequences) -> None:
    if built.too_long:
        write_jsonl(
            path,
            [
                {"record": index + 1, "id": records[index].get("id"), "tokens": tokens, "reason": "MAX_LENGTH"}
                for index, tokens in built.too_long.items()
            ],
        )
