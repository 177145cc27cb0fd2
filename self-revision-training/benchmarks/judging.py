"""Verdicts per second on small programs, with and without the sandbox, side by side.

    PYTHONPATH=self-revision-training python self-revision-training/benchmarks/judging.py [programs=200] [tests=10]
        [workers=<CPU cores>] [user=<name>] [out=<file>.json]

Programs in Python and C++ that double a number and print it, each with a different constant; half of them fail the
last test. The two sandboxes alternate on the same programs, a few at a time, so that other load on the machine
affects both equally. The sandbox differs for root and for other users: with `user`, root measures again as that
user, who must be able to run this Python.
"""

import json
import os
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass

from srt.common.name_values import read_name_values
from srt.contract.records import Problem
from srt.verifiers.code.grader import CodeGrader
from srt.verifiers.code.judge import JudgeConfig
from srt.verifiers.types import Verdict

CORES = len(os.sched_getaffinity(0))
KINDS = ("rlimits", "bwrap")
PROGRAMS_PER_TURN = 20
PROGRAMS = {
    "python": "n = int(input())\nprint(2 * n + (n == {wrong_at}), {number})",
    "cpp": (
        "#include <iostream>\nint main() {{\n  long long n;\n  std::cin >> n;\n"
        '  std::cout << 2 * n + (n == {wrong_at}) << " " << {number} << std::endl;\n}}'
    ),
}


@dataclass(frozen=True)
class Options:
    programs: int = 200
    tests: int = 10
    workers: int = CORES
    user: str = ""  # measure again as this user
    out: str = ""  # file to write the figures to


def make_items(language: str, programs: int, tests: int) -> list[tuple[str, Problem, str]]:
    """(response, problem, finish_reason) triples."""
    items = []
    for number in range(programs):
        cases = [{"input": f"{n}\n", "output": f"{2 * n} {number}\n"} for n in range(1, tests + 1)]
        source = PROGRAMS[language].format(number=number, wrong_at=tests if number % 2 else 0)
        problem = Problem(str(number), "?", "", mode="code", tests=cases)
        items.append((f"```{language}\n{source}\n```", problem, "stop"))
    return items


def measure(items: list[tuple[str, Problem, str]], workers: int) -> dict[str, float]:
    """Verdicts per second with each sandbox, without the start-up of the judging processes."""
    seconds = dict.fromkeys(KINDS, 0.0)
    with ExitStack() as stack:
        graders = {kind: stack.enter_context(CodeGrader(workers, judge_config(kind))) for kind in KINDS}
        for grader in graders.values():
            grader.grade_all(items[: 2 * workers])
        for turn, start in enumerate(range(0, len(items), PROGRAMS_PER_TURN)):
            for kind in KINDS[:: -1 if turn % 2 else 1]:
                started = time.perf_counter()
                outcomes = graders[kind].grade_all(items[start : start + PROGRAMS_PER_TURN])
                seconds[kind] += time.perf_counter() - started
                for number, outcome in enumerate(outcomes, start=start):
                    if not isinstance(outcome, Verdict) or outcome.correct != (number % 2 == 0):
                        raise SystemExit(f"unexpected verdict on program {number}: {outcome}")
    return {kind: len(items) / spent for kind, spent in seconds.items()}


def judge_config(kind: str) -> JudgeConfig:
    return JudgeConfig(kind, time_limit=5.0, memory_limit=256, time_factor=1.0)


def main(arguments: list[str]) -> None:
    options: Options = read_name_values(Options, arguments, __doc__)
    concurrently = f"{options.workers} concurrently on {CORES} CPU cores"
    print(f"{options.programs} programs with {options.tests} tests, {concurrently}")
    result: dict[str, object] = {"programs": options.programs, "tests": options.tests}
    result |= {"workers": options.workers, "processors": CORES}
    for language in PROGRAMS:
        rates = measure(make_items(language, options.programs, options.tests), options.workers)
        cost = rates["rlimits"] / rates["bwrap"] - 1
        print(
            f"{language:7} {rates['rlimits']:6.1f} verdicts/s without, {rates['bwrap']:6.1f} with the sandbox: "
            f"{cost:+.0%} time"
        )
        result[language] = {kind: round(value, 2) for kind, value in rates.items()} | {"cost": round(cost, 4)}
    if options.user:
        print(f"as {options.user}:", flush=True)
        again = [argument for argument in arguments if not argument.startswith(("user=", "out="))]
        subprocess.run(["runuser", "-u", options.user, "--", sys.executable, __file__, *again], check=True)
    if options.out:
        with open(options.out, "w", encoding="utf-8") as file:
            json.dump(result, file, indent=1)


if __name__ == "__main__":
    main(sys.argv[1:])
