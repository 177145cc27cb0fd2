"""Whole weights -> an ordinary Hugging Face folder, as vLLM, evaluate.sh and others load it."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from srt.common.models import load_generation_config, load_model_config, model_without_weights


def save_hf_model(weights: dict[str, Tensor], like: str, dtype: torch.dtype, folder: Path) -> None:
    """`weights`: on the CPU, named as in transformers. `like`: the checkpoint they were trained from.

    The model is constructed from its config again: a sharded model's class has another name, which would end up in
    the folder's config, where vLLM looks it up.
    """
    model: Any = model_without_weights(load_model_config(like), dtype=dtype)
    model.load_state_dict({name: weight.to(dtype) for name, weight in weights.items()}, strict=False, assign=True)
    model.tie_weights()
    missing = [name for name, parameter in model.named_parameters() if parameter.is_meta]
    if missing:
        raise ValueError(f"weights are missing for {', '.join(missing)}")
    if generation_config := load_generation_config(like):
        model.generation_config = generation_config
    model.save_pretrained(folder)
