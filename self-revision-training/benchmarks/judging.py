"""Verdicts per second on small programs, with and without the sandbox, side by side.

    PYTHONPATH=self-revision-training python self-revision-training/benchmarks/judging.py [programs=200] [tests=10]
        [workers=<processors>] [rounds=2] [out=<file>.json]

Programs in Python and C++ that double a number and print it, each with another constant in it, half of them wrong
at the last test. Kinds of sandbox take turns on the same programs, `rounds` times; the best round counts.
"""

import json
import os
import sys
import time

from srt.records import Problem
from srt.verifiers.code import CodeSettings
from srt.verifiers.code_grader import CodeGrader

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


def rate(kind: str, work: list[tuple[str, Problem, str]], workers: int) -> float:
    """Verdicts per second, the start of the judging process left out."""
    with CodeGrader(workers, CodeSettings(kind, time_limit=5.0, memory_limit=256, time_factor=1.0)) as grader:
        grader.grade_all(work[:2])
        started = time.perf_counter()
        outcomes = grader.grade_all(work)
        seconds = time.perf_counter() - started
    right = [number % 2 == 0 for number in range(len(work))]
    if [outcome.correct for outcome in outcomes] != right:
        wrong = next(outcome for outcome, r in zip(outcomes, right, strict=True) if outcome.correct != r)
        raise SystemExit(f"a verdict is not what the program was written for: {wrong}")
    return len(work) / seconds


def main(arguments: list[str]) -> None:
    if set(arguments) & {"-h", "--help"}:
        print(__doc__)
        return
    given = dict(argument.split("=", 1) for argument in arguments)
    cores = len(os.sched_getaffinity(0))
    programs, tests, workers, rounds = (
        int(given.get(name, default))
        for name, default in (("programs", 200), ("tests", 10), ("workers", cores), ("rounds", 2))
    )
    print(f"{programs} programs with {tests} tests, {workers} at the same time on {cores} processors")
    result = {"programs": programs, "tests": tests, "workers": workers, "processors": cores}
    for language in PROGRAMS:
        work = items(language, programs, tests)
        best = {"rlimits": 0.0, "bwrap": 0.0}
        for _ in range(rounds):
            for kind in best:
                best[kind] = max(best[kind], rate(kind, work, workers))
        cost = best["rlimits"] / best["bwrap"] - 1
        print(
            f"{language:7} {best['rlimits']:6.1f} verdicts/s without, {best['bwrap']:6.1f} with the sandbox: "
            f"it takes {cost:+.0%} time"
        )
        result[language] = {name: round(value, 2) for name, value in best.items()} | {"cost": round(cost, 4)}
    if "out" in given:
        with open(given["out"], "w", encoding="utf-8") as file:
            json.dump(result, file, indent=1)


if __name__ == "__main__":
    main(sys.argv[1:])
