r"""Cleaning of kept tuples before they are written: what SFT would otherwise learn to imitate.

- A y that ends in a loop, repeating the same text over and over, is cut after the first round.
- A y_revised that opens with nothing but an apology or a greeting ("You're absolutely right, I apologize.") loses
  those sentences (openings.py).
- A tuple with the same text as an earlier one is left out (see KeptTuples in attempts.py).

attempts.jsonl keeps what was sampled; a changed tuple lists its changes in `cleaned`. Token ids are cut and never
tokenized again: a change that does not fall between two tokens is not made. A verdict depends only on the last
complete box (verifiers/math/verify.py) or the last program (verifiers/code/extract.py), so a cut that preserves
those preserves the verdict; if it cannot, the tuple is dropped.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from srt.collect.openings import opening_end
from srt.contract.layout import Layout
from srt.contract.records import pack_ids, unpack_ids
from srt.verifiers.code.extract import extract_program
from srt.verifiers.math.extract import extract_boxed

AnswerOf = Callable[[str], Any]  # the part of a response that decides its verdict; None if absent
ANSWERS: dict[str, AnswerOf] = {"math": extract_boxed, "code": extract_program}  # by mode

# A y loops if it ends in so many repetitions of one piece, and so many tokens of them, that no solution would:
# a string of zeros or a short table must not count.
MIN_REPETITIONS = 4
MIN_LOOP_TOKENS = 60
MAX_PERIOD = 1000  # tokens
MAX_TAIL = 8  # tokens after the last repetition, such as a line break

_SENTENCE_END = re.compile(r"[.!?\n]\s*$")
SHOWN_CHARACTERS = 200  # of what was cut, in `cleaned`


@dataclass(frozen=True)
class Cleaned:
    """`tuple`: as it is written, None if dropped. `changes`: one dict per change, as in its `cleaned`."""

    tuple: dict[str, Any] | None
    changes: list[dict[str, Any]]


@dataclass(frozen=True)
class Change:
    """`ids`: what remains, None if nothing usable does. `tokens` and `text`: what was removed."""

    kind: str
    ids: list[int] | None
    tokens: int
    text: str


def clean(tuple_: dict[str, Any], layout: Layout, answer_of: AnswerOf = extract_boxed) -> Cleaned:
    """The record of d_revision.json as it should be written; `tuple_` is not modified."""
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
    """Cut the loop that `ids` end with after its first round; None if there is no loop."""
    y = layout.without_eot(ids)
    loop = find_loop(y)
    if loop is None:
        return None
    start, period = loop
    # A response cut off by the token limit was not graded: its r = 0 stays valid only without an answer.
    answer = answer_of(text) if len(y) < len(ids) else None
    for end in _ends(y, start, period, layout):
        rest = layout.decode(y[:end])
        if text.startswith(rest) and answer_of(rest) == answer:
            return Change("loop cut", y[:end] + ids[len(y) :], len(y) - end, text[len(rest) :][:SHOWN_CHARACTERS])
    return Change("dropped, its loop holds the answer", None, len(y) - start, text[-SHOWN_CHARACTERS:])


def find_loop(y: list[int]) -> tuple[int, int] | None:
    """(start, period) of the loop that y ends with, apart from a short tail; None if there is none.

    The smallest period p wins: y[i] == y[i - p] from the end of the loop back to its start, over enough tokens.
    """
    for end in range(len(y), max(len(y) - MAX_TAIL, MIN_LOOP_TOKENS) - 1, -1):
        for period in _possible_periods(y, end):
            start = end - period
            while start > 0 and y[start - 1] == y[start - 1 + period]:
                start -= 1
            if end - start >= max(MIN_REPETITIONS * period, MIN_LOOP_TOKENS):
                return start, period
    return None


def _possible_periods(y: list[int], end: int) -> Iterator[int]:
    """The periods p, in order, with y[end - 1] == y[end - 1 - p]; searched in C, since most texts have no loop."""
    longest = min(MAX_PERIOD, end // MIN_REPETITIONS)
    before = y[end - 1 - longest : end - 1][::-1]  # y[end - 1 - p] is at p - 1
    period = 0
    for _ in range(before.count(y[end - 1])):
        period = before.index(y[end - 1], period) + 1
        yield period


def _ends(y: list[int], start: int, period: int, layout: Layout) -> Iterator[int]:
    """Candidate cuts, best first: at the end of a sentence in the second round, else after a whole round."""
    second_round = range(start + period, start + 2 * period)
    yield from [n for n in second_round if _SENTENCE_END.search(layout.tokenizer.decode(y[n - 1 : n]))][:3]
    yield from (start + period, start + 2 * period)


def strip_opening(ids: list[int], text: str, layout: Layout, answer_of: AnswerOf = extract_boxed) -> Change | None:
    """Remove a chat-like opening; None if there is none, or if it does not end between two tokens."""
    end = opening_end(text)
    if end == 0:
        return None
    # Decode whole prefixes: a token may hold part of a character, or reach past the end of the opening.
    count = next((n for n in range(1, len(ids)) if len(layout.decode(ids[:n])) >= end), len(ids))
    opening, rest = text[:end], text[end:]
    if layout.decode(ids[:count]) != opening or layout.decode(ids[count:]) != rest:
        return None
    if answer_of(rest) != answer_of(text):
        return None
    return Change("opening stripped", ids[count:], count, opening)
