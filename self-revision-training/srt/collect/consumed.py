"""Which problems a training set has used: Phase 2 leaves those of Phase 1 out, and evaluation looks for them.

A JSON line for each: {"id": ..., "text_sha256": ...}. The text decides whether two problems are the same; ids are
for readers, since another dataset may use them for others. Where the files are:

- <collection>/srt_problems.jsonl and train_data/<prefix>_problems.jsonl (run_srt_data.sh)
- srt_problems.jsonl in each checkpoint of Phase 1, and in what Phase 2 makes of it
- distill_problems.jsonl in the checkpoint of Phase 2
"""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from srt.common.errors import UserError
from srt.common.files import read_jsonl, write_jsonl
from srt.contract.provenance import file_of_checkpoint
from srt.contract.records import Problem

SRT_PROBLEMS = "srt_problems.jsonl"
DISTILL_PROBLEMS = "distill_problems.jsonl"
FILE_OF_PHASE = {"Phase 1": SRT_PROBLEMS, "Phase 2": DISTILL_PROBLEMS}


def text_sha256(x: str) -> str:
    """Equal for texts that differ only in white space and in case; 64 hexadecimal digits."""
    normalized = " ".join(x.split()).casefold()
    return hashlib.sha256(normalized.encode("utf-8", "surrogatepass")).hexdigest()


def write_consumed(path: Path, problems: Iterable[Problem]) -> None:
    write_jsonl(path, ({"id": problem.id, "text_sha256": text_sha256(problem.x)} for problem in problems))


def read_consumed(path: Path) -> dict[str, str]:
    """text_sha256 -> id. Raises UserError for a missing or broken file."""
    consumed = {}
    for number, line in enumerate(read_jsonl(path), start=1):
        if not isinstance(line, dict) or not {"id", "text_sha256"} <= line.keys():
            raise UserError(
                f"{path}, line {number}: expected a problem's id and text_sha256; write the file again"
            )
        consumed[line["text_sha256"]] = line["id"]
    return consumed


def consumed_by_checkpoint(model_path: str) -> dict[str, dict[str, str]]:
    """Phase -> `read_consumed`, for each phase whose problems the checkpoint (a folder or on the hub) records."""
    paths = {phase: file_of_checkpoint(model_path, name) for phase, name in FILE_OF_PHASE.items()}
    return {phase: read_consumed(path) for phase, path in paths.items() if path}


def overlap(problems: Iterable[Problem], consumed: Mapping[str, str]) -> list[Problem]:
    """Those of `problems` whose text is among the consumed ones, in order."""
    return [problem for problem in problems if text_sha256(problem.x) in consumed]
