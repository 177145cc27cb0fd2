"""Compares student and teacher on one chunk of tokens: by the fused kernels where they apply, else by torch."""

import functools
import importlib.util
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from opsd.kl.chunk_gradient import ChunkGradient, DenseGradient
from opsd.kl.chunks import Tokens
from opsd.kl.dense import Reservation
from opsd.kl.divergences import KLConfig, Vocabulary, compare_chunk
from opsd.kl.lm_head import LMHead
from opsd.kl.vocab_parallel import ShardedVocabulary

Values = dict[str, Tensor]  # (N) each, by the name of `KLOutput`'s field


def fused_kernels_support(device: torch.device, config: KLConfig, vocab_size: int) -> bool:
    if device.type != "cuda" or not _triton_is_installed():
        return False
    from opsd.kl.kernels import fused

    return fused.supports(config, vocab_size)


@functools.cache
def _triton_is_installed() -> bool:
    return importlib.util.find_spec("triton") is not None


@dataclass(frozen=True)
class ChunkComparison:
    """All inputs of the comparison; `logits` and `compare` are called for one chunk after the other."""

    student: LMHead
    teacher: LMHead
    weights: Float[Tensor, " T"]
    targets: Int[Tensor, " T"] | None
    config: KLConfig
    vocabulary: Vocabulary
    with_gradient: bool
    with_stats: bool
    fused: bool

    @property
    def names(self) -> list[str]:
        """The values that `compare` computes; `token_kl` is the first."""
        names = ["token_kl"]
        if self.with_stats:
            names += ["student_entropy", "teacher_entropy", "top1_agreement"]
        if self.with_stats and self.targets is not None:
            names += ["student_logprob", "teacher_logprob"]
        return names

    def logits(self, tokens: Tokens) -> tuple[Float[Tensor, "N V"], Float[Tensor, "N V"]]:
        """The student's and the teacher's."""
        return self.student.logits(tokens), self.teacher.logits(tokens)

    def compare(
        self,
        tokens: Tokens,
        logits: tuple[Float[Tensor, "N V"], Float[Tensor, "N V"]],
        reservation: Reservation | None,
    ) -> tuple[Values, ChunkGradient | None]:
        """The chunk's values, and the weighted gradient of its student logits (None without `with_gradient`).

        The logits must not be read afterwards: they are scratch space, and the gradient may live in them.
        reservation: where the fused kernels may already leave the gradient of all vocab entries.
        """
        targets = None if self.targets is None else self.targets[tokens].long()
        transform, weights = self.student.transform, self.weights[tokens]
        if transform.cap is None:
            out = None if reservation is None else reservation.output_buffer
            if transform.scale != 1.0:
                weights = weights * transform.scale
            return self._compare(*logits, weights, targets, out)
        derivative = transform.derivative(logits[0]) if self.with_gradient else None
        values, gradient = self._compare(*logits, weights, targets, None)
        if derivative is None or gradient is None:
            return values, None
        return values, DenseGradient(derivative.mul_(gradient.dense()), self.vocabulary)

    def _compare(
        self, student: Tensor, teacher: Tensor, weights: Tensor, targets: Tensor | None, out: Tensor | None
    ) -> tuple[Values, ChunkGradient | None]:
        """`compare`, where the gradient is that of the transformed logits; `weights` only enter the gradient."""
        if self.fused:
            return self._by_kernels(student, teacher, weights, targets, out)
        return self._by_torch(student, teacher, weights, targets)

    def _by_torch(
        self, student: Tensor, teacher: Tensor, weights: Tensor, targets: Tensor | None
    ) -> tuple[Values, ChunkGradient | None]:
        result = compare_chunk(
            student,
            teacher,
            weights,
            targets,
            self.config,
            with_gradient=self.with_gradient,
            with_stats=self.with_stats,
            vocabulary=self.vocabulary,
        )
        gradient = None if result.gradient is None else DenseGradient(result.gradient, self.vocabulary)
        return {name: getattr(result, name) for name in self.names}, gradient

    def _by_kernels(
        self,
        student: Tensor,
        teacher: Tensor,
        weights: Tensor,
        targets: Tensor | None,
        out: Tensor | None,
    ) -> tuple[Values, ChunkGradient | None]:
        from opsd.kl.kernels import fused  # needs Triton, which comes with torch's CUDA builds only

        gather = None
        if isinstance(self.vocabulary, ShardedVocabulary):
            gather = functools.partial(self.vocabulary.all_gather, width=fused.block_count, dim=1)
        chunk = fused.compare(student, teacher, weights, self.config, out=out, gather=gather)
        values = {"token_kl": chunk.token_kl}
        if self.with_stats:
            plain = chunk
            if self.config.temperature != 1.0:
                plain = fused.compare(student, teacher, weights, KLConfig(), gather=gather)
            values |= fused.stats(plain)
            if targets is not None:
                both = zip(("student", "teacher"), (student, teacher), plain.normalizers, strict=True)
                for name, logits, normalizer in both:
                    target_logits = self.vocabulary.gather(logits, targets[:, None])[:, 0]
                    values[f"{name}_logprob"] = target_logits - normalizer
        return values, chunk if self.with_gradient else None
