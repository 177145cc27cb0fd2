r"""Reads numbers with something beside them: units, currencies, degrees, bases, ratios, times of day."""

import re

from srt.verifiers.math.forms import Answer, Based, Expression, Measure, Quantity, Ratio, Time
from srt.verifiers.math.literals import as_literal, is_formula, with_numbered_names
from srt.verifiers.math.scales import scaled
from srt.verifiers.math.split import is_enclosed, split_top
from srt.verifiers.math.text import without_text
from srt.verifiers.math.units import read_unit

_TO = re.compile(r"(\d+)\s*(?:\\text{\s*to\s*}|to)\s*(\d+)")
_BASED = re.compile(
    r"(-?)\(?\s*([0-9A-Fa-f]+(?:\.[0-9A-Fa-f]+)?)\s*\)?_{\s*(\d{1,2})\s*}|"
    r"(-?)\(?([0-9A-F]+(?:\.[0-9A-F]+)?)\)?_{(?:\\text{)?([a-z]+)}?}"
)
_PREFIXED = re.compile(r"([-+]?)0(?:([xX])([0-9A-Fa-f]+)|([bB])([01]+)|([oO])([0-7]+))")
_RATIO = re.compile(r"[^:=<>,]+(?::[^:=<>,]+)+")
_TIME = re.compile(
    r"(\d{1,2}):(\d{2})(?::(\d{2}(?:\.\d+)?))?\s*(?:\\text{)?\s*((?:[ap]\.?\s*m\.?)?)\s*}?", re.IGNORECASE
)
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
_DEGREES = re.compile(r"^(.*[\d})])\^{\\circ}(?:\s*\\text{([CF]?)}|\s*([CF]))?$")
_MEASURE = re.compile(r"(-?\d[\d.,/]*|\\frac{\d+}{\d+})\s*(?:\\text{\s*([A-Za-z]+)\.?,?\s*}|([A-Za-z]+),?)\s*")
_ORDINAL = re.compile(r"^(\d+)\s*(?:\^{)?\s*(?:\\text{\s*)?(?:st|nd|rd|th)\s*}?\s*}?$")
_NUMBER = re.compile(r"\d")
# Digits beside a unit that belong to it, or say how an answer was rounded: cm^2, (to 2 decimal places).
_NO_UNIT = re.compile(r"\^{-?\d}|\d+ ?(?:d\.?p|s\.?f|decimal|significant|sig\.? ?fig)")
_LAST_WORDS = re.compile(r"\s*(\\text{[^{}]*}|(?<![A-Za-z\\])[A-Za-z]{4,})$")
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
        base = int(match[3]) if match[3] else _BASE_WORDS.get(match[6], 0)
        digits = match[2] or match[5]
        is_name = digits.isalpha() and base != 16 and (len(digits) == 1 or digits.islower())  # a_{12}
        if 2 <= base <= 36 and not is_name and (digits.replace(".", "").isdigit() or base > 10):
            return Based((match[1] or match[4] or "") + digits.upper(), base)
    if match := _PREFIXED.fullmatch(text):
        base = 16 if match[2] else 2 if match[4] else 8
        digits = match[3] or match[5] or match[7]
        return Based(match[1].removeprefix("+") + digits.upper(), base)
    if match := _TIME.fullmatch(text):
        hours, minutes, seconds, half = match.groups()
        if int(hours) <= 24 and int(minutes) < 60 and (seconds is None or float(seconds) < 60):
            clock = f"{int(hours)}:{minutes}"
            if seconds is not None and float(seconds):
                clock += f":{seconds.rstrip('0') if '.' in seconds else seconds}".rstrip(".")
            return Time(clock, re.sub(r"[^apm]", "", half.lower()))
    if ":" in text and _RATIO.fullmatch(text) and "\\{" not in text:
        parts, found = split_top(text, (":",))
        if found and all(parts) and all(map(is_formula, parts)):
            return Ratio(tuple(parts))
    return None


def read_quantity(text: str) -> Answer | None:
    if match := _ORDINAL.match(text):
        return Expression(match[1])
    if match := _CURRENCY_BEFORE.match(text):
        sign, currency, plain, rest = match.groups()
        return Quantity(Expression(sign + _amount(rest)), currency or plain, sure=True)
    if match := _DEGREES.match(text):
        if not re.search(r"\\circ|\\(?:sin|cos|tan|cot|sec|csc)", match[1]):
            scale = {"C": "celsius", "F": "fahrenheit"}.get(match[2] or match[3], "degrees")
            return Quantity(Expression(match[1]), scale, sure=True)
    if measure := _read_measure(text):
        return measure
    if match := _UNIT_BEHIND.match(text):
        value = match[1].strip()
        if "\\text" not in value or _UNIT_BEHIND.match(value) is None:
            words = re.sub(r"\^{\\text{[^{}]*}}", "", match[2])
            if (percent := _percent(value, words)) is not None:
                return percent
            if read_unit(without_text(words)) is None and _NUMBER.search(_NO_UNIT.sub(" ", words)):
                return as_literal(text)  # 5 \text{ (mod 7)}
            if _is_amount(value):
                return scaled(value, words) or Quantity(_value_of(value), words.strip(), sure=True)
    if match := _CJK_BEHIND.match(text):
        return scaled(match[1], match[2]) or Quantity(_value_of(match[1]), match[2], sure=True)
    if match := _PLAIN_UNIT.match(text):
        value, words = match[1].strip(), match[2].strip()
        if (percent := _percent(value, words)) is not None:
            return percent
        if not re.search(r"\\[A-Za-z]*$", value) and "_{" not in value[-4:] and _is_amount(value):
            if (number := scaled(value, words)) is not None:
                return number
            known = read_unit(words) is not None
            spelled = re.fullmatch(r"[A-Za-z]{3,}(?:[.\s]+[A-Za-z]{3,})*\.?", words) is not None
            spelled = spelled and not re.match(r"-?0\d*[A-Za-z]", text)  # 0xFFh
            if known or spelled:
                return Quantity(_value_of(value), words, sure=False, whole=text)
    return None


def _percent(value: str, words: str) -> Expression | None:
    if without_text(words).strip().lower() in ("percent", "per cent", "pct", "percentage"):
        return Expression(value + r"\%")
    return None


def _is_amount(text: str) -> bool:
    """Whether there may be a unit behind: not behind "Player 1" or "A4"."""
    return is_formula(text) and with_numbered_names(text) == text


def _amount(text: str) -> str:
    """Of money, without words at the end, but with what they multiply by: 3 million."""
    match = _LAST_WORDS.search(text)
    if match is None:
        return text
    number = scaled(text[: match.start()], match[1])
    if isinstance(number, Expression):
        return number.text
    return text[: match.start()] if match[1].startswith("\\text") else text


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
