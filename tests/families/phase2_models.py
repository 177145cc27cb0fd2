"""Tiny models of the text families that Phase 2 is tested with: `tiny(family) -> (config, model)`."""

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

# Every family gets those of these settings that its configuration has.
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "moe_intermediate_size": 16,
    "ffn_dim": 48,
    "word_embed_proj_dim": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "num_experts": 4,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "sliding_window": 6,
    "max_position_embeddings": 256,
}
WINDOWED = {"layer_types": ["sliding_attention", "full_attention"]}
LATENT = {
    "num_key_value_heads": 4,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "n_routed_experts": 4,
    "n_group": 2,
    "topk_group": 1,
    "first_k_dense_replace": 1,
}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 100.0,
    "short_factor": [1.0] * 4,
    "long_factor": [1.0, 2.0, 3.0, 4.0],
}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 100.0, "factor": 2.0}

# name -> (transformers' model_type, settings of its own). What changes logits or adds noise is set to show.
FAMILIES: dict[str, tuple[str, dict]] = {
    "cohere": ("cohere", {"logit_scale": 0.25}),
    "cohere2": ("cohere2", {"logit_scale": 0.25, **WINDOWED}),
    "deepseek_v3": ("deepseek_v3", LATENT),
    "falcon": ("falcon", {"hidden_dropout": 0.3, "attention_dropout": 0.3}),
    "falcon_h1": (
        "falcon_h1",
        {
            "mamba_n_heads": 4,
            "mamba_d_head": 8,
            "mamba_d_ssm": 32,
            "mamba_d_state": 8,
            "mamba_n_groups": 1,
            "mamba_chunk_size": 8,
            "lm_head_multiplier": 0.5,
        },
    ),
    "gemma2": ("gemma2", {"final_logit_softcapping": 5.0, "attn_logit_softcapping": None, **WINDOWED}),
    "gemma3": ("gemma3_text", {"final_logit_softcapping": 5.0, **WINDOWED}),
    "gpt2": ("gpt2", {"n_embd": 32, "n_layer": 2, "n_head": 4}),  # with its dropout of 0.1
    "gpt_neox": ("gpt_neox", {}),
    "gpt_oss": ("gpt_oss", WINDOWED),
    "gptj": ("gptj", {"n_embd": 32, "n_layer": 2, "n_head": 4, "rotary_dim": 4}),  # a head with a bias
    "granite": ("granite", {"logits_scaling": 4.0}),
    "granitemoe": ("granitemoe", {"logits_scaling": 4.0}),
    "llama": ("llama", {}),
    "llama dynamic": ("llama", {"rope_parameters": DYNAMIC}),
    "mamba": ("mamba", {"num_hidden_layers": 2}),
    "mistral": ("mistral", {}),
    "mixtral": ("mixtral", {"router_jitter_noise": 0.5}),
    "nanochat": ("nanochat", {}),
    "nemotron": ("nemotron", {}),
    "olmo": ("olmo", {}),
    "olmo2": ("olmo2", {}),
    "olmo3": ("olmo3", WINDOWED),
    "olmoe": ("olmoe", {}),
    "opt": ("opt", {"layerdrop": 0.5}),
    "phi": ("phi", {"resid_pdrop": 0.3}),
    "phi3 longrope": ("phi3", {"rope_parameters": LONGROPE, "original_max_position_embeddings": 24}),
    "qwen2": ("qwen2", {}),
    "qwen3": ("qwen3", {}),
    "qwen3_moe": ("qwen3_moe", {}),
    "qwen3 tied": ("qwen3", {"tie_word_embeddings": True}),
    "smollm3": ("smollm3", {}),
    "stablelm": ("stablelm", {}),
    "starcoder2": ("starcoder2", {"residual_dropout": 0.3}),
}


def tiny(family: str, **settings):
    """The configuration and an fp32 model in evaluation mode, whose weights make logits of several units."""
    kind, own = FAMILIES[family]
    config_class = CONFIG_MAPPING[kind]
    known = config_class()
    sizes = {name: size for name, size in SIZES.items() if hasattr(known, name)}
    sizes = {name: size for name, size in sizes.items() if name not in config_class.attribute_map}
    computed = [name for name in sizes if isinstance(getattr(config_class, name, None), property)]
    ids = {"pad_token_id": 0, "bos_token_id": None, "eos_token_id": 1}
    config = config_class(**({k: v for k, v in sizes.items() if k not in computed} | ids | own | settings))
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    embedding = model.get_input_embeddings().weight
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 1.0 if parameter is embedding else 0.3)
    return config, model
