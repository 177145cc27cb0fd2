r"""Formulas in plain typing and in old TeX, in the spelling of LaTeX: sin(x), abs(x), {n \choose k}, 2^\frac12."""

import re

# Functions that may stand before an argument without parentheses, as in "sin x".
_NAMES = "sin cos tan tg cot ctg csc sinh cosh tanh arcsin arccos arctan arctg arccot ln log lg".split()
_OTHER_NAMES = {"tg": "tan", "ctg": "cot", "arctg": "arctan"}
# Others need parentheses: "sec" is also a unit, "max" a word. What they are in LaTeX.
_CALLS = {
    **{name: f"\\{name}" for name in ("sec", "exp", "max", "min", "gcd", "lcm")},
    **{f"a{name}": f"\\arc{name}" for name in ("sin", "cos", "tan")},
    **{f"{arc}{name}h": f"\\ar{name}h" for arc in ("a", "ar", "arc") for name in ("sin", "cos", "tan")},
    **{"log2": r"\log_{2}", "log10": r"\log_{10}"},
}
_ENCLOSED = {
    "abs": ("|", "|"),
    "floor": (r"\lfloor ", r"\rfloor "),
    "ceil": (r"\lceil ", r"\rceil "),
    "sqrt": (r"\sqrt{", "}"),
    "cbrt": (r"\sqrt[3]{", "}"),
}
FUNCTIONS = frozenset((*_CALLS, *_ENCLOSED))  # also of \operatorname{}
_BEFORE = r"(?<![A-Za-z\\])"
_NAME = re.compile(
    rf"{_BEFORE}({'|'.join(sorted(_NAMES, reverse=True))})(?=\s?[\d(^_{{\\]|(?:x|\s[A-Za-z])(?![A-Za-z]))"
)
_CALL = re.compile(rf"{_BEFORE}({'|'.join(sorted(_CALLS, reverse=True))})\s?(?=[({{])")
_ENCLOSING = re.compile(rf"{_BEFORE}({'|'.join(_ENCLOSED)})\s?\(")
_CHOOSE = re.compile(r"\\choose(?![A-Za-z])\s*")
_PRIME_FIRST = re.compile(r"(?<=[A-Za-z])('+)(_(?:{[^{}]*}|\w))")
_SCRIPTED = re.compile(r"([_^])\s?(\\(?:frac|binom|sqrt(?:\[[^\[\]]*\])?)\s?{)")
MAX_REPLACED = 20


def from_plain_functions(text: str) -> str:
    r"""Names of functions without a backslash, with one.

    >>> from_plain_functions("2sin(x) + abs(x-1)")
    '2\\sin (x) + |x-1|'
    """
    if "(" in text:
        for _ in range(MAX_REPLACED):
            match = _ENCLOSING.search(text)
            end = closing_parenthesis(text, match.end() - 1) if match else None
            if match is None or end is None:
                break
            opening, closing = _ENCLOSED[match[1]]
            text = text[: match.start()] + opening + text[match.end() : end] + closing + text[end + 1 :]
        text = _CALL.sub(lambda m: _CALLS[m[1]], text)
    return _NAME.sub(lambda m: f"\\{_OTHER_NAMES.get(m[1], m[1])} ", text)


def from_old_tex(text: str) -> str:
    r"""{n \choose k} as \binom{n}{k}, and f'_1 as f_1'."""
    for _ in range(MAX_REPLACED):
        match = _CHOOSE.search(text)
        if match is None:
            break
        start = _start_of_group(text, match.start())
        end = _end_of_group(text, match.end())
        above, below = text[start : match.start()].strip(), text[match.end() : end].strip()
        text = f"{text[:start]}\\binom{{{above}}}{{{below}}}{text[end:]}"
    return _PRIME_FIRST.sub(r"\2\1", text) if "'_" in text else text


def with_braced_scripts(text: str) -> str:
    r"""2^\frac{1}{2} as 2^{\frac{1}{2}}."""
    for match in reversed(list(_SCRIPTED.finditer(text))):
        end = _end_of_group(text, match.end()) + 1
        if "sqrt" not in match[2]:
            if text[end : end + 1] != "{":
                continue
            end = _end_of_group(text, end + 1) + 1
        text = f"{text[: match.start()]}{match[1]}{{{text[match.start(2) : end]}}}{text[end:]}"
    return text


def closing_parenthesis(text: str, start: int) -> int | None:
    """The index of the parenthesis that closes the one at `start`."""
    depth = 0
    for position in range(start, len(text)):
        depth += (text[position] == "(") - (text[position] == ")")
        if depth == 0:
            return position
    return None


def _start_of_group(text: str, position: int) -> int:
    """Where the contents of the innermost braces around `position` begin."""
    depth = 0
    for index in range(position - 1, -1, -1):
        if text[index] in "{}" and text[index - 1 : index] != "\\":
            depth += (text[index] == "}") - (text[index] == "{")
            if depth < 0:
                return index + 1
    return 0


def _end_of_group(text: str, position: int) -> int:
    """Where they end."""
    depth = 0
    for index in range(position, len(text)):
        if text[index] in "{}" and text[index - 1 : index] != "\\":
            depth += (text[index] == "{") - (text[index] == "}")
            if depth < 0:
                return index
    return len(text)
