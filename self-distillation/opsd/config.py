"""The configuration of Phase 2 (configs/distill.yaml) and what follows from it, the same for every engine."""

from dataclasses import asdict, dataclass
from typing import Any, cast

from opsd.kl import KLConfig
from opsd.kl.divergences import Kind
from srt.common.errors import UserError
from srt.common.optimizer import OptimizerConfig
from srt.config import option
from srt.config_groups import (
    AdamConfig,
    GradingConfig,
    LoraConfig,
    ProblemFilterConfig,
    PromptConfig,
    RecipeConfig,
    RemoteCodeConfig,
    SamplerConfig,
)


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
):
    """configs/distill.yaml has the meaning and default of every field."""

    engine: str = option(choices=("auto", "local", "nemo-rl"))
    student_model: str | None = option()
    teacher_model: str | None = option()
    train_dataset: str | None = option()
    train_subset: str | None = option()
    train_split: str = option()
    val_dataset: str | None = option()
    val_split: str | None = option()
    val_period: int = option(ge=0)
    val_num_samples: int = option(ge=1)
    val_revise: bool = option()
    stop_on_collapse: float = option(ge=0, le=1)
    kl_type: str = option(choices=("reverse", "forward", "mixed", "jsd"))
    mixed_kl_weight: float = option(ge=0, le=1)
    jsd_beta: float = option(ge=0.001, le=0.999)
    kl_temperature: float = option(ge=0.001)
    topk: int = option(ge=0)
    kl_grad_eps: float = option(ge=0, le=0.01)
    kl_single_pass: bool = option()
    include_truncated: bool = option()
    max_teacher_tokens: int = option(ge=8)
    teacher_sync_steps: int = option(ge=0)
    teacher_sync_epochs: int = option(ge=0)
    num_prompts_per_step: int = option(ge=1)
    max_total_sequence_length: int = option(ge=2)
    train_global_batch_size: int = option(ge=1)
    tokens_per_micro_batch: int = option(ge=1)
    max_num_steps: int = option(ge=1)
    max_num_epochs: int = option(ge=1)
    lr: float = option(ge=0)
    lr_schedule: str = option(choices=("linear", "cosine", "constant_with_warmup"))
    warmup_steps: int = option(ge=0)
    warmup_start: float | None = option(ge=0, le=1)
    gradient_checkpointing: bool = option()
    check_memory: bool = option()
    offload: str = option(choices=("auto", "0", "1"))
    seed: int = option()
    save_period: int = option(ge=1)
    keep_checkpoints: int = option(ge=1)
    log_samples_period: int = option(ge=1)
    report_to: str = option(choices=("tensorboard", "none"))
    output_dir: str | None = option()
    trainer_backend: str = option(choices=("dtensor", "megatron"))
    num_nodes: int = option(ge=1)
    gpus_per_node: int | None = option(ge=1)
    tensor_parallel_size: int | None = option(ge=1)
    sampler_tensor_parallel_size: int | None = option(ge=1)
    enforce_eager: bool = option()
    worker_logs: bool = option()


@dataclass(frozen=True)
class RunConfig(DistillConfig):
    """A DistillConfig with nothing left open: the engine is chosen and both models are named."""

    student_model: str = option()
    teacher_model: str = option()


# What decides where output goes, how often something is logged or how the work is spread, not what comes out.
NOT_IDENTITY = (
    "recipe",
    "output_dir",
    "trust_remote_code",
    "report_to",
    "log_samples_period",
    "save_period",
    "keep_checkpoints",
    "grading_workers",
    "grading_time_limit",
    "code_sandbox",
    "sampler",
    "sampler_batch",
    "gpu_memory_utilization",
    "tokens_per_micro_batch",
    "kl_single_pass",
    "gradient_checkpointing",
    "check_memory",
    "offload",
    "num_nodes",
    "gpus_per_node",
    "tensor_parallel_size",
    "sampler_tensor_parallel_size",
    "enforce_eager",
    "worker_logs",
)
# Validation matters only where it decides when to stop.
VALIDATION_KNOBS = ("val_dataset", "val_split", "val_period", "val_num_samples", "val_revise")


def identity(config: DistillConfig) -> dict[str, Any]:
    """The fields that decide what comes out of a run: it can only be continued with the same ones."""
    excluded = NOT_IDENTITY if config.stop_on_collapse else NOT_IDENTITY + VALIDATION_KNOBS
    return {name: value for name, value in asdict(config).items() if name not in excluded}


def check(config: DistillConfig) -> None:
    """Raises UserError for combinations that contradict each other."""
    if config.num_prompts_per_step % config.train_global_batch_size:
        raise UserError(
            f"TRAIN_GLOBAL_BATCH_SIZE={config.train_global_batch_size} does not divide "
            f"NUM_PROMPTS_PER_STEP={config.num_prompts_per_step}: the responses of a step are split into whole "
            "updates"
        )
    if config.teacher_sync_steps and config.teacher_sync_epochs:
        raise UserError(
            f"TEACHER_SYNC_STEPS={config.teacher_sync_steps} and "
            f"TEACHER_SYNC_EPOCHS={config.teacher_sync_epochs} are both set; choose one of them"
        )
    if config.stop_on_collapse and not config.val_period:
        raise UserError(
            f"STOP_ON_COLLAPSE={config.stop_on_collapse} compares validations, and VAL_PERIOD=0 turns them off"
        )
    if config.lora_rank and config.teacher_model not in (None, config.student_model):
        raise UserError(
            f"LORA_RANK={config.lora_rank}: the teacher is then the student without its adapter, so "
            f"TEACHER_MODEL={config.teacher_model} must be STUDENT_MODEL or unset"
        )
    if config.kl_type != "reverse" or config.topk or config.kl_temperature != 1:
        print(
            f"note: KL_TYPE={config.kl_type} TOPK={config.topk} KL_TEMPERATURE={config.kl_temperature} is not the "
            "loss of the paper's equation (reverse, exact, temperature 1)"
        )


def kl_config(config: DistillConfig) -> KLConfig:
    """The divergence that KL_TYPE and its companions describe."""
    return KLConfig(
        kind=cast(Kind, config.kl_type),  # one of its choices
        mixed_weight=config.mixed_kl_weight,
        jsd_beta=config.jsd_beta,
        temperature=config.kl_temperature,
        topk=config.topk,
        single_pass=config.kl_single_pass,
    )


def optimizer_config(config: DistillConfig, total_updates: int) -> OptimizerConfig:
    """How the student's weights are updated, whatever the engine."""
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
