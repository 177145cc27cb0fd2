r"""Texts that look like formulas and are none: codes, words with numbers, versions. Only the whole text counts.

Letters and digits side by side are a product to a parser: 0x1d6b1 would be 0 times something, "room 12" an anagram
of "moor 12", 1.2.3 the number 1.2 * 0.3. What is spelled like that is compared letter by letter instead.
"""

import re

from srt.verifiers.math.forms import Answer, Expression, Literal, Words
from srt.verifiers.math.text import key, without_text
from srt.verifiers.math.words import is_negative, is_words

# Commands, subscripts, and names under an accent: none of their letters are factors.
_NO_FACTORS = r"\\(?:overline|widehat|bar|hat|tilde|vec|mathcal|text)\s?{[^{}]*}|\\[A-Za-z]+|_{[^{}]*}"
_RUN = re.compile(rf"{_NO_FACTORS}|(?P<letters>[A-Za-z]+)(?P<apart> +(?=[A-Za-z]))?")
# A number behind a letter is no factor, unless it has an exponent: n2^{n-1}.
_NUMBER_BEHIND = re.compile(
    rf"{_NO_FACTORS}|(?<![A-Za-z\\])(?P<letters>[A-Za-z]+)(?P<space> *)"
    r"(?P<number>\d+(?:\.\d+)?)(?!\.?\d| ?\^)(?P<more>(?:[A-Za-z](?! ?[\^(]))?)"
)
_VOWEL = re.compile("[aeiou]", re.IGNORECASE)
_DIFFERENTIALS = re.compile("(?:d[a-z])+")
_DOTTED = re.compile(r"\d\.\d+\.\d|\.\.\d")  # 1.2.3
_QUOTED = re.compile(r"(?<![A-Za-z0-9)}\]'])'")
_LEADING_ZERO = re.compile(r"(?<![A-Za-z0-9.])0\d*[A-Za-z][A-Za-z0-9]")  # 0xFFh
_CAPITALS = re.compile(r"(?:\\(?:triangle|overline)\s?)?(?:([A-Z]{2,6})|{\s?([A-Z]{2,6})\s?})")
_ANGLE = re.compile(r"\\angle\s?{?\s?([A-Z])([A-Z])([A-Z])\s?}?")
_SPELLED = re.compile("[A-Za-z]{3,}")
MIN_WORD, MIN_WORD_WITH_VOWEL = 5, 4  # letters that are no product; abcd, in alphabetical order, is one


def is_formula(text: str) -> bool:
    r"""Whether the letters and digits of a cleaned text can be factors.

    >>> is_formula("2ab^{2}"), is_formula("n2^{n}"), is_formula("x2 + 3x1")
    (True, True, True)
    >>> is_formula("room 12"), is_formula("0x1d6b0"), is_formula("1.2.3")
    (False, False, False)
    """
    if _DOTTED.search(text) or _QUOTED.search(text) or _LEADING_ZERO.search(text):
        return False
    before = ""  # the run of letters before, when only a space is between
    for match in _RUN.finditer(text):
        letters = match["letters"]
        if letters is None:
            before = ""
            continue
        if _is_word(letters) or (before and _are_words(before, letters)):
            return False
        before = letters if match["apart"] else ""
    return all(
        match["letters"] is None or _is_name(text, match) or match["letters"] == "i" and not match["more"]
        for match in _NUMBER_BEHIND.finditer(text)
    )


def is_spelled(text: str) -> bool:
    """Whether a cleaned text, as a whole answer or as an item of a list, is no formula."""
    return not is_formula(text) or (text.isalpha() and _is_short_word(text))


def _is_word(letters: str) -> bool:
    if list(letters) == sorted(letters) or _DIFFERENTIALS.fullmatch(letters):
        return False
    return len(letters) >= (MIN_WORD_WITH_VOWEL if _VOWEL.search(letters) else MIN_WORD)


def _are_words(first: str, second: str) -> bool:
    """Of neighbors: "out of", "x xor y"."""
    return min(len(first), len(second)) > 2 or _is_short_word(first) or _is_short_word(second)


def _is_short_word(letters: str) -> bool:
    """Where it stands alone, or beside another word: cat, aba; but abc is a product."""
    return len(letters) > 2 and _VOWEL.search(letters) is not None and list(letters) != sorted(letters)


def _is_name(text: str, match: re.Match) -> bool:
    """x1: a letter with its number, typed without an underscore. Digits before it are a factor: 3x1."""
    before = text[: match.start()]
    return (
        len(match["letters"]) == 1
        and not match["space"]
        and not match["more"]
        and (match["letters"] not in "xXbBoO" or not before.endswith("0"))
    )


def with_numbered_names(text: str) -> str:
    r"""x1 + x2 as x_{1} + x_{2}, in a formula."""

    def named(match: re.Match) -> str:
        if match["letters"] is None or match["letters"] == "i":
            return match[0]
        return f"{match['letters']}_{{{match['number']}}}"

    return _NUMBER_BEHIND.sub(named, text)


def read_literal(text: str) -> Answer | None:
    """A text of capitals, or one without commands that is no formula; else None."""
    if match := _CAPITALS.fullmatch(text):  # a triangle, an order of letters; of a segment AB the order is free
        letters = match[1] or match[2]
        return Words(letters) if len(letters) > 2 else Expression(letters)
    if match := _ANGLE.fullmatch(text):  # ABC is CBA, not ACB
        return Literal(f"angle {min(match[1], match[3])}{match[2]}{max(match[1], match[3])}")
    return as_literal(text) if "\\" not in text and not is_words(text) and is_spelled(text) else None


def as_literal(text: str) -> Literal:
    """Case counts in codes (x1 is not X1), not in words (Room 12)."""
    plain = " ".join(without_text(text).split())
    return Literal(_SPELLED.sub(lambda match: match[0].lower(), key(plain)))


def same_literal(gold: Answer, answer: Answer) -> bool:
    texts = [_literal_of(side) for side in (gold, answer)]
    return texts[0] is not None and texts[0] == texts[1]


def _literal_of(side: Answer) -> Literal | None:
    match side:
        case Literal():
            return side
        case Expression(text):
            return as_literal(text)
        case Words(text) if not is_negative(text):
            return as_literal(text)
    return None
