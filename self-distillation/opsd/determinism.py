"""One policy samples, scores and is trained: whatever a model does only while it is trained is off."""

import copy
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig

from opsd.hidden_states import autocast, autocast_dtype
from srt.common.errors import UserError

DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)


def turn_off_dropout(model: Any) -> None:
    """Set every dropout rate to 0: of modules, in their attributes, and in the configs that they read while they
    run. The model's own config, which is exported with it, keeps its rates.

    With dropout, the log-probs in training differ from the sampler's, and a run cannot be repeated.
    """
    quiet: dict[int, PreTrainedConfig] = {}  # by the id of the config that it replaces
    for module in model.modules():
        if isinstance(module, DROPOUTS):
            module.p = 0.0
        _zero_rates(module)
        config = getattr(module, "config", None)
        if module is not model and isinstance(config, PreTrainedConfig):
            module.config = quiet.setdefault(id(config), _without_dropout(config))


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


def _without_dropout(config: PreTrainedConfig) -> PreTrainedConfig:
    config = copy.deepcopy(config)
    _zero_rates(config)
    return config


def _zero_rates(holder: Any) -> None:
    """`dropout`, `attn_pdrop`, `hidden_dropout_prob`, `layerdrop`, ..."""
    for name, value in list(vars(holder).items()):
        if "drop" in name and isinstance(value, float):
            setattr(holder, name, 0.0)
