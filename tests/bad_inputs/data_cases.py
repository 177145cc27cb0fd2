"""Data files that cannot be used: what they are, how they are encoded, and what their records hold."""

import bz2
import gzip
import io
import json
import lzma
import zipfile

from tests.bad_inputs.place import Case, Content

RECORD = {"problem": "Café: 1 + 1?", "answer": "2"}
LINE = json.dumps(RECORD, ensure_ascii=False)
EXAMPLES = [{"input": "1", "output": "2"}]
DEEP = "[" * 100_000


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("problems.jsonl", LINE)
    return buffer.getvalue()


# name of the file, content, what the sentence must say
FILES: list[tuple[str, Content, str]] = [
    ("gzip.jsonl", gzip.compress(LINE.encode()), "compressed with gzip; expected UTF-8 text (gunzip it)"),
    ("gzip.json", gzip.compress(b"[]"), "compressed with gzip"),
    ("problems.jsonl.gz", gzip.compress(LINE.encode()), "compressed with gzip"),
    ("zip.jsonl", zipped(), "a zip archive"),
    ("zstd.jsonl", b"\x28\xb5\x2f\xfd" + bytes(20), "compressed with zstd"),
    ("xz.jsonl", lzma.compress(LINE.encode()), "compressed with xz"),
    ("bz2.jsonl", bz2.compress(LINE.encode()), "compressed with bzip2"),
    ("parquet.jsonl", b"PAR1" + bytes(20), "a parquet file"),
    ("utf16.jsonl", LINE.encode("utf-16"), "text in UTF-16; expected UTF-8 text (iconv -f UTF-16 -t UTF-8)"),
    ("utf16.json", f"[{LINE}]".encode("utf-16"), "text in UTF-16"),
    ("utf16be.jsonl", b"\xfe\xff" + LINE.encode("utf-16-be"), "text in UTF-16"),
    ("utf16le.jsonl", LINE.encode("utf-16-le"), "text in UTF-16 without a byte order mark"),
    ("utf32.jsonl", LINE.encode("utf-32"), "text in UTF-32"),
    ("latin1.jsonl", LINE.encode("latin-1"), "line 1: not UTF-8 (byte 0xE9), perhaps Latin-1"),
    ("latin1.json", f"[\n{LINE}]".encode("latin-1"), "line 2: not UTF-8 (byte 0xE9), perhaps Latin-1"),
    (
        "problems.csv",
        "problem,answer\n1 + 1?,2\n",
        "expected a name that ends with .json, .jsonl, .parquet",
    ),
    ("problems", LINE, "found no suffix; rename or convert it"),
    ("empty.jsonl", "", "contains no records"),
    ("blank.jsonl", "\n \n", "contains no records"),
    ("empty_list.json", "[]", "contains no records"),
    ("null.json", "null", "expected a list of records, found NoneType"),
    ("number.json", "5", "expected a list of records, found int"),
    ("object.json", LINE, "expected a list of records, found dict"),
    ("half.json", f"[{LINE}", "line 1: not JSON"),
    ("deep.json", DEEP, "nested too deeply"),
    ("deep.jsonl", DEEP, "line 1: not readable as JSON (nested too deeply)"),
    ("noise.jsonl", bytes(range(128, 256)) * 4, "line 1: not UTF-8"),
    ("half.parquet", b"PAR1" + bytes(100), "not readable as parquet"),
    ("huge.jsonl", f'{{"problem": "1?", "answer": {"9" * 5000}}}', "answer: a number of 5000 digits"),
    ("huge.json", f'[{{"problem": "1?", "answer": {"9" * 5000}}}]', "answer: a number of 5000 digits"),
]
MATH_RECORDS = {
    "a list as problem": ({"problem": ["1 + 1?"], "answer": "2"}, "found problem as a list instead of text"),
    "a chat as problem": (
        {"problem": [{"role": "user", "content": "1?"}], "answer": "2"},
        "found problem as a list of chat messages instead of text",
    ),
    "an object as problem": (
        {"problem": {"text": "1?"}, "answer": "2"},
        "found problem as a dict",
    ),
    "a list as answer": ({"problem": "1?", "answer": ["2"]}, "found answer as a list instead of text"),
    "no answer": ({"problem": "1?"}, "no answer: expected a non-empty value"),
    "an empty answer": ({"problem": "1?", "answer": " "}, "no answer"),
    "a placeholder": ({"problem": "1?", "answer": "N/A"}, "a placeholder in place of an answer"),
    "a proof": ({"problem": "1?", "answer": "2", "question_type": "proof"}, "a proof"),
    "half a character": ({"problem": "1 \ud83d?", "answer": "2"}, "a lone surrogate (U+D83D) in its x"),
    "a number as record": (5, "expected a JSON object, found int"),
    "null as record": (None, "expected a JSON object, found NoneType"),
}
CODE_RECORDS = {
    "no tests": ({}, "no tests: expected one of"),
    "numbers as tests": ({"examples": [1, 2]}, "a test needs an input and an output, found 1"),
    "a text as tests": ({"examples": "1 2"}, "no tests"),
    "a test without output": ({"examples": [{"input": "1"}]}, "a test needs an input and an output"),
    "a number as output": ({"examples": [{"input": "1", "output": 2}]}, "a test needs an input and an output"),
    "columns of two lengths": (
        {"examples": {"input": ["1", "2"], "output": ["1"]}},
        "zip() argument 2",
    ),
    "a negative limit": ({"examples": EXAMPLES, "time_limit": -1}, "time_limit: expected a number above 0"),
    "a limit in words": ({"examples": EXAMPLES, "time_limit": "long"}, "time_limit: expected a number above 0"),
    "true as limit": ({"examples": EXAMPLES, "memory_limit": True}, "memory_limit: expected a number above 0"),
    "a path as file": ({"examples": EXAMPLES, "input_file": "../x"}, "input_file: expected a plain file name"),
    "an interactive one": ({"examples": EXAMPLES, "interaction_format": "ask"}, "an interactive problem"),
}
CODE = {"MODE": "code", "CODE_SANDBOX": "rlimits"}

CASES = [
    *(
        Case(f"{entry_point} {name}", entry_point, lambda p, n=name, c=content: p.data(n, c), sentence)
        for number, (name, content, sentence) in enumerate(FILES)
        for entry_point in (("collect", "evaluate", "distill")[number % 3],)
    ),
    *(
        Case(f"math: {name}", "collect", lambda p, r=record: p.records(r), sentence)
        for name, (record, sentence) in MATH_RECORDS.items()
    ),
    *(
        Case(f"code: {name}", "collect", lambda p, r=record: p.records({"prompt": "?"} | r) | CODE, sentence)
        for name, (record, sentence) in CODE_RECORDS.items()
    ),
    Case(
        "a missing file",
        "evaluate",
        lambda p: {"DATASET": p.folder / "no.parquet"},
        "no.parquet: no such data file",
    ),
    Case("a folder as file", "collect", lambda p: {"DATASET": p.write("a.jsonl/b", "").parent}, "a folder;"),
    Case(
        "one id for two problems",
        "collect",
        lambda p: p.records(*({"id": "a", "problem": f"{n}?", "answer": "1"} for n in range(4))),
        "the id 'a' was seen before",
    ),
    Case("an empty range", "collect", lambda p: {"START_INDEX": 9}, "no problem is left between START_INDEX=9"),
    Case("a range backwards", "collect", lambda p: {"START_INDEX": 3, "END_INDEX": 2}, "no problem is left"),
    Case(
        "too few tests",
        "collect",
        lambda p: p.records({"prompt": "?", "examples": EXAMPLES}) | CODE | {"MIN_TESTS": 3},
        "MIN_TESTS=3 leaves out all 1 problems",
    ),
    Case(
        "a validation set that cannot be read",
        "distill",
        lambda p: {"VAL_PERIOD": 1, "VAL_DATASET": p.write("validation.json", "{")},
        "validation.json, line 1: not JSON",
    ),
]
