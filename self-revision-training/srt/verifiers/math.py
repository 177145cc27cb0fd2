"""Math answers, compared by math-verify. Runs in a worker process: see pool.py for time limits."""

import re

from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify
from sympy import FiniteSet, Tuple

from srt.verifiers import Verdict, VerifierBroke
from srt.verifiers.answers import extract_boxed

# Beyond these, an answer is wrong without being handed to sympy, where it could take minutes or gigabytes.
MAX_ANSWER_CHARACTERS = 1000
MAX_DIGITS_IN_A_ROW = 200
MAX_NESTING = 40
MAX_EXPONENT_DIGITS = 4

_LONG_NUMBER = re.compile(rf"\d{{{MAX_DIGITS_IN_A_ROW + 1}}}")
_LARGE_EXPONENT = re.compile(rf"(?:\^|\*\*)\s*\{{?\s*\(?[+-]?\d{{{MAX_EXPONENT_DIGITS + 1}}}")
_TOWER = re.compile(r"(?:(?:\^|\*\*)[^+=,]{0,12}){3}|!\s*!|\d{4,}\s*!")

_EXTRACTION = (LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig())


def verify_math(response: str, gold: str) -> Verdict:
    """Does the last box of `response` hold `gold`?

    Raises VerifierBroke when the gold answer cannot be read or the comparison fails. It may hang: the caller
    bounds its time.
    """
    answer = extract_boxed(response)
    if answer is None:
        return Verdict(False, "", "no complete boxed answer")
    if problem := _pathological(answer):
        return Verdict(False, answer[:MAX_ANSWER_CHARACTERS], problem)
    if answer == gold.strip():
        return Verdict(True, answer, "equal")
    try:
        gold_parsed = _parse(gold)
    except Exception as error:
        raise VerifierBroke(f"the gold answer {gold[:200]!r} cannot be read: {error}") from error
    if not gold_parsed:
        raise VerifierBroke(f"the gold answer {gold[:200]!r} cannot be read")
    try:
        parsed = _parse(answer)
    except Exception:  # the parser has no common error class; what it cannot read is no answer
        parsed = []
    if not parsed:
        return Verdict(False, answer, "unreadable answer")
    try:
        equal = verify(gold_parsed, parsed, timeout_seconds=None, raise_on_error=True)
    except Exception as error:
        raise VerifierBroke(f"comparing {answer[:200]!r} with {gold[:200]!r} failed: {error}") from error
    if equal and _size(gold_parsed) != _size(parsed):
        return Verdict(False, answer, "only a part of the answer")  # Math-Verify issue 47
    return Verdict(equal, answer, "equal" if equal else "different")


def _parse(answer: str) -> list:
    # Its own time limit needs signals, which work in the main thread alone (verl issue 5635).
    return parse(f"\\boxed{{{answer}}}", _EXTRACTION, parsing_timeout=None)


def _size(parsed: list) -> int:
    """How many elements the answer has; 1 for anything that is not a finite set or a tuple."""
    first = parsed[0]
    return len(first.args) if isinstance(first, (FiniteSet, Tuple)) else 1


def _pathological(answer: str) -> str | None:
    if len(answer) > MAX_ANSWER_CHARACTERS:
        return f"unreadable answer: longer than {MAX_ANSWER_CHARACTERS} characters"
    if _LONG_NUMBER.search(answer):
        return f"unreadable answer: a number of more than {MAX_DIGITS_IN_A_ROW} digits"
    if _LARGE_EXPONENT.search(answer) or _TOWER.search(answer):
        return "unreadable answer: a tower of powers or a large factorial"
    depth = deepest = 0
    for character in answer:
        depth += (character in "{([") - (character in "])}")
        deepest = max(deepest, depth)
    return f"unreadable answer: nested deeper than {MAX_NESTING}" if deepest > MAX_NESTING else None
