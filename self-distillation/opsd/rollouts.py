"""The student's turn: y ~ pi_theta(. | x), and the verifier's: r."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from opsd.hidden_states import autocast
from opsd.pairs import Rollout
from opsd.timing import timed
from srt.common.files import JsonlLog
from srt.contract.layout import Layout
from srt.contract.records import Problem
from srt.contract.seeds import sample_seed
from srt.sampling.base import Sampler, SampleRequest, sample_all
from srt.sampling.transformers import TransformersSampler
from srt.verifiers.types import Grader, VerifierError

if TYPE_CHECKING:  # it needs PEFT, and the other engine has none
    from opsd.local.student import Student


@contextmanager
def on_policy(sampler: Sampler, student: "Student", seconds: dict[str, float]) -> Iterator[None]:
    """For the block, `sampler` draws from the student as it is now.

    transformers samples from the very weights in training. vLLM takes a copy of them over and, on a GPU, gives its
    memory back afterwards.
    """
    if isinstance(sampler, TransformersSampler):
        with autocast(student.model.device):
            yield
        return
    with timed(seconds, "refresh"):
        if torch.cuda.is_available():
            torch.cuda.empty_cache()  # what training left in torch's pool is what vLLM wakes up in
        sampler.update_weights(student.weights())
    yield
    with timed(seconds, "refresh"):
        sampler.sleep()


@dataclass(frozen=True)
class RolloutWorker:
    """Samples and grades. `max_total_tokens`: x and y together; `max_revision_tokens`: x, y, cue and y_revised.

    Prompts that leave no room for a response, and samples on which the verifier broke, go into `set_aside`:
    neither is trained on.
    """

    layout: Layout
    sampler: Sampler
    grader: Grader
    max_total_tokens: int
    max_revision_tokens: int
    seed: int
    set_aside: JsonlLog

    def sample(self, problems: list[Problem], purpose: str, step: int, seconds: dict[str, float]) -> list[Rollout]:
        """One graded response for each problem, in their order, without those that were set aside.

        `purpose`, `step` and the place in `problems` go into each sample's seed.
        """
        requests = []
        for place, problem in enumerate(problems):
            chat = self.layout.chat(problem.x)
            request_seed = sample_seed(self.seed, purpose, step, place, problem.id)
            requests.append(SampleRequest(chat, request_seed, self.max_total_tokens - len(chat)))
        limit = f"MAX_TOTAL_SEQUENCE_LENGTH is {self.max_total_tokens}"
        rollouts = self._sample_and_grade(problems, requests, purpose, step, limit, seconds)
        return [rollout for rollout in rollouts if rollout]

    def revise(
        self, rollouts: list[Rollout], purpose: str, step: int, seconds: dict[str, float]
    ) -> dict[int, list[int]]:
        """r -> the rewards of y_revised ~ pi_theta(. | x, y, P_r), one for each response y of reward r."""
        requests = []
        for place, rollout in enumerate(rollouts):
            prompt = self.layout.revision_prompt(rollout.chat, rollout.y, rollout.r)
            request_seed = sample_seed(self.seed, f"{purpose} revision", step, place, rollout.problem.id)
            room = self.max_total_tokens - len(rollout.chat)  # as much as y had
            requests.append(SampleRequest(prompt, request_seed, min(room, self.max_revision_tokens - len(prompt))))
        limit = f"MAX_TEACHER_TOKENS allows {self.max_revision_tokens}"
        problems = [rollout.problem for rollout in rollouts]
        revised = self._sample_and_grade(problems, requests, f"{purpose} revision", step, limit, seconds)
        rewards: dict[int, list[int]] = {0: [], 1: []}
        for rollout, revision in zip(rollouts, revised, strict=True):
            if revision:
                rewards[rollout.r].append(revision.r)
        return rewards

    def _sample_and_grade(
        self,
        problems: list[Problem],
        requests: list[SampleRequest],
        purpose: str,
        step: int,
        limit: str,
        seconds: dict[str, float],
    ) -> list[Rollout | None]:
        """A rollout for each request; None for one that was set aside. `limit`: why a prompt has no room."""

        def set_aside(problem: Problem, reason: str, **more: str) -> None:
            self.set_aside.append({"step": step, "purpose": purpose, "id": problem.id, "reason": reason, **more})

        asked = [place for place, request in enumerate(requests) if request.max_tokens > 0]
        for problem, request in zip(problems, requests, strict=True):
            if request.max_tokens <= 0:
                set_aside(problem, f"the prompt has {len(request.prompt_ids)} tokens, {limit}")
        with timed(seconds, "generation"):
            samples = sample_all(self.sampler, [requests[place] for place in asked])
        texts = [self.layout.decode(sample.token_ids) for sample in samples]
        with timed(seconds, "grading"):
            verdicts = self.grader.grade_all(
                [
                    (text, problems[place], sample.finish_reason)
                    for text, place, sample in zip(texts, asked, samples, strict=True)
                ]
            )
        rollouts: list[Rollout | None] = [None] * len(requests)
        for place, sample, text, verdict in zip(asked, samples, texts, verdicts, strict=True):
            if isinstance(verdict, VerifierError):
                set_aside(problems[place], f"the verifier broke: {verdict}", text=text[:10_000])
                continue
            rollouts[place] = Rollout(
                problems[place],
                requests[place].prompt_ids,
                sample.token_ids,
                sample.logprobs,
                sample.finish_reason,
                int(verdict.correct),
            )
        return rollouts
