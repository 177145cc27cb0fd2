"""What is decided on the base model before the run begins: whether SFT can train it, and with which attention."""

import multiprocessing
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from pebble import ProcessExpired, ProcessPool

from srt.common.dropout import turn_off_dropout
from srt.common.errors import UserError, reason_of
from srt.common.machine import Machine
from srt.common.models import count_parameters, load_model, load_model_config
from srt.common.packed_attention import AttentionChoice
from srt.sft.attention import fit_attention
from srt.sft.config import SftConfig
from srt.sft.trainer import check_loss
from srt.sft.weights import with_adapters


def check_model(config: SftConfig, longest: int, device: str | None = None) -> AttentionChoice:
    """The attention for BASE_MODEL, which is loaded once for it, in fp32, and freed again.

    `longest`: tokens of the longest tuple. `device`: as in load_model. Raises UserError for a model that cannot be
    trained as configured.
    """
    model = load_model(config.base_model, "float32", device)
    if config.gradient_checkpointing and not model.supports_gradient_checkpointing:
        raise UserError(
            f"GRADIENT_CHECKPOINTING=1: {type(model).__name__} does not support it; set GRADIENT_CHECKPOINTING=0"
        )
    turn_off_dropout(model, sft=True)
    attention = fit_attention(model, config.packing, longest)
    if attention.implementation != "flash_attention_2":  # which fp32 weights do not run on
        check_loss(model, attention.packed)
    with_adapters(model, config)
    return attention


def check_model_before_launch(config: SftConfig, longest: int, machine: Machine) -> AttentionChoice:
    """check_model for a process that launches others and must leave them all of every GPU.

    On a GPU where the model fits in fp32, in a process of its own; else here, on the CPU, which can take minutes
    for a model of some billion parameters. Raises what check_model raises.
    """
    needed = 4 * count_parameters(load_model_config(config.base_model))
    if machine.gpu_bytes is None or machine.gpu_bytes < 1.1 * needed:
        return check_model(config, longest, "cpu")
    context: Any = multiprocessing.get_context("spawn")
    pool = ProcessPool(max_workers=1, context=context)
    try:
        return pool.schedule(check_model, args=[config, longest]).result()
    except (ProcessExpired, BrokenProcessPool) as error:  # the latter if it ended before it took the call
        raise UserError(
            f"{config.base_model}: the process that tried the model before the launch was ended "
            f"({reason_of(error)}), most likely because memory ran out; free some, and start again"
        ) from error
    finally:
        pool.stop()
        pool.join()
