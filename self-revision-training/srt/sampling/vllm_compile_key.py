"""Lets an engine use what vLLM has compiled for another checkpoint of the same architecture.

vLLM's key of compiled code (ModelConfig.compute_hash, seen in 0.20 and 0.32) contains the model's path, so each
new checkpoint is compiled anew, which is two thirds of an engine's start (docs/records.md). Compiled code gets the
weights as inputs, or an engine could not be given new ones; it depends on the model's config, which stays in the
key.
"""

import copy
from collections.abc import Callable
from typing import Any

CONFIG_FIELDS = ("_name_or_path", "transformers_version")  # where it was loaded from, and by what it was written


class SharedCompiledCode:
    """vLLM's `worker_extension_cls`: every worker imports this module before it loads its model."""


def without_paths(model_config: Any) -> Any:
    """A copy of vLLM's ModelConfig that is the same for all checkpoints with the same config."""
    shared = copy.copy(model_config)
    shared.model = shared.model_weights = ""
    for name, value in vars(model_config).items():
        if hasattr(value, "get_text_config"):  # a config of transformers
            setattr(shared, name, _without_origin(value))
    return shared


def _without_origin(config: Any) -> Any:
    config = copy.deepcopy(config)
    for part in (config, config.get_text_config()):
        for name in CONFIG_FIELDS:
            if hasattr(part, name):
                setattr(part, name, "")
    return config


def _share_key() -> None:
    from vllm.config import ModelConfig

    original: Callable[[Any], str] = ModelConfig.compute_hash

    def compute_hash(self: Any) -> str:
        return original(without_paths(self))

    ModelConfig.compute_hash = compute_hash


_share_key()
