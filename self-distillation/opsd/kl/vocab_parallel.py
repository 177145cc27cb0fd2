"""A vocabulary sharded over the processes of a group: each holds consecutive vocab entries (tensor parallel)."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from jaxtyping import Bool, Float, Int
from torch import Tensor

from opsd.kl.divergences import Vocabulary


@dataclass(frozen=True)
class ShardedVocabulary(Vocabulary):
    """Reductions over the vocab entries of all processes; token ids are those of the whole vocabulary. Every
    method is collective: all processes must call it, for the same tokens."""

    group: dist.ProcessGroup
    sizes: tuple[int, ...]  # vocab entries of each process, by rank in the group
    first: int  # token id of this process's first vocab entry

    @classmethod
    def from_shards(
        cls, student_head: Tensor, teacher_head: Tensor, vocab_size: int | None, group: dist.ProcessGroup
    ) -> tuple["ShardedVocabulary", int, int]:
        """The vocabulary, this process's number of vocab entries, and the total. lm_heads as in `exact_kl`.

        Raises ValueError, in all processes alike, for shards that do not match.
        """
        local = torch.tensor([len(student_head), len(teacher_head)], device=student_head.device)
        shards = [torch.empty_like(local) for _ in range(dist.get_world_size(group))]
        dist.all_gather(shards, local, group=group)
        rows = torch.stack(shards).tolist()  # (processes, 2)
        for rank, (student_rows, teacher_rows) in enumerate(rows):
            if student_rows != teacher_rows:
                raise ValueError(
                    f"teacher_head has {teacher_rows} rows in process {rank} of the group, expected the "
                    f"{student_rows} of student_head: both models' vocabularies must be sharded alike"
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

    def all_reduce_sum(self, x: Tensor) -> Tensor:
        x = x.contiguous()
        dist.all_reduce(x, group=self.group)
        return x

    def sum(self, x: Float[Tensor, "T V"]) -> Float[Tensor, " T"]:
        return self.all_reduce_sum(x.sum(-1))

    def logsumexp(self, x: Float[Tensor, "T V"]) -> Float[Tensor, "T 1"]:
        most = x.amax(-1, keepdim=True)
        dist.all_reduce(most, dist.ReduceOp.MAX, group=self.group)
        return most + self.all_reduce_sum((x - most).exp().sum(-1, keepdim=True)).log()

    def topk(self, x: Float[Tensor, "T V"], k: int) -> Int[Tensor, "T k"]:
        values, ids = x.topk(min(k, x.shape[-1]), dim=-1)
        counts = [min(k, size) for size in self.sizes]
        values = self._all_gather(values, counts)
        ids = self._all_gather(ids + self.first, counts)
        return ids.gather(-1, values.topk(k, dim=-1).indices)

    def argmax(self, x: Float[Tensor, "T V"]) -> Int[Tensor, "T 1"]:
        return self.topk(x, 1)

    def gather(self, x: Float[Tensor, "T V"], ids: Int[Tensor, "T k"]) -> Float[Tensor, "T k"]:
        is_local, entries = self._local(x, ids)
        return self.all_reduce_sum(x.gather(-1, entries).where(is_local, torch.zeros_like(x[:, :1])))

    def scatter_(
        self, x: Float[Tensor, "T V"], ids: Int[Tensor, "T k"], values: Float[Tensor, "T k"]
    ) -> Float[Tensor, "T V"]:
        is_local, entries = self._local(x, ids)
        x[is_local.nonzero()[:, 0], entries[is_local]] = values[is_local]
        return x

    def masked_fill_(self, x: Float[Tensor, "T V"], ids: Int[Tensor, "T k"], value: float) -> Float[Tensor, "T V"]:
        is_local, entries = self._local(x, ids)
        x[is_local.nonzero()[:, 0], entries[is_local]] = value
        return x

    def size(self, local: int) -> int:
        return sum(self.sizes)

    def all_gather(self, x: Tensor, width: Callable[[int], int], dim: int) -> Tensor:
        """All processes' x, concatenated along `dim`, where a process with n vocab entries has `width(n)`."""
        widths = [width(size) for size in self.sizes]
        return self._all_gather(x.movedim(dim, -1), widths).movedim(-1, dim).contiguous()

    def _all_gather(self, x: Tensor, widths: list[int]) -> Tensor:
        padded = x.new_zeros(*x.shape[:-1], max(widths))
        padded[..., : x.shape[-1]] = x
        parts = [torch.empty_like(padded) for _ in widths]
        dist.all_gather(parts, padded, group=self.group)
        return torch.cat([part[..., :width] for part, width in zip(parts, widths, strict=True)], dim=-1)

    def _local(self, x: Tensor, ids: Int[Tensor, "T k"]) -> tuple[Bool[Tensor, "T k"], Int[Tensor, "T k"]]:
        """Which token ids are this process's, and their vocab entries here (0 for the others)."""
        entries = ids - self.first
        is_local = (entries >= 0) & (entries < x.shape[-1])
        return is_local, entries.where(is_local, torch.zeros_like(entries))
