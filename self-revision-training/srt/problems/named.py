"""Evaluation sets by a short name: where each is on the hub, at which revision, and how its records are laid out.

A record of a set is converted to the fields that `parse_problem` reads. Its problems have the set's name as their
source, and before their id, so that several sets can be evaluated at once.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from srt.common.errors import UserError
from srt.problems.livecodebench import FIELDS as LIVECODEBENCH_FIELDS
from srt.problems.livecodebench import from_livecodebench
from srt.problems.parsing import USED_FIELDS
from srt.problems.reading import RecordSource, read_hub

Record = dict[str, Any]
_INTEGER = re.compile(r"\$?\s*([-+]?)0*(\d[\d,]*?)(?:\.0*)?\s*(?:\^\\circ|\^\{\\circ\})?\s*\$?")


@dataclass(frozen=True)
class NamedSet:
    """A set on the hub. `convert`: its record -> the fields of `parse_problem`, or ValueError with the reason.

    `fields`: the columns that `convert` reads. `files`: of the repository, for a set that is not in a format that
    `datasets` recognizes.
    """

    hub_id: str
    revision: str
    split: str
    mode: str
    fields: tuple[str, ...]
    convert: Callable[[Record], Record]
    subset: str | None = None
    files: tuple[str, ...] = ()


def _integer_answer(record: Record, question: str = "problem") -> Record:
    """Sets whose answers are integers, which may have leading zeros (AIME), a decimal point (AMC) or degrees."""
    return {"id": record.get("id"), "problem": record.get(question), "answer": integer(record.get("answer"))}


def integer(answer: Any) -> str:
    """The canonical text of an integer: "025", "25.0" and 25 are "25". Raises ValueError for anything else."""
    text = str(answer if answer is not None else "").strip()
    if not text:
        raise ValueError("no answer: expected an integer")
    match = _INTEGER.fullmatch(text)
    if not match:
        raise ValueError(f"expected an integer as the answer, found {text!r:.80}")
    sign = "-" if match[1] == "-" and match[2].strip("0,") else ""
    return sign + match[2].replace(",", "")


def _hmmt(record: Record) -> Record:
    return {"id": record.get("problem_idx"), "problem": record.get("problem"), "answer": record.get("answer")}


def _math500(record: Record) -> Record:
    return {"id": record.get("unique_id"), "problem": record.get("problem"), "answer": record.get("answer")}


def _gsm8k(record: Record) -> Record:
    """The answer is a solution that ends with "#### 1,234"."""
    _, marker, answer = str(record.get("answer") or "").rpartition("####")
    if not marker:
        raise ValueError("no answer: expected a solution that ends with #### and a number")
    answer = answer.strip().replace(",", "")
    return {"problem": record.get("question"), "answer": integer(answer) if _INTEGER.fullmatch(answer) else answer}


def _olympiadbench(record: Record) -> Record:
    """`final_answer`: a list of texts, several where the problem has several answers."""
    answers = [str(answer).strip() for answer in record.get("final_answer") or [] if str(answer).strip()]
    if not answers:
        raise ValueError("no answer: final_answer is empty")
    if record.get("error"):
        raise ValueError(f"its answer is accepted within {record['error']}, and answers here are exact")
    parts = [part for part in (record.get("context"), record.get("question")) if part]
    return {"id": record.get("id"), "problem": "\n\n".join(parts), "answer": ", ".join(answers)}


def _as_it_is(record: Record) -> Record:
    return record


# The numbers of problems are those of the revisions.
NAMED_SETS = {
    "aime24": NamedSet(  # 30 problems
        "HuggingFaceH4/aime_2024",
        "2fe88a2f1091d5048c0f36abc874fb997b3dd99a",
        "train",
        "math",
        ("id", "problem", "answer"),
        _integer_answer,
    ),
    "aime25": NamedSet(  # 30 problems
        "math-ai/aime25",
        "563bb8404243c5f09de6ec262f2db674fe5bce9b",
        "test",
        "math",
        ("id", "problem", "answer"),
        _integer_answer,
    ),
    "hmmt25": NamedSet(  # 30 problems of February 2025; answers in LaTeX
        "MathArena/hmmt_feb_2025",
        "6fdc4277120810ff75aa22d2d5489b91f7a262a1",
        "train",
        "math",
        ("problem_idx", "problem", "answer"),
        _hmmt,
    ),
    "math500": NamedSet(  # 500 problems
        "HuggingFaceH4/MATH-500",
        "6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be",
        "test",
        "math",
        ("unique_id", "problem", "answer"),
        _math500,
    ),
    "amc23": NamedSet(  # 40 problems
        "math-ai/amc23",
        "80815d37005feb82cd7f8fbc6901d5d3eff43057",
        "test",
        "math",
        ("id", "question", "answer"),
        lambda record: _integer_answer(record, "question"),
    ),
    "olympiadbench": NamedSet(  # 674 problems of competitions: English, text only, with a final answer
        "Hothan/OlympiadBench",
        "91184b52131e7fc9455fef848035173aea8cc01a",
        "train",
        "math",
        ("id", "context", "question", "final_answer", "error"),
        _olympiadbench,
        subset="OE_TO_maths_en_COMP",
    ),
    "gsm8k": NamedSet(  # 1,319 problems
        "openai/gsm8k",
        "740312add88f781978c0658806c59bc2815b9866",
        "test",
        "math",
        ("question", "answer"),
        _gsm8k,
        subset="main",
    ),
    "humaneval": NamedSet(  # 164 problems
        "openai/openai_humaneval",
        "7dce6050a7d6d172f3cc5c32aa97f52fa1a2e544",
        "test",
        "code",
        ("task_id", "prompt", "test", "entry_point"),
        _as_it_is,
    ),
    "livecodebench": NamedSet(  # the 175 problems that release v6 added
        "livecodebench/code_generation_lite",
        "0fe84c3912ea0c4d4a78037083943e8f0c4dd505",
        "train",
        "code",
        LIVECODEBENCH_FIELDS,
        from_livecodebench,
        files=("test6.jsonl",),
    ),
    "codeforces": NamedSet(  # 422 whose programs can be run; those that interact with the judge are set aside
        "open-r1/codeforces",
        "fbe3f6e903ee854eec2e69e9d96d0306cde59baf",
        "test",
        "code",
        USED_FIELDS,
        _as_it_is,
        subset="verifiable",
    ),
}


def named_sets(dataset: str, mode: str) -> dict[str, NamedSet] | None:
    """The sets that a value of DATASET names, separated by commas; None if it is an id or a file.

    Raises UserError when only some of the names are known, and when a set is for the other mode.
    """
    names = [name.strip() for name in dataset.split(",") if name.strip()]
    known = [name for name in names if name in NAMED_SETS]
    if not known or (len(names) == 1 and "," in dataset):
        return None
    if unknown := [name for name in names if name not in NAMED_SETS]:
        raise UserError(
            f"{dataset}: {unknown[0]} is not among the named sets ({', '.join(NAMED_SETS)}); only "
            "those can be combined"
        )
    for name in known:
        own = NAMED_SETS[name].mode
        if own != mode:
            raise UserError(
                f"{dataset}: {name} has {own} problems; set MODE={own}, alone or with sets of that mode"
            )
    return {name: NAMED_SETS[name] for name in known}


def read_named(sets: dict[str, NamedSet]) -> RecordSource:
    """The records of the sets, one after another, with the fields that `parse_problem` reads.

    A record that cannot be used yields the reason. Raises UserError when a set cannot be loaded.
    """
    sources = {
        name: read_hub(s.hub_id, s.subset, s.split, s.fields, s.revision, s.files, name)
        for name, s in sets.items()
    }
    records = (
        (place, _converted(name, record)) for name, source in sources.items() for place, record in source.records
    )
    return RecordSource(records, ",".join(s.revision for s in sets.values()))


def _converted(name: str, record: Record | str) -> Record | str:
    if isinstance(record, str):
        return record
    try:
        converted = NAMED_SETS[name].convert(record)
    except ValueError as error:
        return str(error)
    own_id = next((converted[key] for key in ("id", "task_id") if converted.get(key) not in (None, "")), None)
    return converted | {"source": name, "id": None if own_id is None else f"{name}/{own_id}", "task_id": None}
