"""Chunks of tokens: how a selection of tokens is written, and how many tokens' logits are held at a time."""

import math
from collections.abc import Iterator

import torch
from jaxtyping import Int
from torch import Tensor

# Elements (128 MiB in fp32) of one model's logits of a chunk where torch compares them: its working set is about
# eight buffers of this size, twelve for jsd. Also the size of the pieces in which an lm_head is upcast and its
# gradient accumulated where the GPU cannot multiply the matrices in their own dtype.
CHUNK_ELEMENTS = 2**25

# With the fused kernels: the most tokens per chunk (larger matrix products are no faster), and the fraction of the
# free memory that both models' logits may fill.
FUSED_CHUNK_TOKENS = 1024
FUSED_MEMORY_FRACTION = 0.5

MAX_GRID = 65535  # of a CUDA launch, in the dimension that the kernels use for tokens

# A selection of tokens; a slice where possible, because slicing copies nothing.
Tokens = slice | Int[Tensor, " N"]


def token_count(tokens: Tokens) -> int:
    return tokens.stop - tokens.start if isinstance(tokens, slice) else len(tokens)


def split(selected: Int[Tensor, " S"], total: int, chunk_tokens: int) -> Iterator[Tokens]:
    """The selected tokens (ascending) in chunks; slices where all `total` tokens are selected."""
    for start in range(0, len(selected), chunk_tokens):
        chunk = slice(start, min(start + chunk_tokens, len(selected)))
        yield chunk if len(selected) == total else selected[chunk]


def chunk_size(
    requested: int | None, vocab: int, tokens: int, device: torch.device, fused: bool, buffers: int = 2
) -> int:
    """Tokens per chunk: `requested` if given, else as many as the budget of logits, or with the fused kernels the
    free memory, allows. vocab: vocab entries of this process. buffers: fp32 matrices of the size of a model's
    logits that the fused kernels need."""
    if requested is None and fused:
        bytes_per_token = 4 * buffers * vocab / FUSED_MEMORY_FRACTION
        free = free_memory(device, enough=FUSED_CHUNK_TOKENS * bytes_per_token)
        most = min(FUSED_CHUNK_TOKENS, max(1, int(free / bytes_per_token)))
        return max(1, -(-tokens // -(-tokens // most))) if tokens else 1  # chunks of equal size
    if requested is None:
        return max(1, CHUNK_ELEMENTS // vocab)
    if requested < 1:
        raise ValueError(f"chunk_tokens is {requested}, expected None or at least 1")
    return min(requested, MAX_GRID)


def free_memory(device: torch.device, enough: float = math.inf) -> int:
    """Bytes that torch could still allocate on a GPU, or any number above `enough`."""
    free = torch.cuda.mem_get_info(device)[0]
    if free < enough:  # torch's statistics cost the host as much time as a small chunk costs the GPU
        free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return free
