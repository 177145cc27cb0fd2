"""How often the math grader agrees with labelled cases, by group, and every case where it does not.

    PYTHONPATH=self-revision-training python self-revision-training/benchmarks/agreement.py CASES [split]
    PYTHONPATH=self-revision-training python self-revision-training/benchmarks/agreement.py CASES digits

`CASES`: a file of lines {"id", "split", "group", "gold", "gold_field", "response", "right"}, like
tests/srt/data/math_blind.jsonl. `split` selects the cases of one split, e.g. "held back". A gold answer that is
refused when it is loaded, and a response that is set aside, count as disagreements. `digits`: each of the first
eight digits of every gold answer is changed in three ways, and the changes that are accepted are printed.
"""

import json
import re
import sys
from collections import defaultdict

from srt.common.name_values import show_help
from srt.contract.records import Problem
from srt.problems.parsing import parse_problem
from srt.verifiers.math.extract import extract_gold
from srt.verifiers.math.golds import GoldChecker
from srt.verifiers.math.grader import MathGrader
from srt.verifiers.types import Verdict


def load(case: dict, checker: GoldChecker) -> Problem | str:
    """The problem of a case, or why its gold answer is refused."""
    try:
        problem = parse_problem({"problem": case["id"], case["gold_field"]: case["gold"]}, "math")
        checker.check(problem.answer)
    except ValueError as error:
        return f"refused: {error}"
    return problem


def verdicts(cases: list[dict]) -> list[str]:
    """For each case "right", "wrong", or why there is no verdict."""
    checker = GoldChecker()
    problems = [load(case, checker) for case in cases]
    items = [(c["response"], p, "stop") for c, p in zip(cases, problems, strict=True) if isinstance(p, Problem)]
    with MathGrader(1, time_limit_seconds=10) as grader:
        outcomes = iter(grader.grade_all(items))
    found = []
    for problem in problems:
        if isinstance(problem, str):
            found.append(problem)
            continue
        outcome = next(outcomes)
        found.append(
            ("right" if outcome.correct else f"wrong ({outcome.reason})")
            if isinstance(outcome, Verdict)
            else f"set aside: {outcome}"
        )
    return found


def changed_digits(golds: list[str]) -> list[tuple[str, str]]:
    """(gold, answer) pairs that differ in one digit."""
    pairs = []
    for gold in golds:
        for match in list(re.finditer(r"\d", gold))[:8]:
            for step in (1, 3, 7):
                digit = str((int(match[0]) + step) % 10)
                pairs.append((gold, gold[: match.start()] + digit + gold[match.end() :]))
    return pairs


def print_accepted_digits(golds: list[str]) -> None:
    pairs = changed_digits(golds)
    items = [(f"\\boxed{{{answer}}}", Problem("p", "?", gold), "stop") for gold, answer in pairs]
    with MathGrader(1, time_limit_seconds=10) as grader:
        outcomes = grader.grade_all(items)
    accepted = [p for p, o in zip(pairs, outcomes, strict=True) if isinstance(o, Verdict) and o.correct]
    for gold, answer in accepted:
        print(f"accepted: {answer!r} for {gold!r}")
    aside = sum(not isinstance(outcome, Verdict) for outcome in outcomes)
    print(f"{len(golds)} gold answers, {len(pairs)} changes: {len(accepted)} accepted, {aside} set aside")


def main(arguments: list[str]) -> None:
    show_help(arguments or ["--help"], __doc__)
    path, split = arguments[0], "".join(arguments[1:])
    with open(path, encoding="utf-8") as file:
        cases = [json.loads(line) for line in file]
    if split == "digits":
        print_accepted_digits(sorted({extract_gold(case["gold"]) for case in cases}))
        return
    cases = [case for case in cases if case["split"] == split or not split]
    agreed = defaultdict(list)
    for case, found in zip(cases, verdicts(cases), strict=True):
        agrees = found.split(" ")[0] == ("right" if case["right"] else "wrong")
        agreed[case["group"], "right" if case["right"] else "wrong"].append(agrees)
        agreed["all", ""].append(agrees)
        if not agrees:
            print(f"{case['id']} {case['group']}, {case.get('kind', '')}: expected ", end="")
            print(f"{'right' if case['right'] else 'wrong'}, found {found}")
            print(f"    gold {case['gold']!r}  response {case['response'][-120:]!r}")
    for (group, label), results in sorted(agreed.items()):
        share = sum(results) / len(results)
        print(f"{f'{group} {label}'.strip():18} {sum(results):4} of {len(results):4} agree: {share:.1%}")


if __name__ == "__main__":
    main(sys.argv[1:])
