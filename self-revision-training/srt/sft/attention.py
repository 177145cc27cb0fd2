"""The attention that SFT trains a model with."""

from typing import Any

from srt.common.attention import score_changes
from srt.common.packed_attention import PACKED, AttentionChoice, choose_attention
from srt.common.packing import why_not_packed


def fit_attention(model: Any, packing: str, longest: int) -> AttentionChoice:
    """Set the fastest attention for PACKING=auto, 0 or 1 that computes what the model asks for.

    `model`: as load_model returns it, in fp32, without dropout. `longest`: tokens of the longest tuple. Prints
    a line where packing was chosen and the model does not allow it.
    """
    exact = model.config._attn_implementation
    choice = choose_attention(packing)
    if choice.packed and (reason := why_not_packed(model, longest, training=True)):
        print(f"padding instead of packing, because {reason}")
        choice = choose_attention("0")
    if choice.implementation == "flash_attention_2" and not _set_flash_attention(model):
        choice = choose_attention(packing if choice.packed else "0", flash_attention=False)
    if choice.implementation == PACKED:
        model.set_attn_implementation(PACKED)
    elif choice.implementation == "sdpa" != exact:
        choice = AttentionChoice(exact, False, f"{exact} (transformers' own for this model)")
    return choice


def _set_flash_attention(model: Any) -> bool:
    """Whether FlashAttention 2, which supports a soft cap and no other change of the scores, is now in use."""
    if score_changes(model) - {"softcap"}:
        return False
    try:
        model.set_attn_implementation("flash_attention_2")
    except (ValueError, ImportError):  # the family does not support it
        return False
    return model.config._attn_implementation == "flash_attention_2"
