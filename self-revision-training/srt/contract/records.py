"""The records that flow through Phase 1: problem -> response -> revision -> tuple.

`*_ids` are the sampler's token ids, including the end-of-turn token if `*_finish_reason` is "stop". Later steps
train on them, so nothing is ever tokenized again. They are packed (`pack_ids`) in files and in memory: written
out as numbers, 16k of them would fill a page and hide the rest of the record. A sample cut off by the token
limit ("length") counts as wrong without being graded.
"""

import base64
import binascii
import struct
import zlib
from dataclasses import asdict, dataclass, field, fields
from typing import Any, NamedTuple

from srt.common.errors import UserError


def pack_ids(ids: list[int]) -> str:
    """Token ids as text, about half the length of the decoded response: base64 of zlib of little-endian int32."""
    return base64.b64encode(zlib.compress(struct.pack(f"<{len(ids)}i", *ids))).decode()


def unpack_ids(packed: str) -> list[int]:
    """The inverse of `pack_ids`. Raises UserError for anything else."""
    try:
        data = zlib.decompress(base64.b64decode(packed, validate=True))
        return list(struct.unpack(f"<{len(data) // 4}i", data))
    except (TypeError, binascii.Error, zlib.error, struct.error) as error:
        raise UserError(
            f"expected token ids as srt.contract.records.pack_ids writes them, found {packed!r:.80}"
        ) from error


@dataclass(frozen=True)
class Problem:
    """One problem. Math: `answer` is the gold answer. Code: the fields from `tests` on.

    `tests`: each {"input", "output"}, or {"test", "entry_point"} for a Python function. `limits`: time_seconds and
    memory_mb, if the problem states them. `checker`: a Python program that judges the output, for problems with
    several right outputs. `input_file`, `output_file`: replace standard input and output.
    """

    id: str
    x: str
    answer: str
    mode: str = "math"
    source: str = ""
    tests: list[dict] = field(default_factory=list)
    limits: dict = field(default_factory=dict)
    checker: str = ""
    input_file: str = ""
    output_file: str = ""


class SampleKey(NamedTuple):
    """Identifies a sample by index: a response to a problem, or a revision of that response.

    Keys sort in problem order. In files they are lists, [problem, response, revision].
    """

    problem: int
    response: int
    revision: int | None = None  # None: the response itself

    @property
    def response_key(self) -> "SampleKey":
        """The key of the response that this sample is, or revises."""
        return self._replace(revision=None)


@dataclass(frozen=True)
class Response:
    """A graded y_init: one line of attempts.jsonl. `y_init_ids` packs its `y_init_tokens` token ids."""

    problem_idx: int
    response_idx: int
    id: str
    source: str
    x: str
    ground_truth: str
    y_init: str
    y_init_ids: str
    y_init_tokens: int
    y_init_correct: bool
    y_init_extracted: str
    y_init_reason: str
    y_init_finish_reason: str
    y_init_seed: int
    y_init_logprob: float | None = None  # of all its tokens under the model at temperature 1; None: not recorded

    @property
    def r(self) -> int:
        """The binary reward."""
        return int(self.y_init_correct)

    @property
    def key(self) -> SampleKey:
        return SampleKey(self.problem_idx, self.response_idx)


@dataclass(frozen=True)
class Revision:
    """A graded y_revised, a revision of the response with the same problem_idx and response_idx: also one line."""

    problem_idx: int
    response_idx: int
    revision_idx: int
    p_r: str
    y_revised: str
    y_revised_ids: str
    y_revised_tokens: int
    y_revised_correct: bool
    y_revised_extracted: str
    y_revised_reason: str
    y_revised_finish_reason: str
    y_revised_seed: int
    y_revised_logprob: float | None = None

    @property
    def key(self) -> SampleKey:
        return SampleKey(self.problem_idx, self.response_idx, self.revision_idx)


def as_line(record: Response | Revision) -> dict[str, Any]:
    """The record as a line of attempts.jsonl."""
    return {"kind": type(record).__name__.lower(), **asdict(record)}


def from_line(line: dict[str, Any]) -> Response | Revision:
    """The record in a line of attempts.jsonl. Raises ValueError, KeyError or TypeError for anything else."""
    kind = {"response": Response, "revision": Revision}[line["kind"]]
    record = kind(**{name: value for name, value in line.items() if name != "kind"})
    for entry in fields(kind):
        value = getattr(record, entry.name)
        if entry.name.endswith("_logprob"):
            if not (value is None or type(value) in (int, float)):
                raise ValueError(f"{entry.name}: expected a number, found {value!r:.80}")
        elif type(value) is not entry.type:
            raise ValueError(f"{entry.name}: expected {entry.type}, found {value!r:.80}")
    return record


TUPLE_FIELDS = (
    "id",
    "x",
    "ground_truth",
    "y_init",
    "y_init_correct",
    "p_r",
    "y_revised",
    "y_revised_correct",
    "y_init_extracted",
    "y_revised_extracted",
    "response_idx",
    "revision_idx",
    "source",
    "y_init_ids",
    "y_revised_ids",
    "cleaned",
)


def as_tuple(response: Response, revision: Revision) -> dict[str, Any]:
    """(x, y_init, P_r, y_revised) as a record of d_revision.json; cleaning fills in `cleaned`."""
    both = asdict(response) | asdict(revision) | {"cleaned": []}
    return {name: both[name] for name in TUPLE_FIELDS}
