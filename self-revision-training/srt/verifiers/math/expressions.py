r"""Formulas: parsed by math-verify's parser, compared exactly, numerically and, last, symbolically."""

import logging
import math
import re
from fractions import Fraction
from functools import lru_cache
from typing import Any

from latex2sympy2_extended import latex2sympy
from latex2sympy2_extended.latex2sympy2 import ConversionConfig
from math_verify import verify
from sympy import Basic, Derivative, Expr, Integer, MatrixBase, Rational, Symbol, nan, zoo

from srt.verifiers.math.limits import (
    MAX_BARS,
    MAX_FACTORIAL,
    MAX_FORMULA_CHARACTERS,
    MAX_RESULT_DIGITS,
    MAX_SIGNS,
    MAX_SUBSCRIPTS,
    excess_when_evaluated,
)
from srt.verifiers.math.numbers import Number, is_rounding, read_number, same_number
from srt.verifiers.math.numeric import (
    Approximation,
    NotNumericError,
    integer_points,
    is_constant,
    points,
)
from srt.verifiers.math.parser_input import for_parser
from srt.verifiers.math.text import key

# It warns that its time limits are off. They rely on signals, which work only in the main thread (verl #5635).
logging.getLogger("math_verify").setLevel(logging.ERROR)

_CONVERSION = ConversionConfig(lowercase_symbols=False)  # A and a are two quantities
NUM_POINTS = 4
DIVISION_BY_ZERO = "a division by zero"
MIN_EQUAL_POINTS = 2

_LOGARITHM = re.compile(r"\\log(?![A-Za-z])(?!\s?_)")  # to some base that goes without saying
_SIGNS = re.compile(rf"(?:[-+]\s*){{{MAX_SIGNS + 1}}}")


class UnreadableError(Exception):
    """A formula that cannot be parsed or evaluated. `is_gold`: the gold answer's, not the response's."""

    def __init__(self, is_gold: bool, reason: str):
        super().__init__(reason)
        self.is_gold = is_gold


@lru_cache(maxsize=4096)
def parse(text: str) -> Any:
    """The sympy expression of a cleaned formula; a str with the reason when there is none."""
    if len(text) > MAX_FORMULA_CHARACTERS or text.count("|") > MAX_BARS or text.count("_") > MAX_SUBSCRIPTS:
        return f"more than {MAX_FORMULA_CHARACTERS} characters, {MAX_BARS} bars or {MAX_SUBSCRIPTS} subscripts"
    if _SIGNS.search(text):
        return f"more than {MAX_SIGNS} signs in a row"
    number = read_number(text)
    if number is not None and not number.percent:
        return Rational(number.value.numerator, number.value.denominator)
    latex = for_parser(text)
    if latex is None:
        return "not a formula"
    try:
        parsed = latex2sympy(
            latex, is_real=True, convert_degrees=False, normalization_config=None, conversion_config=_CONVERSION
        )
    except MemoryError:
        raise
    except Exception as error:  # the parser raises Exception itself for a syntax error
        return f"not parsed ({type(error).__name__})"
    if reason := excess_when_evaluated(parsed):
        return reason
    if not isinstance(parsed, (Basic, MatrixBase)):
        return "not an expression"
    if any(map(_is_of_something_unknown, parsed.atoms(Derivative))):
        return "a derivative of something unknown"  # dy/dx would be 0
    if parsed.has(zoo, nan) or _divides_by_zero(parsed):
        return DIVISION_BY_ZERO
    return parsed


def _is_of_something_unknown(derivative: Any) -> bool:
    return derivative.expr.free_symbols.isdisjoint(derivative.variables)


def _divides_by_zero(expression: Any) -> bool:
    try:
        _exact(expression)
    except ZeroDivisionError:
        return True
    except (OverflowError, ValueError):
        pass
    return False


def same_formula(gold: str, answer: str) -> bool:
    """Whether two cleaned formulas have the same value. Raises UnreadableError."""
    if key(gold) == key(answer):
        return True
    gold_number, answer_number = read_number(gold), read_number(answer)
    if gold_number is not None and answer_number is not None:
        return same_number(gold_number, answer_number)
    gold_percent, answer_percent = gold.endswith("%"), answer.endswith("%")
    gold_parsed = _parsed(_without_percent(gold), is_gold=True)
    answer_parsed = _parsed(_without_percent(answer), is_gold=False)
    if gold_number is not None and gold_percent:
        gold_number = Number(gold_number.value, gold_number.decimals)
    if _same_value(gold_parsed, answer_parsed, gold_number, answer_number):
        return True
    if gold_percent != answer_percent:
        hundredth = Rational(1, 100)
        if gold_percent:
            return _same_value(gold_parsed * hundredth, answer_parsed, None, None)
        return _same_value(gold_parsed, answer_parsed * hundredth, None, None)
    natural = _with_natural_logarithm(gold, answer), _with_natural_logarithm(answer, gold)
    return natural != (gold, answer) and same_formula(*natural)


def _with_natural_logarithm(text: str, other: str) -> str:
    r"""With \ln for \log where the other formula has \ln: \log without a base is either logarithm."""
    has_ln = [re.search(r"\\ln(?![A-Za-z])", formula) is not None for formula in (text, other)]
    return _LOGARITHM.sub(r"\\ln", text) if has_ln == [False, True] else text


def _without_percent(text: str) -> str:
    return text.removesuffix("%").removesuffix("\\").rstrip() if text.endswith("%") else text


def _parsed(text: str, is_gold: bool) -> Any:
    parsed = parse(text)
    if isinstance(parsed, str):
        raise UnreadableError(is_gold, parsed)
    return parsed


def _same_value(gold: Any, answer: Any, gold_number: Number | None, answer_number: Number | None) -> bool:
    if (
        isinstance(gold, MatrixBase)
        or isinstance(answer, MatrixBase)
        or not isinstance(gold, Expr)
        or not isinstance(answer, Expr)
    ):
        return _same_by_math_verify(gold, answer)
    if gold.is_infinite or answer.is_infinite:
        return bool(gold == answer)
    constant = is_constant(gold) and is_constant(answer)
    if constant:
        exact_gold, exact_answer = exact_value(gold), exact_value(answer)
        if exact_gold is not None and exact_answer is not None:
            return (
                exact_gold == exact_answer
                or _is_rounded(gold_number, exact_answer)
                or _is_rounded(answer_number, exact_gold)
            )
    equal = _same_numerically(gold, answer, 1 if constant else NUM_POINTS)
    if equal is None:
        return _same_symbolically(gold, answer)
    if equal or not constant:
        return equal
    for number, other in ((gold_number, answer), (answer_number, gold)):
        if number is not None and number.decimals is not None:
            value = Approximation(other, {})
            if value.is_real and is_rounding(number, value.exactly()):
                return True
    return False


def _is_rounded(number: Number | None, value: Fraction) -> bool:
    return number is not None and is_rounding(number, value)


def _same_numerically(gold: Any, answer: Any, num_points: int) -> bool | None:
    """At random points; None when these do not decide."""
    for candidates in (points(num_points), integer_points(num_points) if num_points > 1 else []):
        num_equal = 0
        for point in candidates:
            try:
                a, b = Approximation(gold, point), Approximation(answer, point)
            except NotNumericError:
                continue
            if a.equals(b):
                num_equal += 1
            elif (a.is_real and b.is_real) or num_points == 1 or "i" in _names(gold) | _names(answer):
                return False
        if num_equal >= min(MIN_EQUAL_POINTS, num_points):
            return True
    return None


def _names(expression: Any) -> set[str]:
    return {symbol.name for symbol in expression.free_symbols if isinstance(symbol, Symbol)}


def _same_symbolically(gold: Any, answer: Any) -> bool:
    """Limits, integrals and infinite sums are evaluated by sympy; what has no value then goes to math-verify."""
    evaluated = [expression.doit() for expression in (gold, answer)]
    if any(e.is_infinite for e in evaluated):
        return bool(evaluated[0] == evaluated[1])
    if evaluated != [gold, answer]:
        constant = all(map(is_constant, evaluated))
        equal = _same_numerically(evaluated[0], evaluated[1], 1 if constant else NUM_POINTS)
        if equal is not None:
            return equal
    return _same_by_math_verify(*evaluated)


def _same_by_math_verify(gold: Any, answer: Any) -> bool:
    try:
        return bool(verify(gold, answer, timeout_seconds=None, raise_on_error=True))
    except (MemoryError, RecursionError):
        raise
    except Exception as error:
        try:
            verify(gold, gold, timeout_seconds=None, raise_on_error=True)
        except Exception as own:
            raise UnreadableError(True, f"not comparable ({type(own).__name__})") from error
        return False


def exact_value(expression: Any) -> Fraction | None:
    """The value of an expression of rational numbers, exactly; None when it holds anything else."""
    try:
        return _exact(expression)
    except (ZeroDivisionError, OverflowError, ValueError):
        return None


def _exact(node: Any) -> Fraction | None:
    if isinstance(node, Integer):
        return Fraction(int(node))
    if isinstance(node, Rational):
        return Fraction(int(node.p), int(node.q))
    name = type(node).__name__
    if name not in ("Add", "Mul", "Pow", "factorial", "binomial", "UnevaluatedExpr", "Abs"):
        return None
    arguments = [_exact(argument) for argument in node.args]
    if any(argument is None for argument in arguments):
        return None
    values = [argument for argument in arguments if argument is not None]
    if name == "Add":
        return sum(values, Fraction(0))
    if name == "Mul":
        return math.prod(values, start=Fraction(1))
    if name == "Pow":
        base, exponent = values
        size = max(abs(base.numerator), base.denominator).bit_length() * abs(exponent) / 3
        return base ** int(exponent) if exponent.denominator == 1 and size <= MAX_RESULT_DIGITS else None
    if name == "Abs":
        return abs(values[0])
    if name == "UnevaluatedExpr":
        return values[0]
    if any(v.denominator != 1 or not 0 <= v <= MAX_FACTORIAL for v in values):
        return None
    whole = [int(value) for value in values]
    return Fraction(math.factorial(whole[0]) if name == "factorial" else math.comb(*whole))


def has_value(text: str) -> bool:
    """Whether a formula is a number, real or complex."""
    if read_number(text) is not None:
        return True
    parsed = parse(text)
    if not isinstance(parsed, Expr) or not is_constant(parsed):
        return False
    try:
        Approximation(parsed, {})
    except NotNumericError:
        return False
    return True


def number_of(text: str) -> Fraction | None:
    """The value of a formula without variables, to about 80 digits; None when it has none."""
    number = read_number(text)
    if number is not None:
        return number.value / 100 if number.percent else number.value
    parsed = parse(text)
    if not isinstance(parsed, Expr) or not is_constant(parsed):
        return None
    if (exact := exact_value(parsed)) is not None:
        return exact
    try:
        value = Approximation(parsed, {})
    except NotNumericError:
        return None
    return value.exactly() if value.is_real else None
