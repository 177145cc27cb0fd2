"""Training without dropout: one deterministic policy samples, scores and is trained."""

from torch import nn

DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)


def turn_off_dropout(model: nn.Module) -> None:
    """Set every rate of dropout and of noise to 0; the config, which is exported with the model, keeps its own.

    The policy that samples, scores and is trained must be one and the same: with dropout, the log-probs in
    training differ from the sampler's, and a run cannot be repeated. (`eval()` is not an alternative: gradient
    checkpointing works in training mode only.)
    """
    for module in model.modules():
        if isinstance(module, DROPOUTS):
            module.p = 0.0
        for name, value in list(vars(module).items()):
            if ("drop" in name or "jitter" in name) and isinstance(value, float):
                setattr(module, name, 0.0)
