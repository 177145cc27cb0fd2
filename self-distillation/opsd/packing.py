"""Whether the sequences of a forward pass share one row: decided once for a run, for student and teacher alike."""

from collections.abc import Iterable

import torch

from srt.common.dropout import turn_off_dropout
from srt.common.models import default_device, load_model
from srt.common.packed_attention import choose_attention
from srt.common.packing import why_not_in_kernel, why_not_packed


def choose_packing(models: Iterable[str], packing: str, longest: int) -> bool:
    """Whether PACKING=auto, 0 or 1 packs, with a line that says how, or why not.

    Where it could, each of `models` (paths) is loaded for it, in fp32 on the CPU, tried, and freed again.
    `longest`: the most tokens of a sequence. `auto` must be decided in the process that computes: it tries
    the kernel on the GPU.
    """
    is_auto = packing == "auto"
    chosen = " (PACKING=auto)" if is_auto else ""
    # Without FlashAttention, which not every model supports: student and teacher must compute alike.
    choice = choose_attention(packing, flash_attention=False)
    if not choice.packed:
        if is_auto:
            on_gpu = torch.cuda.is_available()
            lack = "this torch has no variable-length attention" if on_gpu else "there is no GPU"
            print(f"padding instead of packing, because {lack}{chosen}")
        return False
    for path in dict.fromkeys(models):
        model = load_model(path, "float32", "cpu")
        turn_off_dropout(model, sft=True)
        reason = why_not_packed(model, longest)
        if is_auto and not reason:
            reason = why_not_in_kernel(model, default_device())
        if reason:
            print(f"padding instead of packing, because {reason}{chosen}")
            return False
    print(f"packing: the sequences of a forward pass share one row; attention: {choice.description}{chosen}")
    return True
