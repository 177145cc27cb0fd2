"""One policy samples, scores and is trained: whatever a model does only while it is trained is off."""

from typing import Any

import torch
from torch import nn

from opsd.hidden_states import autocast, autocast_dtype
from srt.common.errors import UserError


def policy_mode(model: nn.Module) -> None:
    """Evaluation mode, in which experts are chosen without noise, too; with gradients as in training.

    Modules with gradient checkpointing, which works in training mode only, are in that by themselves.
    """
    model.eval()
    for module in model.modules():
        if getattr(module, "gradient_checkpointing", False):
            module.training = True


@torch.no_grad()
def check_deterministic(model: Any, name: str) -> None:
    """Raises UserError when the model computes something else in `policy_mode` than in evaluation mode, where it
    samples; leaves it in `policy_mode`."""
    ids = probe_ids(model)
    logits = []
    for set_mode in (nn.Module.eval, policy_mode):
        set_mode(model)
        logits.append(probe_logits(model, ids).float())
    error = (logits[0] - logits[1]).abs().max() / logits[0].abs().max().clamp(min=1e-6)
    if not error < 0.02:
        raise UserError(
            f"{name}: in training mode its logits differ from those in evaluation mode (by {error:.0%} of the "
            "largest one), so that it would not be trained as it samples; GRADIENT_CHECKPOINTING=0 may avoid that"
        )


def probe_ids(model: Any) -> torch.Tensor:
    """A few tokens to try a model on: (1, 16)."""
    vocab = model.get_output_embeddings().weight.shape[0]
    return (torch.arange(1, 17, device=model.device) % vocab)[None]


def probe_logits(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """The model's logits (1, L, V), in the precision in which it is trained."""
    with autocast(model.device, autocast_dtype(model.device)):
        return model(input_ids=ids, use_cache=False).logits
