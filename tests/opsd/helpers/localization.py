"""Scored responses made by hand, and the lines of attempts.jsonl."""

from opsd.localize.records import ScoredResponse, VariantScores
from opsd.localize.responses import GradedResponse
from srt.contract.records import Response, as_line, pack_ids


def scored(tokens, kl, r=0, *, teacher_rank=None, x="a problem", moved=None, response=0, problem=0):
    """A response with these tokens and KL; everything else is plain and consistent in length."""
    count = len(tokens)
    ones = [1] * count
    flat = VariantScores(list(kl), [-1.0] * count, list(moved or [0.0] * count))
    others = ("P_1" if r == 0 else "P_0", "none", "neutral")
    return ScoredResponse(
        problem=problem,
        response=response,
        id=f"id {problem}",
        x=x,
        answer="7",
        r=r,
        finish_reason="stop",
        p_r="the phrase",
        ids=list(range(count)),
        tokens=list(tokens),
        kl=list(kl),
        student_entropy=[0.5] * count,
        teacher_entropy=[0.4] * count,
        student_logprob=[-0.7] * count,
        teacher_logprob=[-0.9] * count,
        student_rank=ones,
        teacher_rank=list(teacher_rank or ones),
        alternatives=[[(index, 0.5, 0.4), (99, 0.1, 0.3)] for index in range(count)],
        variants={name: flat for name in others},
    )


def attempts_line(graded: GradedResponse, layout) -> dict:
    """The line of attempts.jsonl in which evaluate.sh would have logged it."""
    rollout = graded.rollout
    response = Response(
        problem_idx=graded.problem,
        response_idx=graded.response,
        id=rollout.problem.id,
        source="",
        x=rollout.problem.x,
        ground_truth=rollout.problem.answer,
        y_init=layout.decode(rollout.y),
        y_init_ids=pack_ids(rollout.y),
        y_init_tokens=len(rollout.y),
        y_init_correct=bool(rollout.r),
        y_init_extracted="",
        y_init_reason="",
        y_init_finish_reason=rollout.finish_reason,
        y_init_seed=0,
    )
    return as_line(response)
