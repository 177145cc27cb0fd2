r"""Math answers, compared by math-verify (github.com/huggingface/Math-Verify).

What is compared, and how, is math-verify's business. This module decides only what is handed to it: the
last complete box, in a form that its parser reads, and nothing that would keep sympy busy for minutes or fill
gigabytes. A set or tuple passes only as a whole (Math-Verify #47); 0.9.0 sees to that itself, and the tests
hold it to it. A comparison may still hang; the caller bounds its time (see pool.py).
"""

import logging
import math
import re
from collections.abc import Iterator
from functools import lru_cache

from math_verify import LatexExtractionConfig, parse, verify
from sympy import Basic, Integer, MatrixBase, Pow, Rational, binomial, factorial

from srt.verifiers.math.extract import extract_boxed
from srt.verifiers.math.normalize import different_kind, readable, same_choice
from srt.verifiers.types import Verdict, VerifierError

# Beyond any of these an answer is wrong without being handed to sympy, unless it is the gold answer verbatim.
MAX_ANSWER_CHARACTERS = 500  # a product of 900 letters parses for 2 s
MAX_NESTING = 10  # of {, ( and [; 15 parentheses parse for 0.6 s, 40 for 7 s
MAX_DIGITS_IN_A_ROW = 200
MAX_FACTORIAL = 1_000  # also the arguments of binomials
MAX_RESULT_DIGITS = 10_000  # of any number that evaluating the expression would write out

SHOWN_CHARACTERS = 1000  # of an answer that is too long, in Verdict.extracted

_LONG_NUMBER = re.compile(rf"\d{{{MAX_DIGITS_IN_A_ROW + 1}}}")
_FACTORIAL = re.compile(r"(\d+)[\s)}]*!")
_BINOMIAL = re.compile(r"\\[dt]?binom[\s{]*(\d+)|(\d+)[\s}]*\\choose")
_NESTED = re.compile(r"![\s)}]*!|\\[dt]?binom\s*\{[^{}]*\d\s*[\^!]")  # 9!!, \binom{9^9}{2}
_NOT_TEXT = re.compile("[\ud800-\udfff\ufffd\0]")  # surrogates, what decoders put for broken bytes, NUL

# math-verify reads no per cent sign inside of the box.
_PER_CENT = re.compile(r"\s*\\?%\s*$")

# The one box is all that is parsed; its expression extraction would pick any number out of unreadable text.
_EXTRACTION = (LatexExtractionConfig(boxed_match_priority=0),)

# It warns that its time limits are off. They need signals, which work in the main thread alone (verl #5635).
logging.getLogger("math_verify").setLevel(logging.ERROR)


def verify_math(response: str, gold: str) -> Verdict:
    """Does the last complete box of `response` hold `gold`?

    Raises VerifierError when the gold answer cannot be read or is beyond the limits above, or when memory or
    the stack is exhausted. Does not bound its own time.
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
        return Verdict(choice, answer, "the same choice" if choice else "another choice")
    gold_parsed = _parse_gold(gold)
    if difference := different_kind(answer, gold):
        return Verdict(False, answer, difference)
    parsed = _parse(answer)
    if not parsed:
        return Verdict(False, answer, "unreadable")
    if excess := _excess_when_evaluated(parsed[0]):
        return Verdict(False, answer, excess)
    if isinstance(gold_parsed[0], Rational) and isinstance(parsed[0], Rational):
        equal = gold_parsed[0] == parsed[0]  # exact: verify() would simplify the difference for 1 ms
        return Verdict(equal, answer, "equal" if equal else "different")
    try:
        equal = verify(
            gold_parsed, parsed, allow_set_relation_comp=True, timeout_seconds=None, raise_on_error=True
        )
    except (MemoryError, RecursionError):
        raise
    except Exception as error:
        # Either the two are of kinds that do not compare, or the gold answer compares with nothing.
        _check_comparable(gold_parsed, gold)
        return Verdict(False, answer, f"not comparable ({type(error).__name__})")
    return Verdict(equal, answer, "equal" if equal else "different")


def _parse(answer: str) -> list:
    """[expression, text], [text] when math-verify cannot read it, or []."""
    answer = readable(answer)
    number = _PER_CENT.sub("", answer)
    text = f"$\\boxed{{{number}}}$" + ("\\%" if number != answer else "")
    return parse(text, _EXTRACTION, parsing_timeout=None)


@lru_cache(maxsize=1024)  # the responses to one problem come together
def _parse_gold(gold: str) -> list:
    excess = _excess(gold)
    parsed = [] if excess else _parse(gold.strip())
    if parsed:
        excess = _excess_when_evaluated(parsed[0])
    if excess or not parsed:
        raise _bad_gold(gold, excess or "unreadable")
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
    """What makes the text too expensive to parse, or None. Linear in its length."""
    if len(answer) > MAX_ANSWER_CHARACTERS:
        return f"longer than {MAX_ANSWER_CHARACTERS} characters"
    if _LONG_NUMBER.search(answer):
        return f"a number of more than {MAX_DIGITS_IN_A_ROW} digits"
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
    """What makes an unevaluated expression too expensive to evaluate, or None."""
    if any(_digits(part) > MAX_RESULT_DIGITS for part in _numeric_operations(parsed)):
        return f"a number of more than {MAX_RESULT_DIGITS} digits"
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
    """About the decimal digits of `expression` when it is written out; a symbol counts as one."""
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
    """About the absolute value of a number, as a float; infinite when it is beyond a float."""
    if isinstance(expression, (Integer, Rational)):
        return float(abs(expression))
    digits = _digits(expression)
    return 10.0**digits if digits < 300 else math.inf
