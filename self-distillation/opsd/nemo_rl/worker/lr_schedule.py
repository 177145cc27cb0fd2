"""The schedules of LR_SCHEDULE as a class, the form in which NeMo-RL's configuration names one."""

import torch
from torch.optim.lr_scheduler import LambdaLR

from srt.common.lr_schedule import lr_factor


class WarmupSchedule(LambdaLR):
    """The same learning rates as in the local engine."""

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        kind: str,
        warmup_steps: int,
        total_steps: int,
        warmup_start: float | None,
    ):
        super().__init__(optimizer, lr_factor(kind, warmup_steps, total_steps, warmup_start))
