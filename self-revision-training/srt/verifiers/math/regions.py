"""Sets of real numbers: intervals, unions, and inequalities in one variable, compared piece by piece."""

import re
from dataclasses import dataclass
from fractions import Fraction

from sympy import Expr

from srt.verifiers.math.expressions import exact_value, number_of, parse, same_formula
from srt.verifiers.math.forms import (
    Answer,
    Assignment,
    Collection,
    Expression,
    Intersection,
    Interval,
    NamedSet,
    Relation,
    Union,
    Without,
)
from srt.verifiers.math.names import NAME

INFINITY, MINUS_INFINITY = r"\infty", r"-\infty"
_ABSOLUTE = re.compile(r"\|[^|]+\|")
_FLIPPED = {"<": ">", ">": "<", r"\leq": r"\geq", r"\geq": r"\leq"}


@dataclass(frozen=True)
class Piece:
    low: str
    high: str
    low_open: bool
    high_open: bool


@dataclass(frozen=True)
class Region:
    """`name`: the variable, "" when the answer names none."""

    name: str
    pieces: tuple[Piece, ...]


def as_region(answer: Answer) -> Region | None:
    """The set of reals that an answer denotes; None when it is none, or not one of the forms above."""
    match answer:
        case Interval(low, high, low_open, high_open):
            return Region("", (_piece(low, high, low_open, high_open),))
        case Collection("tuple", (Expression(low), Expression(high))):
            return Region("", (_piece(low, high, True, True),))
        case Collection("set", items) if all(isinstance(item, Expression) for item in items):
            points = [item.text for item in items if isinstance(item, Expression)]
            return Region("", tuple(Piece(point, point, False, False) for point in points))
        case NamedSet("R"):
            return Region("", (Piece(MINUS_INFINITY, INFINITY, True, True),))
        case NamedSet("R+"):
            return Region("", (Piece("0", INFINITY, True, True),))
        case NamedSet("R-"):
            return Region("", (Piece(MINUS_INFINITY, "0", True, True),))
        case NamedSet("R>=0"):
            return Region("", (Piece("0", INFINITY, False, True),))
        case NamedSet("R*"):
            return Region("", (Piece(MINUS_INFINITY, "0", True, True), Piece("0", INFINITY, True, True)))
        case NamedSet("empty"):
            return Region("", ())
        case Assignment(name, value):
            region = None if isinstance(value, Expression) else as_region(value)
            return None if region is None else Region(name, region.pieces)
        case Relation():
            return _from_relation(answer)
        case Union(parts):
            return _joined([as_region(part) for part in parts])
        case Intersection(parts):
            return _intersection([as_region(part) for part in parts])
        case Without(whole, removed):
            return _difference(as_region(whole), as_region(removed))
    return None


def _piece(low: str, high: str, low_open: bool, high_open: bool) -> Piece:
    return Piece(_end(low), _end(high), low_open, high_open)


def _end(text: str) -> str:
    bare = text.replace(" ", "")
    return {r"+\infty": INFINITY, r"\infty": INFINITY, r"-\infty": MINUS_INFINITY}.get(bare, text)


def _from_relation(relation: Relation) -> Region | None:
    sides, operators = relation.sides, relation.operators
    if len(sides) == 2:
        left, right, operator = *sides, operators[0]
        if (absolute := _of_absolute(left, right, operator)) is not None:
            return absolute
        if not NAME.fullmatch(left):
            if not NAME.fullmatch(right):
                return None
            left, right, operator = right, left, _FLIPPED.get(operator, operator)
        if operator == r"\neq":
            pieces = (Piece(MINUS_INFINITY, right, True, True), Piece(right, INFINITY, True, True))
            return Region(left, pieces)
        half_line = ray(operator, right, bound_first=False)
        return None if half_line is None else as_region(Assignment(left, half_line))
    if len(sides) == 3 and _ABSOLUTE.fullmatch(sides[1]):
        below = _of_absolute(sides[1], sides[0], _FLIPPED.get(operators[0], operators[0]))
        above = _of_absolute(sides[1], sides[2], operators[1])
        return _intersection([below, above])
    if len(sides) == 3 and NAME.fullmatch(sides[1]):
        low, name, high = sides
        if set(operators) <= {"<", r"\leq"}:
            return Region(name, (_piece(low, high, operators[0] == "<", operators[1] == "<"),))
        if set(operators) <= {">", r"\geq"}:
            return Region(name, (_piece(high, low, operators[1] == ">", operators[0] == ">"),))
    return None


def _of_absolute(left: str, right: str, operator: str) -> Region | None:
    """|x - 1| < 3 as -2 < x < 4: of an expression that is linear in one variable."""
    if not _ABSOLUTE.fullmatch(left) or operator not in _FLIPPED or number_of(right) is None:
        return None
    inside = parse(left[1:-1])
    if not isinstance(inside, Expr) or len(inside.free_symbols) != 1:
        return None
    symbol = next(iter(inside.free_symbols))
    slope, offset = exact_value(inside.diff(symbol)), exact_value(inside.subs(symbol, 0).doit())
    if slope is None or offset is None or slope == 0:
        return None
    ends = [
        rf"\frac{{({sign}({right}))-({offset.numerator}/{offset.denominator})}}{{{slope.numerator}/{slope.denominator}}}"
        for sign in (("-", "") if slope > 0 else ("", "-"))
    ]
    is_open = operator in "<>"
    if operator in ("<", r"\leq"):
        return Region(str(symbol), (Piece(ends[0], ends[1], is_open, is_open),))
    outside = Piece(MINUS_INFINITY, ends[0], True, is_open), Piece(ends[1], INFINITY, is_open, True)
    return Region(str(symbol), outside)


def ray(operator: str, bound: str, bound_first: bool) -> Interval | None:
    """The numbers that `> 5`, without a variable, or `5 <` leaves; None for another relation."""
    if operator not in _FLIPPED:
        return None
    if bound_first:
        operator = _FLIPPED[operator]
    is_open = operator in "<>"
    if operator in (">", r"\geq"):
        return Interval(bound, INFINITY, is_open, True)
    return Interval(MINUS_INFINITY, bound, True, is_open)


def _joined(regions: list[Region | None]) -> Region | None:
    names = {region.name for region in regions if region is not None and region.name}
    if any(region is None for region in regions) or len(names) > 1:
        return None
    pieces = tuple(piece for region in regions if region is not None for piece in region.pieces)
    return Region(names.pop() if names else "", pieces)


_Key = tuple[Fraction, int]  # an end: its value, and -1, 0, 1 for just below, at, just above


def _cuts(piece: Piece) -> tuple[_Key, _Key] | None:
    """The ends as positions between numbers; None when an end is no constant."""
    far = Fraction(10) ** 400
    low = -far if piece.low == MINUS_INFINITY else number_of(piece.low)
    high = far if piece.high == INFINITY else number_of(piece.high)
    if low is None or high is None:
        return None
    return (low, 1 if piece.low_open else 0), (high, 0 if piece.high_open else 1)


def _intersection(regions: list[Region | None]) -> Region | None:
    joined = _joined(regions)
    if joined is None:
        return None
    pieces: list[Piece] | None = None
    for region in regions:
        assert region is not None
        if pieces is None:
            pieces = list(region.pieces)
            continue
        common = []
        for first in pieces:
            for second in region.pieces:
                cuts = _cuts(first), _cuts(second)
                if cuts[0] is None or cuts[1] is None:
                    return None
                lower = first if cuts[0][0] >= cuts[1][0] else second
                upper = first if cuts[0][1] <= cuts[1][1] else second
                if max(cuts[0][0], cuts[1][0]) < min(cuts[0][1], cuts[1][1]):
                    common.append(Piece(lower.low, upper.high, lower.low_open, upper.high_open))
        pieces = common
    return Region(joined.name, tuple(pieces or ()))


def _difference(whole: Region | None, removed: Region | None) -> Region | None:
    if whole is None or removed is None:
        return None
    complements: list[Region | None] = [whole]
    for piece in removed.pieces:
        rest = []
        if piece.low != MINUS_INFINITY:
            rest.append(Piece(MINUS_INFINITY, piece.low, True, not piece.low_open))
        if piece.high != INFINITY:
            rest.append(Piece(piece.high, INFINITY, not piece.high_open, True))
        complements.append(Region("", tuple(rest)))
    return _intersection(complements)


def _merged(pieces: tuple[Piece, ...]) -> tuple[Piece, ...]:
    """In ascending order, touching pieces joined; as they are when an end is no constant."""
    with_cuts = [(cuts, piece) for piece in pieces if (cuts := _cuts(piece)) is not None]
    if len(with_cuts) != len(pieces):
        return pieces
    merged: list[tuple[tuple[_Key, _Key], Piece]] = []
    for cuts, piece in sorted(with_cuts, key=lambda pair: pair[0]):
        if cuts[0] >= cuts[1]:
            continue  # empty
        if merged and cuts[0] <= merged[-1][0][1]:
            (low, high), last = merged[-1]
            if cuts[1] > high:
                merged[-1] = (low, cuts[1]), Piece(last.low, piece.high, last.low_open, piece.high_open)
            continue
        merged.append((cuts, piece))
    return tuple(piece for _, piece in merged)


def same_region(gold: Region, answer: Region) -> bool:
    if gold.name and answer.name and gold.name != answer.name:
        return False
    first, second = _merged(gold.pieces), _merged(answer.pieces)
    if len(first) != len(second):
        return False
    rest = list(second)
    for piece in first:
        found = next((other for other in rest if _same_piece(piece, other)), None)
        if found is None:
            return False
        rest.remove(found)
    return True


def _same_piece(gold: Piece, answer: Piece) -> bool:
    return (
        (gold.low_open, gold.high_open) == (answer.low_open, answer.high_open)
        and _same_end(gold.low, answer.low)
        and _same_end(gold.high, answer.high)
    )


def _same_end(gold: str, answer: str) -> bool:
    infinite = {INFINITY, MINUS_INFINITY}
    return gold == answer or (not {gold, answer} & infinite and same_formula(gold, answer))
