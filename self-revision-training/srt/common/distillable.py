"""What Phase 2 cannot train, by the model's config: known here so that Phase 1 can say it before it starts."""

from typing import Any

from srt.common.models import load_model_config


def why_not_distillable(config: Any) -> str | None:
    """None, or what in a model's config Phase 2 does not support: tokens that look ahead."""
    if getattr(config.get_text_config(), "use_bidirectional_attention", None) in (True, "all"):
        return "its config sets use_bidirectional_attention; only causal models are supported"
    return None


def warn_before_phase1(model_path: str) -> None:
    """Print a line for a base that can be used in Phase 1 and not in Phase 2."""
    if reason := why_not_distillable(load_model_config(model_path)):
        print(f"warning: Phase 2 (distill.sh) will refuse {model_path}: {reason}. Phase 1 can train it")
