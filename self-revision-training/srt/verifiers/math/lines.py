r"""Lines in space: a point and a direction, (1,2,0) + t(3,-1,4), or (x-1)/3 = (y-2)/(-1) = z/4."""

import re
from collections.abc import Sequence
from fractions import Fraction

from sympy import Expr, Poly, PolynomialError, Symbol

from srt.verifiers.math.expressions import exact_value, number_of, parse
from srt.verifiers.math.forms import Answer, Assignment, Collection, Expression, Line, Matrix, Quantity, Relation
from srt.verifiers.math.split import split_top

_VECTOR = r"\([^()]*,[^()]*\)|\\begin{[pb]matrix}(?:(?!\\begin|\\end).)*\\end{[pb]matrix}"
_SCALAR = r"[a-z]|\\(?:lambda|mu|tau|alpha|beta|theta)(?![A-Za-z])"
_LINE = re.compile(rf"({_VECTOR})\s*\+\s*({_SCALAR})\s*(?:\\cdot\s*)?({_VECTOR})")
_REVERSED = re.compile(rf"({_SCALAR})\s*(?:\\cdot\s*)?({_VECTOR})\s*\+\s*({_VECTOR})")


def read_line(text: str) -> Line | None:
    if "+" not in text or text[-1:] not in ")}":
        return None
    if match := _LINE.fullmatch(text):
        return _line(match[1], match[3])
    if match := _REVERSED.fullmatch(text):
        return _line(match[3], match[2])
    return None


def _line(point: str, direction: str) -> Line | None:
    vectors = [_entries(text) for text in (point, direction)]
    if vectors[0] is None or vectors[1] is None or len(vectors[0]) != len(vectors[1]) or not any(vectors[1]):
        return None
    return Line(vectors[0], vectors[1])


def _entries(text: str) -> tuple[Fraction, ...] | None:
    """The numbers of a vector; None when it holds anything but numbers."""
    if text.startswith("("):
        texts = split_top(text[1:-1], (",",))[0]
    else:
        texts = [cell.strip() for cell in re.split(r"\\\\|&", text[text.index("}") + 1 : text.rindex(r"\end")])]
    numbers = [number_of(entry) for entry in texts if entry]
    return None if None in numbers else tuple(n for n in numbers if n is not None)


def same_line(gold: Answer, answer: Answer) -> bool:
    """At least one of the two is a Line; the other may be a point with a parameter, or symmetric equations."""
    first, second = _as_line(gold), _as_line(answer)
    if first is None or second is None or len(first.point) != len(second.point):
        return False
    between = [b - a for a, b in zip(first.point, second.point, strict=True)]
    return _parallel(first.direction, second.direction) and _parallel(first.direction, between)


def _parallel(first: Sequence[Fraction], second: Sequence[Fraction]) -> bool:
    pairs = range(len(first))
    return all(first[i] * second[j] == first[j] * second[i] for i in pairs for j in pairs)


def _as_line(answer: Answer) -> Line | None:
    match answer:
        case Line():
            return answer
        case Collection("tuple", items):
            return _with_parameter(list(map(_text_of, items)))
        case Collection("list", items) if all(isinstance(item, Assignment) for item in items):
            return _with_parameter([_text_of(item.value) for item in _by_name(items)])
        case Matrix(rows) if all(len(row) == 1 for row in rows):
            return _with_parameter([row[0] for row in rows])
        case Relation(sides, operators) if len(sides) > 2 and set(operators) == {"="}:
            return symmetric_line(sides)
    return None


def _by_name(items: Sequence[Answer]) -> list[Assignment]:
    return sorted((item for item in items if isinstance(item, Assignment)), key=lambda item: item.name)


def _text_of(entry: Answer) -> str:
    """4t may have been read as a quantity."""
    return entry.text if isinstance(entry, Expression) else entry.whole if isinstance(entry, Quantity) else ""


def _with_parameter(entries: list[str]) -> Line | None:
    """(1+3t, 2-t, 4t)"""
    parsed = [parse(entry) for entry in entries]
    symbols = {s for p in parsed if isinstance(p, Expr) for s in p.free_symbols}
    if len(symbols) != 1:
        return None
    linear = [_linear(p, next(iter(symbols))) for p in parsed]
    pairs = [pair for pair in linear if pair is not None]
    return Line(tuple(p for _, p in pairs), tuple(d for d, _ in pairs)) if len(pairs) == len(linear) else None


def symmetric_line(sides: Sequence[str]) -> Line | None:
    """(x-1)/3 = (y-2)/(-1) = z/4: each side is linear in x, y or z."""
    found: dict[str, tuple[Fraction, Fraction]] = {}
    for side in sides:
        parsed = parse(side)
        if not isinstance(parsed, Expr) or len(parsed.free_symbols) != 1:
            return None
        symbol = next(iter(parsed.free_symbols))
        pair = _linear(parsed, symbol)
        if pair is None or pair[0] == 0 or str(symbol) in found or str(symbol) not in "xyz":
            return None
        slope, offset = pair
        found[str(symbol)] = 1 / slope, -offset / slope  # of the variable, in the common value
    ordered = [found[name] for name in sorted(found)]
    return Line(tuple(point for _, point in ordered), tuple(direction for direction, _ in ordered))


def _linear(parsed: object, symbol: object) -> tuple[Fraction, Fraction] | None:
    """(a, b) of a * symbol + b with rational numbers."""
    if not isinstance(parsed, Expr) or not isinstance(symbol, Symbol):
        return None
    try:
        polynomial = Poly(parsed.doit(), symbol)
    except PolynomialError:
        return None
    if polynomial.degree() > 1:
        return None
    values = exact_value(polynomial.coeff_monomial(symbol)), exact_value(polynomial.coeff_monomial(1))
    return None if values[0] is None or values[1] is None else (values[0], values[1])
