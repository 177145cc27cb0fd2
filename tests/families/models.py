"""Tiny, untrained models of the text families of transformers, for the tests that must hold for every family.

A configuration is its class's default with the sizes set to a few units. What a family needs besides, or has in
particular (windows shorter than a sequence, a soft cap that bites), is its entry in OWN or RARE.
"""

from pathlib import Path

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

VOCAB_SIZE = 128
WINDOW = 5  # tokens that sliding-window attention sees: less than any sequence of the tests

_SIZES = {
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "word_embed_proj_dim"), 32),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size", "intermediate_size_mlp"), 48),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "shared_intermediate_size"), 16),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "attention_heads"), 4),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len"), 256),
    **dict.fromkeys(("sliding_window", "attention_window_size"), WINDOW),
    "vocab_size": VOCAB_SIZE,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_LATENT = {  # multi-head latent attention
    "num_key_value_heads": 4,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
}
_MAMBA2 = {
    "mamba_n_heads": 4,
    "mamba_d_head": 16,
    "mamba_d_state": 8,
    "mamba_n_groups": 1,
    "mamba_chunk_size": 8,
}
_LINEAR = {  # a layer of gated linear attention, then one of attention
    "layer_types": ["linear_attention", "full_attention"],
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
_WINDOWED = {"layer_types": ["sliding_attention", "full_attention"]}

# model_type -> settings beside the sizes.
OWN: dict[str, dict] = {
    "apertus": {},
    "arcee": {},
    "bamba": _MAMBA2 | {"attn_layer_indices": [1]},
    "bitnet": {},
    "bloom": {},
    "codegen": {"rotary_dim": 4},
    "cohere": {},
    "cohere2": _WINDOWED,
    "deepseek_v2": _LATENT | {"head_dim": 8, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1},
    "deepseek_v3": _LATENT | {"n_group": 2, "topk_group": 1, "first_k_dense_replace": 1},
    "doge": {},
    "dots1": {},
    "ernie4_5": {},
    "ernie4_5_moe": {},
    "exaone4": _WINDOWED,
    "falcon": {},
    "falcon_h1": {**_MAMBA2, "mamba_d_head": 8, "mamba_d_ssm": 32},
    "falcon_mamba": {},
    "flex_olmo": {},
    "gemma": {},
    "gemma2": _WINDOWED | {"attn_logit_softcapping": 1.0, "final_logit_softcapping": 5.0},
    "gemma3_text": _WINDOWED,
    "gemma3n_text": _WINDOWED
    | {
        "num_kv_shared_layers": 0,
        "hidden_size_per_layer_input": 8,
        "vocab_size_per_layer_input": VOCAB_SIZE,
        "laurel_rank": 4,
        "altup_num_inputs": 2,
    },
    "glm": {},
    "glm4": {},
    "glm4_moe": {},
    "gpt2": {},
    "gpt_bigcode": {},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": WINDOW},
    "gpt_neox": {},
    "gpt_oss": _WINDOWED,
    "gptj": {"rotary_dim": 4},
    "granite": {"logits_scaling": 4.0},
    "granitemoe": {"logits_scaling": 4.0},
    "granitemoehybrid": _MAMBA2 | {"layer_types": ["mamba", "attention"]},
    "helium": {},
    "hunyuan_v1_dense": {},
    "jamba": {
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "expert_layer_period": 2,
        "expert_layer_offset": 1,
        "mamba_d_state": 8,
        "mamba_dt_rank": 4,
    },
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "llama": {},
    "llama4_text": {"attention_chunk_size": 8},
    "mamba": {},
    "mamba2": {"num_heads": 8, "state_size": 8, "n_groups": 1, "chunk_size": 8},
    "minimax": {"layer_types": ["linear_attention", "full_attention"], "block_size": 8},
    "ministral": {},
    "mistral": {},
    "mixtral": {},
    "mpt": {},
    "nanochat": {},
    "nemotron": {},
    "olmo": {},
    "olmo2": {},
    "olmo3": _WINDOWED,
    "olmo_hybrid": {"layer_types": ["linear_attention", "full_attention"]},
    "olmoe": {},
    "opt": {},
    "persimmon": {},
    "phi": {},
    "phi3": {},
    "phimoe": {},
    "qwen2": {},
    "qwen2_moe": {},
    "qwen3": {},
    "qwen3_5_text": _LINEAR,
    "qwen3_moe": {},
    "qwen3_next": _LINEAR,
    "recurrent_gemma": {"num_hidden_layers": 3, "block_types": ["recurrent", "recurrent", "attention"]},
    "seed_oss": {},
    "smollm3": {},
    "stablelm": {},
    "starcoder2": {},
    "vaultgemma": {"attn_logit_softcapping": 1.0},
}
# Seldom used, or another family by a new name: `pytest -m rare_families`, by hand.
RARE: dict[str, dict] = {
    "afmoe": {},
    "aria_text": {},
    "biogpt": {},
    "cohere2_moe": _WINDOWED,
    "cwm": _WINDOWED,
    "diffllama": {},
    "exaone_moe": _WINDOWED,
    "glm4_moe_lite": _LATENT | {"n_group": 1, "topk_group": 1},
    "granite_swa": {},
    "granitemoe_swa": {},
    "granitemoeshared": {},
    "hunyuan_v1_moe": {},
    "hyperclovax": {"logits_scaling": 0.25},
    "jais2": {},
    "jetmoe": {},
    "laguna": {},
    "mellum": {},
    "mimo_v2_flash": {},
    "minicpm3": _LATENT | {"head_dim": 16},
    "minimax_m2": {},
    "ministral3": {},
    "modernbert-decoder": {},
    "nemotron_h": {},
    "openai-gpt": {},
    "solar_open": {},
    "youtu": _LATENT,
}
# Not packable: what a pass does to sequences beside each other is not attention alone, or not told to it.
PADDED = {
    *("bamba", "bloom", "codegen", "doge", "falcon", "falcon_h1", "falcon_mamba", "gpt_neo", "gptj"),
    *("granitemoehybrid", "jamba", "lfm2", "lfm2_moe", "llama4_text", "mamba", "mamba2", "minimax", "mpt"),
    *("nemotron", "nemotron_h", "olmo_hybrid", "openai-gpt", "phimoe", "qwen3_5_text", "qwen3_next"),
    *("recurrent_gemma", "stablelm"),
}

# Whose cached decoding in transformers gives other logits than a forward pass over the same tokens.
OTHER_LOGITS_WHEN_CACHED = {"minimax", "nemotron_h"}


def installed(families: dict[str, dict]) -> list[str]:
    """Those that the installed transformers knows."""
    return sorted(family for family in families if family in CONFIG_MAPPING)


ALL = [*installed(OWN), *(pytest.param(family, marks=pytest.mark.rare_families) for family in installed(RARE))]


def tiny_config(family: str, **settings) -> PretrainedConfig:
    """A configuration of `family` (transformers' model_type) with a few units of everything; `settings` win."""
    config_class = CONFIG_MAPPING[family]
    defaults = config_class()
    aliases = config_class.attribute_map  # both names of an entry would contradict each other
    sizes = {
        name: value
        for name, value in _SIZES.items()
        if hasattr(defaults, name)
        and name not in aliases
        and not isinstance(getattr(config_class, name, None), property)
    }
    return config_class(**(sizes | (OWN | RARE).get(family, {}) | settings))


def tiny(family: str, **settings) -> tuple[PretrainedConfig, PreTrainedModel]:
    """A model of `family` in fp32 and evaluation mode, with the same random weights every time.

    They are larger than those of an untrained model, whose logits are nearly the same for all tokens and would
    hide errors.
    """
    config = tiny_config(family, **settings)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    embedding = model.get_input_embeddings().weight
    for parameter in model.parameters():
        if parameter.dim() >= 2:
            parameter.data.normal_(0, 1.0 if parameter is embedding else 0.3)
    return config, model


def naive_model(folder: Path) -> PreTrainedModel:
    """The saved model in float64, in evaluation mode, with plain attention: what every phase must agree with."""
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float64, attn_implementation="eager", experts_implementation="eager"
    )
    return model.eval()
