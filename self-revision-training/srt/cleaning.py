r"""Cleaning of kept tuples before they are written: what SFT would otherwise learn to imitate.

- A y that ends by saying the same thing over and over is cut after the first time.
- A y_revised that begins by talking to a person ("You're absolutely right, I apologize.") begins after that.
- A tuple that says the same as an earlier one is left out (see srt/collection.py).

attempts.jsonl keeps what was sampled; a changed tuple says what was done to it in `cleaned`. Ids are cut, never
made anew: where a change does not fall between two tokens it is not made. A verdict depends on nothing but the
last complete box (srt/verifiers/math.py), so a cut that leaves the box as it was leaves the verdict; where it
does not, the tuple is dropped.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from srt.layout import Layout
from srt.records import pack_ids, unpack_ids
from srt.verifiers.answers import extract_boxed

# A y loops when its last tokens are so many repetitions of one piece, and so many tokens, that no working does
# it: a row of zeros or a short table must not count.
LEAST_REPETITIONS = 4
LEAST_LOOP_TOKENS = 60
LONGEST_PERIOD = 1000  # tokens

_SENTENCE_END = re.compile(r"[.!?\n]\s*$")
_CHAT = re.compile(
    r"\s*(?:(?:oh|ah|hmm|wow|yes|okay|ok|well|hi|hello)\b[,.! ]+)*"
    r"(?:you(?:['’]re| are) (?:absolutely |completely |totally |quite )?(?:right|correct)\b"
    r"|(?:good|great|nice|excellent) (?:catch|question|point|observation)\b"
    r"|thank(?:s| you)\b"
    r"|(?:i (?:sincerely |deeply |do )?apologi[sz]e|(?:my |sincere )*apologies|sorry|i(?:['’]m| am) (?:so |very )?sorry)\b"
    r"|my (?:mistake|bad)\b"
    r"|(?:sure|certainly|absolutely|of course|no problem)\b[,.!])",
    re.IGNORECASE,
)
_WORK = re.compile(r"[\d\\$=]|```")  # a first paragraph with any of these does more than talk
LONGEST_OPENING = 400  # characters


@dataclass(frozen=True)
class Cleaned:
    """`tuple`: what is written, None when it is dropped; `changes`: what was done, as in its `cleaned`."""

    tuple: dict[str, Any] | None
    changes: list[str]


def clean(tuple_: dict[str, Any], layout: Layout) -> Cleaned:
    """The record of d_revision.json as it should be written; `tuple_` itself is left as it is."""
    cleaned, changes = dict(tuple_), []
    for name, steps in (("y_init", (_without_loop,)), ("y_revised", (_without_loop, _without_opening))):
        for step in steps:
            ids, text = unpack_ids(cleaned[f"{name}_ids"]), cleaned[name]
            shorter, change = step(ids, text, layout)
            if change is None:
                continue
            changes.append(f"{name}: {change}")
            if shorter is None:
                return Cleaned(None, changes)
            cleaned |= {name: layout.decode(shorter), f"{name}_ids": pack_ids(shorter)}
    return Cleaned(cleaned | {"cleaned": changes}, changes)


Step = tuple[list[int] | None, str | None]  # the ids that are left (None: nothing usable), and what was done


def _without_loop(ids: list[int], text: str, layout: Layout) -> Step:
    y = layout.without_eot(ids)
    loop = find_loop(y)
    if loop is None:
        return ids, None
    start, period = loop
    answer = extract_boxed(text) if len(y) < len(ids) else None  # one that was cut off by the limit has no verdict
    for end in _ends(y, start, period, layout):
        said = layout.decode(y[:end])
        if text.startswith(said) and extract_boxed(said) == answer:
            return y[:end] + ids[len(y) :], f"a loop of {period} tokens was cut, {len(y) - end} tokens"
    return None, "a loop that cannot be cut without changing the answer"


def find_loop(y: list[int]) -> tuple[int, int] | None:
    """(where it starts, its period) of the repetition that y ends with, or None.

    The smallest period p counts: y[i] == y[i - p] from the end back to the start, over enough tokens.
    """
    for period in range(1, min(LONGEST_PERIOD, len(y) // LEAST_REPETITIONS) + 1):
        start = len(y) - period
        while start > 0 and y[start - 1] == y[start - 1 + period]:
            start -= 1
        if len(y) - start >= max(LEAST_REPETITIONS * period, LEAST_LOOP_TOKENS):
            return start, period
    return None


def _ends(y: list[int], start: int, period: int, layout: Layout) -> Iterator[int]:
    """Where to cut, best first: at the end of a sentence in the second round, else after the first round."""
    second_round = range(start + period, start + 2 * period)
    yield from [n for n in second_round if _SENTENCE_END.search(layout.tokenizer.decode(y[n - 1 : n]))][:3]
    yield from (start + period, start + 2 * period)


def _without_opening(ids: list[int], text: str, layout: Layout) -> Step:
    end = opening_end(text)
    if end == 0:
        return ids, None
    # Prefixes are decoded: a token may hold a part of a character, or more than the end of the opening.
    y = layout.without_eot(ids)
    count = next((n for n in range(1, len(y)) if len(layout.decode(y[:n])) >= end), len(y))
    rest = ids[count:]
    if layout.decode(y[:count]) != text[:end] or layout.decode(rest) != text[end:]:
        return ids, None
    if extract_boxed(text[end:]) != extract_boxed(text):
        return ids, None
    return rest, f"its opening was stripped, {count} tokens: {text[:end].strip()!r}"


def opening_end(text: str) -> int:
    """Where a chat-like opening and the white space after it end; 0 when there is none, or nothing after it.

    It is the whole first paragraph when that does nothing but talk, else its first sentence.
    """
    match = _CHAT.match(text)
    if match is None:
        return 0
    paragraph = re.compile(r"[^\n]*\n\s*").match(text, match.start())
    sentence = re.compile(r"[^\n]*?[.!](?:\s+|$)").match(text, match.start())
    for candidate in (paragraph, sentence):
        if candidate and candidate.end() <= LONGEST_OPENING and not _WORK.search(candidate.group()):
            return candidate.end() if candidate.end() < len(text) else 0
    return 0
