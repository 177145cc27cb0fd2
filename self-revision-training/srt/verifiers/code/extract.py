"""The program in a response: its last complete fenced block in a known language."""

import re
from dataclasses import dataclass

from srt.verifiers.code.languages import BY_FENCE, Language

# As in CommonMark: three or more backticks or tildes, maybe indented; the closing fence is at least as long.
_FENCE = re.compile(r"^(?P<indent>[ \t]*)(?P<marks>`{3,}|~{3,})[ \t]*(?P<info>[^`\n]*)$")
_WORD = re.compile(r"[\w+#]+")


@dataclass(frozen=True)
class Program:
    language: Language
    source: str


def extract_program(response: str) -> Program | None:
    """None when there is no complete block in a known language.

    A block that is never closed is incomplete. Blocks in other languages, or without one (such as sample output),
    are skipped.
    """
    program = None
    opening: re.Match[str] | None = None
    block: list[str] = []
    for line in response.split("\n"):
        fence = _FENCE.match(line.rstrip("\r"))
        if opening is None:
            if fence:
                opening, block = fence, []
        elif fence and _closes(fence, opening):
            language = _language(opening["info"])
            if language:
                program = Program(language, "\n".join(block) + "\n")
            opening = None
        else:
            block.append(_dedent(line, len(opening["indent"])))
    return program


def _closes(fence: re.Match[str], opening: re.Match[str]) -> bool:
    marks = fence["marks"]
    return marks[0] == opening["marks"][0] and len(marks) >= len(opening["marks"]) and not fence["info"].strip()


def _language(info: str) -> Language | None:
    word = _WORD.search(info.lower())
    return BY_FENCE.get(word[0]) if word else None


def _dedent(line: str, width: int) -> str:
    """The line without the first `width` characters of its indentation, those of the opening fence."""
    indentation = len(line) - len(line.lstrip(" \t"))
    return line[min(indentation, width) :]
