"""Training without dropout: one deterministic policy samples, scores and is trained."""

import copy
from typing import Any

from torch import nn
from transformers import PreTrainedConfig

DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)


def turn_off_dropout(model: nn.Module, in_config: bool = False) -> None:
    """Set every rate of dropout and of noise to 0: of modules, in their attributes, and in the configs that some
    (Falcon's) read while they run.

    The model's own config, which is exported with it, keeps its rates; its modules then get a config of their own,
    which `set_attn_implementation` no longer changes. `in_config`: change that config itself, for a model that is
    not exported.

    The policy that samples, scores and is trained must be one and the same: with dropout, the log-probs in
    training differ from the sampler's, and a run cannot be repeated. (`eval()` alone is not an alternative:
    gradient checkpointing works in training mode only.)
    """
    quiet: dict[int, PreTrainedConfig] = {}  # by the id of the config that it replaces
    for module in model.modules():
        if isinstance(module, DROPOUTS):
            module.p = 0.0
        _zero_rates(module)
        config = getattr(module, "config", None)
        if not isinstance(config, PreTrainedConfig):
            continue
        if in_config:
            _zero_rates(config)
        elif module is not model and any(_rates(config).values()):
            module.config = quiet.setdefault(id(config), _without_dropout(config))


def _rates(holder: Any) -> dict[str, float]:
    """`dropout`, `attn_pdrop`, `hidden_dropout_prob`, `layerdrop`, `router_jitter_noise`, ..."""
    return {
        name: value
        for name, value in vars(holder).items()
        if ("drop" in name or "jitter" in name) and isinstance(value, float)
    }


def _zero_rates(holder: Any) -> None:
    for name in _rates(holder):
        setattr(holder, name, 0.0)


def _without_dropout(config: PreTrainedConfig) -> PreTrainedConfig:
    config = copy.deepcopy(config)
    _zero_rates(config)
    return config
