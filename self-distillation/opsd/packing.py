"""Whether the sequences of a forward pass share one row: decided once for a run, for student and teacher alike."""

from collections.abc import Iterable
from typing import Any

import torch

from srt.common.models import default_device, load_model
from srt.common.packed_attention import choose_attention
from srt.common.packing import why_not_in_kernel, why_not_packed


def load_student(path: str, others: Iterable[str], packing: str, longest: int) -> tuple[Any, bool]:
    """The model in fp32, and whether to pack it and `others` (paths), as choose_packing says.

    It is tried on its way to the GPU. A model that is used in bf16, as teachers are, cannot be: bf16 rounds by
    more than what tells whether sequences mix.
    """
    is_tried = choose_attention(packing, flash_attention=False).packed
    model = load_model(path, "float32", "cpu" if is_tried else None)
    packed = choose_packing([model, *others], packing, longest)
    return model.to(default_device()), packed


def choose_packing(models: Iterable[Any], packing: str, longest: int) -> bool:
    """Whether PACKING=auto, 0 or 1 packs, with a line that says how, or why not.

    Where it could, each of `models` is tried in fp32 on the CPU; a path is loaded for it, and freed again.
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
    for model in dict.fromkeys(models):
        if reason := _why_not(model, is_auto, longest):
            print(f"padding instead of packing, because {reason}{chosen}")
            return False
    print(f"packing: the sequences of a forward pass share one row; attention: {choice.description}{chosen}")
    return True


def _why_not(model: Any, is_auto: bool, longest: int) -> str | None:
    """None, or why a model, or the one at a path, is not packed."""
    if isinstance(model, str):
        model = load_model(model, "float32", "cpu")
    reason = why_not_packed(model, longest)
    if is_auto and not reason:
        reason = why_not_in_kernel(model, default_device())
    return reason
