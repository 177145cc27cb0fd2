"""Style tokens (discourse, punctuation) and content tokens (numbers, operators, names and other words)."""

import re

STYLE_WORDS = frozenset(
    """
    a an the and or but so if then thus hence therefore because since as that this these those it its is
    are was were be been being has have had do does did will would can could should may might must to of
    in on at by for from with without into we i you he she they them his her their our us let lets wait
    now first second third next finally lastly okay ok well hmm alright actually however also here there
    which who what when where how step answer final solution note again indeed just only very correct
    wrong right redo check verify rephrase above response problem
    """.split()
)
OPERATORS = re.compile(r"[-+*/=<>^×÷−≤≥≠±√%|]+|\\[A-Za-z]+")
KINDS: tuple[str, ...] = ("style word", "punctuation", "number", "operator", "word", "end of turn")
STYLE: tuple[str, ...] = ("style word", "punctuation")
CONTENT: tuple[str, ...] = ("number", "operator", "word")


def token_kind(text: str, is_end: bool = False) -> str:
    """One of KINDS. `text`: as decoded, with its space. `is_end`: it is an end-of-turn token."""
    if is_end:
        return "end of turn"
    core = text.strip()
    if any(character.isdigit() for character in core):
        return "number"
    if core.lower().strip("'’.,:;!?") in STYLE_WORDS:
        return "style word"
    if OPERATORS.fullmatch(core):
        return "operator"
    return "word" if any(character.isalpha() for character in core) else "punctuation"
