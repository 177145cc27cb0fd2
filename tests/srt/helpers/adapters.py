"""Adapters by their effect: which weights a trained one stands for."""

from typing import Any

import torch

RANK, ALPHA = 4, 10  # not the default ratio
Weights = dict[str, torch.Tensor]


def fill_adapters(model: Any) -> None:
    """As after training: B is 0 in a new adapter."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if ".lora_B." in name:
            parameter.data.normal_(std=0.05, generator=generator)


def merged_by_hand(model: Any, base: Weights) -> Weights:
    """base + ALPHA / RANK * B A, for every linear layer that has the matrices."""
    factors = {name: p.detach() for name, p in model.named_parameters() if ".lora_" in name}
    merged = {name: weight.clone() for name, weight in base.items()}
    for name in factors:
        if ".lora_A." in name:
            layer = name.split(".lora_A.")[0].removeprefix("base_model.model.")
            product = factors[name.replace(".lora_A.", ".lora_B.")] @ factors[name]
            merged[f"{layer}.weight"] += ALPHA / RANK * product
    changed = {name for name, weight in merged.items() if not torch.equal(weight, base[name])}
    assert changed and all("_proj" in name for name in changed)
    return merged
