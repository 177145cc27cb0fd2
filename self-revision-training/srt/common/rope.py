"""Rotary embeddings that depend on the length of a batch, fixed at one length for every phase.

LongRoPE (Phi-3, Phi-4) has other frequencies from some length on, and dynamic NTK scaling changes them with every
length beyond the trained one. Padding, the lengths of other sequences, or vLLM's max_model_len would then decide
what a sequence's log-probs are, and sampler, trainer and teacher would be different models. Here the context
length of the model decides, whatever is sampled, trained or evaluated: with it, LongRoPE has its long factors
throughout (as by vLLM's default), and dynamic NTK scaling, which acts beyond it, does nothing.
"""

import copy
import functools
from types import MethodType
from typing import Any

from transformers import GenerationMixin, PreTrainedConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS


def fix_rope(model: Any, name: str) -> None:
    """Fix the frequencies of a transformers model. Its config, which is saved with it, stays as it is."""
    is_fixed = False
    for module in model.modules():
        kinds = getattr(module, "rope_type", None)
        config = getattr(module, "config", None)
        if kinds is None or not isinstance(config, PreTrainedConfig):
            continue
        fixed = fixed_config(config)
        if fixed is None:
            continue
        _print_once(name, config.max_position_embeddings)
        module.config = fixed  # in which both of LongRoPE's sets of frequencies are the same
        by_layer = kinds if isinstance(kinds, dict) else {None: kinds}
        for layer_type in by_layer:
            _recompute(module, fixed, layer_type)
        is_fixed = True
    prepare = getattr(type(model), "prepare_inputs_for_generation", None)
    if is_fixed and prepare is not None and "original_max_position_embeddings" in prepare.__code__.co_names:
        # Phi's own drops the cache where the frequencies would change, and goes on with the last token alone.
        mixin: Any = GenerationMixin
        model.prepare_inputs_for_generation = MethodType(mixin.prepare_inputs_for_generation, model)


def rope_overrides(config: Any, name: str) -> dict[str, Any]:
    """`hf_overrides` for vLLM, of the model's transformers config: the same frequencies as `fix_rope`."""
    text = config.get_text_config()
    fixed = fixed_config(text)
    if fixed is None:
        return {}
    _print_once(name, text.max_position_embeddings)
    overrides = {"rope_parameters": fixed.rope_parameters}
    return overrides if text is config else {"text_config": overrides}


def fixed_config(config: PreTrainedConfig) -> PreTrainedConfig | None:
    """A copy of a text model's config whose rope does not depend on lengths; None if it never did."""
    if not isinstance(getattr(config, "rope_parameters", None), dict):
        return None
    config.standardize_rope_params()
    rope = config.rope_parameters
    nested = all(isinstance(value, dict) for value in rope.values())  # for each type of layer
    fixed = {key: _fixed(value, config) for key, value in rope.items()} if nested else _fixed(rope, config)
    if fixed == rope:
        return None
    config = copy.deepcopy(config)
    config.rope_parameters = fixed
    return config


def _fixed(rope: dict[str, Any], config: PreTrainedConfig) -> dict[str, Any]:
    if rope.get("rope_type") == "longrope":
        is_long = config.max_position_embeddings > rope["original_max_position_embeddings"]
        chosen, other = ("long", "short") if is_long else ("short", "long")
        # Factors of the frequencies and, in some families, of the attention.
        return rope | {
            f"{other}_{what}": rope[f"{chosen}_{what}"]
            for what in ("factor", "mscale")
            if f"{chosen}_{what}" in rope
        }
    if rope.get("rope_type") == "dynamic" and "alpha" not in rope:  # alpha scales by a constant
        kept = ("rope_theta", "partial_rotary_factor")
        return {"rope_type": "default"} | {key: rope[key] for key in kept if key in rope}
    return rope


def _recompute(module: Any, config: PreTrainedConfig, layer_type: str | None) -> None:
    """The buffers of a rotary embedding, from its config."""
    rope = config.rope_parameters if layer_type is None else config.rope_parameters[layer_type]
    kind = rope["rope_type"]
    prefix = "" if layer_type is None else f"{layer_type}_"
    compute = module.compute_default_rope_parameters if kind == "default" else ROPE_INIT_FUNCTIONS[kind]
    arguments = {} if layer_type is None else {"layer_type": layer_type}
    inv_freq, scaling = compute(config, device=getattr(module, f"{prefix}inv_freq").device, **arguments)
    module.register_buffer(f"{prefix}inv_freq", inv_freq, persistent=False)
    setattr(module, f"{prefix}original_inv_freq", inv_freq.clone())
    setattr(module, f"{prefix}attention_scaling", scaling)
    if layer_type is None:
        module.rope_type = kind
    else:
        module.rope_type = module.rope_type | {layer_type: kind}


@functools.cache
def _print_once(name: str, length: int) -> None:
    print(f"rope: the frequencies of {name} depend on lengths; those of its context length, {length}, are used")
