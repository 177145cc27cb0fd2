"""The configuration of Phase 2 (configs/distill.yaml) and what follows from it, the same for every engine."""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, cast

from srt.common.errors import UserError
from srt.config import default_of, option, seed_option
from srt.config_groups import (
    AdamConfig,
    GradingConfig,
    LoraConfig,
    PlanConfig,
    ProblemFilterConfig,
    PromptConfig,
    RecipeConfig,
    RemoteCodeConfig,
    SamplerConfig,
)

if TYPE_CHECKING:  # these import torch, for which --help and the refusal of a wrong knob do not wait
    from opsd.kl import KLConfig
    from opsd.kl.divergences import Kind
    from srt.common.optimizer import OptimizerConfig


@dataclass(frozen=True)
class DistillConfig(
    RecipeConfig,
    PromptConfig,
    SamplerConfig,
    GradingConfig,
    ProblemFilterConfig,
    AdamConfig,
    LoraConfig,
    RemoteCodeConfig,
    PlanConfig,
):
    """configs/distill.yaml has the meaning and default of every field."""

    engine: str = option(choices=("auto", "local", "nemo-rl"))
    student_model: str | None = option(path=True)
    teacher_model: str | None = option(path=True)
    train_dataset: str | None = option(path=True)
    train_subset: str | None = option()
    train_split: str = option()
    exclude_srt_problems: bool = option()
    srt_problems: str | None = option(path=True)
    val_dataset: str | None = option(path=True)
    val_split: str | None = option()
    val_period: int = option(ge=0)
    val_num_samples: int = option(ge=1)
    val_max_tokens: int | None = option(ge=1)
    val_temperature: float | None = option(ge=0)
    val_top_p: float | None = option(ge=1e-6, le=1)
    val_revise: bool = option()
    stop_on_collapse: float = option(ge=0, le=1)
    kl_type: str = option(choices=("reverse", "forward", "mixed", "jsd"))
    mixed_kl_weight: float = option(ge=0, le=1)
    jsd_beta: float = option(ge=0.001, le=0.999)
    kl_temperature: float = option(ge=0.001)
    topk: int = option(ge=0)
    kl_grad_eps: float = option(ge=0, le=0.01)
    kl_single_pass: bool = option()
    kl_clip: float = option(ge=0)
    teacher_cue: str = option(choices=("verdict", "random", "0", "1", "none"))
    loss_on: str = option(choices=("all", "r0"))
    reward_weight: float = option(ge=0)
    srt_replay: float = option(ge=0, le=0.9)
    srt_replay_weight: float = option(ge=0)
    srt_replay_data: str | None = option(path=True)
    include_truncated: bool = option()
    max_teacher_tokens: int = option(ge=8)
    teacher_sync: str = option(choices=("none", "steps", "epochs", "plateau"))
    teacher_sync_steps: int = option(ge=0)
    teacher_sync_epochs: int = option(ge=0)
    teacher_sync_window: int = option(ge=2)
    num_prompts_per_step: int = option(ge=1)
    over_issue: float = option(ge=0, le=1)
    rollout_ahead: bool = option()
    rollout_gpus: int = option(ge=0)
    max_total_sequence_length: int = option(ge=2)
    gpu_memory_utilization: float | None = option(ge=0.01, le=1)
    train_global_batch_size: int = option(ge=1)
    tokens_per_micro_batch: int = option(ge=1)
    packing: str = option(choices=("auto", "0", "1"))
    preflight: bool = option()
    max_num_steps: int = option(ge=1)
    max_num_epochs: int = option(ge=1)
    lr: float = option(gt=0, le=1)
    lr_schedule: str = option(choices=("linear", "cosine", "constant_with_warmup"))
    warmup_steps: int = option(ge=0)
    warmup_start: float | None = option(ge=0, le=1)
    gradient_checkpointing: bool = option()
    check_memory: bool = option()
    offload: str = option(choices=("auto", "0", "1"))
    seed: int = seed_option()
    save_period: int = option(ge=1)
    keep_checkpoints: int = option(ge=1)
    keep_checkpoints_after_end: int = option(ge=0)
    log_samples_period: int = option(ge=1)
    report_to: str = option(choices=("tensorboard", "wandb", "trackio", "none"))
    output_dir: str | None = option(path=True)
    trainer_backend: str = option(choices=("dtensor", "megatron"))
    num_nodes: int = option(ge=1)
    gpus_per_node: int | None = option(ge=1)
    megatron_layers: str = option(choices=("auto", "te", "local"))
    tensor_parallel_size: int | None = option(ge=1)
    pipeline_parallel_size: int = option(ge=1)
    context_parallel_size: int = option(ge=1)
    sampler_tensor_parallel_size: int | None = option(ge=1)
    enforce_eager: bool = option()
    worker_logs: bool = option()


@dataclass(frozen=True)
class RunConfig(DistillConfig):
    """A DistillConfig with nothing left open: the engine is chosen and both models are named."""

    student_model: str = option(path=True)
    teacher_model: str = option(path=True)


# What decides where output goes, how often something is logged or how the work is spread, not what comes out.
NOT_IDENTITY = (
    "recipe",
    "output_dir",
    "trust_remote_code",
    "srt_problems",  # what it excludes is in the fingerprint of the problems
    "preflight",
    "srt_replay_data",  # a path; the tuples' number and order are in the fingerprint
    "report_to",
    "log_samples_period",
    "save_period",
    "keep_checkpoints",
    "keep_checkpoints_after_end",
    "grading_workers",
    "grading_time_limit",
    "code_sandbox",
    "sampler",
    "sampler_batch",
    "rollout_gpus",
    "gpu_memory_utilization",
    "tokens_per_micro_batch",
    "packing",
    "kl_single_pass",
    "gradient_checkpointing",
    "check_memory",
    "plan_for",
    "offload",
    "num_nodes",
    "gpus_per_node",
    "tensor_parallel_size",
    "pipeline_parallel_size",
    "context_parallel_size",
    "sampler_tensor_parallel_size",
    "enforce_eager",
    "worker_logs",
)
# Validation matters only where it decides when to stop or to synchronize the teacher.
VALIDATION_KNOBS = (
    "val_dataset",
    "val_split",
    "val_period",
    "val_num_samples",
    "val_max_tokens",
    "val_temperature",
    "val_top_p",
    "val_revise",
)


def identity(config: DistillConfig) -> dict[str, Any]:
    """The fields that decide what comes out of a run: it can only be continued with the same ones."""
    validation_decides = config.stop_on_collapse or config.teacher_sync == "plateau"
    excluded = NOT_IDENTITY if validation_decides else NOT_IDENTITY + VALIDATION_KNOBS
    return {name: value for name, value in asdict(config).items() if name not in excluded}


def check(config: DistillConfig) -> None:
    """Raises UserError for combinations that contradict each other."""
    if config.num_prompts_per_step % config.train_global_batch_size:
        raise UserError(
            f"TRAIN_GLOBAL_BATCH_SIZE={config.train_global_batch_size} does not divide "
            f"NUM_PROMPTS_PER_STEP={config.num_prompts_per_step}: the responses of a step are split into whole "
            "updates"
        )
    _check_teacher_sync(config)
    if config.stop_on_collapse and not config.val_period:
        raise UserError(
            f"STOP_ON_COLLAPSE={config.stop_on_collapse} compares validations, and VAL_PERIOD=0 turns them off"
        )
    if config.lora_rank and config.teacher_model not in (None, config.student_model):
        raise UserError(
            f"LORA_RANK={config.lora_rank}: the teacher is then the student without its adapter, so "
            f"TEACHER_MODEL={config.teacher_model} must be STUDENT_MODEL or unset"
        )
    if config.reward_weight and config.loss_on != "all":
        raise UserError(
            f"LOSS_ON={config.loss_on} leaves right responses out, which REWARD_WEIGHT={config.reward_weight} "
            "compares wrong ones with; set one of the two"
        )
    _check_off_policy(config)
    if config.kl_type != "reverse" or config.topk or config.kl_temperature != 1:
        print(
            f"note: KL_TYPE={config.kl_type} TOPK={config.topk} KL_TEMPERATURE={config.kl_temperature} is not the "
            "loss of the paper's equation (reverse, exact, temperature 1)"
        )
    if config.teacher_cue != "verdict":
        print(
            f"note: TEACHER_CUE={config.teacher_cue} is a control: the teacher is not told whether y is correct, "
            "as it is in the method (TEACHER_CUE=verdict)"
        )
    if config.kl_clip or config.loss_on != "all" or config.reward_weight or config.srt_replay:
        print(
            f"note: KL_CLIP={config.kl_clip:g} LOSS_ON={config.loss_on} REWARD_WEIGHT={config.reward_weight:g} "
            f"SRT_REPLAY={config.srt_replay:g} is not the loss of the paper's equation (the KL alone, on all "
            "responses)"
        )


def _check_off_policy(config: DistillConfig) -> None:
    """OVER_ISSUE and ROLLOUT_AHEAD train on tokens of earlier weights."""
    knobs = [f"OVER_ISSUE={config.over_issue:g}"] * bool(config.over_issue)
    knobs += ["ROLLOUT_AHEAD=1"] * config.rollout_ahead
    if len(knobs) > 1:
        raise UserError(
            f"{' and '.join(knobs)}: with one of them the sampler has work while the longest responses end, and "
            "both together were not built; set one of the two"
        )
    if knobs and config.reward_weight:
        raise UserError(
            f"{knobs[0]} trains on tokens of earlier weights, which the REINFORCE loss of "
            f"REWARD_WEIGHT={config.reward_weight:g} must not do (the KL may); set one of the two"
        )


def check_warmup(config: DistillConfig, total_updates: int) -> None:
    """Raises UserError for a warm-up that the run ends in; a short trial with the default only gets a warning."""
    if config.warmup_steps < total_updates:
        return
    sentence = (
        f"WARMUP_STEPS={config.warmup_steps}: the whole run has {total_updates} updates, so that LR={config.lr:g} "
        "is never reached"
    )
    if str(config.warmup_steps) != default_of("distill", "warmup_steps"):
        raise UserError(f"{sentence}; set a lower WARMUP_STEPS")
    print(f"warning: {sentence}")


def _check_teacher_sync(config: DistillConfig) -> None:
    """Each way to synchronize has its own knob, and `plateau` compares revise accuracies."""
    for way in ("steps", "epochs"):
        period = getattr(config, f"teacher_sync_{way}")
        if period and config.teacher_sync != way:
            raise UserError(
                f"TEACHER_SYNC_{way.upper()}={period} has no effect with TEACHER_SYNC={config.teacher_sync}; set "
                f"TEACHER_SYNC={way}, or leave TEACHER_SYNC_{way.upper()} unset"
            )
        if not period and config.teacher_sync == way:
            raise UserError(
                f"TEACHER_SYNC={way}: TEACHER_SYNC_{way.upper()} must say how many {way} lie in between"
            )
    if config.teacher_sync != "plateau":
        return
    if not (config.val_period and config.val_revise):
        raise UserError(
            "TEACHER_SYNC=plateau compares how student and teacher revise, which validation measures: it needs "
            f"VAL_PERIOD above 0 (it is {config.val_period}) and VAL_REVISE=1 (it is {int(config.val_revise)})"
        )
    if config.teacher_model not in (None, config.student_model):
        raise UserError(
            f"TEACHER_SYNC=plateau: validation measures how the student revises, not TEACHER_MODEL="
            f"{config.teacher_model}, which must therefore be STUDENT_MODEL or unset"
        )


def kl_config(config: DistillConfig) -> "KLConfig":
    """The divergence that KL_TYPE and its companions describe."""
    from opsd.kl import KLConfig

    return KLConfig(
        kind=cast("Kind", config.kl_type),  # one of its choices
        mixed_weight=config.mixed_kl_weight,
        jsd_beta=config.jsd_beta,
        temperature=config.kl_temperature,
        topk=config.topk,
        single_pass=config.kl_single_pass,
        clip=config.kl_clip or None,
    )


def optimizer_config(config: DistillConfig, total_updates: int) -> "OptimizerConfig":
    """How the student's weights are updated, whatever the engine."""
    from srt.common.optimizer import OptimizerConfig

    return OptimizerConfig(
        lr=config.lr,
        schedule=config.lr_schedule,
        warmup_updates=config.warmup_steps,
        total_updates=total_updates,
        beta1=config.adam_beta1,
        beta2=config.adam_beta2,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        warmup_start=config.warmup_start,
    )
