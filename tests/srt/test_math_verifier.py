"""Final answers in text, and math answers compared by math-verify."""

import json
import time
from pathlib import Path

import pytest

from srt.verifiers import VerifierBroke
from srt.verifiers.answers import extract_boxed, extract_gold
from srt.verifiers.math import MAX_DIGITS_IN_A_ROW, verify_math

CASES = [
    json.loads(line)
    for line in (Path(__file__).parent / "data" / "math_verdicts.jsonl").read_text("utf-8").splitlines()
]

# (gold, response) -> the wrong verdict given. Whoever improves on math-verify shortens these lists.
FALSE_CORRECT = {
    ("(1,2,3)", r"so the answer is $\boxed{\{1,2,3\}}$."),  # a set for a triple
    ("(1,2)", r"so the answer is $\boxed{\{1,2\}}$."),  # a set for a pair
    (r"10 \text{ cm}", r"so the answer is $\boxed{10 \text{ m}}$."),  # units are dropped
    (r"x=1 \wedge y=2", r"so the answer is $\boxed{y=2}$."),  # read as a chain, whose end counts
    ("5", r"so the answer is $\boxed{7=5}$."),  # likewise
    ("101_2", r"so the answer is $\boxed{101}$."),  # bases are dropped
}
FALSE_WRONG = {
    ("1 1/2", r"so the answer is $\boxed{1.5}$."),  # 1 times 1/2
    (r"0.\overline{3}", r"so the answer is $\boxed{\frac13}$."),
    ("5", r"so the answer is $\boxed{5 dollars}$."),  # letters are variables outside of \text
    ("5", r"so the answer is $\boxed{\text{five}}$."),
    ("C", r"so the answer is $\boxed{\text{(C) } 5}$."),
    ("1 000", r"so the answer is $\boxed{1000}$."),
    (r"e^{i\pi}", r"so the answer is $\boxed{-1}$."),  # i is a variable in most places
    (r"2\sqrt{3}i", r"so the answer is $\boxed{2i\sqrt{3}}$."),
}


def test_verdicts_are_right_but_for_the_known_errors():
    assert len(CASES) >= 100
    false_correct, false_wrong = set(), set()
    for case in CASES:
        verdict = verify_math(case["response"], case["gold"])
        if verdict.correct != case["correct"]:
            (false_correct if verdict.correct else false_wrong).add((case["gold"], case["response"]))
    assert false_correct == FALSE_CORRECT
    assert false_wrong == FALSE_WRONG


ADVERSARIAL = {
    "a number of 10^5 digits": "9" * 100_000,
    "many long numbers": "+".join(["9" * MAX_DIGITS_IN_A_ROW] * 500),
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
}


@pytest.fixture(scope="module", autouse=True)
def _warm():
    verify_math(r"\boxed{(x+1)^2}", "x^2")  # the first use builds the parser's tables


@pytest.mark.parametrize("name", ADVERSARIAL)
def test_an_adversarial_answer_is_wrong_at_once(name):
    start = time.perf_counter()
    verdict = verify_math(f"\\boxed{{{ADVERSARIAL[name]}}}", "7")
    assert time.perf_counter() - start < 2  # milliseconds to 0.3 s; sympy would take minutes
    assert not verdict.correct and verdict.reason
    assert len(verdict.extracted) <= 1000
    verdict.extracted.encode("utf-8")


@pytest.mark.parametrize(
    "text", ["word " * 200_000, "{" * 1_000_000, r"\boxed{" * 150_000, "}" * 1_000_000, "\\" * 1_000_000]
)
def test_a_megabyte_without_a_final_answer(text):
    start = time.perf_counter()
    assert verify_math(text, "7").reason == "no complete boxed answer"
    assert time.perf_counter() - start < 3


def test_an_answer_beyond_the_limits_may_still_be_the_gold_answer_verbatim():
    long = "1" * (MAX_DIGITS_IN_A_ROW + 1)
    assert verify_math(f"\\boxed{{{long}}}", long).correct
    assert verify_math(r"\boxed{9^{9^{9}}}", " 9^{9^{9}} ").correct


@pytest.mark.parametrize("gold", ["1" * (MAX_DIGITS_IN_A_ROW + 1), "9^{9^{9}}", r"\frac{1}{0}", ""])
def test_a_gold_answer_that_cannot_be_compared_is_no_verdict(gold):
    with pytest.raises(VerifierBroke, match="gold answer"):
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
