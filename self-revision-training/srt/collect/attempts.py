"""The graded samples of a run: logged, restored after a crash, and reduced to the tuples that are kept.

attempts.jsonl has a line for every graded sample, set_aside.jsonl one for every sample without a verdict. Both
are append-only, and everything in memory is rebuilt from them. Texts and ids stay in the file: memory holds the
key, verdict and place of each sample, a few hundred bytes, so that millions of attempts can be restored.
"""

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from srt.collect.cleaning import ANSWERS, clean
from srt.collect.selection import KeptKey
from srt.collect.stats import CollectionStats
from srt.common.errors import UserError
from srt.common.files import JsonlLog
from srt.contract.layout import Layout
from srt.contract.provenance import fingerprint
from srt.contract.records import Problem, Response, Revision, SampleKey, as_line, as_tuple, from_line, unpack_ids

SHOWN_CHARACTERS = 10_000  # of a sample in set_aside.jsonl


class GradedSample(NamedTuple):
    """What memory holds of a response or revision. `offset`: its place in the log; `tokens`: its length."""

    key: SampleKey
    offset: int
    tokens: int
    correct: bool
    truncated: bool

    @classmethod
    def of(cls, record: Response | Revision, offset: int) -> "GradedSample":
        if isinstance(record, Response):
            verdict = (record.y_init_tokens, record.y_init_correct, record.y_init_finish_reason)
        else:
            verdict = (record.y_revised_tokens, record.y_revised_correct, record.y_revised_finish_reason)
        tokens, correct, finish_reason = verdict
        return cls(record.key, offset, tokens, correct, finish_reason == "length")

    @property
    def r(self) -> int:
        """The binary reward."""
        return int(self.correct)


class KeptTuples:
    """The keys of the tuples that verified, after cleaning and without duplicates; they may arrive in any order.

    The log of a killed run may hold tuples of problems that are not admitted again yet, while earlier problems
    are unfinished. So there are two counts, each as [after wrong, after right] responses: `total` is of all
    tuples, `of_admitted` of the problems that `admit` was called for.
    """

    def __init__(self, layout: Layout, cleaning: bool, stats: CollectionStats):
        self.total = [0, 0]
        self.of_admitted = [0, 0]
        self._layout = layout
        self._cleaning = cleaning
        self._stats = stats
        self._admitted = 0  # problems before this index are admitted
        self._per_problem: Counter[tuple[int, int]] = Counter()  # (problem, r) -> tuples
        self._by_dedup_key: dict[Hashable, KeptKey] = {}

    def add(self, key: SampleKey, tuple_: dict[str, Any], mode: str) -> None:
        """Keep a tuple, unless cleaning drops it or an equal one comes earlier in problem order."""
        kept = KeptKey(key, int(tuple_["y_init_correct"]))
        dedup_key: Hashable = key
        if self._cleaning:
            cleaned = clean(tuple_, self._layout, ANSWERS[mode])
            self._stats.cleaned.update(change["change"] for change in cleaned.changes)
            if cleaned.tuple is None:
                return
            dedup_key = fingerprint(*(cleaned.tuple[name] for name in ("x", "y_init", "y_revised")))
        if dedup_key in self._by_dedup_key:
            self._stats.cleaned["duplicate"] += 1
            first = self._by_dedup_key[dedup_key]
            if first < kept:
                return
            self._count(first, -1)
        self._by_dedup_key[dedup_key] = kept
        self._count(kept, 1)

    def as_written(self, tuple_: dict[str, Any], mode: str) -> dict[str, Any]:
        """A kept tuple as it goes into d_revision.json: cleaned, as when it was added."""
        cleaned = clean(tuple_, self._layout, ANSWERS[mode]).tuple if self._cleaning else tuple_
        assert cleaned is not None  # add did not keep those
        return cleaned

    def admit(self, problem: int) -> None:
        """Include a problem, the next in order, in `of_admitted`."""
        self._admitted = problem + 1
        for r in (0, 1):
            self.of_admitted[r] += self._per_problem[problem, r]

    def count_before(self, problem: int) -> list[int]:
        """The tuples of all problems before this index: [after wrong, after right] responses."""
        return [
            sum(count for (index, of_r), count in self._per_problem.items() if index < problem and of_r == r)
            for r in (0, 1)
        ]

    def in_order(self) -> list[KeptKey]:
        """All tuples, in the order of problem, response and revision."""
        return sorted(self._by_dedup_key.values())

    def _count(self, kept: KeptKey, change: int) -> None:
        self._stats.kept += change
        self.total[kept.r] += change
        self._per_problem[kept.key.problem, kept.r] += change
        if kept.key.problem < self._admitted:
            self.of_admitted[kept.r] += change


class Attempts:
    """All samples of a run that are done, by key: graded (`responses`, `revisions`) or set aside.

    `response` and `revision` read the whole record of one from the log.

    Opening it restores what an earlier run logged in `output_dir`. Raises UserError when a log cannot be read or
    written.
    """

    def __init__(self, output_dir: Path, problems: list[Problem], layout: Layout, cleaning: bool):
        self.stats = CollectionStats()
        self.responses: dict[SampleKey, GradedSample] = {}
        self.revisions: dict[SampleKey, GradedSample] = {}
        self.kept = KeptTuples(layout, cleaning, self.stats)
        self._problems = problems
        self._set_aside: set[SampleKey] = set()
        self._log = JsonlLog(output_dir / "attempts.jsonl")
        self._set_aside_log = JsonlLog(output_dir / "set_aside.jsonl")
        self._restore()
        self.restored_tokens = self.stats.tokens

    @property
    def set_aside_path(self) -> Path:
        return self._set_aside_log.path

    @property
    def set_aside_keys(self) -> Iterable[SampleKey]:
        return self._set_aside

    def is_done(self, key: SampleKey) -> bool:
        return key in self.responses or key in self.revisions or key in self._set_aside

    def add(self, record: Response | Revision) -> None:
        self._index(record, self._log.append(as_line(record)))

    def response(self, key: SampleKey) -> Response:
        record = from_line(self._log.read(self.responses[key].offset))
        assert isinstance(record, Response)
        return record

    def revision(self, key: SampleKey) -> Revision:
        record = from_line(self._log.read(self.revisions[key].offset))
        assert isinstance(record, Revision)
        return record

    def tuples(self, chosen: Iterable[KeptKey]) -> list[dict[str, Any]]:
        """The records of d_revision.json of some kept tuples."""
        return [
            self.kept.as_written(
                as_tuple(self.response(key.response_key), self.revision(key)), self._problems[key.problem].mode
            )
            for key, _ in chosen
        ]

    def set_aside(self, key: SampleKey, kind: str, reason: str, text: str = "") -> None:
        """Log a sample that has no verdict. `kind`: a short reason, the same for all alike, to count by."""
        problem_id = self._problems[key.problem].id
        self._set_aside_log.append(
            {"key": key, "id": problem_id, "kind": kind, "reason": reason, "text": text[:SHOWN_CHARACTERS]}
        )
        self._set_aside.add(key)
        self.stats.set_aside[kind] += 1

    def close(self) -> None:
        self._log.close()
        self._set_aside_log.close()

    def _restore(self) -> None:
        """Damaged lines are left out with a line that says so; their samples are not done, so they come again."""
        damaged: list[int] = []
        for record, offset in sound_records(self._log, self._problems, damaged):
            self._index(record, offset)
        _report_damaged(self._log.path, damaged)
        damaged = []
        for number, _, line in self._set_aside_log.lines(damaged):
            try:
                key, kind = set_aside_key(line), str(line["kind"])
            except (LookupError, TypeError):
                damaged.append(number)
                continue
            if key.problem >= len(self._problems):
                continue  # of a run that used more of them
            self._set_aside.add(key)
            self.stats.set_aside[kind] += 1
        _report_damaged(self._set_aside_log.path, damaged)
        if self.responses:
            print(
                f"continuing: {self.stats.responses} responses and {len(self.revisions)} revisions restored from "
                f"{self._log.path}"
            )

    def _index(self, record: Response | Revision, offset: int) -> None:
        sample = GradedSample.of(record, offset)
        if isinstance(record, Response):
            self.responses[sample.key] = sample
            self.stats.add_response(record)
            return
        self.stats.add_revision(record, self.responses[sample.key.response_key].r)
        self.revisions[sample.key] = sample
        if record.y_revised_correct:
            mode = self._problems[record.problem_idx].mode
            self.kept.add(sample.key, as_tuple(self.response(sample.key.response_key), record), mode)


def set_aside_key(line: dict[str, Any]) -> SampleKey:
    """The sample of a line of set_aside.jsonl. Raises LookupError or TypeError for anything else."""
    key = SampleKey(*line["key"])
    if not all(type(part) is int for part in key if part is not None):
        raise TypeError("a key of whole numbers")
    return key


def sound_records(
    log: JsonlLog, problems: list[Problem], damaged: list[int]
) -> Iterator[tuple[Response | Revision, int]]:
    """(record, offset) of each line of attempts.jsonl that is what it says, of these problems.

    `damaged` gets the numbers of lines that hold no record, that are of another problem or without their response,
    and of those that are there twice.
    """
    seen: set[SampleKey] = set()
    for number, offset, line in log.lines(damaged):
        try:
            record = from_line(line)
            if record.problem_idx >= len(problems):
                continue  # of a run that used more of them
            if isinstance(record, Response):
                problem = problems[max(record.problem_idx, 0)]
                fits = record.problem_idx >= 0 and (record.id, record.x) == (problem.id, problem.x)
                unpack_ids(record.y_init_ids)
            else:
                fits = record.key.response_key in seen
                unpack_ids(record.y_revised_ids)
        except (LookupError, TypeError, ValueError, UserError):
            fits = False
        if not fits or record.key in seen:
            damaged.append(number)
            continue
        seen.add(record.key)
        yield record, offset


def _report_damaged(path: Path, damaged: list[int]) -> None:
    if damaged:
        lines = f"line {min(damaged)} is" if len(damaged) == 1 else f"{len(damaged)} lines are"
        first = "" if len(damaged) == 1 else f" (the first: line {min(damaged)})"
        print(f"warning: {path}: {lines} damaged{first}; left out, and sampled again where something is missing")
