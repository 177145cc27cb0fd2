"""Collection: problem -> y_init -> verdict -> phrase -> y_revised -> verdict, each step a line of a log.

There is no barrier between problems: each moves on by itself as soon as its sample or its verdict is there.
Every graded sample is one line of attempts.jsonl, so a killed run continues with the same command. The kept
tuples are the first in problem order, so the result does not depend on scheduling.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from srt.collect.cleaning import ANSWERS, clean
from srt.common.console import progress
from srt.common.errors import UserError
from srt.common.files import JsonlLog
from srt.contract.layout import Layout
from srt.contract.provenance import fingerprint
from srt.contract.records import Problem, Response, Revision, as_line, as_tuple, from_line, pack_ids, unpack_ids
from srt.contract.seeds import sample_seed
from srt.sampling.base import Sample, Sampler, SampleRequest
from srt.verifiers.types import Grader, Verdict, VerifierError

Key = tuple[int, int, int | None]  # problem, response, revision; None: the response itself


@dataclass(frozen=True)
class CollectorConfig:
    """`target`: kept tuples to stop at; None goes through all problems (evaluation).

    `revise`: the rewards of y_init after which revisions are sampled. `window`: problems in flight.
    `max_model_len`: prompt and response together, in tokens. `clean`: see srt/collect/cleaning.py.
    """

    num_responses: int
    num_revisions: int
    revise: frozenset[int]
    revise_truncated: bool
    max_tokens: int
    max_model_len: int
    window: int
    seed: int
    target: int | None
    clean: bool = False


@dataclass
class Counts:
    """What the progress bar and the summary show; `revised[r]` is [revisions, right revisions] after reward r.

    `kept`: tuples as they will be written. `cleaned` and `set_aside` count by what was done, and why.
    """

    responses: int = 0
    right: int = 0
    truncated: int = 0
    kept: int = 0
    tokens: int = 0
    cleaned: Counter[str] = field(default_factory=Counter)
    set_aside: Counter[str] = field(default_factory=Counter)
    revised: dict[int, list[int]] = field(default_factory=lambda: {0: [0, 0], 1: [0, 0]})

    def add_response(self, response: Response) -> None:
        self.responses += 1
        self.right += response.r
        self.truncated += response.y_init_finish_reason == "length"
        self.tokens += response.y_init_tokens

    def add_revision(self, revision: Revision, r: int) -> None:
        self.revised[r][0] += 1
        self.revised[r][1] += revision.y_revised_correct
        self.tokens += revision.y_revised_tokens

    def summary(self) -> dict[str, int | float | dict[str, int] | None]:
        def share(part: int, whole: int) -> float | None:
            return round(part / whole, 4) if whole else None

        return {
            "responses": self.responses,
            "revisions": self.revised[0][0] + self.revised[1][0],
            "kept": self.kept,
            "cleaned": dict(sorted(self.cleaned.items())),
            "set_aside": self.set_aside.total(),
            "set_aside_by_reason": dict(sorted(self.set_aside.items())),
            "tokens": self.tokens,
            "first_try_accuracy": share(self.right, self.responses),
            "truncated_share": share(self.truncated, self.responses),
            "wrong_to_right": share(self.revised[0][1], self.revised[0][0]),
            "right_to_right": share(self.revised[1][1], self.revised[1][0]),
        }


class Collector:
    """One run over `problems`; its log is `output_dir`/attempts.jsonl, its failures set_aside.jsonl."""

    def __init__(
        self,
        problems: list[Problem],
        layout: Layout,
        sampler: Sampler,
        grader: Grader,
        settings: CollectorConfig,
        output_dir: Path,
    ):
        self.problems = problems
        self.layout = layout
        self.sampler = sampler
        self.grader = grader
        self.settings = settings
        self.counts = Counts()
        self.responses: dict[Key, Response] = {}
        self.revisions: dict[Key, Revision] = {}
        self.log = JsonlLog(output_dir / "attempts.jsonl")
        self.aside_log = JsonlLog(output_dir / "set_aside.jsonl")
        self._aside: set[Key] = set()
        self._waiting: dict[int, set[Key]] = {}  # what each problem in flight waits for
        self._grading: dict[Key, tuple[Sample, str]] = {}
        self._admitted = 0  # problems before this index were started
        # The log of a killed run may hold tuples of problems that are not admitted again yet, while earlier
        # problems are unfinished: the first count takes all, the second only the admitted problems' tuples.
        self._kept_of: Counter[int] = Counter()  # by problem
        self._kept_admitted = 0
        self._kept: dict[str, tuple[Key, dict]] = {}  # by what they say: of equal tuples the first is kept
        self._restore()
        self._restored_tokens = self.counts.tokens

    def run(self) -> None:
        """Sample and grade until the target is certain or every problem is finished."""
        self._admit_more()  # before the bar: the sampler's engine may start here
        with progress(self.settings.target or len(self.problems), self._unit) as bar:
            while True:
                self._admit_more()
                self._show(bar)
                if not self._waiting or self._target_is_certain():
                    return
                for key, sample in self._poll_sampler():
                    self._on_sample(key, sample)
                # Sleep on the verdicts only when the sampler has nothing to do.
                for key, verdict in self.grader.poll(timeout=0.0 if self.sampler.pending else 0.2):
                    self._on_verdict(key, verdict)

    def tuples(self) -> list[dict]:
        """The kept tuples: the first `target` in problem order."""
        in_order = sorted(self._kept.values(), key=lambda kept: kept[0])
        return [tuple_ for _, tuple_ in in_order[: self.settings.target]]

    def close(self) -> None:
        self.log.close()
        self.aside_log.close()

    def _poll_sampler(self) -> Iterable[tuple[Key, Sample]]:
        try:
            return self.sampler.poll()
        except UserError:  # an engine died; what was sampled before is graded and logged
            while self._grading:
                for key, verdict in self.grader.poll(timeout=1.0):
                    self._on_verdict(key, verdict)
            raise

    # A problem's way ------------------------------------------------------------------------------------

    def _admit_more(self) -> None:
        while self._wants_more():
            self._kept_admitted += self._kept_of[self._admitted]  # what the log has of it
            self._admit(self._admitted)
            self._admitted += 1

    def _admit(self, index: int) -> None:
        """Start a problem, or what the log says is missing of it."""
        self._waiting[index] = set()
        for response_idx in range(self.settings.num_responses):
            key = (index, response_idx, None)
            if key in self.responses:
                self._revise(self.responses[key])
            elif key not in self._aside:
                self._sample(key, self.layout.chat(self.problems[index].x))
        self._retire_if_done(index)

    def _sample(self, key: Key, prompt_ids: list[int]) -> None:
        room = self.settings.max_model_len - len(prompt_ids)
        if room < 1:
            reason = f"the prompt has {len(prompt_ids)} tokens, the model takes {self.settings.max_model_len}"
            self._set_aside(key, "the prompt is too long", reason)
            return
        self._waiting[key[0]].add(key)
        limit = min(self.settings.max_tokens, room)
        request = SampleRequest(prompt_ids, self._seed(key), limit, group=key[0])
        self.sampler.submit(key, request)

    def _on_sample(self, key: Key, sample: Sample) -> None:
        text = self.layout.decode(sample.token_ids)
        self._grading[key] = (sample, text)
        self.grader.submit(key, text, self.problems[key[0]], sample.finish_reason)

    def _on_verdict(self, key: Key, verdict: Verdict | VerifierError) -> None:
        sample, text = self._grading.pop(key)
        if isinstance(verdict, VerifierError):
            self._set_aside(key, verdict.kind, f"the verifier broke: {verdict}", text)
        elif key[2] is None:
            response = self._response(key, sample, text, verdict)
            self._add(response)
            self._revise(response)
        else:
            self._add(self._revision(key, sample, text, verdict))
        self._waiting[key[0]].discard(key)
        self._retire_if_done(key[0])

    def _revise(self, response: Response) -> None:
        """Sample the revisions of a response that are wanted and not there yet."""
        truncated = response.y_init_finish_reason == "length"
        if response.r not in self.settings.revise or (truncated and not self.settings.revise_truncated):
            return
        chat = self.layout.chat(response.x)
        prompt = self.layout.revision_prompt(chat, unpack_ids(response.y_init_ids), response.r)
        for revision_idx in range(self.settings.num_revisions):
            key = (response.problem_idx, response.response_idx, revision_idx)
            if key not in self.revisions and key not in self._aside:
                self._sample(key, prompt)

    def _retire_if_done(self, index: int) -> None:
        if not self._waiting[index]:
            del self._waiting[index]

    # When to stop ---------------------------------------------------------------------------------------

    def _wants_more(self) -> bool:
        if self._admitted >= len(self.problems) or len(self._waiting) >= self.settings.window:
            return False
        # With the target kept among the admitted problems, no later problem can be needed.
        return self.settings.target is None or self._kept_admitted < self.settings.target

    def _target_is_certain(self) -> bool:
        """The first `target` tuples all come before the first problem that is not finished."""
        if self.settings.target is None or self._kept_admitted < self.settings.target:
            return False
        unfinished = min(self._waiting)
        return sum(kept for index, kept in self._kept_of.items() if index < unfinished) >= self.settings.target

    # Records --------------------------------------------------------------------------------------------

    def _restore(self) -> None:
        for line in self.log.entries:
            self._remember(from_line(line))
        for line in self.aside_log.entries:
            self._aside.add(tuple(line["key"]))
            self.counts.set_aside[line["kind"]] += 1
        if self.log.entries:
            print(
                f"continuing: {self.counts.responses} responses and {len(self.revisions)} revisions are in "
                f"{self.log.path}, {self.counts.kept} of them kept"
            )

    def _add(self, record: Response | Revision) -> None:
        self.log.append(as_line(record))
        self._remember(record)

    def _remember(self, record: Response | Revision) -> None:
        if isinstance(record, Response):
            self.responses[record.key] = record
            self.counts.add_response(record)
        else:
            response = self.responses[(*record.key[:2], None)]
            self.revisions[record.key] = record
            self.counts.add_revision(record, response.r)
            if record.y_revised_correct:
                self._keep(record.key, as_tuple(response, record))

    def _keep(self, key: Key, tuple_: dict) -> None:
        """Clean a tuple and count it, unless an equal one of an earlier problem is there."""
        says = fingerprint(*map(str, key))
        if self.settings.clean:
            cleaned = clean(tuple_, self.layout, ANSWERS[self.problems[key[0]].mode])
            self.counts.cleaned.update(change["change"] for change in cleaned.changes)
            if cleaned.tuple is None:
                return
            tuple_ = cleaned.tuple
            says = fingerprint(tuple_["x"], tuple_["y_init"], tuple_["y_revised"])
        if says in self._kept:
            self.counts.cleaned["duplicate"] += 1
            if self._kept[says][0] < key:
                return
            self._count_kept(self._kept[says][0][0], -1)
        self._kept[says] = (key, tuple_)
        self._count_kept(key[0], 1)

    def _count_kept(self, index: int, change: int) -> None:
        self.counts.kept += change
        self._kept_of[index] += change
        if index < self._admitted:
            self._kept_admitted += change

    def _set_aside(self, key: Key, kind: str, reason: str, text: str = "") -> None:
        """`kind`: the reason in a few words that are the same for all of its kind, to be counted by."""
        problem_id = self.problems[key[0]].id
        line = {"key": key, "id": problem_id, "kind": kind, "reason": reason, "text": text[:10_000]}
        self.aside_log.append(line)
        self._aside.add(key)
        self.counts.set_aside[kind] += 1

    def _response(self, key: Key, sample: Sample, text: str, verdict: Verdict) -> Response:
        problem = self.problems[key[0]]
        return Response(
            problem_idx=key[0],
            response_idx=key[1],
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
        )

    def _revision(self, key: Key, sample: Sample, text: str, verdict: Verdict) -> Revision:
        response = self.responses[(*key[:2], None)]
        return Revision(
            problem_idx=key[0],
            response_idx=key[1],
            revision_idx=key[2],
            p_r=self.layout.phrases.text(response.r),
            y_revised=text,
            y_revised_ids=pack_ids(sample.token_ids),
            y_revised_tokens=len(sample.token_ids),
            y_revised_correct=verdict.correct,
            y_revised_extracted=verdict.extracted,
            y_revised_reason=verdict.reason,
            y_revised_finish_reason=sample.finish_reason,
            y_revised_seed=self._seed(key),
        )

    def _seed(self, key: Key) -> int:
        problem_id = self.problems[key[0]].id
        return sample_seed(self.settings.seed, problem_id, key[1], "init" if key[2] is None else key[2])

    # Progress -------------------------------------------------------------------------------------------

    @property
    def _unit(self) -> str:
        return "problem" if self.settings.target is None else "kept"

    def _show(self, bar: tqdm) -> None:
        if self.settings.target is None:
            done = self._admitted - len(self._waiting)
        else:
            done = min(self.counts.kept, self.settings.target)
        rate = (self.counts.tokens - self._restored_tokens) / max(bar.format_dict["elapsed"], 1e-9)
        numbers = [
            *_percentages(self.counts.summary()),
            f"{rate:.0f} tok/s",
            f"{len(self._waiting)} in flight",
        ]
        bar.set_postfix_str(", ".join(numbers), refresh=False)
        bar.update(done - bar.n)


def _percentages(summary: dict) -> Iterator[str]:
    for name, label in (
        ("first_try_accuracy", "first try"),
        ("wrong_to_right", "wrong->right"),
        ("right_to_right", "right->right"),
    ):
        if summary[name] is not None:
            yield f"{label} {summary[name]:.1%}"
