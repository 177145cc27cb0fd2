"""Whether two read answers are the same, by the conventions in docs/math-verdicts.md."""

import re
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from typing import TypeGuard

from srt.verifiers.math.cases import same_cases
from srt.verifiers.math.congruences import has_congruence, same_classes
from srt.verifiers.math.expressions import (
    DIVISION_BY_ZERO,
    UnreadableError,
    has_value,
    number_of,
    parse,
    same_formula,
)
from srt.verifiers.math.forms import (
    Answer,
    Assignment,
    Based,
    Cases,
    Chain,
    Collection,
    Expression,
    Group,
    Intersection,
    Interval,
    Line,
    Literal,
    Matrix,
    Measure,
    NamedSet,
    Quantity,
    Ratio,
    Relation,
    Structure,
    Time,
    Union,
    Without,
    Words,
)
from srt.verifiers.math.groups import same_group, same_structure
from srt.verifiers.math.lines import same_line, symmetric_line
from srt.verifiers.math.lists import matched, same_collection, same_list
from srt.verifiers.math.literals import same_literal
from srt.verifiers.math.numbers import read_number
from srt.verifiers.math.quantities import (
    same_based,
    same_matrix,
    same_measure,
    same_quantity,
    same_ratio,
    same_time,
)
from srt.verifiers.math.read import read
from srt.verifiers.math.regions import as_region, same_region
from srt.verifiers.math.relations import same_relation
from srt.verifiers.math.renaming import with_variables_of
from srt.verifiers.math.text import key
from srt.verifiers.math.words import normal_words, same_words

_PRODUCT = re.compile("[a-z]{2,3}")
_NATURAL = ("N", "Z+", "Z>=0")  # N is either of the others
_SETS = (Interval, Union, Intersection, Without, NamedSet)


def same(gold: Answer, answer: Answer) -> bool:
    """Raises UnreadableError when that depends on a formula that cannot be parsed."""
    if gold == answer:
        return True
    if has_congruence(gold) or has_congruence(answer):
        return same_classes(gold, answer)
    if _is_single(gold) and not gold.integers:
        return same(gold.items[0], answer)
    if _is_single(answer):
        if not answer.integers:
            return same(gold, answer.items[0])
        if not isinstance(gold, Collection):
            return same_collection(Collection("list", (gold,), answer.integers), answer, same)
    for form, compare in _COMPARISONS:
        if isinstance(gold, form) or isinstance(answer, form):
            return compare(gold, answer)
    return False


def _is_single(answer: Answer) -> TypeGuard[Collection]:
    r"""One value, with or without braces; but \{\{1\}\} and \{\emptyset\} are sets of a set."""
    if not isinstance(answer, Collection) or len(answer.items) != 1 or answer.kind not in ("set", "list"):
        return False
    item = answer.items[0]
    is_set = isinstance(item, NamedSet) or (isinstance(item, Collection) and item.kind == "set")
    return answer.kind == "list" or not is_set


def _same_chain(gold: Answer, answer: Answer) -> bool:
    """A = B = C: the gold answer is any of them; an answer must be consistent, and one of them right."""
    if isinstance(answer, Chain):
        if not _is_consistent(answer):
            return False
        if isinstance(gold, Chain):
            if (
                len(gold.values) == len(answer.values) == 2
                and _readable_same(gold.values[0], answer.values[0]) is False
            ):
                return False  # of another expression
            return any(_readable_same(g, answer.values[-1]) for g in gold.values)
        # Of an equation the right side counts; of a value and its approximation, either.
        last = answer.values[-1]
        if _readable_same(gold, last):
            return True
        return any(_readable_same(gold, value) for value in answer.values if _is_constant(value))
    assert isinstance(gold, Chain)
    results = [_readable_same(value, answer) for value in gold.values]
    if all(result is None for result in results):
        raise UnreadableError(True, "no side of the equation can be read")
    return any(results)


def _readable_same(gold: Answer, answer: Answer) -> bool | None:
    try:
        return same(gold, answer)
    except UnreadableError:
        return None


def _is_constant(value: Answer) -> bool:
    return isinstance(value, Expression) and number_of(value.text) is not None


def _is_consistent(chain: Chain) -> bool:
    """Whether the constant sides are equal, or roundings of each other: 7 = 5 is not, and 70/0 is nothing."""
    texts = [value.text for value in chain.values if isinstance(value, Expression)]
    if any(parse(text) == DIVISION_BY_ZERO for text in texts):
        return False
    constants = [text for text in texts if has_value(text)]
    for text, other in zip(constants, constants[1:], strict=False):
        numbers = number_of(text), number_of(other)
        if numbers[0] is None or numbers[1] is None:  # complex
            if not same_formula(text, other):
                return False
            continue
        tolerance = max(_resolution(text), _resolution(other))
        if abs(numbers[0] - numbers[1]) > max(tolerance, abs(numbers[0]) / 10**30):
            return False
    return True


def _resolution(text: str) -> Fraction:
    number = read_number(text)
    if number is None or number.decimals is None or abs(number.decimals) > 300:
        return Fraction(0)
    unit = Fraction(10) ** -number.decimals
    return unit / 100 if number.percent else unit


def _same_assignment(gold: Answer, answer: Answer) -> bool:
    values = [a.value if isinstance(a, Assignment) else a for a in (gold, answer)]
    if any(isinstance(value, Line) for value in values):  # r = ..., (x,y,z) = ...
        return same_line(values[0], values[1])
    if isinstance(gold, Assignment) and isinstance(answer, Assignment):
        if _same_name(gold.name, answer.name):
            return same(gold.value, answer.value)
        if (value := with_variables_of(gold, answer)) is not None:
            return same(gold.value, value)
        as_equations = [_as_relation(gold), _as_relation(answer)]
        sides = [a.value for a in (gold, answer) if not _PRODUCT.fullmatch(a.name)]  # xy = 4 is an equation
        if as_equations[0] and as_equations[1] and not any(map(_is_constant, sides)):
            return same_relation(as_equations[0], as_equations[1])
        return False
    if isinstance(gold, Assignment):
        if isinstance(answer, Relation):
            if (equation := _as_relation(gold)) is not None and answer.operators == ("=",):
                return _same_equation(equation, answer)
            region, other = as_region(gold), as_region(answer)
            return region is not None and other is not None and same_region(region, other)
        region, other = as_region(gold), as_region(answer)
        if region is not None and other is not None:
            return same_region(region, other)
        if isinstance(answer, Collection) and gold.name.startswith("("):
            named = _named_tuple(gold)
            if named is not None and all(isinstance(item, Assignment) for item in answer.items):
                return same_list(named, list(answer.items), same)
        return same(gold.value, answer)
    assert isinstance(answer, Assignment)
    if isinstance(gold, Relation):
        if gold.operators == ("=",) and (equation := _as_relation(answer)) is not None:
            return same_relation(gold, equation)
        region, other = as_region(gold), as_region(answer)
        return region is not None and other is not None and same_region(region, other)
    if isinstance(gold, Collection) and answer.name.startswith("(") and gold.kind == "list":
        named = _named_tuple(answer)
        if named is not None and all(isinstance(item, Assignment) for item in gold.items):
            return same_list(list(gold.items), named, same)
    return same(gold, answer.value)


def _same_equation(gold: Relation, answer: Relation) -> bool:
    """Of an assignment and another equation. A name like h^{-1}(x) is no formula: not the same then."""
    try:
        return same_relation(gold, answer)
    except UnreadableError as error:
        if error.is_gold and isinstance(parse(gold.sides[1]), str):
            raise
        return False


def _same_name(gold: str, answer: str) -> bool:
    if gold == answer:
        return True
    names = [re.sub(r"\\(?:vec|hat|bar)|[\s{}]", "", name) for name in (gold, answer)]
    return names[0] == names[1] or sorted(names) == sorted(["y", "f(x)"])


def _as_relation(assignment: Assignment) -> Relation | None:
    value = assignment.value
    if isinstance(value, Chain):
        value = value.values[0]
    return Relation((assignment.name, value.text), ("=",)) if isinstance(value, Expression) else None


def _named_tuple(assignment: Assignment) -> list[Answer] | None:
    """(x,y) = (1,2) as x = 1, y = 2."""
    value = assignment.value
    names = assignment.name.strip("()").replace(";", ",").split(",")
    if isinstance(value, Collection) and value.kind == "tuple" and len(names) == len(value.items):
        return [Assignment(name, item) for name, item in zip(names, value.items, strict=True)]
    return None


def _same_words(gold: Answer, answer: Answer) -> bool:
    texts = [_text_of(a) for a in (gold, answer)]
    if texts[0] is None or texts[1] is None:
        return False
    return same_words(texts[0], texts[1])


def _text_of(answer: Answer) -> str | None:
    match answer:
        case Words(text) | Expression(text):
            return text
        case Assignment(_, value):
            return _text_of(value)
        case Quantity(_, _, _, whole) if whole:
            return whole
        case Collection("list", items) if all(isinstance(i, (Words, Expression)) for i in items):
            return ", ".join(_text_of(i) or "" for i in items)
    return None


def _same_named_set(gold: Answer, answer: Answer) -> bool:
    names = [a.name if isinstance(a, NamedSet) else None for a in (gold, answer)]
    if names[0] == names[1] or names[0] in _NATURAL and names[1] in _NATURAL and "N" in names:
        return True
    if isinstance(answer, Words) or isinstance(gold, Words):
        words = answer if isinstance(answer, Words) else gold
        assert isinstance(words, Words)
        return "empty" in names and normal_words(words.text) in (
            "none",
            "does not exist",
            "no solution",
            "no real solution",
        )
    return _same_set(gold, answer)


def _same_set(gold: Answer, answer: Answer) -> bool:
    if any(isinstance(a, Collection) and a.kind == "list" for a in (gold, answer)):
        conditions = [a for a in (gold, answer) if isinstance(a, Collection) and a.kind == "list"]
        if all(as_region(item) is not None for c in conditions for item in c.items):
            unions = [
                Union(a.items) if isinstance(a, Collection) and a.kind == "list" else a for a in (gold, answer)
            ]
            return _same_set(unions[0], unions[1])
        return False
    first, second = as_region(gold), as_region(answer)
    if first is not None and second is not None:
        return same_region(first, second)
    if type(gold) is not type(answer):
        if (
            isinstance(gold, Relation)
            and isinstance(answer, (Union, Intersection))
            or isinstance(answer, (Assignment, Relation))
        ):
            return False
        for side, is_gold in ((gold, True), (answer, False)):
            if isinstance(side, Expression) and isinstance(parse(side.text), str) and key(side.text):
                raise UnreadableError(is_gold, "a set that cannot be read")
        return False
    if isinstance(gold, (Union, Intersection)) and isinstance(answer, (Union, Intersection)):
        return matched(gold.parts, answer.parts, same)
    if isinstance(gold, Interval) and isinstance(answer, Interval):
        return False
    if isinstance(gold, Without) and isinstance(answer, Without):
        return same(gold.whole, answer.whole) and same(gold.removed, answer.removed)
    return False


def _same_relation(gold: Answer, answer: Answer) -> bool:
    if isinstance(gold, Relation) and isinstance(answer, Relation):
        if len(gold.sides) > 2 and set(gold.operators) == set(answer.operators) == {"="}:
            return _same_system(gold, answer)
        first, second = as_region(gold), as_region(answer)
        if first is not None and second is not None:
            if first.name != second.name:
                return same_relation(gold, answer)
            return same_region(first, second)
        return same_relation(gold, answer)
    first, second = as_region(gold), as_region(answer)
    if first is not None and second is not None:
        return same_region(first, second)
    if isinstance(answer, Relation) and isinstance(gold, (Expression, Quantity)):
        # The right side counts: x + y = 5 says 5, when x + y is asked for.
        return answer.operators[-1] in ("=", r"\approx") and same(gold, read(answer.sides[-1]))
    return False


def _same_system(gold: Relation, answer: Relation) -> bool:
    """A = B = C in any order, or as a line in space."""
    if symmetric_line(gold.sides) and symmetric_line(answer.sides):
        return same_line(gold, answer)
    sides = [[Expression(side) for side in relation.sides] for relation in (gold, answer)]
    return matched(sides[0], sides[1], same)


def _same_expression(gold: Answer, answer: Answer) -> bool:
    if isinstance(gold, Expression) and isinstance(answer, Expression):
        return same_formula(gold.text, answer.text)
    return False


# The first form that either of the two has decides how they are compared.
_COMPARISONS: list[tuple[type | tuple[type, ...], Callable[[Answer, Answer], bool]]] = [
    (Chain, _same_chain),
    (Assignment, _same_assignment),
    (Cases, partial(same_cases, same=same, read=read)),
    (Line, same_line),
    (Group, same_group),
    (Structure, same_structure),
    (NamedSet, _same_named_set),
    (Literal, same_literal),
    (Words, _same_words),
    (Time, same_time),
    (Ratio, same_ratio),
    (Based, same_based),
    (Matrix, same_matrix),
    (_SETS, _same_set),
    (Relation, _same_relation),
    (Collection, partial(same_collection, same=same)),
    (Measure, same_measure),
    (Quantity, partial(same_quantity, same=same)),
    (Expression, _same_expression),
]
