"""Bounds on what is read, parsed and evaluated: one answer may not keep a worker busy or fill its memory."""

import math
import re
from collections.abc import Iterator

from sympy import Basic, Integer, MatrixBase, Pow, Rational, binomial, factorial

# An answer beyond these is incorrect without being given to sympy, unless it is the gold answer verbatim.
MAX_ANSWER_CHARACTERS = 1_000
MAX_FORMULA_CHARACTERS = 300  # of a single formula; a product of 900 letters takes 2 s to parse
MAX_BARS = 12  # of |, which opens and closes: 160 of them take minutes to parse
MAX_SIGNS = 5  # in a row
MAX_SUBSCRIPTS = 30
MAX_NESTING = 10  # of {, ( and [; 15 parentheses take 0.6 s to parse, 40 take 7 s
MAX_CONSECUTIVE_DIGITS = 200
MAX_FACTORIAL = 5_000  # also for the arguments of binomials
MAX_RESULT_DIGITS = 20_000  # of any number that results from evaluating the expression

_LONG_NUMBER = re.compile(rf"\d{{{MAX_CONSECUTIVE_DIGITS + 1}}}")
_FACTORIAL = re.compile(r"(\d+)[\s)}]*!")
_BINOMIAL = re.compile(r"\\[dt]?binom[\s{]*(\d+)|(\d+)[\s}]*\\choose")
DOUBLE_FACTORIAL = re.compile(r"(?<![\d.])(\d{1,3})!!(?!\s?[!^])")
_SMALL_NESTED = re.compile(r"\(\s?[0-6]!\s?\)\s?!(?!\s?[!^])")  # (6!)! is 720!
_NESTED = re.compile(r"![\s)}]*!|\\[dt]?binom\s*\{[^{}]*\d\s*[\^!]")  # 9!!, \binom{9^9}{2}


def excess(answer: str) -> str | None:
    """Why the text is too expensive to read, or None. Takes time linear in its length."""
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
    if any(int(argument) > MAX_FACTORIAL for argument in arguments) or _NESTED.search(
        DOUBLE_FACTORIAL.sub("", _SMALL_NESTED.sub("", answer))
    ):
        return f"a factorial or binomial above {MAX_FACTORIAL}"
    return None


def excess_when_evaluated(parsed: object) -> str | None:
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
