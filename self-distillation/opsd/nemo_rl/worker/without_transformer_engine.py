"""What imports Transformer Engine on the way to NeMo-RL's Megatron worker and is not used: Megatron-Bridge's LoRA.

To be imported before anything of Megatron-Bridge; does nothing where Transformer Engine is installed.
"""

import sys
import types
from typing import Any

from opsd.select_engine import why_no_transformer_engine

LORA = ("megatron.bridge.peft.lora_layers", "megatron.bridge.peft.lora")


class WithoutTransformerEngine(types.ModuleType):
    """Has a class of every name, which others inherit from or compare with."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        made = type(name, (), {})
        setattr(self, name, made)
        return made


if why_no_transformer_engine():
    for name in LORA:
        sys.modules.setdefault(name, WithoutTransformerEngine(name))
