"""Whether the sequences of a forward pass share one row: decided once for a run, for student and teacher alike."""

from collections.abc import Iterable

from srt.common.dropout import turn_off_dropout
from srt.common.models import load_model
from srt.common.packed_attention import choose_attention
from srt.common.packing import why_not_packed


def choose_packing(models: Iterable[str], packing: str, longest: int) -> bool:
    """Whether PACKING=auto, 0 or 1 packs, with a line that says how, or why not.

    Where it could, each of `models` (paths) is loaded for it, in fp32 on the CPU, tried, and freed again.
    `longest`: the most tokens of a sequence.
    """
    # Without FlashAttention, which not every model supports: student and teacher must compute alike.
    choice = choose_attention(packing, flash_attention=False)
    if not choice.packed:
        return False
    for path in dict.fromkeys(models):
        model = load_model(path, "float32", "cpu")
        turn_off_dropout(model, sft=True)
        if reason := why_not_packed(model, longest):
            print(f"padding instead of packing, because {reason}")
            return False
    print(f"packing: the sequences of a forward pass share one row; attention: {choice.description}")
    return True
