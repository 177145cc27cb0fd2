"""Equations and inequalities that are no sets of numbers: equal when one is a multiple of the other."""

from typing import Any

import mpmath
from sympy import Expr, fraction, together

from srt.verifiers.math.expressions import UnreadableError, parse, same_formula
from srt.verifiers.math.forms import Relation
from srt.verifiers.math.numeric import HIGH_DIGITS, Approximation, NotNumericError, integer_points, points
from srt.verifiers.math.text import key

_FLIPPED = {"<": ">", ">": "<", r"\leq": r"\geq", r"\geq": r"\leq"}


def same_relation(gold: Relation, answer: Relation) -> bool:
    """Raises UnreadableError."""
    if _key(gold) == _key(answer) or _key(gold) == _key(_reversed(answer)):
        return True
    gold_operator, answer_operator = gold.operators[0], answer.operators[0]
    if len(gold.operators) != len(answer.operators):
        return False
    if len(gold.operators) > 1:
        candidates = (answer, _reversed(answer))
        return any(gold.operators == c.operators and all(map(_same_side, gold.sides, c.sides)) for c in candidates)
    if not set(gold.operators) | set(answer.operators) <= {"=", "<", ">", r"\leq", r"\geq", r"\neq"}:
        return gold.operators == answer.operators and all(map(_same_side, gold.sides, answer.sides))
    kinds = {"=": "=", r"\neq": r"\neq", "<": "strict", ">": "strict", r"\leq": "weak", r"\geq": "weak"}
    if kinds[gold_operator] != kinds[answer_operator]:
        return False
    first, second = _residual(gold, is_gold=True), _residual(answer, is_gold=False)
    ratio = _constant_ratio(first, second)
    if ratio is None and gold_operator == "=":
        numerators = [fraction(together(residual))[0] for residual in (first, second)]
        ratio = _constant_ratio(*numerators)
    if ratio is None:
        return False
    return ratio > 0 or gold_operator in ("=", r"\neq")


def _key(relation: Relation) -> tuple:
    return tuple(map(key, relation.sides)), relation.operators


def _reversed(relation: Relation) -> Relation:
    operators = tuple(_FLIPPED.get(o, o) for o in reversed(relation.operators))
    return Relation(relation.sides[::-1], operators)


def _same_side(gold: str, answer: str) -> bool:

    return same_formula(gold, answer)


def _residual(relation: Relation, is_gold: bool) -> Any:
    """The greater side minus the smaller one, or left minus right."""
    sides = [parse(side) for side in relation.sides]
    for side in sides:
        if not isinstance(side, Expr):
            raise UnreadableError(is_gold, side if isinstance(side, str) else "not a formula")
    left, right = sides
    return right - left if relation.operators[0] in ("<", r"\leq") else left - right


def _constant_ratio(first: Any, second: Any) -> float | None:
    """second / first, when it is the same at all points and neither is constant; else None."""
    if not first.free_symbols or not second.free_symbols:
        return None
    for candidates in (points(4), integer_points(4)):
        ratios, values = [], []
        for point in candidates:
            try:
                a, b = Approximation(first, point), Approximation(second, point)
            except NotNumericError:
                continue
            with mpmath.workdps(HIGH_DIGITS):
                if abs(a.value) <= a.error or abs(b.value) <= b.error or not (a.is_real and b.is_real):
                    continue
                ratios.append(b.value / a.value)
                values.append(a.value)
        if len(ratios) < 2:
            continue
        with mpmath.workdps(HIGH_DIGITS):
            if all(abs(v - values[0]) < mpmath.mpf(10) ** -25 for v in values[1:]):
                return None  # a constant in disguise: no equation
            if all(abs(r - ratios[0]) <= abs(ratios[0]) * mpmath.mpf(10) ** -25 for r in ratios[1:]):
                return float(mpmath.re(ratios[0]))
        return None
    return None
