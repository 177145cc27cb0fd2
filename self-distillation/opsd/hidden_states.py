"""Student and teacher: their hidden states at the positions that predict y, and their heads."""

import contextlib
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from srt.common.errors import UserError
from srt.contract.layout import TokenSequence, predicting_positions

# Settings that change logits after the head; the exact KL reads hidden states, so it would not see them.
UNSUPPORTED_LOGIT_SCALING = (
    "final_logit_softcapping",
    "logits_scaling",
    "logit_scale",
    "lm_head_multiplier",
    "output_multiplier",
)


def check_causal(model: Any, name: str) -> None:
    """Raises UserError for a model whose tokens look ahead: in `predicting_hidden` they would see padding."""
    if getattr(model.config.get_text_config(), "use_bidirectional_attention", None) in (True, "all"):
        raise UserError(f"{name}: its config sets use_bidirectional_attention; only causal models are supported")


def check_head(model: Any, name: str) -> None:
    """Raises UserError for a model whose logits are more than hidden @ head.T + bias."""
    config = model.config.get_text_config()
    for setting in UNSUPPORTED_LOGIT_SCALING:
        if getattr(config, setting, None) not in (None, 1, 1.0):
            raise UserError(
                f"{name}: its config sets {setting}={getattr(config, setting)}; models that change their logits "
                "after the head are not supported"
            )


def autocast(device: torch.device) -> contextlib.AbstractContextManager:
    """bf16 products on a GPU over fp32 weights; nothing on a CPU."""
    return torch.autocast("cuda", torch.bfloat16) if device.type == "cuda" else contextlib.nullcontext()


def predicting_hidden(model: Any, rows: list[TokenSequence], pad_id: int) -> Float[Tensor, "T H"]:
    """The last hidden states whose logits predict the rows' supervised tokens, row after row.

    T is the number of supervised tokens of all rows. Logits are formed nowhere. There is no attention mask:
    padding stands at the end of a row, where a causal model's real tokens never look, be it with full or
    sliding-window attention or a recurrence; without a mask torch takes its fastest attention kernel.
    """
    ids, in_row, positions = padded(rows, pad_id)
    places = in_row * ids.shape[1] + positions
    device = model.device
    with autocast(device):
        hidden = model.base_model(input_ids=ids.to(device), use_cache=False).last_hidden_state  # (B, L, H)
    return hidden.flatten(0, 1).index_select(0, places.to(device))


def padded(
    rows: list[TokenSequence], pad_id: int, multiple: int = 1
) -> tuple[Int[Tensor, "B L"], Int[Tensor, " T"], Int[Tensor, " T"]]:
    """The rows' ids, L a multiple of `multiple`; row and position of what predicts their supervised tokens."""
    width = max(len(row.ids) for row in rows)
    width = -(-width // multiple) * multiple
    ids = torch.tensor([row.ids + [pad_id] * (width - len(row.ids)) for row in rows])
    predicting = [predicting_positions(row) for row in rows]
    in_row = torch.arange(len(rows)).repeat_interleave(torch.tensor([len(places) for places in predicting]))
    positions = torch.cat([torch.arange(places.start, places.stop) for places in predicting])
    return ids, in_row, positions


def head(model: Any) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of the model's head, in the dtype of its matrix products; differentiable."""
    layer = model.get_output_embeddings()
    weight, bias = layer.weight, getattr(layer, "bias", None)
    dtype = torch.bfloat16 if weight.is_cuda else weight.dtype
    return weight.to(dtype), None if bias is None else bias.to(dtype)
