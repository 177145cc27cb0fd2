"""The program in a response: its last complete fenced block in a known language.

Every step takes time linear in the length of the response.
"""

from dataclasses import dataclass

from srt.verifiers.code.languages import Language, language_of_fence

BLANKS = " \t"


@dataclass(frozen=True)
class Program:
    """`standard`: the version of the language that the fence names (C++: "14", "17", ...), or an empty string."""

    language: Language
    source: str
    standard: str = ""


@dataclass(frozen=True)
class Fence:
    """A line that opens or closes a block. `marks`: the backticks or tildes; `info`: what follows them."""

    indent: int
    marks: str
    info: str


def extract_program(response: str) -> Program | None:
    """None when there is no complete block in a known language.

    A block that is never closed is incomplete. Blocks in other languages, or without one (such as sample output),
    are skipped.
    """
    program = None
    opening: Fence | None = None
    block: list[str] = []
    for line in response.split("\n"):
        fence = parse_fence(line)
        if opening is None:
            if fence:
                opening, block = fence, []
        elif fence and _closes(fence, opening):
            if found := language_of_fence(opening.info):
                language, standard = found
                program = Program(language, "\n".join(block) + "\n", standard)
            opening = None
        else:
            block.append(_dedent(line, opening.indent))
    return program


def parse_fence(line: str) -> Fence | None:
    """As in CommonMark: three or more backticks or tildes, maybe indented; no backtick after backticks."""
    text = line.lstrip(BLANKS)
    mark = text[:1]
    if mark not in ("`", "~"):
        return None
    info = text.lstrip(mark)
    num_marks = len(text) - len(info)
    if num_marks < 3 or (mark == "`" and mark in info):
        return None
    return Fence(len(line) - len(text), mark * num_marks, info.strip())


def _closes(fence: Fence, opening: Fence) -> bool:
    """The closing fence is at least as long, and nothing follows it."""
    return fence.marks.startswith(opening.marks) and not fence.info


def _dedent(line: str, width: int) -> str:
    """The line without the first `width` characters of its indentation, those of the opening fence."""
    indentation = len(line) - len(line.lstrip(BLANKS))
    return line[min(indentation, width) :]
