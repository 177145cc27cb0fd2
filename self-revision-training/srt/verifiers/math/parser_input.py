r"""Formulas in the grammar of math-verify's parser, or not at all when it would read only a part of them."""

import math
import re

from srt.verifiers.math.limits import DOUBLE_FACTORIAL
from srt.verifiers.math.literals import is_formula, with_numbered_names

_DECIMAL = re.compile(r"(?<![\d.])(\d*)\.(\d+)(?![\d.])")
_DEGREES = re.compile(r"(\d+(?:\.\d+)?|\\frac{[^{}]*}{[^{}]*}|\([^()]*\)|[A-Za-z]|\\[a-z]+)\s*\^{\\circ}")
_MINUTES = re.compile(r"\d\s?'")  # 60' is neither 60 nor a derivative
_EXTREMUM = re.compile(r"(\\(?:max|min|gcd|lcm))\s?\\{((?:(?!\\[{}]).){1,200})\\}")  # \max\{a, b\}
_PRIMES = re.compile(r"(?<=[A-Za-z])('+)")
_PRIMES_OF_SUBSCRIPT = re.compile(r"(_{[^{}]*)}('+)")  # the parser drops these
_SPACED_THOUSANDS = re.compile(r"(?<=\d) (?=\d{3}(?!\d))")
_SPACED_DIGITS = re.compile(r"\d \d")
_COMBINATIONS = re.compile(
    r"C_{(\d+)}\^{(\d+)}|{?}?_{(\d+)}C_{(\d+)}|C_{(\d+)}\^(\d)(?!\d)|"
    r"(?<![A-Za-z])C\((\d+),\s?(\d+)\)"
)
_LETTER = re.compile(r"\\text{([A-Za-z])}")
_DECIMAL_LOGARITHM = re.compile(r"\\lg(?![A-Za-z])")
_ONE_SIDED = re.compile(r"(\\to\s?[^{}^]{1,9}\^)([+-])(?=})")
_LIMIT = re.compile(r"(\\lim\s?_{[^{}\\]{1,9})\\to(?![A-Za-z])")
_GAMMA = re.compile(r"\\gamma(?![A-Za-z])(_{)?")  # the parser takes it for the gamma function
# The parser takes every e for the number and every I for the imaginary unit.
_NAMED_CONSTANT = re.compile(r"(?<![A-Za-z\\])([EeI])_(?={)")
_NEW_NAMES = {"E": r"\Xi_", "e": r"\xi_", "I": r"\Upsilon_"}
_SCIENTIFIC = re.compile(r"(?<![A-Za-z0-9\\.])(?<!_{)(\d+(?:\.\d+)?)[eE](\d{1,3})(?![A-Za-z0-9.])")
_TRANSPOSED = re.compile(r"\^\s?{\s?T\s?}")  # of numbers, the parser drops this exponent
_BASED = re.compile(r"(?<![A-Za-z0-9.])(\d+)_{(\d{1,2})}")
# What is left of these the parser reads without: 60', 2_{n}, (x)', \sqrt{3}^{\circ}, \sin_{2} x, x|_{2}.
_DROPPED = re.compile(
    r"'|[\d)]\s?_|\\(?:circ|top)(?![A-Za-z])|\|\s?_{[^{}=]*}|\\Gamma\s?_{[^{}]*}\s?\(|"
    r"\\(?:(?:a|ar|arc)?(?:sin|cos|tan|cot|sec|csc)h?|exp|max|min|gcd|lcm|det)\s?_"
)
_UNREADABLE = re.compile(
    r"\\(?:text|ldots|begin|end|Rightarrow|to|square|forall|exists|subset|not)(?![A-Za-z])|[\u4e00-\u9fff?@#;]"
)


def for_parser(text: str) -> str | None:
    r"""In the parser's grammar: decimals as exact fractions, degrees in radians. None when it is no formula."""
    text = _SCIENTIFIC.sub(r"(\1\\cdot 10^{\2})", _LETTER.sub(r" \1 ", text))
    if _UNREADABLE.search(_LIMIT.sub(r"\1", text)) or _MINUTES.search(text) or not text or not is_formula(text):
        return None
    text = with_numbered_names(text)
    text = _SPACED_THOUSANDS.sub("", text)
    if _SPACED_DIGITS.search(text):
        return None
    text = _EXTREMUM.sub(r"\1(\2)", text)
    text = _DEGREES.sub(r"(\1\\cdot\\pi/180)", text)
    text = _DECIMAL.sub(_exact_decimal, text)
    text = _PRIMES_OF_SUBSCRIPT.sub(lambda m: f"{m[1]}{'p' * len(m[2])}}}", text)
    text = _PRIMES.sub(lambda m: f"_{{{'p' * len(m[1])}}}", text)
    text = _COMBINATIONS.sub(
        lambda m: f"\\binom{{{m[1] or m[3] or m[5] or m[7]}}}{{{m[2] or m[4] or m[6] or m[8]}}}", text
    )
    text = _NAMED_CONSTANT.sub(lambda m: _NEW_NAMES[m[1]], text)
    text = _TRANSPOSED.sub("^{(T)}", _BASED.sub(_in_base, text))
    if _DROPPED.search(text):
        return None
    text = _GAMMA.sub(lambda m: r"\kappa_{g" if m[1] else r"\kappa_{g}", text)
    text = DOUBLE_FACTORIAL.sub(lambda m: str(math.prod(range(int(m[1]), 0, -2))), text)
    if r"\lim" in text:
        text = _ONE_SIDED.sub(r"\1{\2}", text)
    text = _DECIMAL_LOGARITHM.sub(r"\\log_{10} ", text)
    return text.replace("*", r"\cdot ").removeprefix("+").strip()


def _exact_decimal(match: re.Match) -> str:
    return f"\\frac{{{int(match[1] + match[2])}}}{{{10 ** len(match[2])}}}"


def _in_base(match: re.Match) -> str:
    """The value of 101_{2}; unchanged when the digits do not fit the base."""
    try:
        return str(int(match[1], int(match[2])))
    except ValueError:
        return match[0]
