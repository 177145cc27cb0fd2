"""Continuing with MEGATRON_LAYERS=local: what Megatron's distributed optimizer expects of an Adam that is torch's.

It reads a checkpoint into moments that are there, which torch's Adam makes in its first step. The count of steps
it reads for each group of parameters, where torch's Adam does not look for it.
"""

from typing import Any

import torch
from nemo_rl.models.megatron import setup


def make_moments_for_loading() -> None:
    """From now on NeMo-RL gets an optimizer whose moments exist, as zeros, before a checkpoint is read."""
    made = setup.setup_optimizer

    def with_moments(*args: Any, **kwargs: Any) -> Any:
        optimizer, scheduler = made(*args, **kwargs)
        for adam in _adams(optimizer):
            for group in adam.param_groups:
                for parameter in group["params"]:
                    adam.state[parameter] = {
                        "step": torch.zeros(()),
                        "exp_avg": torch.zeros_like(parameter),
                        "exp_avg_sq": torch.zeros_like(parameter),
                    }
        setup.setup_optimizer = made
        return optimizer, scheduler

    setup.setup_optimizer = with_moments


def restore_counts(optimizer: Any) -> None:
    """After a checkpoint was read: each parameter's own count of steps, which Megatron leaves with its group."""
    for adam in _adams(optimizer):
        for group in adam.param_groups:
            count = group.pop("step", None)
            for parameter in group["params"]:
                if count is not None and parameter in adam.state:
                    adam.state[parameter]["step"] = torch.tensor(float(count))


def _adams(optimizer: Any) -> list[torch.optim.Optimizer]:
    """torch's, within Megatron's optimizer."""
    inner = [part.optimizer for part in optimizer.chained_optimizers]
    return [part for part in inner if isinstance(part, torch.optim.Adam)]
