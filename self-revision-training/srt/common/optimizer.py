"""AdamW, learning-rate schedule and clipping of all training, in the form that each training backend wants.

The only place where these settings are built: SFT (transformers' Trainer), Phase 2's local engine, and NeMo-RL's
DTensor and Megatron workers get their numbers here, so that a knob means the same in all of them:

- weight decay is decoupled (AdamW) and acts on matrices, embeddings included, and not on vectors (norms, biases);
- the learning rate follows srt/common/lr_schedule.py: every update has a positive one;
- the norm that is clipped is the one of the whole gradient, over all parameters and processes.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from srt.common.lr_schedule import first_factor, lr_factor

ADAM_EPS = 1e-8
# Megatron's names of the schedules: the same curves.
MEGATRON_DECAY = {"linear": "linear", "cosine": "cosine", "constant_with_warmup": "constant"}


class AdamW(torch.optim.AdamW):
    """torch's, which decays matrices only. NeMo-RL's DTensor worker finds it by its name."""

    def __init__(self, params: Iterable[nn.Parameter], *, weight_decay: float, **settings: Any):
        parameters = list(params)
        groups = (
            {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
            {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
        )
        super().__init__([group for group in groups if group["params"]], weight_decay=weight_decay, **settings)


class WarmupSchedule(LambdaLR):
    """The schedule as a class, the form in which NeMo-RL's configuration names one."""

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        kind: str,
        warmup_updates: int,
        total_updates: int,
        warmup_start: float | None = None,
    ):
        super().__init__(optimizer, lr_factor(kind, warmup_updates, total_updates, warmup_start))


@dataclass(frozen=True)
class OptimizerConfig:
    """How weights are updated.

    lr: the peak learning rate. schedule: one of lr_schedule.KINDS, over `total_updates`, of which the first
    `warmup_updates` rise to the peak, from its share `warmup_start` if there is one. beta1, beta2: decay of Adam's
    moments. max_grad_norm: the gradient is scaled down to this norm where it exceeds it; 0: never.
    """

    lr: float
    schedule: str
    warmup_updates: int
    total_updates: int
    beta1: float
    beta2: float
    weight_decay: float
    max_grad_norm: float
    warmup_start: float | None = None

    # torch: the local engine ----------------------------------------------------------------------------

    def adamw(self, parameters: Iterable[nn.Parameter], fused: bool) -> AdamW:
        return AdamW(parameters, **self._adamw_settings(), fused=fused)

    def lr_scheduler(self, optimizer: torch.optim.Optimizer) -> LambdaLR:
        return WarmupSchedule(optimizer, **self._schedule_settings())

    def clip(self, parameters: Iterable[nn.Parameter]) -> float:
        """Scales the gradients down where their norm exceeds max_grad_norm; the norm before that."""
        return float(nn.utils.clip_grad_norm_(parameters, self.max_grad_norm or torch.inf))

    def _adamw_settings(self) -> dict[str, Any]:
        return {
            "lr": self.lr,
            "betas": (self.beta1, self.beta2),
            "eps": ADAM_EPS,
            "weight_decay": self.weight_decay,
        }

    def _schedule_settings(self) -> dict[str, Any]:
        return {
            "kind": self.schedule,
            "warmup_updates": self.warmup_updates,
            "total_updates": self.total_updates,
            "warmup_start": self.warmup_start,
        }

    # Other people's trainers ----------------------------------------------------------------------------

    def trainer_arguments(self) -> dict[str, Any]:
        """For transformers' TrainingArguments; PackedSFTTrainer replaces the Trainer's schedule by ours."""
        return {
            "learning_rate": self.lr,
            "lr_scheduler_type": self.schedule,
            "warmup_steps": self.warmup_updates,
            "weight_decay": self.weight_decay,
            "adam_beta1": self.beta1,
            "adam_beta2": self.beta2,
            "adam_epsilon": ADAM_EPS,
            "max_grad_norm": self.max_grad_norm,
        }

    def dtensor_sections(self) -> dict[str, Any]:
        """Of NeMo-RL's `policy`, for its DTensor worker."""
        settings = self._adamw_settings()
        return {
            "max_grad_norm": self.max_grad_norm or None,
            "optimizer": {
                "name": f"{AdamW.__module__}.{AdamW.__name__}",
                "kwargs": settings
                | {
                    "betas": list(settings["betas"]),
                    # One parameter at a time: a tensor-parallel model's parameters live on different meshes.
                    "foreach": False,
                    "fused": False,
                },
            },
            "scheduler": {
                "name": f"{WarmupSchedule.__module__}.{WarmupSchedule.__name__}",
                "kwargs": self._schedule_settings(),
            },
        }

    def megatron_sections(self) -> dict[str, Any]:
        """Of NeMo-RL's `policy.megatron_cfg`: what concerns the update; precision and sharding are added there.

        Megatron decays matrices only by itself.
        """
        return {
            "optimizer": {
                "optimizer": "adam",  # AdamW: its decoupled_weight_decay is on
                "lr": self.lr,
                "min_lr": 0.0,
                "weight_decay": self.weight_decay,
                "adam_beta1": self.beta1,
                "adam_beta2": self.beta2,
                "adam_eps": ADAM_EPS,
                "clip_grad": self.max_grad_norm,  # 0: not clipped
            },
            "scheduler": {
                "start_weight_decay": self.weight_decay,
                "end_weight_decay": self.weight_decay,
                "weight_decay_incr_style": "constant",
                "lr_decay_style": MEGATRON_DECAY[self.schedule],
                # Megatron requires the end to come after the warm-up, which a short run does not reach.
                "lr_decay_iters": max(self.total_updates, self.warmup_updates + 1),
                "lr_warmup_iters": self.warmup_updates,
                "lr_warmup_init": self.lr * first_factor(self.warmup_updates, self.warmup_start),
            },
        }
