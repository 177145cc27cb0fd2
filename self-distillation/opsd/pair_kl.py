"""The loss of a micro-batch: the exact KL between student and teacher at every token of y."""

from dataclasses import fields, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from opsd.hidden_states import LMHead
from opsd.kl import KLConfig, KLOutput, exact_kl
from opsd.kl.nll import weighted_nll
from srt.contract.layout import TokenSequence


def pair_kl(
    student_hidden: Float[Tensor, "T Hs"],
    student_head: LMHead,
    teacher_hidden: Float[Tensor, "T Ht"],
    teacher_head: LMHead,
    sequences: list[TokenSequence],
    token_weight: float,
    kl_config: KLConfig,
    grad_eps: float,
    owned: Bool[Tensor, " T"] | None = None,
) -> KLOutput:
    """token_weight * sum_t KL( pi_theta(. | x, y_<t) || pi_SRT(. | x, y, P_r, y_<t) ), differentiable in the
    student.

    sequences: the student's, whose supervised tokens the hidden states predict, one sequence after the other.
    owned: the tokens that this rank compares, with context parallelism; None: all. The output holds 0 for others.
    """
    weights = student_hidden.new_full((len(student_hidden),), token_weight, dtype=torch.float32)
    if owned is not None:
        weights = weights * owned
    targets = torch.tensor([token for sequence in sequences for token in sequence.ids[sequence.start :]])
    return exact_kl(
        student_hidden.to(student_head.weight.dtype),  # as the head itself would, under autocast
        student_head.weight,
        teacher_hidden.to(teacher_head.weight.dtype),
        teacher_head.weight,
        weights,
        config=kl_config,
        targets=targets.to(student_hidden.device),
        student_bias=student_head.bias,
        teacher_bias=teacher_head.bias,
        student_transform=student_head.transform,
        teacher_transform=teacher_head.transform,
        # Heads may be padded beyond the tokenizer, each model's differently.
        vocab_size=min(student_head.vocab_size, teacher_head.vocab_size),
        grad_eps=grad_eps,
        group=student_head.group,
    )


def sequences_nll(
    hidden: Float[Tensor, "T H"], head: LMHead, sequences: list[TokenSequence], weights: list[float]
) -> Float[Tensor, ""]:
    """sum_i weights[i] * sum_t -log pi_theta(y_t | x, y_<t) over the supervised tokens of each sequence i."""
    supervised = [sequence.ids[sequence.start :] for sequence in sequences]
    token_weights = [weight for weight, y in zip(weights, supervised, strict=True) for _ in y]
    return weighted_nll(
        hidden.to(head.weight.dtype),
        head.weight,
        torch.tensor([token for y in supervised for token in y], device=hidden.device),
        torch.tensor(token_weights, device=hidden.device),
        bias=head.bias,
        transform=head.transform,
        vocab_size=head.vocab_size,
    )


def detach_to_cpu(output: KLOutput) -> KLOutput:
    """For the metrics: `loss` would keep the gradients alive that it was formed with."""
    tensors = {field.name: getattr(output, field.name) for field in fields(output)}
    return replace(output, **{name: x.detach().cpu() for name, x in tensors.items() if isinstance(x, Tensor)})
