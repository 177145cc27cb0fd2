"""Positions of a row over the ranks of context parallelism, as Megatron-Core and Transformer Engine divide them.

A row is cut into two chunks for each rank; rank r has chunk r and, counted from the end, chunk r again. A causal
model's chunks cost the more the later they are, so that all ranks have the same work.
"""

from dataclasses import fields, replace
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from opsd.kl import KLOutput


def chunks_of(rank: int, ranks: int) -> tuple[int, int]:
    return rank, 2 * ranks - 1 - rank


def take_part(whole: Tensor, rank: int, ranks: int, dim: int = 0) -> Tensor:
    """The rank's positions of `whole`, whose length along `dim` is a multiple of 2 * ranks."""
    chunks = whole.chunk(2 * ranks, dim)
    return torch.cat([chunks[index] for index in chunks_of(rank, ranks)], dim)


def in_order(gathered: Tensor, ranks: int) -> Tensor:
    """All positions in order along dimension 0, from the ranks' parts one after the other."""
    chunks = gathered.chunk(2 * ranks)
    order = [index for rank in range(ranks) for index in chunks_of(rank, ranks)]
    return torch.cat([chunks[order.index(index)] for index in range(2 * ranks)])


def owners(positions: Int[Tensor, " T"], length: int, ranks: int) -> tuple[Int[Tensor, " T"], Int[Tensor, " T"]]:
    """The rank that has each position of rows of `length` tokens, and the position's place in that rank's part."""
    size = length // (2 * ranks)
    chunk, offset = positions // size, positions % size
    is_second = chunk >= ranks
    rank = torch.where(is_second, 2 * ranks - 1 - chunk, chunk)
    return rank, offset + is_second * size


def sum_outputs(outputs: list[KLOutput], owned: list[int], group: Any, device: torch.device) -> list[KLOutput]:
    """Of each micro-batch, the KL of all its tokens, from the ranks' KL of their own; they hold 0 for the others.

    outputs: on the CPU. owned: how many of each one's tokens this rank has. All ranks of `group` must call
    together.
    """
    tensors = [[(name, x) for name, x in _tensors(output).items()] for output in outputs]
    parts = [x.reshape(-1).float() for named in tensors for _, x in named]
    # The mean over tokens is of a rank's own; None where there is no gradient.
    shares = [(output.dropped_vocab_fraction or 0.0) * count for output, count in zip(outputs, owned, strict=True)]
    summed = torch.cat([*parts, torch.tensor(shares + owned)]).to(device)
    torch.distributed.all_reduce(summed, group=group)
    summed = summed.cpu()
    shares, counts = (x.tolist() for x in summed[len(summed) - 2 * len(outputs) :].chunk(2))
    pieces = iter(summed[: len(summed) - 2 * len(outputs)].split([len(part) for part in parts]))
    whole = []
    for output, named, share, count in zip(outputs, tensors, shares, counts, strict=True):
        found = {name: next(pieces).view(x.shape).to(x.dtype) for name, x in named}
        if output.dropped_vocab_fraction is not None:
            found["dropped_vocab_fraction"] = share / max(count, 1)
        whole.append(replace(output, **found))
    return whole


def _tensors(output: KLOutput) -> dict[str, Tensor]:
    return {field.name: x for field in fields(output) if isinstance(x := getattr(output, field.name), Tensor)}
