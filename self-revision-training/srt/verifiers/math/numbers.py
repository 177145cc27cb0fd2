r"""Plain numbers, read exactly: integers, decimals, fractions, mixed numbers, thousands, powers of ten, percent.

Most answers are plain numbers. They are settled here, without a parser: exact numbers are equal or they are not.
"""

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

MIN_DIGITS_TO_ROUND = 6  # significant digits from which on a rounded decimal counts as the number itself
MAX_POWER_OF_TEN = 1_000
MAX_EXACT_DIGITS = 200

_THOUSANDS = re.compile(r"([-+]?)\s*(\d{1,3}(?:(?:,|\s|\{,\})\d{3})+)(\.\d+)?")
_DECIMAL = re.compile(r"([-+]?)\s*(\d+\.?\d*|\.\d+)")
_SCIENTIFIC = re.compile(
    r"([-+]?\s*(?:\d+\.?\d*|\.\d+))\s*(?:\\times|\\cdot|\*|[xX](?=\s*10))\s*10\^{\s*([-+]?\s*\d+)\s*}|"
    r"([-+]?(?:\d+\.?\d*|\.\d+))[eE]([-+]?\d+)"
)
_POWER_OF_TEN = re.compile(r"([-+]?)10\^{\s*([-+]?\s*\d+)\s*}")
_FRACTION = re.compile(
    r"([-+]?)\s*(?:(\d+)\s*)??\s*(?:\\frac\s*{\s*([-+]?)\s*([\d.]+)\s*}\s*{\s*([-+]?)\s*([\d.]+)\s*}|"
    r"\(?\s*([\d.]+)\s*\)?\s*/\s*\(?\s*(-?)([\d.]+)\s*\)?)"
)
_MIXED_BEFORE_SLASH = re.compile(r"([-+]?)\s*(\d+)\s+(\d+)\s*/\s*(\d+)")
_REPEATING = re.compile(r"([-+]?)(\d*)\.(\d*?)(?:\\(?:overline|bar|dot)\s*{(\d+)}|\((\d+)\))")
_DOTTED = re.compile(r"([-+]?)(\d*)\.(\d*?)\\dot{(\d)}(\d*)\\dot{(\d)}")
_TRAILING_DOTS = re.compile(r"([-+]?)(\d*)\.(\d*?)(\d+?)\4{2,}\s*(?:\\ldots|\.\.\.+)")
_PLAIN = re.compile(r"[-+]?\d{1,15}")


@dataclass(frozen=True)
class Number:
    """An exact number. `decimals`: digits after the point when it was written as a decimal; else None."""

    value: Fraction
    decimals: int | None = None
    percent: bool = False


@lru_cache(maxsize=8192)
def read_number(text: str) -> Number | None:
    r"""The number that a cleaned text (see text.py) consists of; None for anything else.

    >>> read_number("1,234.5").value
    Fraction(2469, 2)
    >>> read_number(r"3\frac{1}{2}").value, read_number("0.1\\overline{6}").value
    (Fraction(7, 2), Fraction(1, 6))
    >>> read_number("12.5\\%")
    Number(value=Fraction(25, 2), decimals=1, percent=True)
    """
    text = text.strip()
    if _PLAIN.fullmatch(text):
        return Number(Fraction(int(text)))
    if len(text) > MAX_EXACT_DIGITS or not any(c.isdigit() for c in text):
        return None
    bare = text.rstrip(" ")
    percent = False
    for sign in (r"\%", "%"):
        if bare.endswith(sign):
            bare, percent = bare.removesuffix(sign).rstrip(), True
            break
    while bare[:1] == "(" and bare[-1:] == ")" and re.fullmatch(r"[-+\d.]+", bare[1:-1]):
        bare = bare[1:-1]
    try:
        number = _read(bare)
    except (ZeroDivisionError, ValueError):
        return None
    if number is None:
        return None
    return Number(number.value, number.decimals, percent)


def _read(text: str) -> Number | None:
    if match := _THOUSANDS.fullmatch(text):
        whole = re.sub(r"\D", "", match[2])
        return _decimal(match[1] + whole + (match[3] or ""))
    if match := _DECIMAL.fullmatch(text):
        return _decimal(match[1] + match[2])
    if match := _SCIENTIFIC.fullmatch(text):
        power = int((match[2] or match[4]).replace(" ", ""))
        number = _decimal((match[1] or match[3]).replace(" ", ""))
        return _times_ten_to(number, power)
    if match := _POWER_OF_TEN.fullmatch(text):
        return _times_ten_to(Number(Fraction(-1 if match[1] == "-" else 1)), int(match[2].replace(" ", "")))
    if match := _MIXED_BEFORE_SLASH.fullmatch(text):
        return Number(_signed(match[1], int(match[2]) + Fraction(int(match[3]), int(match[4]))))
    if match := _FRACTION.fullmatch(text):
        return _fraction(match)
    if match := _DOTTED.fullmatch(text):
        sign, whole, fixed, *cycle = match.groups()
        return Number(_signed(sign, _repeating(whole, fixed, "".join(cycle))))
    if match := _REPEATING.fullmatch(text):
        sign, whole, fixed, *cycle = match.groups()
        return Number(_signed(sign, _repeating(whole, fixed, cycle[0] or cycle[1])))
    if match := _TRAILING_DOTS.fullmatch(text):
        return Number(_signed(match[1], _repeating(*match.groups()[1:])))
    return None


def _decimal(text: str) -> Number:
    digits = text.partition(".")[2]
    return Number(Fraction(text if not text.endswith(".") else text[:-1]), len(digits) if "." in text else None)


def _times_ten_to(number: Number, power: int) -> Number | None:
    if abs(power) > MAX_POWER_OF_TEN:
        return None
    decimals = None if number.decimals is None and power >= 0 else (number.decimals or 0) - power
    return Number(number.value * Fraction(10) ** power, decimals)


def _fraction(match: re.Match) -> Number | None:
    sign, whole, sign_top, top, sign_bottom, bottom, plain_top, plain_sign, plain_bottom = match.groups()
    if plain_top is not None:
        if whole is not None:  # 12 / 3 read as 1 and 2/3
            return None
        value = Fraction(plain_top) / Fraction(plain_bottom)
        return Number(_signed(sign + plain_sign, value))
    value = Fraction(top) / Fraction(bottom)
    if whole is not None:
        if sign_top or sign_bottom or value >= 1:  # 2\frac{3}{2} is a product, if anything
            return None
        return Number(_signed(sign, int(whole) + value))
    return Number(_signed(sign + sign_top + sign_bottom, value))


def _signed(signs: str, value: Fraction) -> Fraction:
    return -value if signs.count("-") % 2 else value


def _repeating(whole: str, fixed: str, cycle: str) -> Fraction:
    """0.1(6) -> (16 - 1) / (10 * 9)."""
    numerator = int(whole + fixed + cycle) - int(whole + fixed or 0)
    return Fraction(numerator, 10 ** len(fixed) * (10 ** len(cycle) - 1))


def same_number(gold: Number, answer: Number) -> bool:
    """Exactly equal, or one the correct rounding of the other to at least MIN_DIGITS_TO_ROUND digits.

    With a percent sign on one side, 50% may be meant as 50 or as 0.5.
    """
    if gold.percent == answer.percent:
        return _same_value(gold, answer)
    plain, percent = (answer, gold) if gold.percent else (gold, answer)
    hundredth = Number(percent.value / 100, None if percent.decimals is None else percent.decimals + 2)
    return _same_value(plain, percent) or _same_value(plain, hundredth)


def _same_value(first: Number, second: Number) -> bool:
    if first.value == second.value:
        return True
    if first.decimals is None and second.decimals is None:
        return False
    # The coarser of the two must be the rounded one: equal numbers of decimals mean different numbers.
    coarse, fine = sorted((first, second), key=lambda n: float("inf") if n.decimals is None else n.decimals)
    if coarse.decimals == fine.decimals:
        return False
    return is_rounding(coarse, fine.value)


def is_rounding(coarse: Number, value: Fraction) -> bool:
    """Whether a decimal with enough digits is `value`, rounded."""
    if coarse.decimals is None or abs(coarse.decimals) > MAX_POWER_OF_TEN:
        return False
    unit = Fraction(10) ** -coarse.decimals
    significant = len(str(abs(int(coarse.value / unit))))
    return significant >= MIN_DIGITS_TO_ROUND and abs(coarse.value - value) <= unit / 2
