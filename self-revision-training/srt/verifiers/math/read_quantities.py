r"""Reads numbers with something beside them: units, currencies, degrees, bases, ratios, times of day."""

import re

from srt.verifiers.math.forms import Answer, Based, Expression, Measure, Quantity, Ratio, Time
from srt.verifiers.math.split import is_enclosed, split_top
from srt.verifiers.math.text import without_text
from srt.verifiers.math.units import read_unit

_TO = re.compile(r"(\d+)\s*(?:\\text{\s*to\s*}|to)\s*(\d+)")
_BASED = re.compile(r"\(?\s*([0-9A-Fa-f]+)\s*\)?_{\s*(\d{1,2})\s*}|\(?([0-9A-F]+)\)?_{\\text{([a-z]+)}}")
_RATIO = re.compile(r"[^:=<>,]+(?::[^:=<>,]+)+")
_TIME = re.compile(r"(\d{1,2}):(\d{2})(?::\d{2})?\s*(?:\\text{)?\s*((?:[ap]\.?\s*m\.?)?)\s*}?", re.IGNORECASE)
_UNIT_BEHIND = re.compile(
    r"^(.*?[\d})\]!|]|.*?\\pi)\s*((?:\\text{[^{}]*}\s*(?:\^{-?\d}|\^{\\text{[^{}]*}})?\s*(?:/\s*(?:(?=\\text)|[A-Za-z]{1,4}(?:\^{\d})?(?![A-Za-z]))|\\cdot\s*(?=\\text))?)+|"
    r"\^{\\text{[^{}]*}})$"
)
_PLAIN_UNIT = re.compile(
    r"^(.*?(?:\d|[})])) ?((?: [A-Za-z]{1,4}(?:\^{\d})?(?:\s*/\s*[A-Za-z]+(?:\^{\d})?)*|"
    r"[A-Za-z]{1,4}(?:\^{\d})?\s*/\s*[A-Za-z]+(?:\^{\d})?|"
    r"\s*[A-Za-z]+(?:\^{\d})?(?:[ /][A-Za-z]+\.?(?:\^{\d})?)*)\.?)$"
)
_CJK_BEHIND = re.compile(r"^(.*[\d})\]])\s*(?:\\text{)?\s*([\u4e00-\u9fff][\u4e00-\u9fff/]*)\s*}?$")
_CURRENCY_BEFORE = re.compile(
    r"^(-?)\s*(?:\\text{(USD|€|£|¥|Rs\.?)}|(Rs|USD|EUR)\.?(?![A-Za-z]))\s*(-?\s*(?:[\d.]|\\frac).*)$"
)
_DEGREES = re.compile(r"^(.*[\d})])\^{\\circ}(?:\s*\\text{[CF]?}|\s*[CF])?$")
_MEASURE = re.compile(r"(-?\d[\d.,/]*|\\frac{\d+}{\d+})\s*(?:\\text{\s*([A-Za-z]+)\.?,?\s*}|([A-Za-z]+),?)\s*")
_ORDINAL = re.compile(r"^(\d+)\s*(?:\^{)?\s*(?:\\text{\s*)?(?:st|nd|rd|th)\s*}?\s*}?$")
_BASE_WORDS = {
    "two": 2,
    "three": 3,
    "four": 4,
    "five": 5,
    "six": 6,
    "seven": 7,
    "eight": 8,
    "nine": 9,
    "ten": 10,
    "twelve": 12,
    "sixteen": 16,
}


def read_special(text: str) -> Answer | None:
    """Times, ratios, numbers in bases."""
    if match := _TO.fullmatch(text):
        return Ratio(match.groups())
    if match := _BASED.fullmatch(re.sub(r"^\\text{([^{}]*)}", r"\1", text)):
        base = int(match[2]) if match[2] else _BASE_WORDS.get(match[4], 0)
        digits = match[1] or match[3]
        if 2 <= base <= 36 and (digits.isdigit() or base > 10):
            return Based(digits.upper(), base)
    if match := _TIME.fullmatch(text):
        hours, minutes, half = match.groups()
        if int(hours) <= 24 and int(minutes) < 60:
            return Time(f"{int(hours)}:{minutes}", re.sub(r"[^apm]", "", half.lower()))
    if ":" in text and _RATIO.fullmatch(text) and "\\{" not in text:
        parts, found = split_top(text, (":",))
        if found and all(parts):
            return Ratio(tuple(parts))
    return None


def read_quantity(text: str) -> Answer | None:
    if match := _ORDINAL.match(text):
        return Expression(match[1])
    if match := _CURRENCY_BEFORE.match(text):
        sign, currency, plain, rest = match.groups()
        rest = re.sub(r"\s*\\text{[^{}]*}$", "", rest)
        return Quantity(Expression(sign + rest), currency or plain, sure=True)
    if match := _DEGREES.match(text):
        if not re.search(r"\\circ|\\(?:sin|cos|tan|cot|sec|csc)", match[1]):
            return Quantity(Expression(match[1]), "degrees", sure=True)
    if measure := _read_measure(text):
        return measure
    if match := _UNIT_BEHIND.match(text):
        value = match[1].strip()
        if "\\text" not in value or _UNIT_BEHIND.match(value) is None:
            words = re.sub(r"\^{\\text{[^{}]*}}", "", match[2])
            if (percent := _percent(value, words)) is not None:
                return percent
            return Quantity(_value_of(value), words.strip(), sure=True)
    if match := _CJK_BEHIND.match(text):
        return Quantity(_value_of(match[1]), match[2], sure=True)
    if match := _PLAIN_UNIT.match(text):
        value, words = match[1].strip(), match[2].strip()
        if (percent := _percent(value, words)) is not None:
            return percent
        if not re.search(r"\\[A-Za-z]*$", value) and "_{" not in value[-4:]:
            known = read_unit(words) is not None
            spelled = re.fullmatch(r"[A-Za-z]{3,}(?:[.\s]+[A-Za-z]{3,})*\.?", words) is not None
            if known or spelled:
                return Quantity(_value_of(value), words, sure=False, whole=text)
    return None


def _percent(value: str, words: str) -> Expression | None:
    if without_text(words).strip().lower() in ("percent", "per cent", "pct", "percentage"):
        return Expression(value + r"\%")
    return None


def _value_of(text: str) -> Expression:
    text = text.strip()
    while is_enclosed(text, "(", ")"):
        text = text[1:-1].strip()
    return Expression(text)


def _read_measure(text: str) -> Measure | None:
    position, quantities = 0, []
    while position < len(text):
        match = _MEASURE.match(text, position)
        if match is None or len(quantities) == 4:
            return None
        words = match[2] or match[3]
        if read_unit(words) is None:
            return None
        quantities.append(Quantity(Expression(match[1]), words, sure=True))
        position = match.end()
    return Measure(tuple(quantities)) if len(quantities) > 1 else None
