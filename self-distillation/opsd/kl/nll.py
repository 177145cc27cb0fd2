"""The negative log-likelihood of given tokens, from hidden states, as memory-frugal and precise as the exact KL.

    loss = sum_t weights[t] * -log student(targets[t] | x, y_<t)

With weights 1 / T it is the loss of SFT; with minus an advantage it is that of REINFORCE, whose gradient is the
policy's (Williams 1992).
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from opsd.kl.chunk_gradient import DenseGradient
from opsd.kl.chunks import chunk_size, split
from opsd.kl.dense import DenseAccumulator
from opsd.kl.divergences import FULL_VOCAB
from opsd.kl.gradients import PrecomputedGradient, StudentGradients
from opsd.kl.lm_head import LMHead
from opsd.kl.logit_transform import IDENTITY, LogitTransform


def weighted_nll(
    hidden: Float[Tensor, "T H"],
    head: Float[Tensor, "V H"],
    targets: Int[Tensor, " T"],
    weights: Float[Tensor, " T"],
    *,
    bias: Float[Tensor, " V"] | None = None,
    transform: LogitTransform = IDENTITY,
    vocab_size: int | None = None,
    chunk_tokens: int | None = None,
) -> Float[Tensor, ""]:
    """See the module; differentiable in hidden, head and bias. `weights`: constants of any sign.

    transform: what the model does to its logits (scaling, soft-capping).
    vocab_size: rows of head and bias beyond it are padding. chunk_tokens: tokens whose logits exist at a time.
    """
    compute = torch.float64 if hidden.dtype == torch.float64 else torch.float32
    vocab_size = vocab_size or len(head)
    lm_head = LMHead(hidden.detach(), head.detach(), bias, vocab_size, compute, transform)
    with torch.no_grad(), torch.autocast(hidden.device.type, enabled=False):
        weights = weights.to(compute)
        gradients = StudentGradients(lm_head, (hidden, head, bias), FULL_VOCAB, False, fused=False)
        accumulator = DenseAccumulator(gradients, len(hidden))
        total = weights.new_zeros(())
        size = chunk_size(chunk_tokens, vocab_size, len(hidden), hidden.device, fused=False)
        for tokens in split(torch.arange(len(hidden), device=hidden.device), len(hidden), size):
            logits = lm_head.logits(tokens)  # (N, V)
            derivative = transform.scale if transform.cap is None else transform.derivative(logits)
            log_probs = logits.log_softmax(-1)
            target = targets[tokens][:, None].long()
            total -= (weights[tokens] * log_probs.gather(-1, target)[:, 0]).sum()
            gradient = log_probs.exp_()  # of the transformed logits: p - onehot(target)
            gradient.scatter_add_(-1, target, torch.full_like(target, -1, dtype=compute))
            gradient.mul_(weights[tokens][:, None]).mul_(derivative)
            accumulator.add(tokens, DenseGradient(gradient, FULL_VOCAB))
        accumulator.finish()
    return PrecomputedGradient.apply(total, hidden, head, bias, gradients)
