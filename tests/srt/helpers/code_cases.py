"""What the judge's tests share: the problems of data/code_problems.jsonl and a judge."""

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

from srt.contract.records import Problem
from srt.problems import load_problems
from srt.verifiers.code.judge import CodeJudge, JudgeConfig, open_sandbox

PROBLEMS = Path(__file__).parents[1] / "data" / "code_problems.jsonl"
CONFIG = JudgeConfig("bwrap", time_limit=1.0, memory_limit=256, time_factor=1.0)


@cache
def judge(sandbox="bwrap"):
    config = replace(CONFIG, sandbox=sandbox)
    return CodeJudge(config, open_sandbox(config))


def fenced(program, language="python"):
    return f"So:\n```{language}\n{program}\n```\n"


def written_problems():
    """(problem, programs written for it) pairs."""
    records = [json.loads(line) for line in PROBLEMS.read_text("utf-8").splitlines()]
    problems = load_problems(str(PROBLEMS), "code").problems
    return list(zip(problems, (record["programs"] for record in records), strict=True))


def doubling(**more):
    tests = [{"input": f"{n}\n", "output": f"{2 * n}\n"} for n in (1, 2, 50)]
    return Problem("double", "Print twice the given number.", "", mode="code", tests=tests, **more)


CHECK = """
def check(candidate):
    assert candidate([1], 2) == [3]
    assert candidate([4, 0], 5) == [9, 5]
"""


def adding(test=CHECK):
    x = 'from typing import List\n\n\ndef add(numbers: List[int], more: int):\n    """Add more to each."""'
    return Problem("add", x, "", mode="code", tests=[{"test": test, "entry_point": "add"}])
