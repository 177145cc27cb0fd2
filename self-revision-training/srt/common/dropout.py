"""Training without dropout: one deterministic policy samples, scores and is trained."""

import copy
from typing import Any

from torch import nn
from transformers import PreTrainedConfig

DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)


def turn_off_dropout(model: Any, sft: bool = False) -> None:
    """Set every rate of dropout to 0: of modules, in their attributes, and in the configs that some (Falcon's)
    read while they run.

    The model's own config, which is exported with it, keeps its rates; its modules then get a config of their own,
    which `set_attn_implementation` no longer changes. `sft`: for a model that is not exported, and that is trained
    in training mode: its config itself is changed, and routers of experts are without noise, too. (Phase 2 trains
    in evaluation mode, where PhiMoE's routing still depends on the rate of that noise.)

    The policy that samples, scores and is trained must be one and the same: with dropout, the log-probs in
    training differ from the sampler's, and a run cannot be repeated. (`eval()` alone is not an alternative:
    gradient checkpointing works in training mode only.)
    """
    words = ("drop", "jitter") if sft else ("drop",)
    quiet: dict[int, PreTrainedConfig] = {}  # by the id of the config that it replaces
    for module in model.modules():
        if isinstance(module, DROPOUTS):
            module.p = 0.0
        _zero_rates(module, words)
        config = getattr(module, "config", None)
        if not isinstance(config, PreTrainedConfig):
            continue
        if sft:
            _zero_rates(config, words)
        elif module is not model and any(_rates(config, words).values()):
            if id(config) not in quiet:
                quiet[id(config)] = copy.deepcopy(config)
                _zero_rates(quiet[id(config)], words)
            module.config = quiet[id(config)]  # pyright: ignore[reportArgumentType] - not a parameter


def _rates(holder: Any, words: tuple[str, ...]) -> dict[str, float]:
    """`dropout`, `attn_pdrop`, `hidden_dropout_prob`, `layerdrop`, `router_jitter_noise`, ..."""
    return {
        name: value
        for name, value in vars(holder).items()
        if any(word in name for word in words) and isinstance(value, float)
    }


def _zero_rates(holder: Any, words: tuple[str, ...]) -> None:
    for name in _rates(holder, words):
        setattr(holder, name, 0.0)
