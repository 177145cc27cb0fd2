"""Dates: January 15, 2024, 15 Jan 2024 and 2024-01-15 are one date, and no sum, no fraction and no list."""

import re

from srt.verifiers.math.forms import Literal
from srt.verifiers.math.text import without_text

_MONTHS = "january february march april may june july august september october november december".split()
_MONTH = "|".join(f"{month[:3]}(?:{month[3:]})?" if month != "may" else month for month in _MONTHS) + "|sept"
_DAY = r"(\d{1,2})(?:st|nd|rd|th|\^{(?:st|nd|rd|th)})?"
_ISO = re.compile(r"(\d{4})-(\d{1,2})-(\d{1,2})(?:[T ](\d{1,2}:\d{2}(?::\d{2})?)Z?)?")
_BY_MONTH = re.compile(rf"({_MONTH})\.? {_DAY}(?:,? (\d{{4}}))?", re.IGNORECASE)
_BY_DAY = re.compile(rf"{_DAY}(?: of)? ({_MONTH})\.?(?:,? (\d{{4}}))?", re.IGNORECASE)
_NUMERIC = re.compile(r"(\d{1,2})([/.])(\d{1,2})\2(\d{4})|(\d{4})([/.])(\d{1,2})\6(\d{1,2})")


def read_date(text: str) -> Literal | None:
    """The date that a cleaned text consists of. Of 1/2/2020 the order is not known: only the same is equal.

    >>> read_date("March 5th, 2024") == read_date("2024-3-05")
    True
    >>> read_date("1/2/2020") == read_date("2/1/2020")
    False
    """
    if not any(character.isdigit() for character in text):
        return None
    plain = " ".join(without_text(text).split())
    if match := _ISO.fullmatch(plain):
        year, month, day, clock = match.groups()
        if int(month) > 12 or int(day) > 31:
            return None
        return _date(year, int(month), day, clock or "")
    if match := _BY_MONTH.fullmatch(plain):
        return _date(match[3], _number(match[1]), match[2])
    if match := _BY_DAY.fullmatch(plain):
        return _date(match[3], _number(match[2]), match[1])
    if match := _NUMERIC.fullmatch(plain):
        return Literal("date " + "/".join(str(int(part)) for part in match.groups() if part and part.isdigit()))
    return None


def _number(month: str) -> int:
    return 1 + next(index for index, name in enumerate(_MONTHS) if name.startswith(month[:3].lower()))


def _date(year: str | None, month: int, day: str, clock: str = "") -> Literal:
    return Literal(f"date {year or ''}-{month}-{int(day)} {clock}".rstrip())
