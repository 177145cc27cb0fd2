"""The student's turn: y ~ pi_theta(. | x), and the verifier's: r."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from opsd.models import autocast
from opsd.rows import Rollout
from srt.files import JsonlLog
from srt.layout import Layout
from srt.records import Problem
from srt.sampling.base import Sampler, SampleRequest, sample_all
from srt.sampling.transformers_sampler import TransformersSampler
from srt.seeds import sample_seed
from srt.verifiers import VerifierBroke
from srt.verifiers.pool import Grader


@contextmanager
def on_policy(sampler: Sampler, student: Any) -> Iterator[None]:
    """For the block, `sampler` draws from the student as it is now.

    transformers samples from the very weights in training. vLLM takes a copy of them over and, on a GPU, gives its
    memory back afterwards.
    """
    if isinstance(sampler, TransformersSampler):
        with autocast(student.device):
            yield
        return
    if torch.cuda.is_available():
        torch.cuda.empty_cache()  # what training left in torch's pool is what vLLM wakes up in
    sampler.take_weights(student.named_parameters())
    yield
    sampler.sleep()


def sample_and_grade(
    problems: list[Problem],
    purpose: str,
    step: int,
    layout: Layout,
    sampler: Sampler,
    grader: Grader,
    max_total_tokens: int,
    seed: int,
    set_aside: JsonlLog,
) -> list[Rollout]:
    """One graded response for each problem, in their order.

    `purpose`, `step` and the place in `problems` go into each sample's seed. Prompts that leave no room for
    a response, and samples on which the verifier broke, are set aside: neither is trained on.
    """
    asked: list[tuple[Problem, SampleRequest]] = []
    for place, problem in enumerate(problems):
        chat = layout.chat(problem.x)
        room = max_total_tokens - len(chat)
        if room < 1:
            reason = f"the prompt has {len(chat)} tokens, MAX_TOTAL_SEQUENCE_LENGTH is {max_total_tokens}"
            set_aside.append({"step": step, "purpose": purpose, "id": problem.id, "reason": reason})
            continue
        request_seed = sample_seed(seed, purpose, step, place, problem.id)
        asked.append((problem, SampleRequest(chat, request_seed, room)))
    samples = sample_all(sampler, [request for _, request in asked])
    verdicts = grader.grade_all(
        [
            (layout.decode(sample.token_ids), problem, sample.finish_reason)
            for (problem, _), sample in zip(asked, samples, strict=True)
        ]
    )
    rollouts = []
    for (problem, request), sample, verdict in zip(asked, samples, verdicts, strict=True):
        if isinstance(verdict, VerifierBroke):
            reason = f"the verifier broke: {verdict}"
            text = layout.decode(sample.token_ids)[:10_000]
            set_aside.append(
                {"step": step, "purpose": purpose, "id": problem.id, "reason": reason, "text": text}
            )
            continue
        rollouts.append(
            Rollout(
                problem,
                request.prompt_ids,
                sample.token_ids,
                sample.logprobs,
                sample.finish_reason,
                int(verdict.correct),
            )
        )
    return rollouts
