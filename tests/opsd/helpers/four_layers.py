"""The tiny checkpoint with four layers, which the stages of a pipeline can share."""

import shutil
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM


def with_four_layers(checkpoint: Path, folder: Path) -> Path:
    shutil.copytree(checkpoint, folder)
    config = AutoConfig.from_pretrained(checkpoint)
    config.num_hidden_layers, config.layer_types = 4, ["full_attention"] * 4
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    for name, weight in model.named_parameters():
        torch.nn.init.normal_(weight, mean=float("norm" in name), std=0.2)
    model.save_pretrained(folder)
    return folder
