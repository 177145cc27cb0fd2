"""The text of single tokens, such that they join to the text of the response."""

from typing import Any

BROKEN = "\ufffd"  # what part of a character decodes to
CONTINUES = "\u22ef"  # stands for the later tokens of a character that several tokens write


def token_texts(tokenizer: Any, ids: list[int]) -> list[str]:
    """One text for each token. A character that several tokens write stands at the first of them.

    A token is decoded behind the one before it, because some tokenizers drop the space before a first word.
    """
    texts: list[str] = []
    position = 0
    while position < len(ids):
        width = _width(tokenizer, ids, position)
        texts.append(_behind(tokenizer, ids, position, width))
        texts += [CONTINUES] * (width - 1)
        position += width
    return texts


def token_text(tokenizer: Any, token: int) -> str:
    """A token on its own, as an alternative that was not taken."""
    return tokenizer.decode([token])


def _width(tokenizer: Any, ids: list[int], position: int) -> int:
    """How many tokens write the characters that begin here; 1 where they never become whole."""
    for width in range(1, 5):
        if BROKEN not in tokenizer.decode(ids[position : position + width]):
            return width
    return 1


def _behind(tokenizer: Any, ids: list[int], position: int, width: int) -> str:
    text = tokenizer.decode(ids[position : position + width])
    if not position:
        return text
    before = tokenizer.decode([ids[position - 1]])
    both = tokenizer.decode(ids[position - 1 : position + width])
    return both[len(before) :] if both.startswith(before) else text
