r"""Solutions with an arbitrary integer: 2k\pi + \pi/3 is the same numbers, whatever the letter and the shift."""

import mpmath

from srt.verifiers.math.expressions import UnreadableError, parse
from srt.verifiers.math.forms import Answer, Assignment, Collection, Expression, Quantity, Relation, Same
from srt.verifiers.math.numeric import Evaluator, NotNumericError
from srt.verifiers.math.renaming import INTEGER_LETTERS, letters, of_function, renamed, texts

# Where the integers of a declaration start. N starts at 0 or at 1, as the author likes.
_STARTS: dict[str, tuple[int | None, ...]] = {"Z": (None,), "Z+": (1,), "Z>=0": (0,), "N": (0, 1)}
_BOUNDS = {(r"\geq", "0"): "Z>=0", (">", "-1"): "Z>=0", (r"\geq", "1"): "Z+", (">", "0"): "Z+"}
NEAR, FAR = 6, 30  # members of one family up to NEAR must be among those of the other up to FAR


def same_families(gold: Answer, answer: Answer, same: Same) -> bool:
    """`same` compares two answers without declarations; at least one side has some (Collection.integers)."""
    sides = _with_declaration(gold), _with_declaration(answer)
    declared = [side.integers if isinstance(side, Collection) else frozenset() for side in sides]
    kinds = [{name[1:] for name in names} for names in declared]
    if not kinds[0] or not kinds[1]:  # a side without a declaration means the same integers
        kinds = [kinds[0] or kinds[1]] * 2
    families = [_family(side) for side in sides]
    if kinds[0] == kinds[1]:
        plain = [Collection(s.kind, s.items) if isinstance(s, Collection) else s for s in sides]
        try:
            if same(plain[0], plain[1]):
                return True
        except UnreadableError:
            if families[0] is None or families[1] is None:
                raise
    first, second = families
    if first is None or second is None or len(kinds[0]) > 1 or len(kinds[1]) > 1:
        return False
    names = [_names(side, own, other) for side, own, other in zip(sides, declared, declared[::-1], strict=True)]
    return any(
        _same_members((first, names[0], start), (second, names[1], other_start))
        for start in _STARTS[min(kinds[0])]
        for other_start in _STARTS[min(kinds[1])]
    )


def _with_declaration(side: Answer) -> Answer:
    r"""3^k, k \geq 0 with the integers that it means declared, beside an answer that declares its own."""
    if not isinstance(side, Collection) or side.integers:
        return side
    conditions = [item for item in side.items if isinstance(item, Relation) and len(item.sides) == 2]
    if len(conditions) != 1 or len(side.items) < 2:
        return side
    (name, bound), (operator,) = conditions[0].sides, conditions[0].operators
    kind = _BOUNDS.get((operator, bound.strip()))
    if kind is None or name not in INTEGER_LETTERS:
        return side
    items = tuple(item for item in side.items if item is not conditions[0])
    return Collection(side.kind, items, frozenset({name + kind}))


def with_letter_of(gold: Answer, answer: Answer) -> Answer:
    r"""`answer` with the letter of `gold` for an integer that neither declares: 2n\pi as 2k\pi.

    Only where the letter surely stands for any integer: beside \pi, or under a condition such as k \geq 1.
    """
    found = [_undeclared_letter(side) for side in (gold, answer)]
    if found[0] is None or found[1] is None or found[0] == found[1]:
        return answer
    return renamed(answer, {found[1]: found[0]})


def _undeclared_letter(side: Answer) -> str | None:
    if isinstance(side, Collection) and side.integers:
        return None
    used = letters(side)
    if len(used) != 1 or not used <= INTEGER_LETTERS:
        return None
    bounded = isinstance(side, Collection) and any(isinstance(item, Relation) for item in side.items)
    return min(used) if bounded or any(r"\pi" in text for text in texts(side)) else None


def _names(side: Answer, declared: frozenset[str], other: frozenset[str]) -> set[str]:
    """The letters that stand for an integer; without a declaration, the other side's, or the only letter."""
    used = letters(side)
    names = {name[0] for name in declared} or {name[0] for name in other}
    return used if not used & names and len(used) == 1 and used <= INTEGER_LETTERS else names


def _family(side: Answer) -> list[str] | None:
    items = side.items if isinstance(side, Collection) else (side,)
    formulas = []
    for item in items:
        if isinstance(item, Assignment) and (of_function(item.name) or ("", ()))[1]:
            return None  # f(n) = 2n + 1 says what each value is
        value = item.value if isinstance(item, Assignment) else item
        if isinstance(value, Quantity):
            value = value.value
        if isinstance(value, Collection) and value.kind == "list":
            formulas.extend(v.text for v in value.items if isinstance(v, Expression))
            continue
        if not isinstance(value, Expression):
            return None
        formulas.append(value.text)
    return formulas


_Family = tuple[list[str], set[str], int | None]  # formulas, letters of integers, the first integer


def _same_members(gold: _Family, answer: _Family) -> bool:
    near = _members(*gold, NEAR), _members(*answer, NEAR)
    far = _members(*gold, FAR), _members(*answer, FAR)
    if not near[0] or not near[1] or not far[0] or not far[1]:
        return False
    return near[0] <= far[1] and near[1] <= far[0]


def _members(formulas: list[str], names: set[str], first: int | None, reach: int) -> set[str] | None:
    members = set()
    for text in formulas:
        parsed = parse(text)
        if isinstance(parsed, str):
            return None
        variables = [s.name for s in parsed.free_symbols if s.name in names]
        for value in range(-reach if first is None else first, reach + 1):
            with mpmath.workdps(40):
                try:
                    number = Evaluator({"": 1} | {name: mpmath.mpf(value) for name in variables}).value(parsed)
                except NotNumericError:
                    return None
                members.add(mpmath.nstr(mpmath.mpc(number) + mpmath.mpf("1e-33"), 18))
    return members
