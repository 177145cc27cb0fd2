"""Divergences between two next-token distributions, with their gradients, for one chunk of tokens.

Everything here is a pure function of a chunk's logits: no matrix product, no autograd graph, no state.
`compare_chunk` compares the chunks that the fused kernels do not support. All reductions over the vocabulary go
through a `Vocabulary`, so that the same formulas hold where each process has only some of the vocab entries
(`opsd.kl.vocab_parallel`).

Precision. For nearly equal distributions KL(a || b) is a small difference of large sums, and summing
`a * (log a - log b)` in fp32 yields the rounding error of the two normalizers instead of the answer. Two habits
keep fp32 accurate there (compare Liger-Kernel #1432, ms-swift #10156):

- values sum `a * (log a - log b) + (b - a)`. The added term sums to zero over the vocabulary, so the value is the
  same, but no summand is negative and a normalizer's error cancels to first order;
- gradients are centered with the very sum they consist of, which cancels the same error.
"""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Kind = Literal["reverse", "forward", "mixed", "jsd"]
Support = Literal["teacher", "student"]

# From this |log a - log b| on, the plain formula is accurate; below it expm1 avoids the cancellation.
_NEAR = 1.0
# exp(-80) is below the rounding error of 1 in fp32 and fp64, and exp(80) is still finite in fp32.
_MAX_LOG_RATIO = 80.0


@dataclass(frozen=True)
class KLConfig:
    """The divergence between student p and teacher q that is computed for each token.

    kind: "reverse" is KL(p || q), the paper's (section 2.2 of arXiv:2604.12002); "forward" is KL(q || p);
        "mixed" is mixed_weight * forward + (1 - mixed_weight) * reverse; "jsd" is the generalized
        Jensen-Shannon divergence of GKD (arXiv:2306.13649), beta * KL(q || m) + (1 - beta) * KL(p || m) with
        m = beta * q + (1 - beta) * p.
    mixed_weight: in [0, 1]; 0 is reverse, 1 is forward.
    jsd_beta: strictly inside (0, 1); 0.5 is the symmetric JSD, at most log 2. The value is not rescaled and
        vanishes at both ends: jsd / beta -> forward as beta -> 0, jsd / (1 - beta) -> reverse as beta -> 1.
    temperature: both models' logits are divided by it before the softmax. The loss is not multiplied by
        temperature squared, so gradients shrink as it grows.
    topk: 0 compares the whole vocabulary. k > 0 compares only the k most likely vocab entries of the model named
        by `topk_support`, a set that the gradient treats as constant; k >= V is the whole vocabulary again.
    clip: in nats; a token contributes min(its value, clip) to the loss, so that above it the gradient is 0. None:
        no limit.
    topk_tail: True lumps all other vocab entries into one more bucket per model; False renormalizes both models
        over the support.
    single_pass: whether the fused kernels may form values and gradient in one launch, whose programs wait for each
        other (opsd.kl.kernels.single_pass says what that assumes of the GPU); False: always in two launches, which
        wait for nothing. It chooses a kernel, not a divergence.
    Raises ValueError when an option is out of range, or when the combination makes the loss always zero.
    """

    kind: Kind = "reverse"
    mixed_weight: float = 0.5
    jsd_beta: float = 0.5
    temperature: float = 1.0
    topk: int = 0
    topk_support: Support = "teacher"
    topk_tail: bool = True
    single_pass: bool = True
    clip: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(f"kind is {self.kind!r}, expected one of {', '.join(get_args(Kind))}")
        if not 0.0 <= self.mixed_weight <= 1.0:
            raise ValueError(f"mixed_weight is {self.mixed_weight}, expected a number from 0 to 1")
        if not 0.0 < self.jsd_beta < 1.0:
            raise ValueError(
                f"jsd_beta is {self.jsd_beta}, expected a number strictly between 0 and 1 (at both ends the "
                f"divergence is always zero; use kind=forward or kind=reverse for the limits)"
            )
        if not (self.temperature > 0.0 and math.isfinite(self.temperature)):
            raise ValueError(f"temperature is {self.temperature}, expected a positive finite number")
        if isinstance(self.topk, bool) or not isinstance(self.topk, int) or self.topk < 0:
            raise ValueError(f"topk is {self.topk!r}, expected 0 (whole vocabulary) or a positive integer")
        if self.topk_support not in get_args(Support):
            raise ValueError(
                f"topk_support is {self.topk_support!r}, expected one of {', '.join(get_args(Support))}"
            )
        if self.clip is not None and not (self.clip > 0.0 and math.isfinite(self.clip)):
            raise ValueError(f"clip is {self.clip}, expected None (no limit) or a positive finite number")
        if self.topk == 1 and not self.topk_tail:
            raise ValueError(
                "topk is 1 with topk_tail=False, expected topk >= 2 or topk_tail=True (over a single token "
                "every divergence is zero)"
            )


class Vocabulary:
    """Operations over the vocabulary, all of which is in the last dimension of x. Token ids index it."""

    def sum(self, x: Float[Tensor, "T V"]) -> Float[Tensor, " T"]:
        return x.sum(-1)

    def logsumexp(self, x: Float[Tensor, "T V"]) -> Float[Tensor, "T 1"]:
        return x.logsumexp(-1, keepdim=True)

    def topk(self, x: Float[Tensor, "T V"], k: int) -> Int[Tensor, "T k"]:
        """The token ids of the k largest values."""
        return x.topk(k, dim=-1).indices

    def argmax(self, x: Float[Tensor, "T V"]) -> Int[Tensor, "T 1"]:
        return x.argmax(-1, keepdim=True)

    def gather(self, x: Float[Tensor, "T V"], ids: Int[Tensor, "T k"]) -> Float[Tensor, "T k"]:
        return x.gather(-1, ids)

    def scatter_(
        self, x: Float[Tensor, "T V"], ids: Int[Tensor, "T k"], values: Float[Tensor, "T k"]
    ) -> Float[Tensor, "T V"]:
        """x, with `values` written to the given token ids in place."""
        return x.scatter_(-1, ids, values)

    def masked_fill_(self, x: Float[Tensor, "T V"], ids: Int[Tensor, "T k"], value: float) -> Float[Tensor, "T V"]:
        """x, with one value written to the given token ids in place."""
        return x.scatter_(-1, ids, value)

    def all_reduce_sum(self, x: Tensor) -> Tensor:
        """The sum over processes of x, which each process computed from its own vocab entries."""
        return x

    def size(self, local: int) -> int:
        """All vocab entries, of which this process has `local`."""
        return local


FULL_VOCAB = Vocabulary()


@dataclass(frozen=True)
class ChunkResult:
    """A chunk's values, and `gradient` = d(sum_t weights[t] * token_kl[t]) / d(student_logits).

    `token_kl` is not clipped; the gradient is that of the clipped values.
    """

    token_kl: Float[Tensor, " T"]
    gradient: Float[Tensor, "T V"] | None
    student_entropy: Float[Tensor, " T"] | None = None
    teacher_entropy: Float[Tensor, " T"] | None = None
    student_logprob: Float[Tensor, " T"] | None = None
    teacher_logprob: Float[Tensor, " T"] | None = None
    top1_agreement: Bool[Tensor, " T"] | None = None


def compare_chunk(
    student_logits: Float[Tensor, "T V"],
    teacher_logits: Float[Tensor, "T V"],
    weights: Float[Tensor, " T"],
    targets: Int[Tensor, " T"] | None,
    config: KLConfig,
    *,
    with_gradient: bool,
    with_stats: bool,
    vocabulary: Vocabulary = FULL_VOCAB,
) -> ChunkResult:
    """The divergence of each token in nats, the weighted gradient of the student's logits, and the statistics.

    Both logits have the same dtype, fp32 or fp64, and everything is computed in it. The logits are used as scratch
    space and must not be read afterwards. The statistics (entropies, log-probabilities of `targets`, top-1
    agreement) are at temperature 1 over the whole vocabulary, in nats.
    """
    stats: dict[str, Tensor] = {}
    if with_stats:
        student_top1, teacher_top1 = (vocabulary.argmax(x)[:, 0] for x in (student_logits, teacher_logits))
        stats["top1_agreement"] = student_top1 == teacher_top1
        for name, logits in (("student", student_logits), ("teacher", teacher_logits)):
            log_probs = logits - vocabulary.logsumexp(logits)
            stats[f"{name}_entropy"] = -vocabulary.sum(log_probs.exp() * log_probs)
            if targets is not None:
                stats[f"{name}_logprob"] = vocabulary.gather(log_probs, targets[:, None])[:, 0]
            del log_probs

    if config.temperature != 1.0:
        student_logits.div_(config.temperature)
        teacher_logits.div_(config.temperature)
    log_p = _log_softmax_(student_logits, vocabulary)
    log_q = _log_softmax_(teacher_logits, vocabulary)
    if 0 < config.topk < vocabulary.size(log_p.shape[-1]):
        token_kl, gradient = _divergence_on_support(log_p, log_q, config, with_gradient, vocabulary)
    else:
        token_kl, gradient = divergence(log_p, log_q, config, with_gradient, vocabulary)
    if gradient is not None:
        gradient.mul_(weights_of_unclipped(weights, token_kl, config)[:, None] / config.temperature)
    return ChunkResult(token_kl, gradient, **stats)


def weights_of_unclipped(
    weights: Float[Tensor, " T"], token_kl: Float[Tensor, " T"], config: KLConfig
) -> Float[Tensor, " T"]:
    """The weights with which tokens enter the gradient: the derivative of min(token_kl, clip) is 1 or 0."""
    return weights if config.clip is None else weights.masked_fill(token_kl > config.clip, 0.0)


def divergence(
    log_p: Float[Tensor, "T N"],
    log_q: Float[Tensor, "T N"],
    config: KLConfig,
    with_gradient: bool,
    vocabulary: Vocabulary = FULL_VOCAB,
) -> tuple[Float[Tensor, " T"], Float[Tensor, "T N"] | None]:
    """`config.kind` per token, between normalised log-probabilities of student p and teacher q.

    The gradient is with respect to logits z, log_p = log_softmax(z). Temperature and top-k are ignored here.
    """
    p, q = log_p.exp(), log_q.exp()
    log_ratio = log_p - log_q
    if config.kind == "reverse":
        return _reverse(p, q, log_ratio, with_gradient, vocabulary)
    if config.kind == "forward":
        return _forward(p, q, log_ratio, with_gradient, vocabulary)
    if config.kind == "jsd":
        return _jsd(p, q, log_ratio, config.jsd_beta, with_gradient, vocabulary)
    weight = config.mixed_weight
    forward, forward_gradient = _forward(p, q, log_ratio, with_gradient, vocabulary)
    reverse, reverse_gradient = _reverse(p, q, log_ratio, with_gradient, vocabulary)
    value = weight * forward + (1.0 - weight) * reverse
    if forward_gradient is None or reverse_gradient is None:
        return value, None
    return value, forward_gradient.mul_(weight).add_(reverse_gradient, alpha=1.0 - weight)


def _reverse(
    p: Tensor, q: Tensor, log_ratio: Tensor, with_gradient: bool, vocabulary: Vocabulary
) -> tuple[Tensor, Tensor | None]:
    value = _kl_sum(p, q, log_ratio, vocabulary)
    return value, _centered(p, log_ratio, vocabulary) if with_gradient else None


def _forward(
    p: Tensor, q: Tensor, log_ratio: Tensor, with_gradient: bool, vocabulary: Vocabulary
) -> tuple[Tensor, Tensor | None]:
    value = _kl_sum(q, p, -log_ratio, vocabulary)
    return value, p - q if with_gradient else None


def _jsd(
    p: Tensor, q: Tensor, log_ratio: Tensor, beta: float, with_gradient: bool, vocabulary: Vocabulary
) -> tuple[Tensor, Tensor | None]:
    # log(p/m) directly from log(p/q): log p - log m would lose the difference of a nearly equal pair to the
    # rounding of log m. Where the clamp acts, the ratio it changes is multiplied by a probability below exp(-80).
    log_ratio = log_ratio.clamp(-_MAX_LOG_RATIO, _MAX_LOG_RATIO)
    log_p_over_m = -torch.log1p(beta * torch.expm1(-log_ratio))
    log_q_over_m = log_p_over_m - log_ratio
    m = torch.lerp(p, q, beta)
    value = beta * _kl_sum(q, m, log_q_over_m, vocabulary)
    value += (1.0 - beta) * _kl_sum(p, m, log_p_over_m, vocabulary)
    # d value / d p is (1 - beta) log(p/m): the terms from m's dependence on p cancel.
    return value, _centered(p, log_p_over_m, vocabulary).mul_(1.0 - beta) if with_gradient else None


def _kl_sum(a: Tensor, b: Tensor, log_ratio: Tensor, vocabulary: Vocabulary) -> Tensor:
    """KL(a || b) per token, log_ratio = log a - log b; see the module's note on precision."""
    near = a * (torch.expm1(-log_ratio) + log_ratio)  # b = a * exp(-log_ratio) avoids the cancellation in b - a
    far = (a * log_ratio).add_(b - a)
    return vocabulary.sum(torch.where(log_ratio.abs() < _NEAR, near, far))


def _centered(p: Tensor, score: Tensor, vocabulary: Vocabulary) -> Tensor:
    """Gradient of sum_v p_v score_v with respect to p's logits, for constant scores."""
    # Only differences of scores matter. Subtracting the argmax's score preserves the gradient of a nearly certain
    # token, which would otherwise be the rounding error of that score.
    score = score - vocabulary.gather(score, vocabulary.argmax(p))
    return p * (score - vocabulary.sum(p * score)[:, None])


def _divergence_on_support(
    log_p: Float[Tensor, "T V"],
    log_q: Float[Tensor, "T V"],
    config: KLConfig,
    with_gradient: bool,
    vocabulary: Vocabulary,
) -> tuple[Float[Tensor, " T"], Float[Tensor, "T V"] | None]:
    """The divergence over the `config.topk` most likely vocab entries of one model; its gradient is over all V."""
    support = vocabulary.topk(log_q if config.topk_support == "teacher" else log_p, config.topk)
    # The support is small and, where the vocabulary is sharded, known to every process.
    log_p_support, log_q_support = vocabulary.gather(log_p, support), vocabulary.gather(log_q, support)
    if not config.topk_tail:
        log_p_support, log_q_support = (_log_softmax_(x, FULL_VOCAB) for x in (log_p_support, log_q_support))
        value, part = divergence(log_p_support, log_q_support, config, with_gradient)
        return value, None if part is None else vocabulary.scatter_(torch.zeros_like(log_p), support, part)

    # Summed over the tail's own entries: 1 - sum(support) keeps no correct digit once the support holds almost
    # all probability.
    log_p_rest = vocabulary.masked_fill_(log_p.clone(), support, -math.inf)
    log_p_tail = vocabulary.logsumexp(log_p_rest)
    log_q_tail = vocabulary.logsumexp(vocabulary.masked_fill_(log_q.clone(), support, -math.inf))
    value, part = divergence(
        torch.cat([log_p_support, log_p_tail], dim=-1),
        torch.cat([log_q_support, log_q_tail], dim=-1),
        config,
        with_gradient,
    )
    if part is None:
        return value, None
    # A tail entry's logit moves the bucket in proportion to the entry's share of it.
    gradient = log_p_rest.sub_(log_p_tail).exp_().mul_(part[:, -1:])
    return value, vocabulary.scatter_(gradient, support, part[:, :-1])


def _log_softmax_(logits: Tensor, vocabulary: Vocabulary) -> Tensor:
    """log_softmax over the last dimension, in place."""
    return logits.sub_(vocabulary.logsumexp(logits))
