"""A vocabulary of which each process of a group holds some consecutive columns (tensor parallel heads)."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from jaxtyping import Bool, Float, Int
from torch import Tensor

from opsd.kl.divergences import Vocabulary


@dataclass(frozen=True)
class ShardedVocabulary(Vocabulary):
    """Reductions over all processes' columns; token ids are the whole vocabulary's. Every method is collective:
    all processes must call it, with the same rows."""

    group: dist.ProcessGroup
    sizes: tuple[int, ...]  # columns of each process, by rank in the group
    first: int  # token id of this process's first column

    @classmethod
    def of(
        cls, student_head: Tensor, teacher_head: Tensor, vocab_size: int | None, group: dist.ProcessGroup
    ) -> tuple["ShardedVocabulary", int, int]:
        """The vocabulary, this process's columns, all columns. Heads as in `exact_kl`.

        Raises ValueError, in all processes alike, for shards that do not fit.
        """
        mine = torch.tensor([len(student_head), len(teacher_head)], device=student_head.device)
        shards = [torch.empty_like(mine) for _ in range(dist.get_world_size(group))]
        dist.all_gather(shards, mine, group=group)
        rows = torch.stack(shards).tolist()  # (processes, 2)
        for rank, (student_rows, teacher_rows) in enumerate(rows):
            if student_rows != teacher_rows:
                raise ValueError(
                    f"teacher_head has {teacher_rows} rows in process {rank} of the group, expected the "
                    f"{student_rows} of student_head: both models' vocabularies must be cut alike"
                )
        total = sum(count for count, _ in rows)
        if vocab_size is not None and not 1 <= vocab_size <= total:
            raise ValueError(f"vocab_size is {vocab_size}, expected 1 to {total}: the rows of all shards")
        total = total if vocab_size is None else vocab_size
        sizes, first = [], 0
        for rank, (count, _) in enumerate(rows):
            sizes.append(max(0, min(count, total - first)))
            if not sizes[-1]:
                raise ValueError(
                    f"process {rank} of the group holds no row of the {total} tokens' heads, expected at least one"
                )
            first += count
        rank = dist.get_rank(group)
        return cls(group, tuple(sizes), sum(sizes[:rank])), sizes[rank], total

    def total(self, x: Tensor) -> Tensor:
        x = x.contiguous()
        dist.all_reduce(x, group=self.group)
        return x

    def sum(self, x: Float[Tensor, "T V"]) -> Float[Tensor, " T"]:
        return self.total(x.sum(-1))

    def logsumexp(self, x: Float[Tensor, "T V"]) -> Float[Tensor, "T 1"]:
        most = x.amax(-1, keepdim=True)
        dist.all_reduce(most, dist.ReduceOp.MAX, group=self.group)
        return most + self.total((x - most).exp().sum(-1, keepdim=True)).log()

    def topk(self, x: Float[Tensor, "T V"], k: int) -> Int[Tensor, "T k"]:
        values, tokens = x.topk(min(k, x.shape[-1]), dim=-1)
        counts = [min(k, size) for size in self.sizes]
        values = self._concatenate(values, counts)
        tokens = self._concatenate(tokens + self.first, counts)
        return tokens.gather(-1, values.topk(k, dim=-1).indices)

    def likeliest(self, x: Float[Tensor, "T V"]) -> Int[Tensor, "T 1"]:
        return self.topk(x, 1)

    def at(self, x: Float[Tensor, "T V"], tokens: Int[Tensor, "T k"]) -> Float[Tensor, "T k"]:
        mine, places = self._mine(x, tokens)
        return self.total(x.gather(-1, places).where(mine, torch.zeros_like(x[:, :1])))

    def put_(
        self, x: Float[Tensor, "T V"], tokens: Int[Tensor, "T k"], values: Float[Tensor, "T k"] | float
    ) -> Float[Tensor, "T V"]:
        mine, places = self._mine(x, tokens)
        rows = mine.nonzero()[:, 0]
        x[rows, places[mine]] = values[mine] if isinstance(values, Tensor) else values
        return x

    def size(self, x: Float[Tensor, "T V"]) -> int:
        return sum(self.sizes)

    def concatenate(self, x: Tensor, width: Callable[[int], int], dim: int) -> Tensor:
        """All processes' x, along a dimension which is `width` of a process's columns long."""
        widths = [width(size) for size in self.sizes]
        return self._concatenate(x.movedim(dim, -1), widths).movedim(-1, dim).contiguous()

    def _concatenate(self, x: Tensor, widths: list[int]) -> Tensor:
        padded = x.new_zeros(*x.shape[:-1], max(widths))
        padded[..., : x.shape[-1]] = x
        parts = [torch.empty_like(padded) for _ in widths]
        dist.all_gather(parts, padded, group=self.group)
        return torch.cat([part[..., :width] for part, width in zip(parts, widths, strict=True)], dim=-1)

    def _mine(self, x: Tensor, tokens: Int[Tensor, "T k"]) -> tuple[Bool[Tensor, "T k"], Int[Tensor, "T k"]]:
        """Which tokens are this process's, and their columns there (0 for the others)."""
        columns = tokens - self.first
        mine = (columns >= 0) & (columns < x.shape[-1])
        return mine, columns.where(mine, torch.zeros_like(columns))
