"""attempts.jsonl of a collection or an evaluation, read so that people can browse it."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

MAX_BYTES = 48 * 2**20  # of a file; what follows is left out and named
_IDS = ("y_init_ids", "y_revised_ids")  # packed token ids, of no use on a page
_RESPONSE = ("id", "x", "ground_truth", "y_init", "y_init_correct")
_REVISION = ("revision_idx", "p_r", "y_revised", "y_revised_correct")


@dataclass(frozen=True)
class Attempts:
    """Graded samples without their token ids. Keys: (problem, response), and (problem, response, revision)."""

    responses: dict[tuple[int, int], dict[str, Any]] = field(default_factory=dict)
    revisions: dict[tuple[int, int, int], dict[str, Any]] = field(default_factory=dict)

    def revisions_of(self, key: tuple[int, int]) -> Iterator[dict[str, Any]]:
        """The revisions of a response, in their order."""
        yield from (self.revisions[revision_key] for revision_key in self._keys_by_response.get(key, ()))

    @cached_property
    def _keys_by_response(self) -> dict[tuple[int, int], list[tuple[int, int, int]]]:
        index: dict[tuple[int, int], list[tuple[int, int, int]]] = {}
        for key in sorted(self.revisions):
            index.setdefault(key[:2], []).append(key)
        return index


def read_attempts(path: Path, missing: list[str]) -> Attempts:
    """The first MAX_BYTES of the log; what could not be read is named in `missing`."""
    attempts, damaged, size = Attempts(), 0, 0
    if not path.is_file():
        missing.append(f"{path} is missing")
        return attempts
    with open(path, "rb") as file:
        for line in file:
            size += len(line)
            if not line.endswith(b"\n"):
                break  # being written
            if size > MAX_BYTES:
                missing.append(f"{path}: attempts after the first {MAX_BYTES // 2**20} MiB are left out")
                break
            damaged += bool(line.strip()) and not _add(attempts, line)
    if damaged:
        missing.append(f"{path}: {damaged} damaged {'line is' if damaged == 1 else 'lines are'} left out")
    return attempts


def _add(attempts: Attempts, line: bytes) -> bool:
    """False for a line that is neither a response nor a revision."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):  # also of bytes that are not UTF-8
        return False
    if not isinstance(entry, dict):
        return False
    problem, response = entry.get("problem_idx"), entry.get("response_idx")
    if not (isinstance(problem, int) and isinstance(response, int)):
        return False
    entry = {name: value for name, value in entry.items() if name not in _IDS}
    if all(name in entry for name in _REVISION) and isinstance(entry["revision_idx"], int):
        attempts.revisions[problem, response, entry["revision_idx"]] = entry
    elif all(name in entry for name in _RESPONSE):
        attempts.responses[problem, response] = entry
    else:
        return False
    return True
