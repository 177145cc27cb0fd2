r"""Cleaning of kept tuples before they are written: what SFT would otherwise learn to imitate.

- A y that ends by saying the same thing over and over is cut after the first time.
- A y_revised that begins by talking to a person ("You're absolutely right, I apologize.") begins after that.
- A tuple that says the same as an earlier one is left out (see srt/collect/collector.py).

attempts.jsonl keeps what was sampled; a changed tuple says what was done to it in `cleaned`. Ids are cut, never
made anew: where a change does not fall between two tokens it is not made. A verdict depends on nothing but the
last complete box (verifiers/math/verify.py) or the last program (verifiers/code/extract.py), so a cut that leaves
that as it was leaves the verdict; where it does not, the tuple is dropped.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from srt.contract.layout import Layout
from srt.contract.records import pack_ids, unpack_ids
from srt.verifiers.code.extract import extract_program
from srt.verifiers.math.extract import extract_boxed

AnswerOf = Callable[[str], Any]  # what of a response decides about its verdict; None when there is none
ANSWERS: dict[str, AnswerOf] = {"math": extract_boxed, "code": extract_program}  # by mode

# A y loops when its last tokens are so many repetitions of one piece, and so many tokens, that no working does
# it: a row of zeros or a short table must not count.
LEAST_REPETITIONS = 4
LEAST_LOOP_TOKENS = 60
LONGEST_PERIOD = 1000  # tokens
LONGEST_TAIL = 8  # tokens after the last repetition: the way out, as short as another line break

_SENTENCE_END = re.compile(r"[.!?\n]\s*$")
_CHAT = re.compile(
    r"\s*(?:(?:oh|ah|hmm|wow|yes|okay|ok|well|hi|hello)\b[,.! ]+)*"
    r"(?:you(?:['’]re| are) (?:absolutely |completely |totally |quite )?(?:right|correct)\b"
    r"|(?:good|great|nice|excellent) (?:catch|question|point|observation)\b"
    r"|thank(?:s| you)\b"
    r"|(?:i (?:sincerely |deeply |do )?apologi[sz]e|(?:my |sincere )*apologies)\b"
    r"|(?:i(?:['’]m| am) (?:so |very )?)?sorry\b"
    r"|my (?:mistake|bad)\b"
    r"|(?:sure|certainly|absolutely|of course|no problem)\b[,.!])",
    re.IGNORECASE,
)
_PARAGRAPH = re.compile(r"\s*[^\n]*\n\s*")
_SENTENCE = re.compile(r"\s*[^\n]*?[.!](?:\s+|$)")
_WORK = re.compile(r"[\d\\$=]|```")  # an opening with any of these does more than talk
LONGEST_OPENING = 400  # characters

SHOWN_CHARACTERS = 200  # of what was cut, in `cleaned`


@dataclass(frozen=True)
class Cleaned:
    """`tuple`: what is written, None when it is dropped. `changes`: as in its `cleaned`, one dict a change."""

    tuple: dict[str, Any] | None
    changes: list[dict[str, Any]]


@dataclass(frozen=True)
class Change:
    """`ids`: what is left, None when nothing usable is. `text`: what was taken away."""

    kind: str
    ids: list[int] | None
    tokens: int
    text: str


def clean(tuple_: dict[str, Any], layout: Layout, answer_of: AnswerOf = extract_boxed) -> Cleaned:
    """The record of d_revision.json as it should be written; `tuple_` itself is left as it is."""
    cleaned, changes = dict(tuple_), []
    for part, step in (("y_init", cut_loop), ("y_revised", cut_loop), ("y_revised", strip_opening)):
        change = step(unpack_ids(cleaned[f"{part}_ids"]), cleaned[part], layout, answer_of)
        if change is None:
            continue
        changes.append({"part": part, "change": change.kind, "tokens": change.tokens, "text": change.text})
        if change.ids is None:
            return Cleaned(None, changes)
        cleaned |= {part: layout.decode(change.ids), f"{part}_ids": pack_ids(change.ids)}
    return Cleaned(cleaned | {"cleaned": changes}, changes)


def cut_loop(ids: list[int], text: str, layout: Layout, answer_of: AnswerOf = extract_boxed) -> Change | None:
    """Cut the repetition that `ids` end with, after its first round; None when there is none."""
    y = layout.without_eot(ids)
    loop = find_loop(y)
    if loop is None:
        return None
    start, period = loop
    # One that the limit cut off was not graded, so it keeps its r = 0 only while it gives no answer.
    answer = answer_of(text) if len(y) < len(ids) else None
    for end in _ends(y, start, period, layout):
        said = layout.decode(y[:end])
        if text.startswith(said) and answer_of(said) == answer:
            return Change("loop cut", y[:end] + ids[len(y) :], len(y) - end, text[len(said) :][:SHOWN_CHARACTERS])
    return Change("dropped, its loop holds the answer", None, len(y) - start, text[-SHOWN_CHARACTERS:])


def find_loop(y: list[int]) -> tuple[int, int] | None:
    """(where it starts, its period) of the repetition that y ends with, but for a short tail; or None.

    The smallest period p counts: y[i] == y[i - p] from the loop's end back to its start, over enough tokens.
    """
    for end in range(len(y), max(len(y) - LONGEST_TAIL, LEAST_LOOP_TOKENS) - 1, -1):
        for period in range(1, min(LONGEST_PERIOD, end // LEAST_REPETITIONS) + 1):
            start = end - period
            while start > 0 and y[start - 1] == y[start - 1 + period]:
                start -= 1
            if end - start >= max(LEAST_REPETITIONS * period, LEAST_LOOP_TOKENS):
                return start, period
    return None


def _ends(y: list[int], start: int, period: int, layout: Layout) -> Iterator[int]:
    """Where to cut, best first: at the end of a sentence in the second round, else after a whole round."""
    second_round = range(start + period, start + 2 * period)
    yield from [n for n in second_round if _SENTENCE_END.search(layout.tokenizer.decode(y[n - 1 : n]))][:3]
    yield from (start + period, start + 2 * period)


def strip_opening(ids: list[int], text: str, layout: Layout, answer_of: AnswerOf = extract_boxed) -> Change | None:
    """Take a chat-like opening away; None when there is none, or when it does not end between two tokens."""
    end = opening_end(text)
    if end == 0:
        return None
    # Prefixes are decoded: a token may hold a part of a character, or more than the end of the opening.
    count = next((n for n in range(1, len(ids)) if len(layout.decode(ids[:n])) >= end), len(ids))
    opening, rest = text[:end], text[end:]
    if layout.decode(ids[:count]) != opening or layout.decode(ids[count:]) != rest:
        return None
    if answer_of(rest) != answer_of(text):
        return None
    return Change("opening stripped", ids[count:], count, opening)


def opening_end(text: str) -> int:
    """Where a chat-like opening and the white space after it end; 0 when there is none, or nothing after it.

    It is the whole first paragraph when that does nothing but talk, else its first sentence.
    """
    if not _CHAT.match(text):
        return 0
    for match in (_PARAGRAPH.match(text), _SENTENCE.match(text)):
        if match and match.end() <= LONGEST_OPENING and not _WORK.search(match.group()):
            return match.end() if match.end() < len(text) else 0
    return 0
