"""Weights of a model in memory under the names, and in the layout, of its checkpoint.

They differ: transformers fuses the experts of a layer into one tensor, for example. vLLM reads checkpoints.
"""

import itertools
import re
from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor
from transformers.core_model_loading import revert_weight_conversion

LAYER = re.compile(r"(.*?\.\d+)\.")  # model.layers.7.mlp.experts.down_proj -> model.layers.7


def as_in_checkpoint(model: Any, weights: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """The weights that `save_pretrained` would write, in views of the given ones where possible.

    weights: named as in `model`, layer by layer; what belongs to one layer is converted together.
    """
    for _, group in itertools.groupby(weights, key=lambda item: _layer(item[0])):
        yield from revert_weight_conversion(model, {name: weight.detach() for name, weight in group}).items()


def saved_tensors(model: Any) -> Iterator[tuple[str, Tensor]]:
    """What a checkpoint of the model holds, under the names in memory: parameters, tied ones once, and buffers
    (the correction bias of DeepSeek's router, for example)."""
    seen: set[int] = set()
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            yield name, tensor


def changed_names(model: Any) -> list[str]:
    """Weights of the model that its checkpoint holds under another name or in another layout."""
    names = [name for name, _ in saved_tensors(model)]
    saved = {name for name, _ in as_in_checkpoint(model, saved_tensors(model))}
    return [name for name in names if name not in saved]


def _layer(name: str) -> str:
    match = LAYER.match(name)
    return match.group(1) if match else ""
