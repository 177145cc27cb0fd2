r"""Math answers: the last complete box of a response against the gold answer.

In order: equal text, choices, plain numbers, and then the forms of the two answers (read.py), which are compared
down to single formulas (compare.py); these are parsed and, last, simplified by math-verify
(github.com/huggingface/Math-Verify). The conventions stand in docs/math-verdicts.md. A comparison may still hang
in sympy, so the caller must bound its time (see grader.py).
"""

import re
from collections.abc import Iterable

from srt.verifiers.math.choices import label_of, labels_differ, named_letters, same_choice
from srt.verifiers.math.compare import same
from srt.verifiers.math.expressions import UnreadableError, parse
from srt.verifiers.math.extract import find_boxes
from srt.verifiers.math.families import with_letter_of
from srt.verifiers.math.forms import (
    Answer,
    Assignment,
    Cases,
    Chain,
    Collection,
    Expression,
    Intersection,
    Interval,
    Matrix,
    Quantity,
    Relation,
    Union,
    Without,
)
from srt.verifiers.math.limits import excess
from srt.verifiers.math.numbers import read_number, same_number
from srt.verifiers.math.read import read
from srt.verifiers.math.text import clean, key
from srt.verifiers.types import Verdict, VerifierError

SHOWN_CHARACTERS = 1000  # of an answer that is too long, in Verdict.extracted

# Verdict.reason: a few fixed texts, to be counted by.
EQUAL = "equal"
DIFFERENT = "different"
NO_BOX = "no box"
EMPTY_BOX = "empty box"
SEVERAL_BOXES = "several boxes"  # different, and an earlier box had another content
UNREADABLE_RESPONSE = "unreadable response"
UNREADABLE_GOLD = "unreadable gold"  # of a VerifierError: set aside, no verdict

_NOT_TEXT = re.compile("[\ud800-\udfff\ufffd\0]")  # surrogates, what decoders emit for broken bytes, NUL


def verify_math(response: str, gold: str) -> Verdict:
    """Whether the last complete box of `response` contains `gold`, or something equal to it.

    Raises VerifierError when the gold answer cannot be read, or when memory or the stack is exhausted. Does not
    bound its own running time.
    """
    answer, others = find_boxes(response)
    if answer is None:
        return Verdict(False, "", NO_BOX)
    if _NOT_TEXT.search(answer):
        return Verdict(False, _NOT_TEXT.sub("\ufffd", answer)[:SHOWN_CHARACTERS], UNREADABLE_RESPONSE)
    if not answer:
        return Verdict(False, "", EMPTY_BOX)
    gold = gold.strip()
    if answer == gold:
        return Verdict(True, answer, EQUAL)
    if excess(answer):
        return Verdict(False, answer[:SHOWN_CHARACTERS], UNREADABLE_RESPONSE)
    try:
        correct = same_answer(answer, gold)
    except (MemoryError, RecursionError) as error:
        reason = f"comparing {answer!r} with {gold[:200]!r}: {type(error).__name__}"
        raise VerifierError(reason, "a comparison took too much memory") from error
    except UnreadableError as error:
        if error.is_gold:
            raise _bad_gold(gold, error) from error
        return Verdict(False, answer, UNREADABLE_RESPONSE)
    if correct:
        return Verdict(True, answer, EQUAL)
    return Verdict(False, answer, SEVERAL_BOXES if others else DIFFERENT)


def same_answer(answer: str, gold: str) -> bool:
    """Raises UnreadableError."""
    if reason := excess(gold) or (None if gold else "it is empty"):
        raise UnreadableError(True, reason)
    gold_number, number = read_number(gold), read_number(answer)
    if gold_number is not None and number is not None:
        return same_number(gold_number, number)
    if key(answer) == key(gold):
        return True
    choice = same_choice(answer, gold)
    if choice is not None:
        return choice
    if label := label_of(gold):
        letter, rest = label
        if named_letters(clean(answer)) is not None:
            return bool(same_choice(answer, letter))
        if labels_differ(answer, letter):
            return False
        gold = rest
    read_gold = read(gold)
    try:
        return same(read_gold, with_letter_of(read_gold, read(answer)))
    except UnreadableError as error:
        if not error.is_gold and (reason := unreadable_part(read_gold)):
            raise UnreadableError(True, reason) from error
        raise


def unreadable_gold(gold: str) -> str | None:
    """Why a gold answer cannot be compared with anything but its own text; None when it can."""
    if reason := excess(gold):
        return reason
    try:
        return unreadable_part(read(gold))
    except (MemoryError, RecursionError) as error:
        return type(error).__name__


def unreadable_part(answer: Answer) -> str | None:
    """Why a formula in a read answer cannot be parsed; None when all can."""
    match answer:
        case Expression(text):
            if read_number(text) is not None or named_letters(text) is not None:
                return None
            parsed = parse(text.removesuffix("%").removesuffix("\\"))
            return f"{text[:60]!r} cannot be read ({parsed})" if isinstance(parsed, str) else None
        case Quantity(value, _, _, _) | Assignment(_, value):
            return unreadable_part(value)
        case Cases(pieces):
            return _first(unreadable_part(value) for value, _ in pieces)
        case Chain(values):
            reasons = [unreadable_part(value) for value in values]
            return reasons[0] if all(reasons) else None
        case Relation(sides, _):
            return _first(unreadable_part(Expression(side)) for side in sides)
        case Collection(_, parts) | Union(parts) | Intersection(parts):
            return _first(unreadable_part(part) for part in parts)
        case Interval(low, high, _, _):
            return _first(unreadable_part(Expression(end)) for end in (low, high))
        case Without(whole, removed):
            return _first(unreadable_part(part) for part in (whole, removed))
        case Matrix(rows):
            return _first(unreadable_part(Expression(cell)) for row in rows for cell in row)
    return None


def _first(reasons: Iterable[str | None]) -> str | None:
    return next((reason for reason in reasons if reason), None)


def _bad_gold(gold: str, reason: object) -> VerifierError:
    return VerifierError(f"the gold answer {gold[:200]!r} cannot be compared: {reason}", UNREADABLE_GOLD)
