"""Fused kernels of the exact KL: both models' fp32 logits of a chunk -> values, statistics and gradient.

One read of both logits yields the sums of `opsd.kl.kernels.block_sums`: values, entropies and everything the
gradient needs. It is followed by one of

- `flag` and `gather`: a second read, of only those blocks in which an entry of the gradient can exceed the
  threshold, flags vocab entries, and the gradient is formed at the flagged entries alone;
- `dense`: a second read writes the gradient at all vocab entries;
- nothing, where all vocab entries were requested from the start: `compare(..., out=)` writes them in the same
  launch (`opsd.kl.kernels.single_pass`).
"""

# pyright: basic, reportCallIssue=false
# (Launches have parameters that Triton's types omit.)

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

from opsd.kl.divergences import KLConfig, weights_of_unclipped
from opsd.kl.kernels import single_pass
from opsd.kl.kernels.block_sums import (
    AGREEMENT,
    BLOCK_FIELDS,
    ENTROPY_X,
    ENTROPY_Y,
    FORWARD,
    GRADIENT_NORM2,
    NORMALIZER_X,
    NORMALIZER_Y,
    REVERSE,
    TOKEN_FIELDS,
    block_sums,
    merge_blocks,
)
from opsd.kl.kernels.gradient import flag_entries, gradient_at_entries, gradient_everywhere

# Vocab entries per program and its warps, by kernel; `benchmarks/kl.py modes=tune` measures others.
BLOCK, WARPS = 4096, 8  # sums and flags
DENSE_BLOCK, DENSE_WARPS = 1024, 4
GATHER_BLOCK, GATHER_WARPS = 1024, 8

KINDS = {"reverse": 0, "forward": 1, "mixed": 2}


def supports(config: KLConfig, vocab_size: int) -> bool:
    """Whether these kernels compute the divergence; `opsd.kl.divergences` computes the others."""
    return config.kind in KINDS and not 0 < config.topk < vocab_size


def block_count(vocab_size: int) -> int:
    """Blocks of a token's sums, where they are gathered from several processes."""
    return triton.cdiv(vocab_size, BLOCK)


@dataclass(frozen=True)
class FusedChunk:
    """The comparison of one chunk of N tokens, as `compare` returns it; a `ChunkGradient`."""

    student: Float[Tensor, "N V"]  # logits
    teacher: Float[Tensor, "N V"]
    scale: Float[Tensor, " N"]  # weight / temperature
    config: KLConfig
    sums: Float[Tensor, "N blocks fields"]  # this process's
    merged: Float[Tensor, "token_fields N"]
    gradient: Float[Tensor, "N V"] | None  # at all vocab entries, weighted; None: not formed

    @property
    def token_kl(self) -> Float[Tensor, " N"]:
        if self.config.kind == "reverse":
            return self.field(REVERSE)
        if self.config.kind == "forward":
            return self.field(FORWARD)
        return torch.lerp(self.field(REVERSE), self.field(FORWARD), self.config.mixed_weight)

    @property
    def normalizers(self) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
        """log sum exp of the student's and the teacher's logits, divided by the temperature."""
        return self.field(NORMALIZER_X), self.field(NORMALIZER_Y)

    @property
    def can_flag(self) -> bool:
        return self.config.kind == "reverse" and self.gradient is None

    def field(self, field: tl.constexpr) -> Float[Tensor, " N"]:
        """One of the fields of `block_sums` for every token."""
        return self.merged[field.value]

    def flag(self, eps: float, max_dropped: float) -> Int[Tensor, " V"]:
        """1 for each vocab entry where a token's |gradient| exceeds eps times the root mean square of the tokens'
        gradient norms; 1 for all if the other entries hold more than `max_dropped` of the gradient's norm.

        Only if `can_flag`. `max_dropped` is compared with all values below the threshold, of which the flagged
        entries keep some: the gradient's true relative error is smaller.
        """
        tokens, vocab = self.student.shape
        blocks = self.sums.shape[1]
        norm2 = torch.dot(self.field(GRADIENT_NORM2), self.scale.square())
        flags = torch.zeros(vocab, dtype=torch.int32, device=self.student.device)
        dropped = torch.empty(tokens, blocks, dtype=torch.float32, device=self.student.device)
        flag_entries[(blocks, tokens)](
            self.student,
            self.teacher,
            self.student.stride(0),
            self.teacher.stride(0),
            self.scale,
            norm2,
            eps / tokens**0.5,
            self.merged,
            self.sums,
            flags,
            dropped,
            tokens,
            blocks,
            vocab,
            1.0 / self.config.temperature,
            TEMPERED=self.config.temperature != 1.0,
            BLOCK=BLOCK,
            num_warps=WARPS,
        )
        return flags.logical_or_(dropped.sum() > max_dropped**2 * norm2)

    def gather(self, entries: Int[Tensor, " F"], dtype: torch.dtype) -> Float[Tensor, "N F"]:
        """The weighted gradient of the student's logits at some vocab entries; 0 where an entry is V."""
        gradient = torch.empty(len(self.student), len(entries), dtype=dtype, device=self.student.device)
        self._launch(gradient_at_entries, (GATHER_BLOCK, GATHER_WARPS), entries, gradient)
        return gradient

    def dense(self, out: Float[Tensor, "N V"] | None = None) -> Float[Tensor, "N V"]:
        """The weighted gradient at all vocab entries, in `out` or else in place of the student's logits.

        If `compare` has formed it already, it is in the `out` that `compare` was given.
        """
        if self.gradient is not None:
            return self.gradient
        gradient = self.student if out is None else out
        self._launch(gradient_everywhere, (DENSE_BLOCK, DENSE_WARPS), gradient, gradient)
        return gradient

    def _launch(self, kernel, launch: tuple[int, int], entries: Tensor, gradient: Tensor) -> None:
        tokens, width = gradient.shape
        block, warps = launch
        if not width:
            return
        kernel[(triton.cdiv(width, block), tokens)](
            self.student,
            self.teacher,
            self.student.stride(0),
            self.teacher.stride(0),
            entries,
            gradient,
            gradient.stride(0),
            self.scale,
            self.merged,
            tokens,
            width,
            self.student.shape[1],
            1.0 / self.config.temperature,
            self.config.mixed_weight,
            TEMPERED=self.config.temperature != 1.0,
            KIND=KINDS[self.config.kind],
            BLOCK=block,
            num_warps=warps,
        )


def compare(
    student: Float[Tensor, "N V"],
    teacher: Float[Tensor, "N V"],
    weights: Float[Tensor, " N"],
    config: KLConfig,
    *,
    out: Float[Tensor, "N V"] | None = None,
    gather: Callable[[Tensor], Tensor] | None = None,
) -> FusedChunk:
    """Sums over both logits (in fp32; the last dimension contiguous), which are kept for the gradient.

    out: for the gradient at all vocab entries, which is formed in the same launch if possible, else by `dense`.
    gather: for a sharded vocabulary, turns a process's block sums into those of all processes, in the vocabulary's
    order (`opsd.kl.vocab_parallel`).
    """
    tokens, vocab = student.shape
    # A clipped token has no gradient, which is known only once its value is.
    single = out is not None and gather is None and config.clip is None
    single = single and single_pass.supports(config, vocab, student.device)
    blocks = triton.cdiv(vocab, single_pass.BLOCK if single else BLOCK)
    scale = weights if config.temperature == 1.0 else weights / config.temperature
    sums = torch.empty(tokens, blocks, BLOCK_FIELDS.value, dtype=torch.float32, device=student.device)
    if out is not None and single:
        single_pass.sums_and_gradient(student, teacher, scale, config.temperature, sums, out)
    else:
        block_sums[(blocks, tokens)](
            student,
            teacher,
            student.stride(0),
            teacher.stride(0),
            sums,
            blocks,
            vocab,
            1.0 / config.temperature,
            TEMPERED=config.temperature != 1.0,
            BLOCK=BLOCK,
            num_warps=WARPS,
        )
    all_sums = sums if gather is None else gather(sums)
    all_blocks = all_sums.shape[1]
    merged = torch.empty(TOKEN_FIELDS.value, tokens, dtype=torch.float32, device=student.device)
    merge_blocks[(tokens,)](
        all_sums, merged, tokens, all_blocks, BLOCKS=triton.next_power_of_2(all_blocks), num_warps=2
    )
    chunk = FusedChunk(student, teacher, scale, config, sums, merged, out if single else None)
    if config.clip is None:
        return chunk
    return replace(chunk, scale=weights_of_unclipped(scale, chunk.token_kl, config))


def stats(chunk: FusedChunk) -> dict[str, Tensor]:
    """Both entropies and the agreement. `chunk` must have been compared at temperature 1."""
    return {
        "student_entropy": chunk.field(ENTROPY_X),
        "teacher_entropy": chunk.field(ENTROPY_Y),
        "top1_agreement": chunk.field(AGREEMENT),
    }
