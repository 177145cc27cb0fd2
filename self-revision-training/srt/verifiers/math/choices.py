r"""Multiple choice: which letters a gold answer names, and whether an answer names the same."""

import re

from srt.verifiers.math.text import clean, without_text

_ONE = re.compile(r"\(?\s*([A-J])\s*\)?\.?")
_PREFIX = re.compile(
    r"(?:the\s+)?(?:correct\s+)?(?:option|choice|answer)s?(?:\s+is|\s+are)?\s*:?\s*", re.IGNORECASE
)
# B) 12, (B) 12, B. 12, B: no; not B-1 or B+C
_WITH_MORE = re.compile(r"\(\s*([A-J])\s*\)\s*[.:]?(?![A-Za-z0-9_^=+\-/*])|\b([A-J])\s*(?:\)|[.:](?!\d))")
_ANOTHER = re.compile(r"\(\s*[A-J]\s*\)|(?<![A-Za-z\\])[B-HJ](?![A-Za-z_^(])")
_SEVERAL = re.compile(r"\(?[A-J]\)?(?:\s*(?:,|;|/|&|\s|\band\b|\bor\b)+\s*\(?[A-J]\)?)+")
_TOGETHER = re.compile(r"[A-H]{2,6}")
_CIRCLED = re.compile(r"[①-⑩](?:[\s,;、和]*[①-⑩])*")
_GOLD_WITH_VALUE = re.compile(r"\\text\s*{\s*\(?\s*([A-J])\s*\)?\s*[.:]?\s*}(?=[^_^'])|\(([A-J])\)\s+(?=\S)")


def named_letters(text: str) -> frozenset[str] | None:
    r"""The letters (or circled digits) that a cleaned text consists of, if it consists of them.

    >>> sorted(named_letters("A, C and D") or ())
    ['A', 'C', 'D']
    >>> named_letters("A+B") is None
    True
    """
    text = " ".join(_PREFIX.sub("", without_text(text).strip()).split()).rstrip(".")
    if match := _ONE.fullmatch(text):
        return frozenset(match[1])
    if _SEVERAL.fullmatch(text):
        return frozenset(re.findall(r"[A-J](?![a-z])", text))
    if _CIRCLED.fullmatch(text):
        return frozenset(re.findall(r"[①-⑩]", text))
    return None


def same_choice(answer: str, gold: str) -> bool | None:
    r"""Whether both name the same choices; None unless gold is letters and the answer has some.

    >>> same_choice(r"\textbf{(D) } 12", "D"), same_choice(r"\text{A: no, B}", "A"), same_choice("B-1", "B")
    (True, False, None)
    """
    gold_text, text = clean(gold), clean(answer)
    expected = named_letters(gold_text)
    if expected is None:
        together = _TOGETHER.fullmatch(without_text(gold_text))
        if together is None or not _ascending(together[0]):
            return None
        expected = frozenset(together[0])
        actual = named_letters(text)  # AB alone may also be a segment: only against separate letters
        return None if actual is None or len(actual) < 2 else actual == expected
    actual = named_letters(text)
    if actual is not None:
        return actual == expected
    plain = _PREFIX.sub("", without_text(text).strip())
    if len(expected) > 1:
        together = _TOGETHER.fullmatch(plain)
        if together and _ascending(together[0]):
            return frozenset(together[0]) == expected
        return None
    match = _WITH_MORE.match(plain)
    if match is not None:
        rest = plain[match.end() :]
        letter = match[1] or match[2]
        if _ANOTHER.search(rest) and not re.search(r"[=^_]", rest):
            return False
        return frozenset(letter) == expected
    if plain in ("a", "b", "c", "d", "e") and plain.upper() in expected:
        return True
    return None


def _ascending(letters: str) -> bool:
    return list(letters) == sorted(set(letters))


def labels_differ(answer: str, letter: str) -> bool:
    r"""Whether an answer has a label as well, and another one: \text{(A)}\ 24 for B."""
    match = _WITH_MORE.match(_PREFIX.sub("", without_text(clean(answer)).strip()))
    return match is not None and (match[1] or match[2]) != letter


def label_of(gold: str) -> tuple[str, str] | None:
    r"""(letter, rest) of a gold answer with a label and a value: \text{(B)}\ 12."""
    text = clean(gold)
    match = _GOLD_WITH_VALUE.match(text)
    if match is None:
        return None
    rest = text[match.end() :].strip()
    return (match[1] or match[2], rest) if rest else None
