"""Lists, sets and tuples: which order counts, and solutions with an arbitrary integer."""

import re
from collections.abc import Sequence

import mpmath

from srt.verifiers.math.expressions import UnreadableError, parse
from srt.verifiers.math.forms import (
    Answer,
    Assignment,
    Collection,
    Expression,
    Interval,
    Matrix,
    Measure,
    Quantity,
    Same,
)
from srt.verifiers.math.numeric import Evaluator, NotNumericError
from srt.verifiers.math.quantities import same_matrix

MAX_LIST = 60  # items; matching takes quadratic time


def same_collection(gold: Answer, answer: Answer, same: Same) -> bool:
    """`same` compares two items; compare.py has it."""
    integers = (gold.integers if isinstance(gold, Collection) else frozenset()) or (
        answer.integers if isinstance(answer, Collection) else frozenset()
    )
    if integers:
        return _same_families(gold, answer, integers, same)
    if isinstance(gold, Collection) and isinstance(answer, Collection):
        kinds = (gold.kind, answer.kind)
        if kinds in (("set", "tuple"), ("tuple", "set"), ("set", "bracket"), ("bracket", "set")):
            return False
        if len(gold.items) > MAX_LIST or len(answer.items) > MAX_LIST:
            return len(gold.items) == len(answer.items) and all(map(same, gold.items, answer.items))
        if gold.kind in ("tuple", "bracket") or answer.kind in ("tuple", "bracket"):
            return _same_in_order(gold, answer, same)
        return same_list(_without_repeated_points(gold.items), _without_repeated_points(answer.items), same)
    if isinstance(gold, Matrix) or isinstance(answer, Matrix):
        return same_matrix(gold, answer)
    if isinstance(gold, Interval) or isinstance(answer, Interval):
        return False
    collection, other = (gold, answer) if isinstance(gold, Collection) else (answer, gold)
    assert isinstance(collection, Collection)
    if collection.kind == "list" and isinstance(other, Measure):
        return False
    if isinstance(gold, Collection) and isinstance(answer, Expression) and collection.kind != "list":
        parsed = parse(answer.text)
        if isinstance(parsed, str):
            raise UnreadableError(False, parsed)
    return False


def _without_repeated_points(items: Sequence[Answer]) -> list[Answer]:
    """A point that is listed twice is one solution; a number may be a double root."""
    return [item for i, item in enumerate(items) if not isinstance(item, Collection) or item not in items[:i]]


def _same_in_order(gold: Collection, answer: Collection, same: Same) -> bool:
    if len(gold.items) != len(answer.items):
        return False
    if "set" in (gold.kind, answer.kind):
        return False
    items = list(answer.items)
    if all(isinstance(item, Assignment) for item in items) and len(
        {i.name for i in items if isinstance(i, Assignment)}
    ) < len(items):
        return False
    return all(map(same, gold.items, items))


def same_list(gold: list[Answer], answer: list[Answer], same: Same) -> bool:
    """Lists without brackets and sets: in any order, except that names fix which value is which."""
    gold_names, answer_names = _names(gold), _names(answer)
    if gold_names and answer_names:
        if sorted(gold_names) == sorted(answer_names):
            if len(set(gold_names)) > 1:
                return all(
                    matched(
                        [a for a in gold if isinstance(a, Assignment) and a.name == name],
                        [a for a in answer if isinstance(a, Assignment) and a.name == name],
                        same,
                    )
                    for name in set(gold_names)
                )
            return matched(gold, answer, same)
        numbered = any("_" in name for name in gold_names), any("_" in name for name in answer_names)
        if (
            _one_variable(gold_names)
            and _one_variable(gold_names) == _one_variable(answer_names)
            and not all(numbered)
        ):
            return matched(_values(gold), _values(answer), same)
        return False
    if (gold_names and _are_systems(answer)) or (answer_names and _are_systems(gold)):
        return False
    named = gold_names or answer_names
    if named and len(set(named)) > 1 and not _one_variable(named):
        return len(gold) == len(answer) and all(map(same, gold, answer))
    return matched(gold, answer, same)


def _names(items: Sequence[Answer]) -> list[str] | None:
    names = [item.name for item in items if isinstance(item, Assignment)]
    return names if len(names) == len(items) else None


def _values(items: Sequence[Answer]) -> list[Answer]:
    return [item.value for item in items if isinstance(item, Assignment)]


def _one_variable(names: Sequence[str]) -> str | None:
    """x for x_1, x_2 or x, x: names of the solutions of one equation."""
    bases = {re.sub(r"_\d+$|_{\d+}$", "", name) for name in names}
    return bases.pop() if len(bases) == 1 else None


def _are_systems(items: Sequence[Answer]) -> bool:
    return any(isinstance(item, Collection) and item.kind == "list" for item in items)


def matched(gold: Sequence[Answer], answer: Sequence[Answer], same: Same) -> bool:
    """Whether the items can be paired off."""
    if len(gold) != len(answer):
        return False
    rest = list(answer)
    unread: UnreadableError | None = None
    unmatched = []
    for item in gold:
        if item in rest:
            rest.remove(item)
        else:
            unmatched.append(item)
    for item in unmatched:
        found = None
        for index, other in enumerate(rest):
            try:
                if same(item, other):
                    found = index
                    break
            except UnreadableError as error:
                unread = error
        if found is None:
            if unread is not None:
                raise unread
            return False
        del rest[found]
    return True


def _same_families(gold: Answer, answer: Answer, integers: frozenset[str], same: Same) -> bool:
    """Solutions with an arbitrary integer: the same numbers, whatever the shift."""
    sides = [_family(side) for side in (gold, answer)]
    declared = [side.integers if isinstance(side, Collection) else frozenset() for side in (gold, answer)]
    kinds = [{name[1:] for name in names} for names in declared if names]
    if len(kinds) == 2 and kinds[0] != kinds[1]:
        return False
    plain = [Collection(s.kind, s.items) if isinstance(s, Collection) else s for s in (gold, answer)]
    try:
        if same(plain[0], plain[1]):
            return True
    except UnreadableError:
        if sides[0] is None or sides[1] is None:
            raise
    first, second = sides
    if kinds[0] != {"Z"} or first is None or second is None:
        return False
    names = [{n[0] for n in d} or {n[0] for n in integers} for d in declared]
    near = _members(first, names[0], 6), _members(second, names[1], 6)
    far = _members(first, names[0], 30), _members(second, names[1], 30)
    if not near[0] or not near[1] or not far[0] or not far[1]:
        return False
    return near[0] <= far[1] and near[1] <= far[0]


def _family(side: Answer) -> list[str] | None:
    items = side.items if isinstance(side, Collection) else (side,)
    texts = []
    for item in items:
        value = item.value if isinstance(item, Assignment) else item
        if isinstance(value, Quantity):
            value = value.value
        if isinstance(value, Collection) and value.kind == "list":
            texts.extend(v.text for v in value.items if isinstance(v, Expression))
            continue
        if not isinstance(value, Expression):
            return None
        texts.append(value.text)
    return texts


def _members(texts: list[str], names: set[str], reach: int) -> set[str] | None:
    members = set()
    for text in texts:
        parsed = parse(text)
        if isinstance(parsed, str):
            return None
        variables = [s.name for s in parsed.free_symbols if s.name in names]
        for value in range(-reach, reach + 1):
            with mpmath.workdps(40):
                try:
                    number = Evaluator({"": 1} | {name: mpmath.mpf(value) for name in variables}).value(parsed)
                except NotNumericError:
                    return None
                members.add(mpmath.nstr(mpmath.mpc(number) + mpmath.mpf("1e-33"), 18))
    return members
