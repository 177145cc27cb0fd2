r"""Rewrites answers that math-verify 0.9.0 misreads, and distinguishes answers that it takes for equal.

Each rule matches a whole answer or a simple part of it, and leaves everything else unchanged.
"""

import re

# math-verify reads 1\,000 as 1 * 0, and 3 1/2 as 3 times 1/2.
_THIN_SPACE = re.compile(r"(?<=\d)(?:\\[,!;: ]|~)(?=\d{3}(?!\d))")
_SPACED_THOUSANDS = re.compile(r"[-+]?\d{1,3}(?: \d{3})+")
_MIXED = re.compile(r"([-+]?)(\d+)\s+(\d+)/(\d+)")
_SCIENTIFIC = re.compile(r"([-+]?\d+(?:\.\d+)?)[eE]([-+]?\d+)")
_REPEATING = re.compile(r"(?<![\d.])(\d*)\.(\d*)\\overline\s*\{(\d+)\}")
_ALL_TEXT = re.compile(r"\\text\s*\{\s*(\d[^{}]*)\}")  # \text{25 square feet}
_WORDS_AFTER_NUMBER = re.compile(r"([-+]?\d[\d.,]*)(?:\s+[A-Za-z]{3,}\.?)+")  # shorter words may be variables
# \textbf{(B) } 12, where the gold answer is 12
_LABEL = re.compile(r"^\\(?:text|textbf|textrm|mathrm|mathbf)\s*\{\s*\([A-H]\)\s*\}(?:\s|~|\\[ ,;])*(?=\S)")

_CHOICE = re.compile(r"(?:\\(?:text|textbf|textrm|mathrm|mathbf)\s*\{)?\s*\(?\s*([A-H])\s*\)?\s*\}?")
_CHOICE_AND_MORE = re.compile(r"(?:\\(?:text|textbf|textrm|mathrm|mathbf)\s*\{)?\s*\(?\s*([A-H])\s*[).:]")
_ANOTHER_CHOICE = re.compile(r"\(\s*[A-H]\s*\)")

_UNIT = re.compile(r"\\(?:text|mathrm)\s*\{\s*([A-Za-z]+)\s*\}")
_UNITS = set("mm cm dm m km mg g kg t s min h ml l".split())  # no two of them denote the same quantity
_SIZING = re.compile(r"\\(?:left|right|[bB]igg?[lr]?)(?![A-Za-z])|\s+")


def normalize_answer(answer: str) -> str:
    """The answer in a form that math-verify parses as intended."""
    answer = _THIN_SPACE.sub("", answer).removesuffix(".").rstrip().replace("°", r"^\circ")
    answer = _LABEL.sub("", answer.removeprefix(r"\approx").strip())
    if match := _ALL_TEXT.fullmatch(answer):
        answer = match[1].strip()
    if match := _WORDS_AFTER_NUMBER.fullmatch(answer):
        answer = match[1]
    if _SPACED_THOUSANDS.fullmatch(answer):
        return answer.replace(" ", "")
    if match := _MIXED.fullmatch(answer):
        return f"{match[1]}({match[2]}+{match[3]}/{match[4]})"
    if match := _SCIENTIFIC.fullmatch(answer):
        return f"{match[1]} \\times 10^{{{match[2]}}}"
    return _REPEATING.sub(_as_fraction, answer)


def _as_fraction(match: re.Match) -> str:
    """0.1\\overline{6} -> \\frac{15}{90}: (16 - 1) / (10 * 9)."""
    whole, fixed, repeating = match.groups()
    numerator = int(whole + fixed + repeating) - int(whole + fixed or 0)
    return f"\\frac{{{numerator}}}{{{10 ** len(fixed) * (10 ** len(repeating) - 1)}}}"


def same_choice(answer: str, gold: str) -> bool | None:
    r"""Whether both name the same choice: a gold answer like B or \text{(B)}, an answer like (B) or B) 12.

    None unless each of them names exactly one.
    """
    expected = _CHOICE.fullmatch(gold.strip())
    actual = _CHOICE.fullmatch(answer) or _CHOICE_AND_MORE.match(answer)
    if expected is None or actual is None or _ANOTHER_CHOICE.search(answer, actual.end()):
        return None
    return actual[1] == expected[1]


def different_kind(answer: str, gold: str) -> str | None:
    r"""How two answers differ that math-verify takes for equal, (1,2) and \{1,2\} or 5 kg and 5 g; else None."""
    if {_bracket(answer), _bracket(gold)} == {"set", "tuple"}:
        return "a set compared with a tuple"
    units = [set(_UNIT.findall(text)) & _UNITS for text in (answer, gold)]
    if all(units) and units[0] != units[1]:
        return "different units"
    return None


def _bracket(text: str) -> str | None:
    """The kind of a list of plain elements: "set" in braces, "tuple" in parentheses; None for anything else."""
    text = _SIZING.sub("", text)
    for kind, before, after in (("set", r"\{", r"\}"), ("tuple", "(", ")")):
        if text.startswith(before) and text.endswith(after):
            inside = text[len(before) : -len(after)]
            return kind if "," in inside and not re.search(r"[()\[\]|<>:]|\\mid|\\cup|\\infty", inside) else None
    return None
