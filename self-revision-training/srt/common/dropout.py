"""Training without dropout: one deterministic policy samples, scores and is trained."""

from typing import Any

from torch import nn

DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)


def turn_off_dropout(model: nn.Module, in_config: bool = False) -> None:
    """Set every rate of dropout and of noise to 0; the config keeps its own, since it is exported with the model.

    `in_config`: in the config, too, which some families (Falcon) read while they run; for a model that is not
    exported.

    The policy that samples, scores and is trained must be one and the same: with dropout, the log-probs in
    training differ from the sampler's, and a run cannot be repeated. (`eval()` is not an alternative: gradient
    checkpointing works in training mode only.)
    """
    for module in model.modules():
        if isinstance(module, DROPOUTS):
            module.p = 0.0
        _zero_rates(module)
    config: Any = getattr(model, "config", None)
    if in_config and config is not None:
        _zero_rates(config)
        _zero_rates(config.get_text_config())


def _zero_rates(holder: Any) -> None:
    for name, value in list(vars(holder).items()):
        if ("drop" in name or "jitter" in name) and isinstance(value, float):
            setattr(holder, name, 0.0)
