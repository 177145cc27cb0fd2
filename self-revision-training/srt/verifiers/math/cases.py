r"""Values under conditions: \begin{cases} ... \end{cases}, and "n if n is odd, n - 1 otherwise"."""

import re
from collections.abc import Callable, Sequence

from srt.verifiers.math.expressions import UnreadableError
from srt.verifiers.math.forms import Answer, Cases, Same
from srt.verifiers.math.renaming import letters
from srt.verifiers.math.split import AND, OR, split_top
from srt.verifiers.math.text import key, without_text

OTHERWISE = "otherwise"
_ENVIRONMENT = re.compile(r"\\begin{cases}(.*)\\end{cases}")
_PIECE = re.compile(r"(.+?)\s*(?:,\s*)?\\text{\s*(?:if|when|for|whenever|where)\b\s*(.*)")
_OTHERWISE_FIRST = re.compile(r"\\text{\s*(?:and\s+)?(?:otherwise|else)\s*,?\s*}\s*(.+)")
_OTHERWISE_WITHIN = re.compile(r"(?<=[a-z]),? ?(?:and )?otherwise,? ?}(?= ?[^ ,;])")  # if n is even, otherwise
_COMMA_BEFORE = re.compile(r",\s?(?=\\text{\s?(?:(?:if|when|for)\b|otherwise\s?}$))")
_LAST_PIECE = re.compile(r"(.+?)\s*(?:,\s*)?\\text{\s*(?:otherwise|else|in all other cases)\s*\.?\s*}")
_FILLING = re.compile(rf"\b(?:if|when|for|is|are|an?|the|where|all|any|every)\b|[{AND}{OR}.,:;]")
_RELATION = re.compile(r"[=<>]|\\(?:leq|geq|neq|equiv|in)(?![A-Za-z])")


def read_cases(text: str, read: Callable[[str], Answer]) -> Cases | None:
    """`read` reads the value of a piece."""
    if r"\text" not in text and r"\begin{cases}" not in text:
        return None
    if match := _ENVIRONMENT.fullmatch(text):
        rows = [row.split("&") for row in re.split(r"\\\\", match[1]) if row.strip(" ,.")]
        if len(rows) < 2 or any(len(row) != 2 for row in rows):
            return None
        return Cases(tuple((read(value.strip(" ,.;")), _condition(condition)) for value, condition in rows))
    text = _OTHERWISE_WITHIN.sub(r"}, \\text{otherwise}", text)
    parts = [part for part in split_top(_COMMA_BEFORE.sub(" ", text), (",", ";", AND))[0] if part]
    pieces = []
    for part in parts:
        if match := _LAST_PIECE.fullmatch(part):
            pieces.append((read(match[1]), OTHERWISE))
        elif pieces and (match := _OTHERWISE_FIRST.fullmatch(part)):
            pieces.append((read(match[1]), OTHERWISE))
        elif match := _PIECE.fullmatch(part):
            pieces.append((read(match[1]), _condition(r"\text{" + match[2])))
        else:
            return None
    return Cases(tuple(pieces)) if len(pieces) > 1 else None


def _condition(text: str) -> str:
    """Without the words that say nothing; what is left of a relation keeps its spelling."""
    plain = without_text(text).strip()
    if re.fullmatch(r"\W*(?:otherwise|else)\W*", plain):
        return OTHERWISE
    bare = " ".join(_FILLING.sub(" ", plain).split())
    return bare if _RELATION.search(bare) else " ".join(sorted(bare.lower().split()))


def same_cases(gold: Answer, answer: Answer, same: Same, read: Callable[[str], Answer]) -> bool:
    """Raises UnreadableError when the conditions may say the same in other words."""
    if not isinstance(gold, Cases):
        return False
    if not isinstance(answer, Cases):
        if letters(answer):
            raise UnreadableError(True, "cases, which can only be compared with cases")
        return False
    rest = list(answer.pieces)
    left = []
    for value, condition in gold.pieces:
        other = next((p for p in rest if _same_condition(condition, p[1], same, read)), None)
        if other is None:
            left.append((value, condition))
        elif same(value, other[0]):
            rest.remove(other)
        else:
            return False
    if not left and not rest:
        return True
    if len(left) != len(rest) or not _same_values(left, rest, same):
        return False
    if len(left) == 1 and OTHERWISE in (left[0][1], rest[0][1]):
        return True
    raise UnreadableError(True, "conditions that cannot be compared")


def _same_values(left: Sequence[tuple[Answer, str]], rest: Sequence[tuple[Answer, str]], same: Same) -> bool:
    values = [value for value, _ in rest]
    for value, _ in left:
        found = next((other for other in values if same(value, other)), None)
        if found is None:
            return False
        values.remove(found)
    return True


def _same_condition(gold: str, answer: str, same: Same, read: Callable[[str], Answer]) -> bool:
    if key(gold) == key(answer):
        return True
    if not _RELATION.search(gold) or not _RELATION.search(answer):
        return False
    try:
        return same(read(gold), read(answer))
    except UnreadableError:
        return False
