r"""Final answers: the last \boxed{...} of a response, and the gold answer of a record. All scans are linear."""

import re
from typing import NamedTuple

# The start of a box, an escaped character (\{ and \} are set braces, \\ is a line break), or a brace.
_TOKEN = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])\s*\{?|\\.|[{}]", re.DOTALL)
_BOX = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])\s*\{")
# \boxed 7 and \boxed7: a number, a letter, a name or a fraction, bounded in length
_BARE = re.compile(
    r"[-+]?\d[\d.,]{0,40}(?:/\d{1,20})?|\\frac\s?(?:\d\s?\d|\{[^{}]{1,40}\}\s?\{[^{}]{1,40}\})|\\[a-z]{2,10}(?![A-Za-z{])|[A-Za-z](?![A-Za-z])"
)
# Between boxes that make up one gold answer: \boxed{1} paper and $x = \boxed{2}$
_JOINT = re.compile(
    r"(?:[\s$,;~]|\\[()\[\],;: ]|\\q?quad(?![A-Za-z])|"
    r"\\text\s?{\s?(?:,\s?)?(?:and|or)\s?}|(?:[a-z]{1,20} ){0,2}(?:and|or)(?![A-Za-z])){0,20}"
    r"(?:([A-Za-z](?:_{?\w}?)?)\s?=\s?)?"
)
_NAME_BEFORE = re.compile(r"(?<![A-Za-z])([A-Za-z](?:_{?\w}?)?)\s?=\s?$")
MAX_BETWEEN = 200  # characters between boxes that belong together
MAX_NESTED_BOXES = 3  # each level is another pass over the text


class Boxes(NamedTuple):
    """`answer`: the content of the last complete box, None without one; `others`: the earlier, different ones."""

    answer: str | None
    others: bool


def find_boxes(text: str) -> Boxes:
    r"""The last complete box, with balanced braces, and whether there were others.

    - Of several boxes the last one counts; of nested boxes, as in \boxed{\boxed{4}}, the outermost.
    - No answer if a box is opened after the last complete one and never closed: the response ended before it gave
      its answer, and an earlier box is not what it was about to say (marin issue 9163).
    - A box that is never closed but *precedes* a complete one is a slip in the reasoning and is ignored.
    - \boxed 7, without braces, holds the number, letter or fraction that follows.
    """
    open_braces: list[tuple[bool, int]] = []  # (is it a box?, where its content starts)
    complete: tuple[int, int] | None = None
    previous: tuple[int, int] | None = None
    start_of_boxes = text.find("\\boxed"), text.find("\\fbox")
    first = min((position for position in start_of_boxes if position >= 0), default=None)
    if first is None:
        return Boxes(None, False)
    for token in _TOKEN.finditer(text, first):
        kind = token.group()
        if kind[-1] == "{" and kind != r"\{":
            open_braces.append((len(kind) > 1, token.end()))
        elif kind == "}" and open_braces:
            is_box, start = open_braces.pop()
            if is_box:  # an enclosing box closes after the boxes inside it, and so replaces them
                if complete is not None and complete[0] < start:
                    previous = complete
                complete = (start, token.start())
        elif kind.startswith(("\\boxed", "\\fbox")) and not any(is_box for is_box, _ in open_braces[-8:]):
            if bare := _BARE.match(text, token.end()):
                previous, complete = complete, (bare.start(), bare.end())
    if complete is None or any(is_box and start > complete[1] for is_box, start in open_braces):
        return Boxes(None, previous is not None)
    answer = _unwrap(text[complete[0] : complete[1]].strip())
    if text[complete[1] : complete[1] + 1] != "}":
        answer = answer.rstrip(".,")
    others = previous is not None and text[previous[0] : previous[1]].strip() != answer
    return Boxes(answer, others)


def extract_boxed(text: str) -> str | None:
    """The content of the last complete box; None when there is no final answer. See find_boxes."""
    return find_boxes(text).answer


def extract_gold(text: str) -> str:
    r"""The gold answer of a record: in the last box, after the last `####` (GSM8K), or the text itself.

    Boxes that only "and", "or", a comma or a name joins are one gold answer, since each alone would make right
    responses wrong: `\boxed{1} and \boxed{2}` is `1, 2`.
    """
    boxed = extract_boxed(text)
    if boxed is not None:
        return _joint_boxes(text) or boxed
    if "####" in text:
        answer_lines = text.rsplit("####", 1)[1].strip().splitlines()
        return answer_lines[0].strip() if answer_lines else ""
    return text.strip()


def _joint_boxes(text: str) -> str | None:
    r"""The contents of the last boxes as one list, when there are several of them that belong together.

    >>> _joint_boxes(r"so $x = \boxed{1}$ and $y = \boxed{2}$.")
    'x=1, y=2'
    """
    parts: list[tuple[str | None, str]] = []  # (name before the box, its content)
    end = None  # of the box before
    for box in _BOX.finditer(text):
        start, depth = box.end(), 1
        if end is not None and start <= end:
            continue  # inside of another
        for token in _TOKEN.finditer(text, start):
            kind = token.group()
            depth += (kind[-1] == "{" and kind != r"\{") - (kind == "}")
            if depth == 0:
                break
        else:
            return None
        joint = None
        if end is not None and box.start() - end <= MAX_BETWEEN:
            joint = _JOINT.fullmatch(text, end, box.start())
        if joint is None:
            parts = []
        name = joint or _NAME_BEFORE.search(text[max(0, box.start() - 12) : box.start()])
        parts.append((name[1] if name else None, text[start : token.start()].strip()))
        end = token.end()
    if len(set(parts)) < 2:
        return None
    names = {name for name, _ in parts}
    if len(names) == 1 or None in names or any("=" in content for _, content in parts):
        return ", ".join(content for _, content in parts)
    return ", ".join(f"{name}={content}" for name, content in parts)


def _unwrap(answer: str) -> str:
    r"""\boxed{\boxed{4}} -> 4, up to MAX_NESTED_BOXES levels. Any other content is returned unchanged."""
    for _ in range(MAX_NESTED_BOXES):
        box = _BOX.match(answer)
        if box is None or not answer.endswith("}"):
            break
        inner = answer[box.end() : -1]
        depth = lowest = 0
        for token in _TOKEN.finditer(inner):
            kind = token.group()
            brace = kind[-1] if kind not in (r"\{", r"\}") else ""
            depth += (brace == "{") - (brace == "}")
            lowest = min(lowest, depth)
        if lowest < 0:  # \boxed{1} and \boxed{2}: the last brace closes a different box
            break
        answer = inner.strip()
    return answer
