"""Attention within each sequence of a packed row, with the fastest kernel that this machine has.

transformers would build a block-diagonal mask for packed rows under its own "sdpa": a dense [T, T] tensor, which
torch's flash kernels do not take. Ours hands the sequences' borders to torch's variable-length flash kernel, and
without it calls causal attention once a sequence. Neither needs a mask.
"""

import inspect
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.utils import is_flash_attn_2_available

from srt.common.errors import UserError

try:  # from torch 2.10 on
    from torch.nn.attention.varlen import varlen_attn
except ImportError:
    varlen_attn = None

PACKED = "packed_varlen"  # as the model's attn_implementation


def choose_attention(packing: str) -> tuple[str, bool, str]:
    """(attn_implementation, whether to pack, words for the log) for PACKING=auto, 0 or 1."""
    on_gpu = torch.cuda.is_available()
    if on_gpu and is_flash_attn_2_available():
        return "flash_attention_2", packing != "0", "FlashAttention 2"
    if packing == "0" or (packing == "auto" and not (on_gpu and varlen_attn)):
        return "sdpa", False, "SDPA (FlashAttention is not installed)" if on_gpu else "SDPA"
    if on_gpu and varlen_attn:
        return PACKED, True, "torch's variable-length flash kernel (FlashAttention is not installed)"
    return PACKED, True, "SDPA, one sequence at a time"


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    cu_seq_lens_q: torch.Tensor | None = None,
    max_length_q: int | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention within each sequence, in the form of a transformers attention function.

    query (1, H, T, D), key and value (1, H_kv, T, D); `cu_seq_lens_q` (N + 1,) int32: where the N sequences
    begin, and T. Returns (1, T, H, D).
    Raises UserError for models whose attention is more than softmax(q k^T) v.
    """
    if dropout or kwargs.get("softcap") or kwargs.get("s_aux") is not None:
        raise UserError("this model's attention has dropout, a softcap or sinks; set PACKING=0")
    if torch.is_autocast_enabled(query.device.type):  # the rotary embedding made them fp32
        dtype = torch.get_autocast_dtype(query.device.type)
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    if query.is_cuda and varlen_attn is not None and query.dtype in (torch.bfloat16, torch.float16):
        output = _varlen(query, key, value, cu_seq_lens_q, max_length_q, scaling, sliding_window)
    else:
        output = _one_by_one(query, key, value, cu_seq_lens_q.tolist(), scaling, sliding_window)
    return output, None


def _varlen(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    borders: torch.Tensor,
    longest: int,
    scaling: float | None,
    sliding_window: int | None,
) -> torch.Tensor:
    # (1, heads, T, D) -> (T, heads, D)
    query, key, value = (tensor[0].transpose(0, 1).contiguous() for tensor in (query, key, value))
    known = inspect.signature(varlen_attn).parameters  # they differ between torch 2.10 and 2.13
    options: dict[str, Any] = {"scale": scaling} if "scale" in known else {}
    if "scale" not in known and scaling not in (None, query.shape[-1] ** -0.5):
        raise UserError("this torch's variable-length attention has no scale; set PACKING=0")
    if "window_size" in known:
        options["window_size"] = (sliding_window - 1 if sliding_window else -1, 0)
    elif sliding_window is None:
        options["is_causal"] = True
    else:
        raise UserError("this torch's variable-length attention has no sliding window; set PACKING=0")
    if "enable_gqa" in known:
        options["enable_gqa"] = True
    else:
        groups = query.shape[1] // key.shape[1]
        key, value = (tensor.repeat_interleave(groups, dim=1) for tensor in (key, value))
    return varlen_attn(query, key, value, borders, borders, longest, longest, **options)[None]


def _one_by_one(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    borders: list[int],
    scaling: float | None,
    sliding_window: int | None,
) -> torch.Tensor:
    outputs = []
    for start, end in zip(borders, borders[1:], strict=False):
        mask = None
        if sliding_window and end - start > sliding_window:
            ones = torch.ones(end - start, end - start, dtype=torch.bool, device=query.device)
            mask = ones.tril() & ones.triu(1 - sliding_window)
        outputs.append(
            scaled_dot_product_attention(
                query[:, :, start:end],
                key[:, :, start:end],
                value[:, :, start:end],
                attn_mask=mask,
                is_causal=mask is None,
                scale=scaling,
                enable_gqa=query.shape[1] != key.shape[1],
            )
        )
    return torch.cat(outputs, dim=2).transpose(1, 2).contiguous()


AttentionInterface.register(PACKED, packed_attention)
