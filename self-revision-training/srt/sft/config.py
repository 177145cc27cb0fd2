"""The knobs of configs/sft.yaml, where their meanings and defaults stand."""

from dataclasses import dataclass

from srt.config import knob


@dataclass
class SftKnobs:
    """Typed and checked by srt/config.py."""

    base_model: str = knob()
    mode: str = knob(choices=("math", "code"))
    data_prefix: str | None = knob()
    train_data_dir: str | None = knob()
    output_dir: str | None = knob()
    control_phrases: str | None = knob()
    srt_objective: str = knob(choices=("two_stage", "joint"))
    epochs_stage1: float = knob(least=0.001)
    epochs_stage2: float = knob(least=0.001)
    lr_stage1: float = knob(least=0)
    lr_stage2: float = knob(least=0)
    batch_size_per_device: int = knob(least=1)
    gradient_accumulation: int = knob(least=1)
    tuples_per_update: int | None = knob(least=1)
    packing: str = knob(choices=("auto", "0", "1"))
    max_tokens_per_pass: int = knob(least=1)
    lr_schedule: str = knob(choices=("cosine", "linear", "constant_with_warmup"))
    warmup_ratio: float = knob(least=0, most=0.999)
    weight_decay: float = knob(least=0)
    adam_beta1: float = knob(least=0, most=0.99999)
    adam_beta2: float = knob(least=0, most=0.99999)
    max_grad_norm: float = knob(least=0)
    lora_rank: int = knob(least=0)
    lora_alpha: float = knob(least=0)
    max_length: int = knob(least=2)
    gradient_checkpointing: bool = knob()
    seed: int = knob()
    val_fraction: float = knob(least=0, most=0.9)
    val_steps: int = knob(least=1)
    num_processes: int | None = knob(least=1)
    master_port: int | None = knob(least=1, most=65535)
    save_steps: int = knob(least=1)
    logging_steps: int = knob(least=1)
    report_to: str = knob(choices=("tensorboard", "wandb", "trackio", "none"))


# What decides neither which weights come out nor what is in the logs of a finished stage.
NOT_IDENTITY = (
    "mode",
    "output_dir",
    "train_data_dir",
    "num_processes",
    "master_port",
    "packing",
    "max_tokens_per_pass",
    "gradient_checkpointing",
    "save_steps",
    "logging_steps",
    "report_to",
)
