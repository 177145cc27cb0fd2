"""Final answers in text, and math answers compared by math-verify."""

import json
import time
from collections import Counter
from pathlib import Path

import pytest

from srt.contract.records import Problem
from srt.verifiers.math.extract import extract_boxed, extract_gold
from srt.verifiers.math.grader import MathGrader
from srt.verifiers.math.limits import MAX_CONSECUTIVE_DIGITS
from srt.verifiers.math.verify import NO_BOX, verify_math
from srt.verifiers.types import VerifierError

CASES = [
    json.loads(line)
    for line in (Path(__file__).parents[2] / "data" / "math_verdicts.jsonl").read_text("utf-8").splitlines()
]

KINDS = {
    "fraction",
    "decimal",
    "percentage",
    "interval",
    "set",
    "tuple",
    "matrix",
    "units",
    "degrees",
    "text",
    "choice",
    "thousands",
    "equation",
    "several boxes",
    "nested braces",
    "unterminated box",
    "solution text",
}


def test_there_are_cases_of_every_kind_without_duplicates():
    assert len(CASES) >= 300
    assert len({(case["gold"], case["response"]) for case in CASES}) == len(CASES)
    number = Counter(case["note"] for case in CASES)
    assert all(number[kind] >= 7 for kind in KINDS), number


def test_verdicts_are_right_except_for_the_known_errors():
    """A case holds the mathematically right verdict; `known_error` explains why ours differs."""
    wrong, fixed = [], []
    for case in CASES:
        is_right = verify_math(case["response"], extract_gold(case["gold"])).correct == case["correct"]
        if not is_right and "known_error" not in case:
            wrong.append(case)
        if is_right and "known_error" in case:
            fixed.append(case)
    assert wrong == []
    assert fixed == []  # delete their `known_error`


def test_known_errors_are_few_and_rarely_accept_a_wrong_answer():
    errors = [case for case in CASES if "known_error" in case]
    assert len(errors) <= 0.03 * len(CASES)
    assert sum(not case["correct"] for case in errors) <= 3


ADVERSARIAL = {
    "a number of 10^5 digits": "9" * 100_000,
    "many long numbers": "+".join(["9" * MAX_CONSECUTIVE_DIGITS] * 500),
    "tower": "9^{9^{9}}",
    "tower without braces": "9^9^9^9",
    "tower in an interval": "(0,9^{9^{9}})",
    "tower of groups": r"((9^{999})^{999})^{999}",
    "group tower in a fraction": r"\frac{(9^{9999})^{9999}}{2}",
    "tower in a matrix": r"\begin{pmatrix}(9^{9999})^{9999}&1\end{pmatrix}",
    "exponent": "2^{1000000000}",
    "negative exponent": "2^{-1000000000}",
    "exponent as a product": "2^{9999 \\cdot 9999 \\cdot 9999}",
    "factorial": "1000000000!",
    "factorial of a factorial": "(9!)!!",
    "factorial of a power": "(10^{9})!",
    "binomial": r"\binom{1000000000}{500000000}",
    "binomial of a tower": r"\binom{9^{9^{9}}}{2}",
    "binomial of a factorial": r"\binom{900!}{450}",
    "parentheses": "(" * 50_000 + "1" + ")" * 50_000,
    "braces": "{" * 50_000 + "1" + "}" * 50_000,
    "few parentheses": "(" * 40 + "1" + ")" * 40,
    "fractions": r"\frac{1}{1+" * 200 + "1" + "}" * 200,
    "boxes in boxes": r"\boxed{" * 50_000 + "1" + "}" * 50_000,
    "a megabyte in the box": "x+" * 500_000,
    "a surrogate": "7\ud800",
    "broken bytes": "7\ufffd",
    "NUL": "7\0",
    "random symbols": "%$#\\@^^&_~`",
    "nothing but backslashes": "\\\\" * 200,
    "another script": "\u4e2d\u6587 \u7b54\u6848",
    "division by zero": r"\frac{1}{0}",
    "words after a number": "5" + " abc" * 120,
    "groups of three digits": "1" + " 000" * 120,
    "points and digits": "0." * 240,
    "repeating decimals": r"0.\overline{3}+" * 30 + "1",
    "a long repeating decimal": r"0.\overline{" + "142857" * 30 + "}",
    "scientific": "1e999999999",
    "a unit tower": r"5 \text{ kg}^{9^{9^{9}}}",
}


@pytest.fixture(scope="module", autouse=True)
def _warm():
    verify_math(r"\boxed{(x+1)^2}", "x^2")  # the first use builds the parser's tables


@pytest.mark.parametrize("name", ADVERSARIAL)
def test_an_adversarial_answer_is_rejected_quickly(name):
    start = time.process_time()
    verdict = verify_math(f"\\boxed{{{ADVERSARIAL[name]}}}", "7")
    assert time.process_time() - start < 10  # it takes up to 0.3 s; sympy would take minutes
    assert not verdict.correct and verdict.reason
    assert len(verdict.extracted) <= 1000
    verdict.extracted.encode("utf-8")


def test_adversarial_answers_leave_the_pool_healthy():
    items = [(f"\\boxed{{{answer}}}", Problem("p", "?", "7"), "stop") for answer in ADVERSARIAL.values()]
    with MathGrader(1, time_limit_seconds=10) as grader:
        outcomes = grader.grade_all(items)
        assert [outcome.correct for outcome in outcomes] == [False] * len(items)  # verdicts, all of them
        assert grader.grade_all([("\\boxed{7}", Problem("p", "?", "7"), "stop")])[0].correct


@pytest.mark.parametrize(
    "text", ["word " * 200_000, "{" * 1_000_000, r"\boxed{" * 150_000, "}" * 1_000_000, "\\" * 1_000_000]
)
def test_a_megabyte_without_a_final_answer(text):
    start = time.process_time()
    assert verify_math(text, "7").reason == NO_BOX
    assert time.process_time() - start < 10


def test_an_answer_beyond_the_limits_may_still_equal_the_gold_answer_verbatim():
    long = "1" * (MAX_CONSECUTIVE_DIGITS + 1)
    assert verify_math(f"\\boxed{{{long}}}", long).correct
    assert verify_math(r"\boxed{9^{9^{9}}}", " 9^{9^{9}} ").correct


@pytest.mark.parametrize("gold", ["1" * (MAX_CONSECUTIVE_DIGITS + 1), "9^{9^{9}}", r"\frac{1}{0}", ""])
def test_a_gold_answer_that_cannot_be_compared_gives_no_verdict(gold):
    with pytest.raises(VerifierError, match="gold answer"):
        verify_math(r"\boxed{7}", gold)


@pytest.mark.parametrize(
    ("text", "boxed"),
    [
        (r"\boxed{4}", "4"),
        (r"\fbox{4}", "4"),
        (r"\boxed{3} then \boxed{ 4 }", "4"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\{1\}}", r"\{1\}"),
        (r"\boxed{\boxed{4}}", "4"),
        (r"\boxed{\boxed{1} and \boxed{2}}", r"\boxed{1} and \boxed{2}"),
        (r"\boxed{3 and \boxed{4}", "4"),
        (r"\boxed{3} and \boxed{4", None),
        (r"\boxed{3} and \boxed{", None),
        (r"\boxed{\frac{1}{2}", None),
        (r"\boxed", None),
        ("", None),
    ],
)
def test_extract_boxed(text, boxed):
    assert extract_boxed(text) == boxed


@pytest.mark.parametrize(
    ("text", "gold"),
    [
        (" 42 ", "42"),
        (r"So it is $\boxed{42}$.", "42"),
        ("3 + 4 = <<3+4=7>>7\n#### 7", "7"),
        ("####1,234\n", "1,234"),
        ("a #### 5\n#### 6", "6"),
        ("####", ""),
    ],
)
def test_extract_gold(text, gold):
    assert extract_gold(text) == gold
