"""The knobs of Phase 2 and what follows from them, the same for every engine."""

from dataclasses import asdict, dataclass
from typing import Any

from opsd.kl import KLOptions
from srt.common.errors import UserError
from srt.config import knob


@dataclass
class DistillKnobs:
    """The knobs of configs/distill.yaml, where their meanings and defaults stand."""

    engine: str = knob(choices=("auto", "local", "nemo-rl"))
    mode: str = knob(choices=("math", "code"))
    student_model: str | None = knob()
    teacher_model: str | None = knob()
    train_dataset: str | None = knob()
    train_subset: str | None = knob()
    train_split: str = knob()
    val_dataset: str = knob()
    val_split: str = knob()
    val_period: int = knob(least=0)
    val_num_samples: int = knob(least=1)
    val_revise: bool = knob()
    stop_on_collapse: float = knob(least=0, most=1)
    control_phrases: str | None = knob()
    system_prompt: str | None = knob()
    prompt_suffix: str | None = knob()
    chat_template_kwargs: str | None = knob()
    kl_type: str = knob(choices=("reverse", "forward", "mixed", "jsd"))
    mixed_kl_weight: float = knob(least=0, most=1)
    jsd_beta: float = knob(least=0.001, most=0.999)
    kl_temperature: float = knob(least=0.001)
    topk: int = knob(least=0)
    kl_grad_eps: float = knob(least=0, most=0.01)
    include_truncated: bool = knob()
    max_teacher_tokens: int = knob(least=8)
    teacher_sync_steps: int = knob(least=0)
    teacher_sync_epochs: int = knob(least=0)
    num_prompts_per_step: int = knob(least=1)
    max_total_sequence_length: int = knob(least=2)
    temperature: float = knob(least=0)
    top_p: float = knob(least=1e-6, most=1)
    sampler: str = knob(choices=("auto", "vllm", "transformers"))
    sampler_batch: int = knob(least=1)
    gpu_memory_utilization: float = knob(least=0.01, most=1)
    grading_workers: int = knob(least=1)
    grading_time_limit: float = knob(least=0.1)
    code_sandbox: str = knob(choices=("bwrap", "rlimits"))
    code_time_limit: float = knob(least=0.1)
    code_memory_limit: float = knob(least=16)
    code_time_factor: float = knob(least=0.1)
    train_global_batch_size: int = knob(least=1)
    tokens_per_micro_batch: int = knob(least=1)
    max_num_steps: int = knob(least=1)
    max_num_epochs: int = knob(least=1)
    lr: float = knob(least=0)
    lr_schedule: str = knob(choices=("linear", "cosine", "constant_with_warmup"))
    warmup_steps: int = knob(least=0)
    weight_decay: float = knob(least=0)
    adam_beta1: float = knob(least=0, most=0.99999)
    adam_beta2: float = knob(least=0, most=0.99999)
    max_grad_norm: float = knob(least=0)
    gradient_checkpointing: bool = knob()
    seed: int = knob()
    lora_rank: int = knob(least=0)
    lora_alpha: float = knob(least=0)
    save_period: int = knob(least=1)
    keep_checkpoints: int = knob(least=1)
    log_samples_period: int = knob(least=1)
    report_to: str = knob(choices=("tensorboard", "none"))
    output_dir: str | None = knob()
    trainer_backend: str = knob(choices=("dtensor", "megatron"))
    num_nodes: int = knob(least=1)
    gpus_per_node: int | None = knob(least=1)
    tensor_parallel_size: int | None = knob(least=1)
    sampler_tensor_parallel_size: int | None = knob(least=1)
    enforce_eager: bool = knob()
    worker_logs: bool = knob()


# Where an output goes, and how often things are logged, does not change what a run is.
NOT_IDENTITY = (
    "output_dir", "report_to", "log_samples_period", "save_period", "keep_checkpoints", "grading_workers",
    "grading_time_limit", "code_sandbox", "sampler", "sampler_batch", "gpu_memory_utilization",
    "tokens_per_micro_batch", "gradient_checkpointing", "num_nodes", "gpus_per_node", "tensor_parallel_size",
    "sampler_tensor_parallel_size", "enforce_eager", "worker_logs",
)  # fmt: skip
# Nor does validation, unless it decides when to stop.
VALIDATION_KNOBS = ("val_dataset", "val_split", "val_period", "val_num_samples", "val_revise")


def identity(knobs: DistillKnobs) -> dict[str, Any]:
    """The knobs that decide what comes out of a run: it can only be continued with the same ones."""
    free = NOT_IDENTITY if knobs.stop_on_collapse else NOT_IDENTITY + VALIDATION_KNOBS
    return {name: value for name, value in asdict(knobs).items() if name not in free}


def check(knobs: DistillKnobs) -> None:
    """Raises UserError for combinations that make no sense."""
    if knobs.num_prompts_per_step % knobs.train_global_batch_size:
        raise UserError(
            f"TRAIN_GLOBAL_BATCH_SIZE={knobs.train_global_batch_size} does not divide "
            f"NUM_PROMPTS_PER_STEP={knobs.num_prompts_per_step}: the responses of a step are split into whole "
            "updates"
        )
    if knobs.teacher_sync_steps and knobs.teacher_sync_epochs:
        raise UserError(
            f"TEACHER_SYNC_STEPS={knobs.teacher_sync_steps} and "
            f"TEACHER_SYNC_EPOCHS={knobs.teacher_sync_epochs} are both set; one says when the teacher is renewed"
        )
    if knobs.stop_on_collapse and not knobs.val_period:
        raise UserError(
            f"STOP_ON_COLLAPSE={knobs.stop_on_collapse} compares validations, and VAL_PERIOD=0 makes none"
        )
    if knobs.lora_rank and knobs.teacher_model not in (None, knobs.student_model):
        raise UserError(
            f"LORA_RANK={knobs.lora_rank}: the teacher is then the student without its adapter, so "
            f"TEACHER_MODEL={knobs.teacher_model} cannot be another model than STUDENT_MODEL"
        )
    if knobs.kl_type != "reverse" or knobs.topk or knobs.kl_temperature != 1:
        print(
            f"note: KL_TYPE={knobs.kl_type} TOPK={knobs.topk} KL_TEMPERATURE={knobs.kl_temperature} is not the "
            "paper's loss (reverse, exact, temperature 1)"
        )


def kl_options(knobs: DistillKnobs) -> KLOptions:
    return KLOptions(
        kind=knobs.kl_type,
        mixed_weight=knobs.mixed_kl_weight,
        jsd_beta=knobs.jsd_beta,
        temperature=knobs.kl_temperature,
        topk=knobs.topk,
    )
