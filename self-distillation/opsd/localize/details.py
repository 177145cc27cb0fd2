"""What training does not need of a token's two distributions: the top alternatives, and the token's own rank."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from opsd.hidden_states import LMHead
from opsd.kl import chunks
from opsd.kl.lm_head import LMHead as ChunkHead

Alternative = tuple[int, float, float]  # token id, its probability under the student and under the teacher


class TokenDetails(NamedTuple):
    """Of one token of y. Ranks count from 1. `alternatives`: both models' most likely tokens, likeliest first."""

    student_rank: int
    teacher_rank: int
    alternatives: list[Alternative]


@torch.no_grad()
def token_details(
    student_hidden: Float[Tensor, "T Hs"],
    student_head: LMHead,
    teacher_hidden: Float[Tensor, "T Ht"],
    teacher_head: LMHead,
    targets: Int[Tensor, " T"],
    count: int,
) -> list[TokenDetails]:
    """For each token, `count` alternatives of each model. Logits exist for one chunk of tokens at a time."""
    vocab = min(student_head.vocab_size, teacher_head.vocab_size)
    heads = [
        ChunkHead(hidden.to(head.weight.dtype), head.weight, head.bias, vocab, torch.float32, head.transform)
        for hidden, head in ((student_hidden, student_head), (teacher_hidden, teacher_head))
    ]
    size = max(1, chunks.CHUNK_ELEMENTS // vocab)
    details = []
    for start in range(0, len(targets), size):
        tokens = slice(start, min(start + size, len(targets)))
        student, teacher = (head.logits(tokens) for head in heads)
        details += _chunk(student, teacher, targets[tokens], min(count, vocab))
    return details


def _chunk(
    student: Float[Tensor, "N V"], teacher: Float[Tensor, "N V"], targets: Int[Tensor, " N"], count: int
) -> list[TokenDetails]:
    own = targets[:, None].to(student.device)
    ranks = [(1 + (x > x.gather(-1, own)).sum(-1)).tolist() for x in (student, teacher)]
    # The union of both models' candidates, with each one's probability under both.
    ids = torch.cat([x.topk(count, dim=-1).indices for x in (student, teacher)], dim=-1)  # (N, 2 count)
    log_probs = [x.gather(-1, ids) - x.logsumexp(-1, keepdim=True) for x in (student, teacher)]
    probs = [x.exp().tolist() for x in log_probs]
    return [
        TokenDetails(student_rank, teacher_rank, _alternatives(candidates, p, q))
        for student_rank, teacher_rank, candidates, p, q in zip(*ranks, ids.tolist(), *probs, strict=True)
    ]


def _alternatives(ids: list[int], student: list[float], teacher: list[float]) -> list[Alternative]:
    by_id = {index: (p, q) for index, p, q in zip(ids, student, teacher, strict=True)}
    ordered = sorted(by_id.items(), key=lambda item: -max(item[1]))
    return [(index, p, q) for index, (p, q) in ordered]
