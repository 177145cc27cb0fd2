"""The student's turn: y ~ pi_theta(. | x), and the verifier's: r."""

from srt.files import JsonlLog
from srt.layout import Layout
from srt.records import Problem
from srt.sampling.base import Sampler, SampleRequest, sample_all
from srt.seeds import sample_seed
from srt.verifiers import VerifierBroke
from srt.verifiers.pool import Grader

from opsd.rows import Rollout


def sample_and_grade(
    problems: list[Problem],
    identity: tuple[str | int, ...],
    layout: Layout,
    sampler: Sampler,
    grader: Grader,
    max_total_tokens: int,
    seed: int,
    set_aside: JsonlLog,
) -> list[Rollout]:
    """One graded response for each problem, in their order.

    `identity` (such as the step) and the place in `problems` go into each sample's seed. Prompts that leave
    no room for a response, and samples on which the verifier broke, are set aside: neither is trained on.
    """
    asked: list[tuple[Problem, SampleRequest]] = []
    for place, problem in enumerate(problems):
        chat = layout.chat(problem.x)
        room = max_total_tokens - len(chat)
        if room < 1:
            reason = f"the prompt has {len(chat)} tokens, MAX_TOTAL_SEQUENCE_LENGTH is {max_total_tokens}"
            set_aside.append({"id": problem.id, "identity": identity, "reason": reason})
            continue
        request_seed = sample_seed(seed, *identity, place, problem.id)
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
            text = layout.decode(sample.token_ids)
            set_aside.append({"id": problem.id, "identity": identity, "reason": reason, "text": text[:10_000]})
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
