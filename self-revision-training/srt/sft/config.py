"""The configuration of SFT. configs/sft.yaml documents every knob and holds the defaults."""

from dataclasses import dataclass

from srt.config import option, seed_option
from srt.config_groups import AdamConfig, LoraConfig, PlanConfig, RecipeConfig, RemoteCodeConfig


@dataclass(frozen=True)
class SftConfig(RecipeConfig, AdamConfig, LoraConfig, RemoteCodeConfig, PlanConfig):
    """One field per knob; loaded and validated by srt/config.py."""

    base_model: str = option(path=True)
    mode: str = option(choices=("math", "code"))
    data_prefix: str | None = option()
    train_data_dir: str | None = option(path=True)
    output_dir: str | None = option(path=True)
    control_phrases: str | None = option(path=True)
    srt_objective: str = option(choices=("two_stage", "joint"))
    epochs_stage1: float = option(ge=0.001, le=1000)
    epochs_stage2: float = option(ge=0.001, le=1000)
    lr_stage1: float = option(gt=0, le=1)
    lr_stage2: float = option(gt=0, le=1)
    tuples_per_update: int = option(ge=1)
    gradient_accumulation: int | None = option(ge=1)
    batch_size_per_device: int = option(ge=1)
    packing: str = option(choices=("auto", "0", "1"))
    max_tokens_per_pass: int = option(ge=1)
    lr_schedule: str = option(choices=("cosine", "linear", "constant_with_warmup"))
    warmup_ratio: float = option(ge=0, le=0.999)
    max_length: int = option(ge=2)
    gradient_checkpointing: bool = option()
    check_memory: bool = option()
    seed: int = seed_option()
    val_fraction: float = option(ge=0, le=0.9)
    val_steps: int = option(ge=1)
    num_processes: int | None = option(ge=1)
    master_port: int | None = option(ge=1, le=65535)
    save_steps: int = option(ge=1)
    logging_steps: int = option(ge=1)
    report_to: str = option(choices=("tensorboard", "wandb", "trackio", "none"))


# Knobs that change neither the trained weights nor the logs of a finished stage.
NOT_IDENTITY = (
    "recipe",
    "mode",
    "trust_remote_code",
    "output_dir",
    "train_data_dir",
    "num_processes",
    "master_port",
    "packing",
    "max_tokens_per_pass",
    "gradient_checkpointing",
    "check_memory",
    "plan_for",
    "save_steps",
    "logging_steps",
    "report_to",
)
