"""Cuts a cleaned formula where it has separators outside of all brackets."""

import re
from collections.abc import Iterator

OR, AND = "\x01", "\x02"  # what words and Chinese characters that join answers become
_TOKEN = re.compile(r"\\[A-Za-z]+|\\.|.", re.DOTALL)
_JOINING = re.compile(r"(?<![A-Za-z\\])(?:,\s*)?(or|and|by)(?![A-Za-z])|(?<=[\d)])or(?=[A-Z(\d])|[或和及与且]")
_LOGICAL = re.compile(r"\\l(?:or|and)(?![A-Za-z])")
# A condition, or a value without letters. Of anything else, p \lor q or dx \land dy, these are operations.
_STATEMENT = re.compile(
    r"[=<>|]|\\(?:leq|geq|neq|approx|in|equiv|sim)(?![A-Za-z])|^(?:\\[A-Za-z]+|\\?[^A-Za-z\\])+$"
)
_JOINING_WORD = re.compile(r"(?<![A-Za-z])(?:,\s*)?(or|and|by)(?![A-Za-z])|[或和及与且]")
_THOUSANDS = re.compile(r"(?<![\d.,])([1-9]\d{0,2}(?:,\d{3})+)(?![\d,])")
_DIMENSIONS = re.compile(r"(\\text{[^{}]*})\s*\\times(?=\s*[\d.]+\s*\\text)")  # 4 ft x 12 ft
_ALIGNED = re.compile(r"&\s?=|=\s?&")
_TEXT = re.compile(r"\\text{([^{}]*)}")


def tokens(text: str) -> Iterator[tuple[str, int, int]]:
    """(token, start, depth) of a formula; the brackets themselves have the depth outside of them."""
    depth = 0
    environments = 0
    for match in _TOKEN.finditer(text):
        token = match[0]
        if token in (")", "}", "]", r"\}"):
            depth -= 1
        if token == r"\end":
            environments -= 1
        yield token, match.start(), max(depth, 0) + max(environments, 0)
        if token in ("(", "{", "[", r"\{"):
            depth += 1
        if token == r"\begin":
            environments += 1


def mark_joining_words(text: str) -> str:
    r"""`x=1 \text{ or } x=2` with OR in place of the word; also inside of units: \text{ m by }."""
    text = _DIMENSIONS.sub(rf"\1 {AND} ", text)
    if "&" in text and "=" in text and r"\begin" not in text:  # x &= 1; x = 1 & y = 2
        text = _ALIGNED.sub("=", text).replace("&", f" {AND} ")
    if all(_STATEMENT.search(part) for part in _LOGICAL.split(text)):
        text = _LOGICAL.sub(_mark, text)
    pieces = _TEXT.split(text)
    for index, piece in enumerate(pieces):
        if index % 2 == 0:
            pieces[index] = _JOINING.sub(_mark, piece)
        else:
            inside = _JOINING_WORD.split(piece)[::2]
            marks = [_mark(m) for m in _JOINING_WORD.finditer(piece)]
            kept = [f"\\text{{{part.strip()}}}" if part.strip() else " " for part in inside]
            pieces[index] = "".join(a + b for a, b in zip(kept, [*marks, ""], strict=True))
    return "".join(pieces)


def _mark(match: re.Match) -> str:
    return OR if match[0].strip(", ").lower() in ("or", "或", r"\lor") else AND


def without_thousands(text: str) -> str:
    """1,234/2 -> 1234/2, outside of parentheses, where a comma separates."""
    if "," not in text:
        return text
    depths = [0] * (len(text) + 1)
    depth = 0
    for token, start, _ in tokens(text):
        depth -= token in (")", "]", r"\}")
        depths[start] = depth
        depth += token in ("(", "[", r"\{")
    return _THOUSANDS.sub(lambda m: m[0].replace(",", "") if depths[m.start()] <= 0 else m[0], text)


def split_top(text: str, separators: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """The parts between separators outside of brackets, and the separators found."""
    parts, found, start = [], [], 0
    for token, position, depth in tokens(text):
        if depth == 0 and token in separators:
            parts.append(text[start:position])
            found.append(token)
            start = position + len(token)
    parts.append(text[start:])
    return [part.strip() for part in parts], found


def is_enclosed(text: str, opening: str, closing: str) -> bool:
    """Whether one pair of brackets encloses all of `text`; half-open intervals have unlike ones."""
    if not text.startswith(opening) or not text.endswith(closing) or len(text) < len(opening) + len(closing):
        return False
    for token, start, depth in tokens(text):
        if depth == 0 and token in (")", "]", r"\}", "}"):
            return start + len(token) == len(text)
    return False
