"""The responses under way: y ~ pi_theta(. | x) from the order of problems to the step that trains on it.

A response has a place in the endless order of problems (problem_order.py): place i belongs to step i // N, with
N = NUM_PROMPTS_PER_STEP, and its seed follows from its place. By default a step samples its own N places, all to
their end. With OVER_ISSUE=f it begins f x N places early and takes the first N responses that finish; the others
are stopped, and continued by the next step under its weights. With ROLLOUT_AHEAD=1 the places of the next step are
sampled while this one trains, under the weights that it began with. docs/decisions/over-issue.md and
rollout-ahead.md say what that means for the loss, for the order of training and for everything that counts steps.
"""

import threading
import time
from collections.abc import Hashable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from opsd.background import Background
from opsd.engine import Engine
from opsd.rollouts import Rollout, RolloutWorker
from opsd.run import Run
from opsd.timing import span
from opsd.token_age import age_metrics
from srt.common.errors import UserError
from srt.common.files import read_json, write_json
from srt.common.progress import heartbeat
from srt.contract import metrics as names
from srt.contract.records import Problem
from srt.contract.seeds import sample_seed
from srt.sampling.base import InterruptibleSampler, Sample, SampleRequest

MAX_STEPS_UNDER_WAY = 4  # a response that was begun this many steps ago is waited for


@dataclass
class Response:
    """What was sampled for one place in the order of problems.

    `request`: for the whole response. `begun`: the step that first asked for it. `drawn`: [step, tokens] for each
    step that drew tokens of y, in order. `finish_reason`: None while it is under way.
    """

    place: int
    problem: Problem
    request: SampleRequest
    begun: int
    y: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    drawn: list[list[int]] = field(default_factory=list)
    finish_reason: Literal["stop", "length"] | None = None

    def extend(self, sample: Sample, step: int) -> None:
        """More tokens, drawn by the weights of that step."""
        if sample.logprobs is None:
            raise ValueError("the sampler was opened without log-probs, which Phase 2 compares with its own")
        self.y += sample.token_ids
        self.logprobs += sample.logprobs
        if sample.token_ids:
            self.drawn.append([step, len(sample.token_ids)])
        if sample.finish_reason != "interrupted":
            self.finish_reason = sample.finish_reason

    @property
    def is_finished(self) -> bool:
        """Also when the prompt leaves no room for a response: it needs no sampling, and will be set aside."""
        return self.finish_reason is not None or self.request.max_tokens <= 0

    @property
    def sample(self) -> Sample | None:
        """None without room for one."""
        return Sample(self.y, self.finish_reason, self.logprobs) if self.finish_reason else None

    def ages(self, step: int) -> list[int]:
        """Of each token of y, when it is trained on in that step."""
        return [step - drawn for drawn, tokens in self.drawn for _ in range(tokens)]


@dataclass(frozen=True)
class StepResponses:
    """What a step trains on. `rollouts` lack the problems that were set aside."""

    problems: list[Problem]
    rollouts: list[Rollout]
    metrics: dict[str, float]


class ResponseQueue:
    """Gives each step its N responses, and keeps those under way; they are in a file beside each checkpoint."""

    def __init__(self, run: Run, worker: RolloutWorker, start_step: int):
        self.run = run
        self.worker = worker
        self.per_step = run.config.num_prompts_per_step
        self.folder = run.output_dir / "checkpoints"
        self.under_way = self._load(start_step) if run.ahead and start_step else []
        self._background = Background()
        self._sampled: tuple[list[Response], StepResponses] | None = None  # by `ahead`, for the next step

    def take(self, engine: Engine, step: int) -> StepResponses:
        """The step's responses, graded, in the order of their places."""
        if self._sampled is None:
            with engine.sampling() as sampler:  # pi_theta, weights in sync
                self._sampled = self._sample_step(sampler, step, step)
        (responses, taken), self._sampled = self._sampled, None
        places = {response.place for response in responses}
        self.under_way = [response for response in self.under_way if response.place not in places]
        return taken

    @contextmanager
    def ahead(self, engine: Engine, step: int) -> Iterator[None]:
        """With ROLLOUT_AHEAD, sample and grade that step's responses for `take` while the block runs, under the
        weights at its start; the block ends when they have ended."""
        if not self.run.config.rollout_ahead or step >= self.run.total_steps:
            yield
            return
        with (
            engine.sampling() as sampler,
            self._background.running(lambda stop: self._sample_step(sampler, step, step - 1, stop)) as sampled,
        ):
            yield
            with span("generation"):  # as much of it as the block did not cover
                self._sampled = sampled.result()

    def save(self, finished_steps: int) -> None:
        """Write down what is under way; call it before the checkpoint of these steps is saved."""
        if not self.run.ahead:
            return
        write_json(self._path(finished_steps), [_as_entry(response) for response in self.under_way])
        for path in self._files()[: -self.run.config.keep_checkpoints - 1]:  # the new checkpoint is yet to come
            path.unlink()

    def describe(self) -> str | None:
        """For the start of a run, in what it is not strictly on-policy; None if it is."""
        if self.run.config.rollout_ahead:
            return (
                "ROLLOUT_AHEAD=1: while a step trains, the next one's responses are sampled under the weights "
                "that it began with, so all tokens after the first step are one step old, and training is not "
                "strictly on-policy"
            )
        if not self.run.ahead:
            return None
        return (
            f"OVER_ISSUE={self.run.config.over_issue:g}: a step takes the first {self.per_step} of up to "
            f"{self.per_step + self.run.ahead} responses under way; the others go on under the next weights, for "
            f"at most {MAX_STEPS_UNDER_WAY} steps more, so training is not strictly on-policy"
        )

    # Sampling -----------------------------------------------------------------------------------------

    def _sample_step(
        self, sampler: InterruptibleSampler, step: int, weights_of: int, stop: threading.Event | None = None
    ) -> tuple[list[Response], StepResponses]:
        """What a step takes, sampled to its end by the weights of step `weights_of`, and graded; it stays under
        way. Raises CancelledError soon after `stop` was set."""
        started = time.monotonic()
        self._begin(step, weights_of)
        with span("generation"):
            finished = self._sample(sampler, weights_of, stop)
        # Those that are due first. With the ones that had finished before they are at most f x N: all are taken.
        finished.sort(key=lambda response: not _is_due(response, weights_of))
        taken = sorted(finished[: self.per_step], key=lambda response: response.place)
        graded = self._grade(taken, step, sampler.metrics())
        if weights_of != step:
            graded.metrics[names.AHEAD_SECONDS] = round(time.monotonic() - started, 4)
        return taken, graded

    def _begin(self, step: int, begun: int) -> None:
        """Ask for the next places, never for one beyond the last step. `begun`: the step that asks."""
        first = step * self.per_step + len(self.under_way)  # of all before it, step x N have been trained on
        early = 0 if self.run.config.rollout_ahead else self.run.ahead
        count = self.per_step + early - len(self.under_way)
        end = max(self.run.total_steps, step + 1) * self.per_step
        self.under_way += [self._response(place, begun) for place in range(first, min(first + count, end))]

    def _sample(
        self, sampler: InterruptibleSampler, step: int, stop: threading.Event | None = None
    ) -> list[Response]:
        """Sample until N responses have finished and none that is due is under way; the finished ones, the first
        ones first. `step`: whose weights the sampler has."""
        finished = [response for response in self.under_way if response.is_finished]
        pending: dict[Hashable, Response] = {}
        for response in self.under_way:
            if not response.is_finished:
                pending[response.place] = response
                sampler.submit(response.place, self._rest(response))
        with heartbeat(f"step {step + 1}, sampling", lambda: f"{len(finished):,} of {self.per_step:,} responses"):
            while len(finished) < self.per_step or any(_is_due(response, step) for response in pending.values()):
                if stop and stop.is_set():
                    sampler.interrupt()
                    raise CancelledError
                for place, sample in sampler.poll(max(1, self.per_step - len(finished))):
                    response = pending.pop(place)
                    response.extend(sample, step)
                    finished.append(response)
        for place, sample in sampler.interrupt():
            pending[place].extend(sample, step)
        return finished

    def _response(self, place: int, begun: int, **more: Any) -> Response:
        problem = self.run.problem_at(place)
        request = self.worker.request(problem, *divmod(place, self.per_step))
        return Response(place, problem, request, begun, **more)

    def _rest(self, response: Response) -> SampleRequest:
        """The request for what is missing. Its seed is not that of the beginning, whose random numbers it would
        repeat."""
        if not response.y:
            return response.request
        step, position = divmod(response.place, self.per_step)
        identity = ("train", step, position, response.problem.id, "continued", len(response.y))
        return replace(
            response.request,
            prompt_ids=response.request.prompt_ids + response.y,
            seed=sample_seed(self.worker.seed, *identity),
            max_tokens=response.request.max_tokens - len(response.y),
        )

    # Grading ------------------------------------------------------------------------------------------

    def _grade(self, taken: list[Response], step: int, metrics: dict[str, float]) -> StepResponses:
        problems, requests = [r.problem for r in taken], [r.request for r in taken]
        graded = self.worker.grade(problems, requests, [response.sample for response in taken], step)
        if not self.run.ahead:
            return StepResponses(problems, [rollout for rollout in graded if rollout], metrics)
        rollouts = [
            replace(rollout, ages=response.ages(step))
            for rollout, response in zip(graded, taken, strict=True)
            if rollout
        ]
        ages = age_metrics(rollouts)
        if self.run.config.over_issue:
            ages[names.CARRIED_OVER] = len(self.under_way) - len(taken)
        return StepResponses(problems, rollouts, metrics | ages)

    # Its files ----------------------------------------------------------------------------------------

    def _load(self, start_step: int) -> list[Response]:
        for path in self._files():
            if _step_of(path) > start_step:  # of a checkpoint that was not finished, or is damaged
                path.unlink()
        path = self._path(start_step)
        try:
            return [self._response(**entry) for entry in read_json(path)]
        except (TypeError, UserError) as error:
            raise UserError(
                f"{path}: it should hold the responses that were under way at that checkpoint ({error}); restore "
                "it, or begin again in a new OUTPUT_DIR"
            ) from None

    def _path(self, finished_steps: int) -> Path:
        return self.folder / f"under_way_{finished_steps:06d}.json"

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("under_way_*.json"), key=_step_of)


def _is_due(response: Response, step: int) -> bool:
    return step - response.begun >= MAX_STEPS_UNDER_WAY


def _as_entry(response: Response) -> dict[str, Any]:
    """For the file: what does not follow from the place."""
    return {name: value for name, value in vars(response).items() if name not in ("problem", "request")}


def _step_of(path: Path) -> int:
    return int(path.stem.removeprefix("under_way_"))
