"""Verdicts per second and core, and the slowest verdicts, on ordinary math answers.

    PYTHONPATH=self-revision-training python self-revision-training/benchmarks/grading.py [cases] [repeats]

`cases`: a file of lines {"gold": ..., "response": ...}. Without it: generated integers, fractions and roots, half
of the responses correct, eight per problem, as in collection. In-process times are those of one core; the pool
adds the communication between processes.
"""

import json
import random
import statistics
import sys
import time

from srt.common.name_values import show_help
from srt.contract.records import Problem
from srt.verifiers.math.grader import MathGrader
from srt.verifiers.math.verify import verify_math
from srt.verifiers.types import VerifierError

WORDS = "Then we add both sides and simplify, which gives the value of the sum in the next line. " * 20


def ordinary_answers(problems: int = 100, responses: int = 8) -> list[tuple[str, str]]:
    """(gold, response) pairs: 70% integers, 20% fractions, 10% expressions."""
    rng = random.Random(0)
    pairs = []
    for _ in range(problems):
        a, b = rng.randint(2, 5000), rng.randint(2, 99)
        form = rng.choices([f"{a}", f"\\frac{{{a}}}{{{b}}}", f"{b}\\sqrt{{{a}}}"], [7, 2, 1])[0]
        for _ in range(responses):
            correct = rng.random() < 0.5
            answer = form if correct else form.replace(str(a), str(a + rng.randint(1, 20)), 1)
            if correct and rng.random() < 0.2:
                answer = answer.replace("\\frac", "\\dfrac") + " "
            pairs.append((form, f"{WORDS}So the answer is $\\boxed{{{answer}}}$."))
    return pairs


def main(arguments: list[str]) -> None:
    show_help(arguments, __doc__)
    if arguments:
        with open(arguments[0], encoding="utf-8") as file:
            cases = [json.loads(line) for line in file]
        pairs = [(case["gold"], case["response"]) for case in cases]
    else:
        pairs = ordinary_answers()
    repeats = int(arguments[1]) if len(arguments) > 1 else 1
    verify_math(r"\boxed{(x+1)^2}", "x^2")  # the first use builds the parser's tables

    times = []
    for gold, response in pairs:
        start = time.perf_counter()
        try:
            verify_math(response, gold)
        except VerifierError:
            pass
        times.append((time.perf_counter() - start, gold, response[-80:]))
    seconds = [duration for duration, _, _ in times]
    median_ms = statistics.median(seconds) * 1e3
    print(f"in process: {len(seconds) / sum(seconds):.0f} verdicts/s, median {median_ms:.2f} ms")
    for duration, gold, response in sorted(times, reverse=True)[:3]:
        print(f"  slowest: {duration * 1e3:.1f} ms  gold {gold!r}  response ...{response!r}")

    items = [(response, Problem("p", "?", gold), "stop") for gold, response in pairs] * repeats
    for workers in (1, 2):
        with MathGrader(workers, time_limit_seconds=10) as grader:
            grader.grade_all(items[: 50 * workers])  # wait until the workers have started
            start = time.perf_counter()
            grader.grade_all(items)
            rate = len(items) / (time.perf_counter() - start)
        print(f"pool of {workers}: {rate:.0f} verdicts/s, {rate / workers:.0f} per worker")


if __name__ == "__main__":
    main(sys.argv[1:])
