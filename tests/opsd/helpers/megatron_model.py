"""A small Qwen3 as Megatron-Core's GPTModel, in the wrappers that NeMo-RL puts around it, with its optimizer.

Model, parallelisms, DDP, optimizer and schedule are Megatron's own. On CPUs over gloo, with the layers of
MEGATRON_LAYERS=local; with GPU_LAYERS=te or local in the environment on GPUs, with those. SIZE=wide has layers as
wide as those of a model with 4B parameters.
"""

import os
from typing import Any

import torch

LAYERS, SIZE = os.environ.get("GPU_LAYERS"), os.environ.get("SIZE", "small")
if not LAYERS:
    import megatron_on_cpu  # noqa: F401 - before Megatron-Core

from megatron.core import parallel_state  # noqa: E402
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig  # noqa: E402
from megatron.core.models.gpt import GPTModel  # noqa: E402
from megatron.core.optimizer import OptimizerConfig, get_megatron_optimizer  # noqa: E402
from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler  # noqa: E402
from megatron.core.tensor_parallel.random import model_parallel_cuda_manual_seed  # noqa: E402
from megatron.core.transformer.module import Float16Module  # noqa: E402
from megatron.core.transformer.transformer_config import TransformerConfig  # noqa: E402
from megatron.core.utils import unwrap_model  # noqa: E402

from opsd.nemo_rl.worker.megatron_layers import local_layers, te_layers  # noqa: E402

__all__ = ["gpt_model", "optimizer_and_schedule", "parallel_state", "unwrap_model", "wrapped"]

SIZES: dict[str, dict[str, int]] = {
    "small": {
        "num_layers": 2,
        "hidden_size": 32,
        "ffn_hidden_size": 48,
        "num_attention_heads": 4,
        "num_query_groups": 2,
        "kv_channels": 16,
    },
    "wide": {
        "num_layers": 2,
        "hidden_size": 2560,
        "ffn_hidden_size": 9728,
        "num_attention_heads": 32,
        "num_query_groups": 8,
        "kv_channels": 128,
    },
}


def gpt_model(
    rows: int, tied: bool, sequence_parallel: bool, dtype: torch.dtype, layers: str = LAYERS or "local"
) -> GPTModel:
    """rows: of the whole output layer, padding included."""
    on_gpu = {  # as NeMo-RL sets it
        "recompute_granularity": "full",
        "recompute_method": "uniform",
        "recompute_num_layers": 1,
        "apply_rope_fusion": layers == "te",
    }
    config = TransformerConfig(
        **SIZES[SIZE],
        **(on_gpu if LAYERS else {}),
        normalization="RMSNorm",
        qk_layernorm=True,
        gated_linear_unit=True,
        activation_func=torch.nn.functional.silu,
        add_bias_linear=False,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        bias_dropout_fusion=False,
        tensor_model_parallel_size=parallel_state.get_tensor_model_parallel_world_size(),
        pipeline_model_parallel_size=parallel_state.get_pipeline_model_parallel_world_size(),
        context_parallel_size=parallel_state.get_context_parallel_world_size(),
        pipeline_dtype=dtype,
        sequence_parallel=sequence_parallel,
        use_cpu_initialization=not LAYERS,
        gradient_accumulation_fusion=False,
        calculate_per_token_loss=True,  # as NeMo-RL sets it
        params_dtype=dtype,
        bf16=dtype == torch.bfloat16,
    )
    if LAYERS:
        model_parallel_cuda_manual_seed(0)
    return GPTModel(
        config,
        local_layers(config) if layers == "local" else te_layers(config),
        vocab_size=rows,
        max_sequence_length=32768,
        position_embedding_type="rope",
        share_embeddings_and_output_weights=tied,
        pre_process=parallel_state.is_pipeline_first_stage(),
        post_process=parallel_state.is_pipeline_last_stage(),
    ).to("cuda" if LAYERS else "cpu")


def wrapped(model: GPTModel, distributed_optimizer: bool) -> DistributedDataParallel:
    """In the wrappers that NeMo-RL puts around it, with its settings for gradients."""
    config = model.config
    ddp = DistributedDataParallelConfig(
        grad_reduce_in_fp32=True,
        overlap_grad_reduce=False,
        use_distributed_optimizer=distributed_optimizer,
        check_for_nan_in_grad=False,
        average_in_collective=False,
    )
    module = Float16Module(config, model) if config.bf16 else model
    if not LAYERS:
        return DistributedDataParallel(config, ddp, module)
    stream = torch.cuda.Stream()  # as Megatron makes it (training/models/dist_utils.py): gradients are added there
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        wrapper = DistributedDataParallel(config, ddp, module)
    torch.cuda.current_stream().wait_stream(stream)
    return wrapper


def optimizer_and_schedule(model: DistributedDataParallel, sections: dict[str, Any], increment: int):
    """AdamW and its schedule as NeMo-RL makes them of `sections`, with `increment` samples for each update."""
    bf16 = model.config.bf16
    optimizer = get_megatron_optimizer(
        OptimizerConfig(
            **sections["optimizer"],
            bf16=bf16,
            params_dtype=torch.bfloat16 if bf16 else torch.float32,
            use_distributed_optimizer=model.ddp_config.use_distributed_optimizer,
            use_precision_aware_optimizer=LAYERS == "te",
        ),
        [model],
    )
    schedule = sections["scheduler"]
    return optimizer, OptimizerParamScheduler(
        optimizer,
        init_lr=schedule["lr_warmup_init"],
        max_lr=sections["optimizer"]["lr"],
        min_lr=sections["optimizer"]["min_lr"],
        lr_warmup_steps=schedule["lr_warmup_iters"] * increment,
        lr_decay_steps=schedule["lr_decay_iters"] * increment,
        lr_decay_style=schedule["lr_decay_style"],
        start_wd=schedule["start_weight_decay"],
        end_wd=schedule["end_weight_decay"],
        wd_incr_steps=schedule["lr_decay_iters"] * increment,
        wd_incr_style=schedule["weight_decay_incr_style"],
    )
