r"""Residue classes: n \equiv 1, 5 \pmod 6, and what says the same with an integer, n = 6k + 1."""

import re
from math import lcm

from sympy import Expr, Poly, PolynomialError

from srt.verifiers.math.expressions import parse
from srt.verifiers.math.forms import Answer, Assignment, Collection, Congruence, Expression, Quantity, Union
from srt.verifiers.math.split import AND, OR

MAX_MODULUS = 10**6
_CONGRUENCE = re.compile(
    rf"(?:([A-Za-z])\s*\\equiv\s*)?((?:\\pm\s*|-\s*)?\d+(?:\s*(?:,|{OR}|{AND})+\s*(?:\1\s*\\equiv\s*)?(?:\\pm\s*|-\s*)?\d+)*)\s*,?\s*"
    r"(?:\(\s*)?(?:\\p?mod|\\text{\s?mod\s?})\s*{?\s*(\d+)\s*}?\s*\)?"
)
_DIVIDES = re.compile(r"([1-9]\d{0,5})\s*\|\s*([A-Za-z])")  # 3 | n
_RESIDUE = re.compile(r"(\\pm|-)?\s*(\d+)")
_Classes = tuple[str, int, frozenset[int]]  # the variable ("" without one), modulus, residues


def read_congruence(text: str) -> Congruence | None:
    r"""`text` is a cleaned list, since n \equiv 1, 5 \pmod 6 has a comma."""
    if "mod" not in text:
        match = _DIVIDES.fullmatch(text) if "|" in text else None
        return Congruence(match[2], int(match[1]), frozenset({0})) if match else None
    match = _CONGRUENCE.fullmatch(text)
    if match is None or not 1 <= int(match[3]) <= MAX_MODULUS:
        return None
    modulus, residues = int(match[3]), set()
    for sign, number in _RESIDUE.findall(match[2]):
        residues |= {-int(number) % modulus} if sign else {int(number) % modulus}
        residues |= {int(number) % modulus} if sign == r"\pm" else set()
    return Congruence(match[1] or "", modulus, frozenset(residues))


def has_congruence(answer: Answer) -> bool:
    parts = answer.items if isinstance(answer, Collection) else answer.parts if isinstance(answer, Union) else ()
    return isinstance(answer, Congruence) or any(isinstance(part, Congruence) for part in parts)


def same_classes(gold: Answer, answer: Answer) -> bool:
    first, second = _classes(gold), _classes(answer)
    if first is None or second is None or (first[0] and second[0] and first[0] != second[0]):
        return False
    modulus = lcm(first[1], second[1])
    if modulus > MAX_MODULUS:
        return False
    return _lifted(first, modulus) == _lifted(second, modulus)


def _lifted(classes: _Classes, modulus: int) -> set[int]:
    _, own, residues = classes
    return {residue + own * i for residue in residues for i in range(modulus // own)}


def _classes(answer: Answer) -> _Classes | None:
    match answer:
        case Congruence(name, modulus, residues):
            return name, modulus, residues
        case Quantity(_, _, False, whole):
            return _of_formula("", whole)
        case Expression(text):
            return _of_formula("", text)
        case Assignment(name, Expression(text)):
            return _of_formula(name, text)
        case Collection("list" | "set", parts, integers) if {name[1:] for name in integers} <= {"Z"}:
            return _joined([_classes(part) for part in parts])
        case Union(parts):
            return _joined([_classes(part) for part in parts])
    return None


def _of_formula(name: str, text: str) -> _Classes | None:
    """6k + 1, linear in one letter, as the residue 1 modulo 6."""
    parsed = parse(text)
    if not isinstance(parsed, Expr) or len(parsed.free_symbols) != 1:
        return None
    try:
        coefficients = Poly(parsed.doit(), *parsed.free_symbols).all_coeffs()
    except PolynomialError:
        return None
    if len(coefficients) != 2 or not all(c.is_Integer for c in coefficients):
        return None
    modulus = abs(int(coefficients[0]))
    if name == str(next(iter(parsed.free_symbols))) or modulus > MAX_MODULUS:
        return None
    return name, modulus, frozenset({int(coefficients[1]) % modulus})


def _joined(parts: list[_Classes | None]) -> _Classes | None:
    known = [part for part in parts if part is not None]
    names = {name for name, _, _ in known if name}
    if not known or len(known) < len(parts) or len(names) > 1:
        return None
    modulus = lcm(*(own for _, own, _ in known))
    if modulus > MAX_MODULUS:
        return None
    return (min(names, default=""), modulus, frozenset().union(*(_lifted(part, modulus) for part in known)))
