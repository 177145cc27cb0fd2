"""The families as vLLM's CPU build can compute them, and what it makes of each.

Its attention has heads of 32 and more, and its latent attention the sizes of DeepSeek.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import CONFIG_MAPPING, PreTrainedModel

from opsd.checkpoint_names import saved_tensors
from quickstart.tokenizer import build_tokenizer
from tests.families.models import OWN, RARE, installed, tiny

TOKENIZER = build_tokenizer()
_SIZES = {
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "word_embed_proj_dim"), 64),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size", "intermediate_size_mlp"), 96),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "shared_intermediate_size"), 32),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "attention_heads"), 2),
    "num_key_value_heads": 1,
    "head_dim": 32,
}
_LATENT = {
    "num_key_value_heads": 2,
    "kv_lora_rank": 512,
    "qk_rope_head_dim": 64,
    "qk_nope_head_dim": 32,
    "v_head_dim": 32,
    "head_dim": 64,
}
_ROUTED = {"topk_method": "noaux_tc", "scoring_func": "sigmoid"}  # as the published configs say and vLLM asks
# What a family needs besides the sizes; some of it is in published configs and not in transformers' default.
_SETTINGS: dict[str, dict[str, Any]] = {
    "bamba": {"mamba_d_head": 32},
    **dict.fromkeys(("cohere", "cohere2", "cohere2_moe"), {"logit_scale": 1.0}),
    "deepseek_v2": _LATENT,
    "deepseek_v3": _LATENT | _ROUTED,
    "diffllama": {"num_key_value_heads": 2},
    "falcon": {"ffn_hidden_size": 256},
    "gemma3n_text": {"vocab_size_per_layer_input": len(TOKENIZER)},
    "glm4_moe": {"head_dim": 32},
    "glm4_moe_lite": _LATENT | {"first_k_dense_replace": 1},
    "granitemoehybrid": {"mamba_d_head": 32},
    "lfm2": {"conv_dim": 64, "block_dim": 64},
    "llama4_text": {"attention_chunk_size": 128, "num_experts_per_tok": 1},
    "mamba2": {"head_dim": 16},
    "minimax_m2": {"rotary_dim": 32},
    "youtu": _LATENT,
}

# Nearly as transformers: an exact GELU instead of its approximation; parameters of the activation in bf16.
INEXACT = {"bloom": 5e-3, "apertus": 1e-2}
# Other log-probs than transformers': the preflight says so.
OTHER_LOGITS = {
    *("cohere2", "cohere2_moe"),  # one token more in its windows
    *("deepseek_v2", "deepseek_v3", "glm4_moe_lite", "gemma3n_text", "lfm2", "lfm2_moe"),
    "doge",  # without what its attention adds to the causal mask
    "ernie4_5_moe",  # without its router's correction
    "jetmoe",
}
# What vLLM cannot start, compute or refresh.
REFUSED = {
    *("bamba", "diffllama", "minimax", "modernbert-decoder", "phimoe", "recurrent_gemma", "youtu"),
    *("codegen", "gpt_neo", "mpt", "openai-gpt"),  # it has no code for them
    *("falcon_mamba", "jamba", "mamba", "nemotron_h", "olmo_hybrid", "qwen3_5_text", "qwen3_next"),  # on a CPU
    *("afmoe", "aria_text", "laguna", "mimo_v2_flash", "minimax_m2"),  # with these configs
    "gpt_oss",  # a refresh leaves its experts as they were
}
NOT_IN_PHASE_2 = {"minicpm3"}
# Dense with a tied head, soft caps and windows; by transformers' code; experts of two kinds; hybrid; one of each
# fault. All others run by hand, like rare families.
NORMAL = {"gemma2", "olmo3", "qwen3_moe", "dots1", "falcon_h1", "doge", "codegen", "mamba", "gpt_oss"}


def parameters(families: set[str]) -> list[Any]:
    """For `pytest.mark.parametrize`."""
    return [
        family if family in NORMAL else pytest.param(family, marks=pytest.mark.rare_families)
        for family in installed({family: {} for family in families})
    ]


SUPPORTED = {*OWN, *RARE} - OTHER_LOGITS - REFUSED - NOT_IN_PHASE_2


def save_for_vllm(family: str, folder: Path) -> Path:
    """A checkpoint of the family with the quickstart's tokenizer. No bias is 0 and no norm's weight is 1."""
    config_class = CONFIG_MAPPING[family]
    defaults, in_models = config_class(), OWN.get(family, RARE.get(family, {}))
    sizes = {
        name: size
        for name, size in _SIZES.items()
        if hasattr(defaults, name)
        and name not in config_class.attribute_map
        and name not in in_models
        and not isinstance(getattr(config_class, name, None), property)
    }
    ids = {"vocab_size": len(TOKENIZER), "bos_token_id": 1, "eos_token_id": TOKENIZER.eos_token_id}
    model = tiny(family, **(sizes | ids | _SETTINGS.get(family, {})))[1]
    head, embedding = model.get_output_embeddings().weight, model.get_input_embeddings().weight
    if head is embedding:
        head.data.mul_(0.02)  # or tokens would repeat themselves for certain
    change(model, seed=0, scale=0.1)
    model.save_pretrained(folder)
    TOKENIZER.save_pretrained(folder)
    return folder


@torch.no_grad()
def change(model: PreTrainedModel, seed: int, scale: float = 0.3) -> None:
    """Add noise to everything that training or a checkpoint may change: weights, biases, norms, corrections."""
    generator = torch.Generator().manual_seed(seed)
    parameters = {name for name, _ in model.named_parameters()}
    for name, tensor in saved_tensors(model):
        if name in parameters or name.endswith("bias"):
            spread = tensor.std() if tensor.dim() > 1 else 1.0
            tensor.add_(scale * spread * torch.randn(tensor.shape, generator=generator))
