r"""Math answers, compared by math-verify (github.com/huggingface/Math-Verify).

The comparison itself is left to math-verify. This module decides only what it is given: the last complete box,
in a form that its parser understands, and nothing that would keep sympy busy for minutes or fill gigabytes. A
set or tuple is correct only as a whole (Math-Verify #47); 0.9.0 ensures that itself, and our tests check it. A
comparison may still hang, so the caller must bound its time (see grader.py).
"""

import logging
import math
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from math_verify import LatexExtractionConfig, parse, verify
from sympy import Basic, Integer, MatrixBase, Pow, Rational, binomial, factorial

from srt.verifiers.math.extract import extract_boxed
from srt.verifiers.math.normalize import different_kind, normalize_answer, same_choice
from srt.verifiers.types import Verdict, VerifierError

# An answer beyond these is incorrect without being given to sympy, unless it is the gold answer verbatim.
MAX_ANSWER_CHARACTERS = 500  # a product of 900 letters takes 2 s to parse
MAX_NESTING = 10  # of {, ( and [; 15 parentheses take 0.6 s to parse, 40 take 7 s
MAX_CONSECUTIVE_DIGITS = 200
MAX_FACTORIAL = 1_000  # also for the arguments of binomials
MAX_RESULT_DIGITS = 10_000  # of any number that results from evaluating the expression

SHOWN_CHARACTERS = 1000  # of an answer that is too long, in Verdict.extracted

_LONG_NUMBER = re.compile(rf"\d{{{MAX_CONSECUTIVE_DIGITS + 1}}}")
_FACTORIAL = re.compile(r"(\d+)[\s)}]*!")
_BINOMIAL = re.compile(r"\\[dt]?binom[\s{]*(\d+)|(\d+)[\s}]*\\choose")
_NESTED = re.compile(r"![\s)}]*!|\\[dt]?binom\s*\{[^{}]*\d\s*[\^!]")  # 9!!, \binom{9^9}{2}
_NOT_TEXT = re.compile("[\ud800-\udfff\ufffd\0]")  # surrogates, what decoders emit for broken bytes, NUL

# math-verify ignores a percent sign inside the box.
_PERCENT = re.compile(r"\s*\\?%\s*$")

# Only the box is parsed: ExprExtractionConfig would pick any number out of text that does not parse.
_EXTRACTION = (LatexExtractionConfig(boxed_match_priority=0),)

# It warns that its time limits are off. They rely on signals, which work only in the main thread (verl #5635).
logging.getLogger("math_verify").setLevel(logging.ERROR)


def verify_math(response: str, gold: str) -> Verdict:
    """Whether the last complete box of `response` contains `gold`, or something equal to it.

    Raises VerifierError when the gold answer cannot be parsed or exceeds the limits above, or when memory or the
    stack is exhausted. Does not bound its own running time.
    """
    answer = extract_boxed(response)
    if answer is None:
        return Verdict(False, "", "no complete boxed answer")
    if _NOT_TEXT.search(answer):
        return Verdict(False, _NOT_TEXT.sub("\ufffd", answer)[:SHOWN_CHARACTERS], "not valid text")
    if not answer:
        return Verdict(False, "", "the box is empty")
    if answer == gold.strip():
        return Verdict(True, answer, "equal")
    if excess := _excess(answer):
        return Verdict(False, answer[:SHOWN_CHARACTERS], excess)
    try:
        return _compare(answer, gold)
    except (MemoryError, RecursionError) as error:
        reason = f"comparing {answer!r} with {gold[:200]!r}: {type(error).__name__}"
        raise VerifierError(reason, "a comparison took too much memory") from error


def _compare(answer: str, gold: str) -> Verdict:
    choice = same_choice(answer, gold)
    if choice is not None:
        return Verdict(choice, answer, "same choice" if choice else "different choice")
    gold_parsed = _parse_gold(gold)
    if difference := different_kind(answer, gold):
        return Verdict(False, answer, difference)
    parsed = _parse(answer)
    if not parsed:
        return Verdict(False, answer, "cannot be parsed")
    if excess := _excess_when_evaluated(parsed[0]):
        return Verdict(False, answer, excess)
    if isinstance(gold_parsed[0], Rational) and isinstance(parsed[0], Rational):
        equal = gold_parsed[0] == parsed[0]  # exact; verify() would take 1 ms to simplify the difference
        return Verdict(equal, answer, "equal" if equal else "different")
    try:
        equal = verify(
            gold_parsed, parsed, allow_set_relation_comp=True, timeout_seconds=None, raise_on_error=True
        )
    except (MemoryError, RecursionError):
        raise
    except Exception as error:
        # Either the two cannot be compared with each other, or the gold answer with nothing at all.
        _check_comparable(gold_parsed, gold)
        return Verdict(False, answer, f"not comparable ({type(error).__name__})")
    return Verdict(equal, answer, "equal" if equal else "different")


def _parse(answer: str) -> list:
    """[expression, text]; [text] or [] when math-verify cannot parse it."""
    answer = normalize_answer(answer)
    number = _PERCENT.sub("", answer)
    text = f"$\\boxed{{{number}}}$" + ("\\%" if number != answer else "")
    no_timeout: Any = None  # accepted, although not by its type hint
    return parse(text, _EXTRACTION, parsing_timeout=no_timeout)


@lru_cache(maxsize=1024)  # the responses to one problem come together
def _parse_gold(gold: str) -> list:
    excess = _excess(gold)
    parsed = [] if excess else _parse(gold.strip())
    if parsed:
        excess = _excess_when_evaluated(parsed[0])
    if excess or not parsed:
        raise _bad_gold(gold, excess or "it cannot be parsed")
    return parsed


def _check_comparable(gold_parsed: list, gold: str) -> None:
    try:
        verify(gold_parsed[:1], gold_parsed[:1], timeout_seconds=None, raise_on_error=True)
    except Exception as error:
        raise _bad_gold(gold, error) from error


def _bad_gold(gold: str, reason: object) -> VerifierError:
    return VerifierError(
        f"the gold answer {gold[:200]!r} cannot be compared: {reason}", "the gold answer cannot be compared"
    )


def _excess(answer: str) -> str | None:
    """Why the text is too expensive to parse, or None. Takes time linear in its length."""
    if len(answer) > MAX_ANSWER_CHARACTERS:
        return f"longer than {MAX_ANSWER_CHARACTERS} characters"
    if _LONG_NUMBER.search(answer):
        return f"a number with more than {MAX_CONSECUTIVE_DIGITS} digits"
    depth = 0
    for character in answer:
        depth += (character in "{([") - (character in "])}")
        if depth > MAX_NESTING:
            return f"nested deeper than {MAX_NESTING}"
    # The parser leaves powers and factorials unevaluated, but not binomials.
    arguments = [m[1] or m[2] for m in _BINOMIAL.finditer(answer)] + _FACTORIAL.findall(answer)
    if any(int(argument) > MAX_FACTORIAL for argument in arguments) or _NESTED.search(answer):
        return f"a factorial or binomial above {MAX_FACTORIAL}"
    return None


def _excess_when_evaluated(parsed: object) -> str | None:
    """Why an unevaluated expression is too expensive to evaluate, or None."""
    if any(_digits(part) > MAX_RESULT_DIGITS for part in _numeric_operations(parsed)):
        return f"a number with more than {MAX_RESULT_DIGITS} digits"
    return None


def _numeric_operations(parsed: object) -> Iterator[Basic]:
    if isinstance(parsed, MatrixBase):
        for element in parsed.flat():
            yield from _numeric_operations(element)
    elif isinstance(parsed, (Pow, factorial, binomial)):
        yield parsed
    elif isinstance(parsed, Basic):
        for argument in parsed.args:
            yield from _numeric_operations(argument)


def _digits(expression: Basic) -> float:
    """Roughly the number of decimal digits of `expression` when evaluated; a symbol counts as one."""
    if isinstance(expression, Integer):
        return abs(int(expression)).bit_length() * math.log10(2)
    if isinstance(expression, Rational):
        return max(abs(int(expression.p)), int(expression.q)).bit_length() * math.log10(2)
    if isinstance(expression, Pow):
        base, exponent = expression.args
        return max(_digits(base), 1.0) * (_magnitude(exponent) if exponent.is_number else 1.0)
    if isinstance(expression, (factorial, binomial)):
        argument = _magnitude(expression.args[0]) if expression.args[0].is_number else 1.0
        return argument * math.log10(argument + 1)
    return sum(map(_digits, expression.args)) if expression.args else 1.0


def _magnitude(expression: Basic) -> float:
    """Roughly the absolute value of a number; infinite when it exceeds the range of a float."""
    if isinstance(expression, (Integer, Rational)):
        return float(abs(expression))
    digits = _digits(expression)
    return 10.0**digits if digits < 300 else math.inf
