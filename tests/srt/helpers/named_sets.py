"""Records in the layout of each named set, made up, and a hub that serves them from files."""

import base64
import json
import pickle
import zlib
from pathlib import Path

import datasets


def livecodebench(question_id, kind, tests, hidden, starter="", func_name=None, compress=True) -> dict:
    """`tests` and `hidden`: (input, output) pairs. The hidden ones are pickled and compressed, as on the hub."""

    def as_json(pairs) -> str:
        return json.dumps([{"input": i, "output": o, "testtype": kind} for i, o in pairs])

    private = as_json(hidden)
    if compress:
        private = base64.b64encode(zlib.compress(pickle.dumps(private))).decode()
    return {
        "question_title": question_id,
        "question_content": f"What {question_id} asks for.",
        "platform": "leetcode" if starter else "atcoder",
        "question_id": question_id,
        "contest_id": "c1",
        "contest_date": "2025-01-04T00:00:00",
        "starter_code": starter,
        "difficulty": "easy",
        "public_test_cases": as_json(tests),
        "private_test_cases": private,
        "metadata": json.dumps({"func_name": func_name} if func_name else {}),
    }


STARTER = "class Solution:\n    def addAll(self, numbers: List[int], start: int) -> int:\n        "
RECORDS: dict[str, list[dict]] = {
    "aime24": [
        {"id": 60, "problem": "What is $20 + 5$?", "solution": "\\boxed{025}", "answer": "025", "url": "u"},
        {"id": 61, "problem": "What is $0$?", "solution": "", "answer": "000", "url": "u", "year": "2024"},
        {"id": 62, "problem": "What is it?", "solution": "", "answer": "", "url": "u"},
    ],
    "aime25": [
        {"id": "0", "problem": "What is $7 \\cdot 10$?", "answer": "70"},
        {"id": "1", "problem": "Which angle?", "answer": "336^\\circ"},
        {"id": "2", "problem": "What is  $7 \\cdot 10$?", "answer": "70"},
        {"id": "3", "problem": "Which angle?", "answer": "24"},
    ],
    "hmmt25": [
        {"problem_idx": 1, "problem": "Divide.", "answer": "\\frac{1}{576}", "problem_type": ["Algebra"]},
        {"problem_idx": 2, "problem": "Root.", "answer": "2\\sqrt{3}", "problem_type": ["Geometry"]},
    ],
    "math500": [
        {
            "problem": "Convert $(0,3)$.",
            "solution": "We get $\\boxed{\\left( 3, \\frac{\\pi}{2} \\right)}.$",
            "answer": "\\left( 3, \\frac{\\pi}{2} \\right)",
            "subject": "Precalculus",
            "level": 2,
            "unique_id": "test/precalculus/1.json",
        }
    ],
    "amc23": [
        {"id": 0, "question": "How far?", "answer": "27.0", "url": "u"},
        {"id": 1, "question": "What is $1 - 2$?", "answer": "-1", "url": "u"},
    ],
    "olympiadbench": [
        {
            "id": 1606,
            "question": "Determine all real $x$ with $x^2 = 4$.",
            "solution": ["Take roots."],
            "final_answer": ["2,-2"],
            "context": None,
            "modality": "Text-only",
            "is_multiple_answer": True,
            "unit": None,
            "answer_type": "Numerical",
            "error": None,
        },
        {
            "id": 1607,
            "question": "What is $k$?",
            "solution": ["Count."],
            "final_answer": ["$\\frac{1}{2 n+2}$"],
            "context": "Let $n$ be a positive integer.",
            "is_multiple_answer": False,
            "error": None,
        },
        {"id": 1608, "question": "Prove it.", "final_answer": None, "context": None, "error": None},
        {"id": 1609, "question": "Measure.", "final_answer": ["3.1"], "context": None, "error": "1e-1"},
    ],
    "gsm8k": [
        {"question": "How many clips?", "answer": "She sold 48/2 = <<48/2=24>>24.\n#### 1,024"},
        {"question": "How much?", "answer": "He paid.\n#### -3"},
        {"question": "Why?", "answer": "No marker."},
    ],
    "livecodebench": [
        livecodebench("double", "stdin", [("3\n", "6\n")], [("4\n", "8\n"), ("5\n", "10\n")]),
        livecodebench(
            "sum", "functional", [("[1, 2]\n10", "13")], [("[]\n0", "0")], starter=STARTER, func_name="addAll"
        ),
        livecodebench("plain", "stdin", [], [("1\n", "1\n")], compress=False),
        livecodebench("empty", "stdin", [], [], compress=False),
    ],
    "codeforces": [
        {
            "id": "1/A",
            "description": "Print twice n.",
            "input_format": "A number n.",
            "output_format": "2n",
            "interaction_format": None,
            "note": None,
            "examples": [{"input": "3\n", "output": "6\n"}],
            "official_tests": [{"input": "4\n", "output": "8\n"}],
            "official_tests_complete": True,
            "time_limit": 1.0,
            "memory_limit": 256.0,
            "input_mode": "stdio",
            "generated_checker": None,
            "executable": True,
        },
        {
            "id": "1/B",
            "description": "Ask me.",
            "interaction_format": "Print queries.",
            "examples": [{"input": "1\n", "output": "1\n"}],
            "official_tests": [{"input": "1\n", "output": "1\n"}],
            "input_mode": "stdio",
        },
    ],
}


def serve_named(monkeypatch, folder: Path) -> list[dict]:
    """Make `load_dataset` serve RECORDS through the real library; returns the list of what it was asked for."""
    from srt.problems.named import NAMED_SETS

    real, asked = datasets.load_dataset, []
    by_id = {named.hub_id: name for name, named in NAMED_SETS.items()}

    def load_dataset(path, name=None, *, split, revision=None, data_files=None):
        asked.append({"path": path, "subset": name, "split": split, "revision": revision, "files": data_files})
        hub_id = path
        if data_files:
            (file,) = data_files
            hub_id = file.removeprefix("hf://datasets/").split("@")[0]
        local = folder / f"{by_id[hub_id]}.jsonl"
        local.write_text("".join(json.dumps(record) + "\n" for record in RECORDS[by_id[hub_id]]))
        return real("json", data_files={split: str(local)}, split=split, cache_dir=str(folder / "cache"))

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    return asked
