"""Collection: problem -> y_init -> verdict -> phrase -> y_revised -> verdict.

There is no barrier between problems: each moves on as soon as its sample or its verdict is there. Every graded
sample is logged (attempts.py), so a killed run continues with the same command. The chosen tuples are the first in
problem order, so the result does not depend on scheduling.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from tqdm import tqdm

from srt.collect.attempts import Attempts
from srt.collect.selection import KeptKey, Selection
from srt.collect.stats import CollectionStats
from srt.common.errors import UserError
from srt.common.progress import Progress
from srt.contract.layout import Layout
from srt.contract.records import Problem, Response, Revision, SampleKey, pack_ids, unpack_ids
from srt.contract.seeds import sample_seed
from srt.sampling.base import Sample, Sampler, SampleRequest, SamplingConfig
from srt.verifiers.types import Grader, Outcome, Verdict, VerifierError

MANY_RESPONSES = 200  # after which at least one should have been right
GREEDY = -1  # the response index of the response that `CollectorConfig.greedy` asks for


@dataclass(frozen=True)
class CollectorConfig:
    """`selection`: the kept tuples to stop at; None goes through all problems (evaluation).

    `revise`: the rewards of y_init after which revisions are sampled. `max_in_flight`: problems in flight.
    `max_model_len`: prompt and response together, in tokens. `clean`: see cleaning.py.

    For evaluation: `cue`, 0 or 1, is the phrase of all revisions; None: that of the reward. `greedy`: how one more
    response per problem, with the index GREEDY, is sampled; it is not revised. `only`: the responses that may be
    revised; None: all. `log_logprobs`: of which samples log-probs are logged; first: of the first response to each
    problem.
    """

    num_responses: int
    num_revisions: int
    revise: frozenset[int]
    revise_truncated: bool
    max_tokens: int
    max_model_len: int
    max_in_flight: int
    seed: int
    selection: Selection | None
    clean: bool = False
    cue: int | None = None
    greedy: SamplingConfig | None = None
    only: Collection[SampleKey] | None = None
    log_logprobs: Literal["none", "first", "all"] = "none"


def logs_logprob(of: str, key: SampleKey) -> bool:
    """Whether the log-prob of a sample is logged; `of`: see CollectorConfig.log_logprobs."""
    return of == "all" or (of == "first" and key.response == 0 and key.revision is None)


class Collector:
    """Takes `problems` through sampling and grading, in order, with at most `max_in_flight` at the same time."""

    def __init__(
        self,
        problems: list[Problem],
        layout: Layout,
        sampler: Sampler,
        grader: Grader,
        config: CollectorConfig,
        output_dir: Path,
    ):
        self.problems = problems
        self.layout = layout
        self.sampler = sampler
        self.grader = grader
        self.config = config
        self.attempts = Attempts(output_dir, problems, layout, config.clean)
        self._in_flight: dict[int, set[SampleKey]] = {}  # problem -> its samples without a verdict
        self._grading: dict[SampleKey, tuple[Sample, str]] = {}
        self._admitted = 0  # problems before this index were started

    @property
    def stats(self) -> CollectionStats:
        return self.attempts.stats

    def run(self) -> None:
        """Sample and grade until the target is certain or every problem is finished."""
        self._admit_more()  # before the bar: the sampler's engine may start here
        title = "D_revision" if self.config.selection else "evaluation"
        with Progress(title, initial=self._fraction()) as bar:
            while True:
                self._admit_more()
                finished = not self._in_flight or self._target_is_certain()
                if bar.due or finished:
                    self._show(bar, finished)
                if finished:
                    return
                for key, sample in self._poll_sampler():
                    self._on_sample(key, sample)
                # Wait for verdicts only while the sampler is idle.
                self._poll_grader(timeout=0.0 if self.sampler.pending else 0.2)

    def tuples(self) -> list[dict[str, Any]]:
        """The kept tuples that the selection chooses, in problem order."""
        return self.attempts.tuples(self._chosen())

    def consumed(self) -> list[Problem]:
        """The problems up to that of the last chosen tuple; all of them where the target was not reached.

        Later ones may have been sampled, depending on scheduling, but no tuple is made of them.
        """
        chosen = self._chosen()
        if self.config.selection is None or len(chosen) < self.config.selection.target:
            return self.problems
        return self.problems[: chosen[-1].key.problem + 1]

    def _chosen(self) -> list[KeptKey]:
        kept = self.attempts.kept.in_order()
        return self.config.selection.choose(kept) if self.config.selection else kept

    def close(self) -> None:
        self.attempts.close()

    def _poll_sampler(self) -> Iterable[tuple[SampleKey, Sample]]:
        try:
            samples = self.sampler.poll()
        except UserError:  # an engine died; grade and log what was sampled before
            while self._grading:
                self._poll_grader(timeout=1.0)
            raise
        return cast(Iterable[tuple[SampleKey, Sample]], samples)

    def _poll_grader(self, timeout: float) -> None:
        for key, outcome in self.grader.poll(timeout=timeout):
            self._on_outcome(cast(SampleKey, key), outcome)

    # From problem to revision ---------------------------------------------------------------------------

    def _admit_more(self) -> None:
        while self._can_admit():
            self.attempts.kept.admit(self._admitted)
            self._admit(self._admitted)
            self._admitted += 1

    def _admit(self, problem: int) -> None:
        """Start a problem, or the rest of it if the log has a part."""
        self._in_flight[problem] = set()
        for response_idx in range(GREEDY if self.config.greedy else 0, self.config.num_responses):
            key = SampleKey(problem, response_idx)
            if key in self.attempts.responses:
                self._revise(key)
            elif not self.attempts.is_done(key):
                self._sample(key, self.layout.chat(self.problems[problem].x))
        self._retire_if_done(problem)

    def _sample(self, key: SampleKey, prompt_ids: list[int]) -> None:
        room = self.config.max_model_len - len(prompt_ids)
        if room < 1:
            reason = f"the prompt has {len(prompt_ids)} tokens, the model accepts {self.config.max_model_len}"
            self.attempts.set_aside(key, "the prompt is too long", reason)
            return
        self._in_flight[key.problem].add(key)
        max_tokens = min(self.config.max_tokens, room)
        sampling = self.config.greedy if key.response == GREEDY else None
        logprobs = logs_logprob(self.config.log_logprobs, key)
        request = SampleRequest(prompt_ids, self._seed(key), max_tokens, key.problem, sampling, logprobs)
        self.sampler.submit(key, request)

    def _on_sample(self, key: SampleKey, sample: Sample) -> None:
        text = self.layout.decode(sample.token_ids)
        self._grading[key] = (sample, text)
        self.grader.submit(key, text, self.problems[key.problem], sample.finish_reason)

    def _on_outcome(self, key: SampleKey, outcome: Outcome) -> None:
        sample, text = self._grading.pop(key)
        if isinstance(outcome, VerifierError):
            self.attempts.set_aside(key, outcome.kind, f"the verifier broke: {outcome}", text)
        elif key.revision is None:
            response = self._response(key, sample, text, outcome)
            self.attempts.add(response)
            if self.stats.responses == MANY_RESPONSES and not self.stats.right:
                tqdm.write(f"warning: {self.stats.nothing_right()}")
            self._revise(key, response)
        else:
            self.attempts.add(self._revision(key, key.revision, sample, text, outcome))
        self._in_flight[key.problem].discard(key)
        self._retire_if_done(key.problem)

    def _revise(self, key: SampleKey, response: Response | None = None) -> None:
        """Sample the revisions of a response that the config asks for and that are not done yet.

        `response`: read from the log if it is not at hand.
        """
        graded = self.attempts.responses[key]
        if (
            key.response == GREEDY
            or graded.r not in self.config.revise
            or (graded.truncated and not self.config.revise_truncated)
        ):
            return
        if self.config.only is not None and key not in self.config.only:
            return
        keys = [key._replace(revision=revision) for revision in range(self.config.num_revisions)]
        missing = [key for key in keys if not self.attempts.is_done(key)]
        if not missing:
            return
        response = response or self.attempts.response(key)
        chat = self.layout.chat(response.x)
        prompt = self.layout.revision_prompt(chat, unpack_ids(response.y_init_ids), self._cue(response.r))
        for revision_key in missing:
            self._sample(revision_key, prompt)

    def _cue(self, r: int) -> int:
        """Whose phrase follows a response with reward r."""
        return r if self.config.cue is None else self.config.cue

    def _logprob(self, key: SampleKey, sample: Sample) -> float | None:
        if sample.logprobs is None or not logs_logprob(self.config.log_logprobs, key):
            return None
        return sum(sample.logprobs)

    def _retire_if_done(self, problem: int) -> None:
        if not self._in_flight[problem]:
            del self._in_flight[problem]

    # When to stop ---------------------------------------------------------------------------------------

    def _can_admit(self) -> bool:
        if self._admitted >= len(self.problems) or len(self._in_flight) >= self.config.max_in_flight:
            return False
        # Once the admitted problems have the target, no later problem can contribute.
        selection = self.config.selection
        return selection is None or not selection.is_complete(self.attempts.kept.of_admitted)

    def _target_is_certain(self) -> bool:
        """Whether the chosen tuples all come before the first unfinished problem."""
        selection, kept = self.config.selection, self.attempts.kept
        if selection is None or not selection.is_complete(kept.of_admitted):
            return False
        return selection.is_complete(kept.count_before(min(self._in_flight)))

    # Records --------------------------------------------------------------------------------------------

    def _response(self, key: SampleKey, sample: Sample, text: str, verdict: Verdict) -> Response:
        problem = self.problems[key.problem]
        return Response(
            problem_idx=key.problem,
            response_idx=key.response,
            id=problem.id,
            source=problem.source,
            x=problem.x,
            ground_truth=problem.answer,
            y_init=text,
            y_init_ids=pack_ids(sample.token_ids),
            y_init_tokens=len(sample.token_ids),
            y_init_correct=verdict.correct,
            y_init_extracted=verdict.extracted,
            y_init_reason=verdict.reason,
            y_init_finish_reason=sample.finish_reason,
            y_init_seed=self._seed(key),
            y_init_logprob=self._logprob(key, sample),
        )

    def _revision(
        self, key: SampleKey, revision_idx: int, sample: Sample, text: str, verdict: Verdict
    ) -> Revision:
        r = self.attempts.responses[key.response_key].r
        return Revision(
            problem_idx=key.problem,
            response_idx=key.response,
            revision_idx=revision_idx,
            p_r=self.layout.phrases.text(self._cue(r)),
            y_revised=text,
            y_revised_ids=pack_ids(sample.token_ids),
            y_revised_tokens=len(sample.token_ids),
            y_revised_correct=verdict.correct,
            y_revised_extracted=verdict.extracted,
            y_revised_reason=verdict.reason,
            y_revised_finish_reason=sample.finish_reason,
            y_revised_seed=self._seed(key),
            y_revised_logprob=self._logprob(key._replace(revision=revision_idx), sample),
        )

    def _seed(self, key: SampleKey) -> int:
        problem_id = self.problems[key.problem].id
        part = "init" if key.revision is None else key.revision
        return sample_seed(self.config.seed, problem_id, key.response, part)

    # Progress -------------------------------------------------------------------------------------------

    def _show(self, bar: Progress, finished: bool) -> None:
        config, attempts, stats = self.config, self.attempts, self.stats
        if config.selection is None:
            total = len(self.problems) * (config.num_responses + bool(config.greedy))
            done, problems = f"{stats.responses:,}/{total:,} responses", ""
        else:
            done = f"{config.selection.counted(attempts.kept.total):,}/{config.selection.target:,} kept"
            problems = f"{self._finished_problems:,}/{len(self.problems):,} problems"
        rate = (stats.tokens - attempts.restored_tokens) / max(bar.elapsed, 1e-9)
        in_flight = f"{len(self._in_flight)} in flight" if self._in_flight else ""
        fraction = 1.0 if finished else self._fraction()
        bar.show(fraction, done, *stats.percentages(), f"{rate:,.0f} tok/s", problems, in_flight)

    @property
    def _finished_problems(self) -> int:
        return self._admitted - len(self._in_flight)

    def _fraction(self) -> float:
        """How much is done. A collection ends with its target or with its problems, whichever comes first; an
        evaluation ends with its samples."""
        config, attempts = self.config, self.attempts
        if config.selection is None:
            revisions = config.num_revisions if config.revise else 0
            total = len(self.problems) * (config.num_responses * (1 + revisions) + bool(config.greedy))
            # What is set aside will not be graded, and neither will the revisions of such a response.
            lost = sum(
                1 if key.revision is not None or key.response == GREEDY else 1 + revisions
                for key in attempts.set_aside_keys
            )
            return (len(attempts.responses) + len(attempts.revisions) + lost) / total
        kept = config.selection.counted(attempts.kept.total) / config.selection.target
        return max(kept, self._finished_problems / len(self.problems))
