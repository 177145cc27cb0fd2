"""The learning-rate schedules of LR_SCHEDULE as a class, the form in which NeMo-RL's configuration names one."""

import torch
from torch.optim.lr_scheduler import LambdaLR
from transformers import get_scheduler


class WarmupSchedule(LambdaLR):
    """transformers' schedule `kind` (linear, cosine, constant_with_warmup), the same as in the local engine."""

    def __init__(self, optimizer: torch.optim.Optimizer, kind: str, warmup_steps: int, total_steps: int):
        stand_in = torch.optim.SGD([torch.zeros(1)], lr=1.0)  # only the shape of its schedule is used
        schedule = get_scheduler(kind, stand_in, warmup_steps, total_steps)
        assert isinstance(schedule, LambdaLR)
        super().__init__(optimizer, schedule.lr_lambdas[0])
