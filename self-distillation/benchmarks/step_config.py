"""The config that all benchmarks of a step have in common."""

from typing import Any

from opsd.config import RunConfig
from srt.config import load_config


def step_config(model: str, responses: int, **knobs: Any) -> RunConfig:
    """Steps of `responses`, all of them one update, and nothing beside them. Every other knob has its default."""
    settings = {
        "student_model": model,
        "teacher_model": model,
        "num_prompts_per_step": responses,
        "train_global_batch_size": responses,
        "max_num_epochs": 1000,
        "val_period": 0,
        "warmup_steps": 0,
        "lr_schedule": "constant_with_warmup",
        "report_to": "none",
    } | knobs
    return load_config(RunConfig, "distill", [f"{name}={value}" for name, value in settings.items()])
