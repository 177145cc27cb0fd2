"""Low-rank adapters, of which both phases train the same kind."""

from typing import Any


def lora_config(rank: int, alpha: float) -> Any:
    """PEFT's configuration: adapters on all linear layers except lm_head, which add alpha / rank * B A to them."""
    from peft import LoraConfig  # takes seconds to import

    return LoraConfig(
        r=rank,
        lora_alpha=alpha,  # pyright: ignore[reportArgumentType] - declared as int; any number works
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
