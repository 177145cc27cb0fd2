"""The program of a response: its last complete fenced block in a known language."""

import re
from dataclasses import dataclass

from srt.verifiers.code.languages import BY_FENCE, Language

# As in CommonMark: three or more backticks or tildes, after spaces when inside of a list; its end is no shorter.
_FENCE = re.compile(r"^(?P<indent>[ \t]*)(?P<marks>`{3,}|~{3,})[ \t]*(?P<info>[^`\n]*)$")
_WORD = re.compile(r"[\w+#]+")


@dataclass(frozen=True)
class Program:
    language: Language
    source: str


def extract_program(response: str) -> Program | None:
    """None when there is no complete block in a known language.

    A block that is never closed is not complete; one in another language, or in none, such as an example's
    output, is passed over.
    """
    found = None
    opened: re.Match | None = None
    block: list[str] = []
    for line in response.split("\n"):
        fence = _FENCE.match(line.rstrip("\r"))
        if opened is None:
            if fence:
                opened, block = fence, []
        elif fence and _closes(fence, opened):
            language = _language(opened["info"])
            if language:
                found = Program(language, "\n".join(block) + "\n")
            opened = None
        else:
            block.append(_unindented(line, len(opened["indent"])))
    return found


def _closes(fence: re.Match, opened: re.Match) -> bool:
    marks = fence["marks"]
    return marks[0] == opened["marks"][0] and len(marks) >= len(opened["marks"]) and not fence["info"].strip()


def _language(info: str) -> Language | None:
    word = _WORD.search(info.lower())
    return BY_FENCE.get(word[0]) if word else None


def _unindented(line: str, most: int) -> str:
    """Without the spaces that the opening fence has too."""
    present = len(line) - len(line.lstrip(" \t"))
    return line[min(present, most) :]
