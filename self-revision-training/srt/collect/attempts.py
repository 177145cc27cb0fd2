"""The graded samples of a run: logged, restored after a crash, and reduced to the tuples that are kept.

attempts.jsonl has a line for every graded sample, set_aside.jsonl one for every sample without a verdict. Both
are append-only, and everything in memory is rebuilt from them.
"""

from collections import Counter
from pathlib import Path
from typing import Any

from srt.collect.cleaning import ANSWERS, clean
from srt.collect.stats import CollectionStats
from srt.common.files import JsonlLog
from srt.contract.layout import Layout
from srt.contract.provenance import fingerprint
from srt.contract.records import Problem, Response, Revision, SampleKey, as_line, as_tuple, from_line

SHOWN_CHARACTERS = 10_000  # of a sample in set_aside.jsonl


class KeptTuples:
    """The tuples that verified, cleaned and deduplicated; the order in which they arrive does not matter.

    The log of a killed run may hold tuples of problems that are not admitted again yet, while earlier problems
    are unfinished. So there are two counts: `stats.kept` is of all tuples, `of_admitted` of the problems that
    `admit` was called for.
    """

    def __init__(self, layout: Layout, cleaning: bool, stats: CollectionStats):
        self.of_admitted = 0
        self._layout = layout
        self._cleaning = cleaning
        self._stats = stats
        self._admitted = 0  # problems before this index are admitted
        self._per_problem: Counter[int] = Counter()
        self._by_dedup_key: dict[str, tuple[SampleKey, dict[str, Any]]] = {}

    def add(self, key: SampleKey, tuple_: dict[str, Any], mode: str) -> None:
        """Clean a tuple and keep it, unless it is dropped or an equal one comes earlier in problem order."""
        dedup_key = fingerprint(*map(str, key))
        if self._cleaning:
            cleaned = clean(tuple_, self._layout, ANSWERS[mode])
            self._stats.cleaned.update(change["change"] for change in cleaned.changes)
            if cleaned.tuple is None:
                return
            tuple_ = cleaned.tuple
            dedup_key = fingerprint(tuple_["x"], tuple_["y_init"], tuple_["y_revised"])
        if dedup_key in self._by_dedup_key:
            self._stats.cleaned["duplicate"] += 1
            first, _ = self._by_dedup_key[dedup_key]
            if first < key:
                return
            self._count(first.problem, -1)
        self._by_dedup_key[dedup_key] = (key, tuple_)
        self._count(key.problem, 1)

    def admit(self, problem: int) -> None:
        """Include a problem, the next in order, in `of_admitted`."""
        self._admitted = problem + 1
        self.of_admitted += self._per_problem[problem]

    def count_before(self, problem: int) -> int:
        """The number of tuples of all problems before this index."""
        return sum(count for index, count in self._per_problem.items() if index < problem)

    def in_order(self) -> list[dict[str, Any]]:
        """All tuples, in the order of problem, response and revision."""
        return [tuple_ for _, tuple_ in sorted(self._by_dedup_key.values(), key=lambda entry: entry[0])]

    def _count(self, problem: int, change: int) -> None:
        self._stats.kept += change
        self._per_problem[problem] += change
        if problem < self._admitted:
            self.of_admitted += change


class Attempts:
    """All samples of a run that are done, by key: graded (`responses`, `revisions`) or set aside.

    Opening it restores what an earlier run logged in `output_dir`. Raises UserError when a log cannot be read or
    written.
    """

    def __init__(self, output_dir: Path, problems: list[Problem], layout: Layout, cleaning: bool):
        self.stats = CollectionStats()
        self.responses: dict[SampleKey, Response] = {}
        self.revisions: dict[SampleKey, Revision] = {}
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

    def is_done(self, key: SampleKey) -> bool:
        return key in self.responses or key in self.revisions or key in self._set_aside

    def add(self, record: Response | Revision) -> None:
        self._log.append(as_line(record))
        self._index(record)

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
        for line in self._log.entries:
            self._index(from_line(line))
        for line in self._set_aside_log.entries:
            self._set_aside.add(SampleKey(*line["key"]))
            self.stats.set_aside[line["kind"]] += 1
        if self._log.entries:
            print(
                f"continuing: {self.stats.responses} responses and {len(self.revisions)} revisions restored from "
                f"{self._log.path}, {self.stats.kept} tuples kept"
            )

    def _index(self, record: Response | Revision) -> None:
        if isinstance(record, Response):
            self.responses[record.key] = record
            self.stats.add_response(record)
            return
        response = self.responses[record.key.response_key]
        self.revisions[record.key] = record
        self.stats.add_revision(record, response.r)
        if record.y_revised_correct:
            mode = self._problems[record.problem_idx].mode
            self.kept.add(record.key, as_tuple(response, record), mode)
