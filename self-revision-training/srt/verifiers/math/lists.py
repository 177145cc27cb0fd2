"""Lists, sets and tuples: which order counts."""

import re
from collections.abc import Sequence
from functools import partial

from srt.verifiers.math.expressions import UnreadableError, parse
from srt.verifiers.math.families import same_families
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
from srt.verifiers.math.quantities import is_vector_of_units, same_matrix
from srt.verifiers.math.renaming import of_function
from srt.verifiers.math.text import without_text
from srt.verifiers.math.units import read_unit
from srt.verifiers.math.words import normal_words

_USUAL_ORDER = ("xyzw", "abcd", "pqr", "rst", "uvw")
MAX_LIST = 60  # items; matching takes quadratic time


def same_collection(gold: Answer, answer: Answer, same: Same) -> bool:
    """`same` compares two items; compare.py has it."""
    if any(isinstance(side, Collection) and side.integers for side in (gold, answer)):
        return same_families(gold, answer, same)
    if isinstance(gold, Collection) and isinstance(answer, Collection):
        kinds = (gold.kind, answer.kind)
        if kinds in (("set", "tuple"), ("tuple", "set"), ("set", "bracket"), ("bracket", "set")):
            return False
        if len(gold.items) > MAX_LIST or len(answer.items) > MAX_LIST:
            return len(gold.items) == len(answer.items) and all(map(same, gold.items, answer.items))
        if gold.kind in ("tuple", "bracket") or answer.kind in ("tuple", "bracket"):
            return _same_in_order(gold, answer, same)
        if "set" in kinds:
            same = partial(_same_element, same=same)
        return same_list(_without_repeated_points(gold.items), _without_repeated_points(answer.items), same)
    if any(isinstance(side, Matrix) or is_vector_of_units(side) for side in (gold, answer)):
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


def _same_element(gold: Answer, answer: Answer, same: Same) -> bool:
    """Of sets: {1} is not 1 there."""
    are_sets = [isinstance(item, Collection) and item.kind == "set" for item in (gold, answer)]
    return are_sets[0] == are_sets[1] and same(gold, answer)


def _without_repeated_points(items: Sequence[Answer]) -> list[Answer]:
    """A point that is listed twice is one solution; a number may be a double root."""
    return [item for i, item in enumerate(items) if not isinstance(item, Collection) or item not in items[:i]]


def _same_in_order(gold: Collection, answer: Collection, same: Same) -> bool:
    if len(gold.items) != len(answer.items):
        return False
    if "set" in (gold.kind, answer.kind):
        return False
    items = list(answer.items)
    if _names(gold.items) is None or _names(answer.items) is None:
        gold_items, items = _in_order_of_names(gold.items), _in_order_of_names(answer.items)
    else:
        gold_items = list(gold.items)
    if all(isinstance(item, Assignment) for item in items) and len(
        {i.name for i in items if isinstance(i, Assignment)}
    ) < len(items):
        return False
    return all(map(same, gold_items, items))


def _in_order_of_names(items: Sequence[Answer]) -> list[Answer]:
    """y=2, x=1 as x=1, y=2: the order in which (x,y) is written. Other names stay in the order given."""
    names = _names(items)
    if names is None or not (_one_variable(names) or any(set(names) <= set(usual) for usual in _USUAL_ORDER)):
        return list(items)
    return [item for _, item in sorted(zip(names, items, strict=True), key=lambda pair: (len(pair[0]), pair[0]))]


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
        functions = [{(of_function(name) or ("",))[0] for name in names} for names in (gold_names, answer_names)]
        if functions[0] == functions[1] and len(functions[0]) == 1 and "" not in functions[0]:
            return matched(gold, answer, same)  # f(x) = x, f(x) = -x; named f(t) by the other
        numbered = any("_" in name for name in gold_names), any("_" in name for name in answer_names)
        if (
            _one_variable(gold_names)
            and _one_variable(gold_names) == _one_variable(answer_names)
            and not all(numbered)
        ):
            return matched(_values(gold), _values(answer), same)
        return False
    words = _distinct_words(gold), _distinct_words(answer)
    if words[0] and words[1] and sorted(words[0]) == sorted(words[1]):  # 1 red and 4 blue: not 4 red and 1 blue
        by_words = dict(zip(words[1], answer, strict=True))
        return all(same(item, by_words[word]) for item, word in zip(gold, words[0], strict=True))
    if words[0] or words[1]:
        return len(gold) == len(answer) and all(map(same, gold, answer))
    if (gold_names and _are_systems(answer)) or (answer_names and _are_systems(gold)):
        return False
    named = gold_names or answer_names
    if named and len(set(named)) > 1 and not _one_variable(named):
        gold, answer = _in_order_of_names(gold), _in_order_of_names(answer)
        return len(gold) == len(answer) and all(map(same, gold, answer))
    return matched(gold, answer, same)


def _names(items: Sequence[Answer]) -> list[str] | None:
    names = [item.name for item in items if isinstance(item, Assignment)]
    return names if len(names) == len(items) else None


def _distinct_words(items: Sequence[Answer]) -> list[str] | None:
    """What is counted in each quantity of a list; None when that names no quantity, as units do not."""
    words = [
        normal_words(item.words).removesuffix("s")
        for item in items
        if isinstance(item, Quantity) and read_unit(without_text(item.words)) is None
    ]
    return words if len(items) > 1 and len(set(words)) == len(items) and all(words) else None


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
