"""The attention that a model trains with, and whether its tuples can be packed: decided on the model itself.

Packing needs more than an attention that keeps tuples apart: recurrent and convolution layers pass on what they
remember, ALiBi and learned positions count from the start of the pass, and some families put windows into a mask
that packed attention does not use. There is no list of such families: two short tuples are packed, and compared
with the same two apart.
"""

from typing import Any

import torch

from srt.common.attention import attention_arguments, score_changes
from srt.common.errors import reason_of
from srt.contract.layout import TokenSequence
from srt.sft.packed_attention import PACKED, AttentionChoice, choose_attention
from srt.sft.trainer import PassCollator

PROBE_LENGTHS = (12, 20)  # tokens of the two tuples
TOLERANCE = 1e-3  # of the standard deviation of the logits, in fp32; rounding is below 1e-4


def fit_attention(model: Any, packing: str, longest: int) -> AttentionChoice:
    """Set the fastest attention for PACKING=auto, 0 or 1 that computes what the model asks for.

    `model`: as load_model returns it, in fp32. `longest`: tokens of the longest tuple. Prints a line where packing
    was chosen and the model does not allow it.
    """
    exact = model.config._attn_implementation
    choice = choose_attention(packing)
    if choice.packed and (reason := why_not_packed(model, longest)):
        print(f"padding instead of packing, because {reason}")
        choice = choose_attention("0")
    if choice.implementation == "flash_attention_2" and not _set_flash_attention(model):
        choice = choose_attention(packing if choice.packed else "0", flash_attention=False)
    if choice.implementation == PACKED:
        model.set_attn_implementation(PACKED)
    elif choice.implementation == "sdpa" != exact:
        choice = AttentionChoice(exact, False, f"{exact} (transformers' own for this model)")
    return choice


def why_not_packed(model: Any, longest: int) -> str | None:
    """None if packed tuples give the logits that they give apart, else why not. See fit_attention."""
    name = type(model).__name__
    for entry, tokens in _masked_windows(model).items():
        if tokens < longest:
            return f"{name} keeps to {entry}={tokens} by a mask, and the longest tuple has {longest} tokens"
    try:
        difference = _packed_difference(model)
    except Exception as error:  # whatever it is, a training on packed tuples would end with it
        return f"{name} does not support packed tuples ({reason_of(error)})"
    if not difference < TOLERANCE:
        return f"layers of {name} mix packed tuples: logits change by {difference:.2g} of their standard deviation"
    return None


def _masked_windows(model: Any) -> dict[str, int]:
    """The limits (entries of the config, in tokens) that the model sets to attention only by a mask.

    Packed attention has no masks. It heeds a sliding window that it is told, as it is by most families. The tuples
    of the probe are shorter than the windows of real models.
    """
    config, calls = model.config.get_text_config(), attention_arguments(model)
    layers = set(getattr(config, "layer_types", None) or ("sliding_attention", "chunked_attention"))
    windows = {}
    for entry, layer in (("sliding_window", "sliding_attention"), ("attention_chunk_size", "chunked_attention")):
        tokens = getattr(config, entry, None)
        if calls and tokens and layer in layers and not any(call.get(entry) for call in calls):
            windows[entry] = tokens
    return windows


@torch.no_grad()
def _packed_difference(model: Any) -> float:
    """The largest difference between the logits of two tuples packed and apart, relative to their spread."""
    generator = torch.Generator().manual_seed(0)
    vocab_size = model.config.get_text_config().vocab_size
    ids = [torch.randint(vocab_size, (1, length), generator=generator) for length in PROBE_LENGTHS]
    packed = PassCollator([TokenSequence(i[0].tolist(), 1) for i in ids], 0, packed=True)([{"tuples": [0, 1]}])
    del packed["labels"]
    arguments = {key: x.to(model.device) if torch.is_tensor(x) else x for key, x in packed.items()}
    exact, was_training = model.config._attn_implementation, model.training
    model.train()  # as in the training itself: some families compute differently; dropout is off
    try:
        apart = torch.cat([model(input_ids=i.to(model.device), use_cache=False).logits for i in ids], dim=1)
        model.set_attn_implementation(PACKED)
        together = model(**arguments, use_cache=False).logits
    finally:
        model.set_attn_implementation(exact)
        model.train(was_training)
    return float((together - apart).abs().max() / apart.std())


def _set_flash_attention(model: Any) -> bool:
    """Whether FlashAttention 2, which supports a soft cap and no other change of the scores, is now in use."""
    if score_changes(model) - {"softcap"}:
        return False
    try:
        model.set_attn_implementation("flash_attention_2")
    except (ValueError, ImportError):  # the family does not support it
        return False
    return model.config._attn_implementation == "flash_attention_2"
