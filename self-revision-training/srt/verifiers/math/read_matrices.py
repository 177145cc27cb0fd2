r"""Reads matrices and their linear combinations, entry by entry."""

import re

from srt.verifiers.math.forms import Answer, Expression, Matrix
from srt.verifiers.math.limits import MAX_FORMULA_CHARACTERS
from srt.verifiers.math.split import tokens

_MATRIX = re.compile(r"\\begin{([pbvBV]?matrix|array)}(?:{[^{}]*})?(.*?)\\end{\1}")

_TIMES = ("", "*", r"\cdot", r"\times")  # between two matrices


def read_determinant(text: str) -> Expression | None:
    """The determinant of a matrix between bars, written out: of two or three rows."""
    match = _MATRIX.fullmatch(text)
    if match is None or match[1] != "vmatrix":
        return None
    rows = [[f"({cell.strip()})" for cell in row.split("&")] for row in re.split(r"\\\\", match[2]) if row.strip()]
    if len(rows) not in (2, 3) or any(len(row) != len(rows) for row in rows):
        return None
    return Expression(_expanded(rows))


def _expanded(rows: list[list[str]]) -> str:
    if len(rows) == 1:
        return rows[0][0]
    first, *others = rows
    minors = [_expanded([row[:i] + row[i + 1 :] for row in others]) for i in range(len(first))]
    return "".join(f"{'+-'[i % 2]}{first[i]}\\cdot ({minor})" for i, minor in enumerate(minors))


def read_matrix(text: str) -> Answer | None:
    if r"\begin" not in text or r"\begin{cases}" in text or text.startswith(r"\{"):  # a set of matrices
        return None
    if text[0] in "[(" and text[1:].lstrip().startswith("\\begin") and text.endswith((")", "]")):
        text = text[1:-1].strip()
    terms: list[tuple[str, list[list[str]]]] = []  # (coefficient with its sign, rows)
    position = 0
    for match in _MATRIX.finditer(text):
        if match[1] == "vmatrix":
            return None
        behind, ahead = _at_first_sign(text[position : match.start()]) if terms else ("", text[: match.start()])
        rows = [[cell.strip() for cell in row.split("&")] for row in re.split(r"\\\\", match[2]) if row.strip()]
        if terms and not ahead:
            product = _product(terms[-1][1], rows) if behind in _TIMES else None
            if product is None:
                return None
            terms[-1], position = (terms[-1][0], product), match.end()
            continue
        if behind:  # a factor behind the matrix before: c \\begin{bmatrix}...\\end{bmatrix} e^t + ...
            coefficient, before = terms[-1]
            terms[-1] = f"{coefficient} {behind}", before
        terms.append((ahead.strip().rstrip("*").removesuffix(r"\cdot").strip(), rows))
        position = match.end()
    if not terms:
        return None
    if rest := text[position:].strip():
        if rest.startswith(("+", "-", "^", "=", "_", ",")):
            return None
        terms[-1] = f"{terms[-1][0]} {rest}", terms[-1][1]
    shapes = {tuple(map(len, rows)) for _, rows in terms}
    if len(shapes) > 1 or any("=" in c or c.count("(") != c.count(")") or "\\begin" in c for c, _ in terms):
        return None
    if len(terms) == 1 and not terms[0][0].strip():
        return Matrix(tuple(map(tuple, terms[0][1])))
    cells = [[[_scaled(coefficient, cell) for cell in row] for row in rows] for coefficient, rows in terms]
    return Matrix(
        tuple(tuple(" ".join(parts) for parts in zip(*rows, strict=True)) for rows in zip(*cells, strict=True))
    )


def _product(left: list[list[str]], right: list[list[str]]) -> list[list[str]] | None:
    """The rows of a product of matrices; None when they do not fit, or an entry would be too long to be read."""
    if any(len(row) != len(right) for row in left) or len({len(row) for row in right}) != 1:
        return None
    columns = list(zip(*right, strict=True))
    entries = [
        ["+".join(f"({a})\\cdot ({b})" for a, b in zip(row, column, strict=True)) for column in columns]
        for row in left
    ]
    return entries if max(len(entry) for row in entries for entry in row) <= MAX_FORMULA_CHARACTERS else None


def _at_first_sign(text: str) -> tuple[str, str]:
    """`text` before and from its first plus or minus outside of brackets."""
    for token, start, depth in tokens(text):
        if depth == 0 and token in "+-":
            return text[:start].strip(), text[start:].strip()
    return text.strip(), ""


def _scaled(coefficient: str, cell: str) -> str:
    coefficient = coefficient.strip()
    return f"{coefficient}({cell})" if coefficient in ("", "+", "-") else rf"{coefficient}\cdot ({cell})"
