"""Verdicts per second on small programs, with and without the sandbox, side by side.

    PYTHONPATH=self-revision-training python self-revision-training/benchmarks/judging.py [programs=200] [tests=10]
        [workers=<processors>] [out=<file>.json]

Programs in Python and C++ that double a number and print it, each with another constant in it, half of them wrong
at the last test. The two kinds of sandbox take turns on the same programs, a few at a time, so that whatever else
the machine does meets both alike.
"""

import json
import os
import sys
import time
from contextlib import ExitStack

from srt.contract.records import Problem
from srt.verifiers.code.grader import CodeGrader
from srt.verifiers.code.judge import JudgeConfig

KINDS = ("rlimits", "bwrap")
TURN = 20  # programs
PROGRAMS = {
    "python": "n = int(input())\nprint(2 * n + (n == {wrong_at}), {number})",
    "cpp": (
        "#include <iostream>\nint main() {{\n  long long n;\n  std::cin >> n;\n"
        '  std::cout << 2 * n + (n == {wrong_at}) << " " << {number} << std::endl;\n}}'
    ),
}


def items(language: str, programs: int, tests: int) -> list[tuple[str, Problem, str]]:
    """(response, problem, finish_reason) triples."""
    made = []
    for number in range(programs):
        given = [{"input": f"{n}\n", "output": f"{2 * n} {number}\n"} for n in range(1, tests + 1)]
        source = PROGRAMS[language].format(number=number, wrong_at=tests if number % 2 else 0)
        problem = Problem(str(number), "?", "", mode="code", tests=given)
        made.append((f"```{language}\n{source}\n```", problem, "stop"))
    return made


def rates(work: list[tuple[str, Problem, str]], workers: int) -> dict[str, float]:
    """Verdicts per second of each kind, the start of the judging processes left out."""
    seconds = dict.fromkeys(KINDS, 0.0)
    with ExitStack() as stack:
        graders = {kind: stack.enter_context(CodeGrader(workers, settings(kind))) for kind in KINDS}
        for grader in graders.values():
            grader.grade_all(work[: 2 * workers])
        for turn, start in enumerate(range(0, len(work), TURN)):
            for kind in KINDS[:: -1 if turn % 2 else 1]:
                started = time.perf_counter()
                outcomes = graders[kind].grade_all(work[start : start + TURN])
                seconds[kind] += time.perf_counter() - started
                for number, outcome in enumerate(outcomes, start=start):
                    if outcome.correct != (number % 2 == 0):
                        raise SystemExit(f"program {number} was not written for this verdict: {outcome}")
    return {kind: len(work) / spent for kind, spent in seconds.items()}


def settings(kind: str) -> JudgeConfig:
    return JudgeConfig(kind, time_limit=5.0, memory_limit=256, time_factor=1.0)


def main(arguments: list[str]) -> None:
    if set(arguments) & {"-h", "--help"}:
        print(__doc__)
        return
    given = dict(argument.split("=", 1) for argument in arguments)
    cores = len(os.sched_getaffinity(0))
    programs, tests, workers = (
        int(given.get(name, default)) for name, default in (("programs", 200), ("tests", 10), ("workers", cores))
    )
    print(f"{programs} programs with {tests} tests, {workers} at the same time on {cores} processors")
    result = {"programs": programs, "tests": tests, "workers": workers, "processors": cores}
    for language in PROGRAMS:
        rate = rates(items(language, programs, tests), workers)
        cost = rate["rlimits"] / rate["bwrap"] - 1
        print(
            f"{language:7} {rate['rlimits']:6.1f} verdicts/s without, {rate['bwrap']:6.1f} with the sandbox: "
            f"it takes {cost:+.0%} time"
        )
        result[language] = {kind: round(value, 2) for kind, value in rate.items()} | {"cost": round(cost, 4)}
    if "out" in given:
        with open(given["out"], "w", encoding="utf-8") as file:
            json.dump(result, file, indent=1)


if __name__ == "__main__":
    main(sys.argv[1:])
