"""Rollouts: y ~ pi_theta(. | x), and the verifier's reward r."""

from dataclasses import dataclass
from typing import Protocol

from opsd.timing import span
from srt.common.files import JsonlLog
from srt.contract.layout import Layout
from srt.contract.records import Problem
from srt.contract.seeds import sample_seed
from srt.sampling.base import Sample, Sampler, SampleRequest, SamplingConfig, sample_all
from srt.verifiers.types import Outcome, VerifierError

LOGGED_CHARACTERS = 10_000  # of a response in set_aside.jsonl


class BatchGrader(Protocol):
    """The verifier, as far as rollouts need it."""

    def grade_all(self, items: list[tuple[str, Problem, str]]) -> list[Outcome]:
        """The outcomes of (response, problem, finish_reason) items, in order."""
        ...


@dataclass(frozen=True)
class Rollout:
    """A graded response. `y` holds its end of turn exactly when `finish_reason` is "stop".

    `logprobs`: of each token of y, as the sampler saw it. `ages`: of each token of y, the steps between the one
    that drew it and the one that trains on it; None: all were drawn in this step.
    """

    problem: Problem
    chat: list[int]
    y: list[int]
    logprobs: list[float]
    finish_reason: str
    r: int
    ages: list[int] | None = None


@dataclass(frozen=True)
class RolloutWorker:
    """Samples and grades. `max_total_tokens`: x and y together; `max_revision_tokens`: x, y, cue and y_revised;
    `max_response_tokens`: y or y_revised alone. `sampling`: None is the sampler's own.

    Prompts that leave no room for a response, and samples on which the verifier failed, go into `set_aside`;
    neither is trained on.
    """

    layout: Layout
    grader: BatchGrader
    max_total_tokens: int
    max_revision_tokens: int
    seed: int
    set_aside: JsonlLog
    max_response_tokens: int | None = None
    sampling: SamplingConfig | None = None

    def sample(
        self, sampler: Sampler, problems: list[Problem], step: int, purpose: str = "train"
    ) -> list[Rollout]:
        """One graded response for each problem, in order, without those that were set aside. Training itself asks
        response_queue.py.

        `purpose`, `step` and the position in `problems` enter each sample's seed.
        """
        requests = [self.request(problem, step, position, purpose) for position, problem in enumerate(problems)]
        what = f"{purpose} after step {step + 1}, sampling"
        samples = sample_where_room(sampler, requests, what)
        rollouts = self.grade(problems, requests, samples, step, purpose)
        return [rollout for rollout in rollouts if rollout]

    def request(self, problem: Problem, step: int, position: int, purpose: str = "train") -> SampleRequest:
        """For a response to a problem; `max_tokens` is 0 or less when the prompt leaves no room for one."""
        chat = self.layout.chat(problem.x)
        seed = sample_seed(self.seed, purpose, step, position, problem.id)
        return SampleRequest(chat, seed, self._room(chat), sampling=self.sampling)

    def revise(
        self, sampler: Sampler, rollouts: list[Rollout], step: int, purpose: str
    ) -> dict[int, list[Rollout]]:
        """r -> the graded y_revised ~ pi_theta(. | x, y, P_r), one for each response y of reward r."""
        requests = []
        for position, rollout in enumerate(rollouts):
            prompt = self.layout.revision_prompt(rollout.chat, rollout.y, rollout.r)
            seed = sample_seed(self.seed, f"{purpose} revision", step, position, rollout.problem.id)
            # At most as much as y had.
            room = min(self._room(rollout.chat), self.max_revision_tokens - len(prompt))
            requests.append(SampleRequest(prompt, seed, room, sampling=self.sampling))
        limit = f"MAX_TEACHER_TOKENS allows {self.max_revision_tokens}"
        problems, what = [rollout.problem for rollout in rollouts], f"{purpose} revision"
        samples = sample_where_room(sampler, requests, f"{what} after step {step + 1}, sampling")
        revised = self.grade(problems, requests, samples, step, what, limit)
        by_first_reward: dict[int, list[Rollout]] = {0: [], 1: []}
        for rollout, revision in zip(rollouts, revised, strict=True):
            if revision:
                by_first_reward[rollout.r].append(revision)
        return by_first_reward

    def _room(self, chat: list[int]) -> int:
        """Tokens for a response to this prompt; 0 or less if there are none."""
        room = self.max_total_tokens - len(chat)
        return min(room, self.max_response_tokens) if self.max_response_tokens else room

    def grade(
        self,
        problems: list[Problem],
        requests: list[SampleRequest],
        samples: list[Sample | None],
        step: int,
        purpose: str = "train",
        limit: str | None = None,
    ) -> list[Rollout | None]:
        """A rollout for each sample; None for one that was set aside. `limit`: why a prompt without a sample has
        no room for one."""

        def set_aside(problem: Problem, reason: str, **details: str) -> None:
            entry = {"step": step, "purpose": purpose, "id": problem.id, "reason": reason}
            self.set_aside.append(entry | details)

        if limit is None:
            knob = "the limit of validation" if self.max_response_tokens else "MAX_TOTAL_SEQUENCE_LENGTH"
            limit = f"{knob} is {self.max_total_tokens}"
        sampled: list[tuple[int, Sample, str]] = []  # position, sample, its text
        for position, sample in enumerate(samples):
            if sample is None:
                length = len(requests[position].prompt_ids)
                set_aside(problems[position], f"the prompt has {length} tokens, {limit}")
            else:
                sampled.append((position, sample, self.layout.decode(sample.token_ids)))
        with span("grading"):
            outcomes = self.grader.grade_all(
                [(text, problems[position], sample.finish_reason) for position, sample, text in sampled]
            )
        rollouts: list[Rollout | None] = [None] * len(samples)
        for (position, sample, text), outcome in zip(sampled, outcomes, strict=True):
            if isinstance(outcome, VerifierError):
                set_aside(problems[position], f"the verifier failed: {outcome}", text=text[:LOGGED_CHARACTERS])
                continue
            if sample.logprobs is None:
                raise ValueError("the sampler was opened without log-probs, which Phase 2 compares with its own")
            rollouts[position] = Rollout(
                problem=problems[position],
                chat=requests[position].prompt_ids,
                y=sample.token_ids,
                logprobs=sample.logprobs,
                finish_reason=sample.finish_reason,
                r=int(outcome.correct),
            )
        return rollouts


def sample_where_room(sampler: Sampler, requests: list[SampleRequest], what: str) -> list[Sample | None]:
    """A sample for each request, None for those without room. `what`: see sample_all."""
    with_room = [request for request in requests if request.max_tokens > 0]
    with span("generation"):
        samples = iter(sample_all(sampler, with_room, what))
    return [next(samples) if request.max_tokens > 0 else None for request in requests]
