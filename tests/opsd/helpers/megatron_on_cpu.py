"""Megatron-Core on CPUs: what megatron_update.py puts in the place of GPUs, and of Transformer Engine's layers.

GPTModel, tensor and sequence parallelism (over gloo), DDP, optimizer and schedule are Megatron's own. It says
"cuda" in many places; here it means the CPU.
"""

import contextlib
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


class CudaIsTheCpu(TorchFunctionMode):
    """For tensors that are made on "cuda" by name, and for who looks whether a tensor's type is a GPU's."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if str(kwargs.get("device", "")).startswith("cuda"):
            kwargs["device"] = "cpu"
        result = function(*args, **kwargs)
        if function is torch.Tensor.type and len(args) == 1:
            return result.replace("torch.", "torch.cuda.")
        return result


CudaIsTheCpu().__enter__()
torch.cuda.current_device = lambda: torch.device("cpu")
torch.cuda.synchronize = lambda *_: None
torch.Tensor.cuda = lambda tensor, *_, **__: tensor

from megatron.core import parallel_state  # noqa: E402
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig  # noqa: E402
from megatron.core.models.gpt import GPTModel  # noqa: E402
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec  # noqa: E402
from megatron.core.optimizer import OptimizerConfig, get_megatron_optimizer  # noqa: E402
from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler  # noqa: E402
from megatron.core.tensor_parallel import ColumnParallelLinear  # noqa: E402
from megatron.core.tensor_parallel.random import CudaRNGStatesTracker  # noqa: E402
from megatron.core.transformer.identity_op import IdentityOp  # noqa: E402
from megatron.core.transformer.module import Float16Module  # noqa: E402
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules  # noqa: E402
from megatron.core.transformer.transformer_config import TransformerConfig  # noqa: E402

CudaRNGStatesTracker.fork = lambda *_: contextlib.nullcontext()  # for dropout, of which there is none


class TENorm(torch.nn.RMSNorm):
    """As Transformer Engine's: Megatron's own knows no sequence parallelism."""

    def __init__(self, config: TransformerConfig, hidden_size: int, eps: float = 1e-5, **_):
        super().__init__(hidden_size, eps=eps, dtype=config.params_dtype)
        self.weight.sequence_parallel = config.sequence_parallel


class TELayerNormColumnParallelLinear(ColumnParallelLinear):
    """As Transformer Engine's: the norm before a linear layer is a part of it."""

    def __init__(self, *sizes: int, config: TransformerConfig, **settings):
        super().__init__(*sizes, config=config, **settings)
        self.layer_norm_weight = torch.nn.Parameter(torch.ones(sizes[0], dtype=config.params_dtype))
        self.layer_norm_weight.sequence_parallel = config.sequence_parallel

    def forward(self, hidden: torch.Tensor):
        weight, eps = self.layer_norm_weight, self.config.layernorm_epsilon
        return super().forward(torch.nn.functional.rms_norm(hidden, hidden.shape[-1:], weight, eps))


def layers(config: TransformerConfig) -> TransformerBlockSubmodules:
    """A Qwen3's, with the names and places of weights that they have with Transformer Engine."""
    layer = get_gpt_layer_local_spec(qk_layernorm=True, normalization="RMSNorm")
    parts, attention = layer.submodules, layer.submodules.self_attention.submodules
    parts.input_layernorm = parts.pre_mlp_layernorm = IdentityOp
    parts.sharded_state_dict_keys_map = {}
    attention.q_layernorm = attention.k_layernorm = TENorm
    attention.linear_qkv = TELayerNormColumnParallelLinear
    parts.mlp.keywords["submodules"].linear_fc1 = TELayerNormColumnParallelLinear
    return TransformerBlockSubmodules(layer_specs=[layer] * config.num_layers, layer_norm=TENorm)


def gpt_model(rows: int, tied: bool, sequence_parallel: bool, dtype: torch.dtype) -> GPTModel:
    """A Qwen3 in small. rows: of the whole output layer, padding included."""
    config = TransformerConfig(
        num_layers=2,
        hidden_size=32,
        ffn_hidden_size=48,
        num_attention_heads=4,
        num_query_groups=2,
        kv_channels=16,
        normalization="RMSNorm",
        qk_layernorm=True,
        gated_linear_unit=True,
        activation_func=torch.nn.functional.silu,
        add_bias_linear=False,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        bias_dropout_fusion=False,
        tensor_model_parallel_size=parallel_state.get_tensor_model_parallel_world_size(),
        sequence_parallel=sequence_parallel,
        use_cpu_initialization=True,
        gradient_accumulation_fusion=False,
        calculate_per_token_loss=True,  # as NeMo-RL sets it
        params_dtype=dtype,
        bf16=dtype == torch.bfloat16,
    )
    return GPTModel(
        config,
        layers(config),
        vocab_size=rows,
        max_sequence_length=512,
        position_embedding_type="rope",
        share_embeddings_and_output_weights=tied,
    )


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
    return DistributedDataParallel(config, ddp, Float16Module(config, model) if config.bf16 else model)


def optimizer_and_schedule(model: DistributedDataParallel, sections: dict[str, Any], increment: int):
    """AdamW and its schedule as NeMo-RL makes them of `sections`, with `increment` samples for each update."""
    bf16 = model.config.bf16
    optimizer = get_megatron_optimizer(
        OptimizerConfig(
            **sections["optimizer"],
            bf16=bf16,
            params_dtype=torch.bfloat16 if bf16 else torch.float32,
            use_distributed_optimizer=model.ddp_config.use_distributed_optimizer,
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
