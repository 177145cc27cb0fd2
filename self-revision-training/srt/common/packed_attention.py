"""Causal attention within each sequence of a packed one, with the fastest kernel available on this machine.

Under its own "sdpa", transformers would build a dense [T, T] block-diagonal mask for packed sequences, which
torch's flash kernels do not accept. This module needs no mask: it passes the sequence boundaries to torch's
variable-length flash kernel. Where that is missing, or ignores what the model asks for (capped scores, attention
sinks), it runs causal attention one sequence at a time.
"""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.utils.import_utils import is_flash_attn_2_available

from srt.common.errors import UserError

varlen_attn: Callable[..., Any] | None
try:
    from torch.nn.attention.varlen import varlen_attn  # torch >= 2.10
except ImportError:
    varlen_attn = None

PACKED = "packed_varlen"  # name under which transformers knows packed_attention


class AttentionChoice(NamedTuple):
    """`implementation`: transformers' attn_implementation; `packed`: whether to pack; `description`: for logs."""

    implementation: str
    packed: bool
    description: str


def choose_attention(packing: str, flash_attention: bool = True) -> AttentionChoice:
    """The attention for PACKING=auto, 0 or 1 on this machine, for a model that supports all of them.

    `flash_attention`: the model supports FlashAttention 2.
    """
    on_gpu = torch.cuda.is_available()
    if flash_attention and on_gpu and is_flash_attn_2_available():
        return AttentionChoice("flash_attention_2", packing != "0", "FlashAttention 2")
    if packing == "0" or (packing == "auto" and not (on_gpu and varlen_attn)):
        description = "SDPA (FlashAttention is not installed)" if on_gpu and flash_attention else "SDPA"
        return AttentionChoice("sdpa", False, description)
    if on_gpu and varlen_attn:
        description = "torch's variable-length flash kernel"
        description += " (FlashAttention is not installed)" if flash_attention else ""
        return AttentionChoice(PACKED, True, description)
    return AttentionChoice(PACKED, True, "SDPA, one sequence at a time")


def try_kernel(
    heads: int, key_heads: int, widths: tuple[int, int, int], device: torch.device, **options: Any
) -> None:
    """A forward and a backward pass of torch's variable-length kernel over a few tokens, in bf16.

    `widths`: of a head's query, key and value. `options`: scaling and sliding_window of `packed_attention`.
    Raises what the kernel raises where it does not compute such heads, or has none for such a GPU.
    """
    assert varlen_attn is not None
    query, key, value = (
        torch.ones(1, count, 8, width, dtype=torch.bfloat16, device=device, requires_grad=True)
        for count, width in zip((heads, key_heads, key_heads), widths, strict=True)
    )
    boundaries = torch.tensor([0, 3, 8], dtype=torch.int32, device=device)
    output = _varlen(varlen_attn, query, key, value, boundaries, 5, **options)
    output.square().sum().backward()  # the sum's own gradient would be one number, expanded, which kernels refuse


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
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention within each sequence, with the signature of a transformers attention function.

    query (1, H, T, D), key and value (1, H_kv, T, D); `cu_seq_lens_q` (N + 1,) int32: the start of each of the N
    sequences, then T. `softcap`: scores become softcap * tanh(scores / softcap). `s_aux` (H,): attention sinks, a
    score of each head that takes probability and has no value. Returns (1, T, H, D).
    Raises UserError for models that do not pass on the boundaries, or that have dropout or a position bias in it.
    """
    if dropout or kwargs.get("position_bias") is not None:
        raise UserError("its attention has dropout or a position bias")
    if cu_seq_lens_q is None or max_length_q is None:
        raise UserError("it does not tell its attention where a sequence ends")
    if torch.is_autocast_enabled(query.device.type):  # rotary embeddings return fp32
        dtype = torch.get_autocast_dtype(query.device.type)
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    if softcap or s_aux is not None:
        attend = partial(_eager, softcap=softcap, sinks=s_aux)
        output = _per_sequence(query, key, value, cu_seq_lens_q.tolist(), scaling, sliding_window, attend)
    elif query.is_cuda and varlen_attn is not None and query.dtype in (torch.bfloat16, torch.float16):
        output = _varlen(varlen_attn, query, key, value, cu_seq_lens_q, max_length_q, scaling, sliding_window)
    else:
        output = _per_sequence(query, key, value, cu_seq_lens_q.tolist(), scaling, sliding_window, _sdpa)
    return output, None


def _varlen(
    kernel: Callable[..., Any],
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    boundaries: torch.Tensor,
    max_length: int,
    scaling: float | None,
    sliding_window: int | None,
) -> torch.Tensor:
    # (1, heads, T, D) -> (T, heads, D)
    query, key, value = (tensor[0].transpose(0, 1).contiguous() for tensor in (query, key, value))
    supported = inspect.signature(kernel).parameters  # torch 2.10 and 2.13 have different ones
    options: dict[str, Any] = {"scale": scaling} if "scale" in supported else {}
    if "scale" not in supported and scaling not in (None, query.shape[-1] ** -0.5):
        raise UserError("this torch's variable-length attention does not support a scale; set PACKING=0")
    if "window_size" in supported:
        options["window_size"] = (sliding_window - 1 if sliding_window else -1, 0)
    elif sliding_window is None:
        options["is_causal"] = True
    else:
        raise UserError("this torch's variable-length attention does not support sliding windows; set PACKING=0")
    if "enable_gqa" in supported:
        options["enable_gqa"] = True
    else:
        groups = query.shape[1] // key.shape[1]
        key, value = (tensor.repeat_interleave(groups, dim=1) for tensor in (key, value))
    return kernel(query, key, value, boundaries, boundaries, max_length, max_length, **options)[None]


def _per_sequence(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    boundaries: list[int],
    scaling: float | None,
    sliding_window: int | None,
    attend: Callable[..., torch.Tensor],
) -> torch.Tensor:
    outputs = []
    for start, end in zip(boundaries, boundaries[1:], strict=False):
        mask = None
        if sliding_window and end - start > sliding_window:
            ones = torch.ones(end - start, end - start, dtype=torch.bool, device=query.device)
            mask = ones.tril() & ones.triu(1 - sliding_window)
        parts = (tensor[:, :, start:end] for tensor in (query, key, value))
        outputs.append(attend(*parts, mask=mask, scaling=scaling))
    return torch.cat(outputs, dim=2).transpose(1, 2).contiguous()


def _sdpa(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, scaling: float | None
) -> torch.Tensor:
    return scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        is_causal=mask is None,
        scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )


def _eager(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    scaling: float | None,
    softcap: float | None,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    """Like _sdpa, with capped scores and attention sinks; the mask is causal if none is given."""
    length, groups = query.shape[2], query.shape[1] // key.shape[1]
    key, value = (tensor.repeat_interleave(groups, dim=1) for tensor in (key, value))
    scores = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    if mask is None:
        mask = torch.ones(length, length, dtype=torch.bool, device=query.device).tril()
    scores = scores.masked_fill(~mask, -torch.inf)  # (1, H, L, L)
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    if sinks is not None:
        scores = torch.cat([scores, sinks.to(scores).reshape(1, -1, 1, 1).expand(*scores.shape[:3], 1)], dim=-1)
    return scores.softmax(-1)[..., :length].to(value.dtype) @ value


AttentionInterface.register(PACKED, packed_attention)
