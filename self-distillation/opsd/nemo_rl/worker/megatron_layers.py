"""MEGATRON_LAYERS: Megatron-Core's transformer layers with Transformer Engine (te) and without it (local).

Both attend with torch's scaled_dot_product_attention. Transformer Engine would take cuDNN's, which is off wherever
this repository trains (srt/common/models.py): on Hopper its backward pass depends on what memory held before, with
fewer heads of keys than of queries (TransformerEngine issues 2448 and 2186), and an update of 16 rows of 8 192
tokens had 22 times the right gradient norm (docs/records.md).

Megatron-Core's own layers without Transformer Engine have no sequence parallelism in their norms, and an
attention that holds the scores of all pairs of positions: 2 GiB in each layer for a row of 8k tokens and 16 heads.
Here torch has both. Weights have the names and places that they have with Transformer Engine, so that conversions
and checkpoints of both kinds are the same.
"""

from typing import Any

import torch
from jaxtyping import Float
from megatron.core import parallel_state
from megatron.core.models.gpt.gpt_layer_specs import (
    get_gpt_layer_local_spec,
    get_gpt_layer_with_transformer_engine_spec,
)
from megatron.core.tensor_parallel import ColumnParallelLinear, gather_from_sequence_parallel_region
from megatron.core.transformer.identity_op import IdentityOp
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules, get_num_layers_to_build
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import rms_norm, scaled_dot_product_attention

from opsd.nemo_rl.worker.context_parallel import chunks_of, in_order
from srt.common.errors import UserError

PLAIN_ATTENTION = {"window_size": None, "softmax_type": "vanilla"}
PLAIN = PLAIN_ATTENTION | {"layernorm_zero_centered_gamma": False}


def te_layers(config: TransformerConfig) -> ModuleSpec:
    """Transformer Engine's linear layers and norms with torch's attention, for the providers of Megatron-Bridge.

    A model whose attention has a window or sinks keeps Transformer Engine's.
    """
    layer = get_gpt_layer_with_transformer_engine_spec(qk_layernorm=config.qk_layernorm)
    if not differences(config, PLAIN_ATTENTION):
        layer.submodules.self_attention.submodules.core_attention = TorchAttention
    return layer


def local_layers(config: TransformerConfig) -> TransformerBlockSubmodules:
    """The layers of this pipeline stage, for the providers of Megatron-Bridge.

    Raises UserError for a model whose norms or attention are of another kind.
    """
    others = differences(config, PLAIN)
    if config.normalization != "RMSNorm" or others:
        raise UserError(
            f"MEGATRON_LAYERS=local: the model's layers ({config.normalization}{others or ''}) need Transformer "
            "Engine; set MEGATRON_LAYERS=te, or TRAINER_BACKEND=dtensor"
        )
    layer = get_gpt_layer_local_spec(qk_layernorm=config.qk_layernorm, normalization="RMSNorm")
    parts, attention = layer.submodules, layer.submodules.self_attention.submodules
    parts.input_layernorm = parts.pre_mlp_layernorm = IdentityOp  # they are in the linear layers behind them
    parts.sharded_state_dict_keys_map = {}
    attention.q_layernorm = attention.k_layernorm = RMSNorm if config.qk_layernorm else IdentityOp
    attention.linear_qkv = LocalLayerNormColumnParallelLinear
    attention.core_attention = TorchAttention
    parts.mlp.keywords["submodules"].linear_fc1 = LocalLayerNormColumnParallelLinear
    return TransformerBlockSubmodules(layer_specs=[layer] * get_num_layers_to_build(config), layer_norm=RMSNorm)


def differences(config: TransformerConfig, plain: dict[str, Any]) -> dict[str, Any]:
    """The entries of the config that are not as in `plain`."""
    return {name: value for name in plain if (value := getattr(config, name, plain[name])) != plain[name]}


class RMSNorm(torch.nn.RMSNorm):
    """Its gradient is summed over the ranks that each have a part of the sequence."""

    def __init__(self, config: TransformerConfig, hidden_size: int, eps: float = 1e-5, **_: Any):
        super().__init__(hidden_size, eps=eps, dtype=config.params_dtype, device=_device(config))
        weight: Any = self.weight
        weight.sequence_parallel = config.sequence_parallel


class LocalLayerNormColumnParallelLinear(ColumnParallelLinear):
    """A norm and the linear layer behind it. Megatron-Bridge knows by a part of this name what is in it."""

    def __init__(self, *sizes: int, config: TransformerConfig, **settings: Any):
        super().__init__(*sizes, config=config, **settings)
        ones = torch.ones(sizes[0], dtype=config.params_dtype, device=_device(config))
        weight: Any = torch.nn.Parameter(ones)
        weight.sequence_parallel = config.sequence_parallel
        self.layer_norm_weight = weight

    def forward(self, hidden: Float[Tensor, "L B H"]) -> Any:
        weight, eps = self.layer_norm_weight, self.config.layernorm_epsilon
        return super().forward(rms_norm(hidden, hidden.shape[-1:], weight, eps))


class TorchAttention(MegatronModule):
    """Causal attention by torch's kernels. Rows are padded behind their tokens, so there is no mask.

    With context parallelism each rank has the queries of two chunks of every row (context_parallel.py) and gathers
    the keys and values of all; no scores are formed beyond those of its own queries.
    """

    def __init__(
        self,
        config: TransformerConfig,
        layer_number: int,
        attn_mask_type: Any,
        attention_type: str,
        attention_dropout: float | None = None,
        softmax_scale: float | None = None,
        cp_comm_type: str | None = None,
        pg_collection: Any = None,
    ):
        super().__init__(config=config)
        self.scale = softmax_scale
        self.group: Any = parallel_state.get_context_parallel_group() if config.context_parallel_size > 1 else None

    def forward(
        self,
        query: Float[Tensor, "L B N D"],
        key: Float[Tensor, "L B G D"],
        value: Float[Tensor, "L B G D"],
        attention_mask: Tensor | None,
        attn_mask_type: Any = None,
        attention_bias: Tensor | None = None,
        packed_seq_params: Any = None,
    ) -> Float[Tensor, "L B ND"]:
        if not (attention_mask is attention_bias is packed_seq_params is None):
            raise NotImplementedError("TorchAttention: causal rows only, without mask, bias and packing")
        if self.group is None:
            q, k, v = (x.permute(1, 2, 0, 3) for x in (query, key, value))  # (B, N, L, D)
            out = scaled_dot_product_attention(q, k, v, is_causal=True, scale=self.scale, enable_gqa=True)
        else:
            out = self._over_ranks(query, key, value)
        return out.permute(2, 0, 1, 3).flatten(2)

    def _over_ranks(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        ranks, rank = self.group.size(), self.group.rank()
        repeats = query.shape[2] // key.shape[2]
        both = torch.cat([key, value], dim=-1)
        # The gradient of what a rank gathered goes back to the ranks that it came from, summed.
        both = in_order(gather_from_sequence_parallel_region(both, group=self.group), ranks)
        key, value = both.repeat_interleave(repeats, dim=2).permute(1, 2, 0, 3).chunk(2, dim=-1)
        outputs = []
        for chunk, q in zip(chunks_of(rank, ranks), query.permute(1, 2, 0, 3).chunk(2, dim=2), strict=True):
            length = (chunk + 1) * q.shape[2]  # of the keys that its last query sees
            outputs.append(
                scaled_dot_product_attention(
                    q,
                    key[:, :, :length],
                    value[:, :, :length],
                    attn_mask=causal_lower_right(q.shape[2], length),
                    scale=self.scale,
                )
            )
        return torch.cat(outputs, dim=2)


def _device(config: TransformerConfig) -> Any:
    return "cpu" if config.use_cpu_initialization else torch.cuda.current_device()
