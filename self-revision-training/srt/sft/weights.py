"""The weights of a training: loaded once, trained in shards, gathered again.

Of several processes, rank 0 alone loads a checkpoint. The others hold the model's shapes, in memory that is never
touched and so takes no room, until sharding has cut it; then rank 0 sends every process its shards.
"""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from safetensors import safe_open
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, set_model_state_dict
from transformers import AutoModelForCausalLM, TrainerCallback

from srt.common.adapters import lora_config
from srt.common.dropout import turn_off_dropout
from srt.common.errors import UserError, reason_of
from srt.common.models import correct_model, load_model, load_model_config
from srt.common.remote_code import remote_code_allowed
from srt.sft.config import SftConfig

WEIGHTS = "weights.safetensors"  # in a checkpoint to resume from


def new_model(model_path: str, config: SftConfig, attn_implementation: str, checkpoint: Path | None = None) -> Any:
    """The model in fp32, without dropout, with LoRA adapters when LORA_RANK is set, and with the trained weights
    of `checkpoint`.

    Sharded training on ranks other than 0: the same model with arbitrary weights (see SendWeights).
    """
    # fp32 weights, bf16 computation: bf16 weights would round away updates at a learning rate of 5e-6.
    # A sharded model stays on the CPU here and moves to the GPUs shard by shard.
    sharded = "ACCELERATE_USE_FSDP" in os.environ
    if sharded and not is_rank0():
        model = _untouched_model(model_path)
    else:
        model = load_model(model_path, "float32", "cpu" if sharded else None)
    model.set_attn_implementation(attn_implementation)
    turn_off_dropout(model, sft=True)  # stages.py exports another copy
    model = with_adapters(model, config)
    if checkpoint and is_rank0():
        _load_file(model, checkpoint / WEIGHTS)
    return model


def is_rank0() -> bool:
    return os.environ.get("RANK", "0") == "0"


def _untouched_model(model_path: str) -> Any:
    """The model with buffers as in the checkpoint's class and parameters in memory that nothing was written to.

    Not on torch's meta device: accelerate tells parameters apart by their addresses.
    """
    config = load_model_config(model_path)
    with init_empty_weights(include_buffers=False):  # buffers such as rotary tables are in no checkpoint
        model: Any = AutoModelForCausalLM.from_config(
            config, dtype=torch.float32, trust_remote_code=remote_code_allowed()
        )
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                empty = torch.empty_like(parameter, device="cpu")
                module._parameters[name] = torch.nn.Parameter(empty, parameter.requires_grad)
    model.tie_weights()
    correct_model(model, model_path)
    return model


def with_adapters(model: Any, config: SftConfig) -> Any:
    """The model with LoRA adapters when LORA_RANK is set. Raises UserError when PEFT refuses it."""
    if not config.lora_rank:
        return model
    from peft import get_peft_model  # takes seconds to import

    torch.manual_seed(config.seed)  # for the random initialization of the adapters
    try:
        return get_peft_model(model, lora_config(config.lora_rank, config.lora_alpha))
    except ValueError as error:  # of Mamba layers, for example
        raise UserError(
            f"LORA_RANK={config.lora_rank}: PEFT has no adapters for all linear layers of {type(model).__name__} "
            f"({reason_of(error)}); set LORA_RANK=0"
        ) from error


class SendWeights(TrainerCallback):
    """Once the model is sharded, and before the first update: every rank's shards from rank 0's whole model.

    Does nothing where each process trains a whole model.
    """

    def __init__(self, model: Any):
        """`model`: not yet sharded. Sharding cuts its tensors; those of rank 0 are kept until they are sent."""
        self.sharded = "ACCELERATE_USE_FSDP" in os.environ
        self.weights: dict[str, Any] = model.state_dict() if self.sharded and is_rank0() else {}

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        self.send(model)

    def send(self, model: Any) -> None:
        """A collective call; the first one counts."""
        if self.sharded:
            options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
            set_model_state_dict(model, self.weights, options=options)
            self.sharded, self.weights = False, {}


def trained_weights(model: Any) -> dict[str, torch.Tensor]:
    """The trainable parameters as full tensors on the CPU, by name. A collective call; only rank 0 gets them."""
    options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)
    state: dict[str, Any] = get_model_state_dict(model, options=options)
    # named_parameters() names tied tensors once, the state dict twice.
    return {name: state[name].contiguous() for name, _ in model.named_parameters() if name in state}


def load_trained(model: Any, weights: dict[str, torch.Tensor]) -> None:
    """Load the result of trained_weights. Raises ValueError for weights of another model."""
    _check_names(model, weights)
    model.load_state_dict(weights, strict=False)  # tied tensors are stored once


def _load_file(model: Any, path: Path) -> None:
    """Like load_trained, one tensor at a time."""
    with safe_open(path, "pt") as file:
        names = list(file.keys())
        _check_names(model, names)
        for name in names:
            model.load_state_dict({name: file.get_tensor(name)}, strict=False)


def _check_names(model: Any, names: Iterable[str]) -> None:
    names, known = set(names), model.state_dict().keys()
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    if wrong := (names - known) | (trained - names):
        raise ValueError(f"the weights belong to another model: {sorted(wrong)}")
