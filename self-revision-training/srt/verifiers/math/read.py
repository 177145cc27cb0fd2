r"""Reads an answer: which of the forms it has, down to the formulas, which are parsed when they are compared."""

import re
from functools import lru_cache

from srt.verifiers.math.cases import read_cases
from srt.verifiers.math.congruences import read_congruence
from srt.verifiers.math.dates import read_date
from srt.verifiers.math.ellipsis import DOTS, is_dots, written_out
from srt.verifiers.math.forms import (
    Answer,
    Assignment,
    Chain,
    Collection,
    Expression,
    Intersection,
    Interval,
    NamedSet,
    Quantity,
    Relation,
    Union,
    Without,
    Words,
)
from srt.verifiers.math.groups import read_structure
from srt.verifiers.math.leads import formula_among_words, without_lead
from srt.verifiers.math.lines import read_line
from srt.verifiers.math.literals import is_spelled, read_literal
from srt.verifiers.math.names import (
    NAME,
    declared_constants,
    declared_integers,
    has_variables,
    is_evaluation,
    named_set_symbol,
    normal_name,
    without_trailing_member,
)
from srt.verifiers.math.numbers import read_number
from srt.verifiers.math.read_matrices import read_determinant, read_matrix
from srt.verifiers.math.read_quantities import read_quantity, read_special
from srt.verifiers.math.regions import ray
from srt.verifiers.math.renaming import is_variable, letters
from srt.verifiers.math.split import AND, OR, is_enclosed, mark_joining_words, split_top, without_thousands
from srt.verifiers.math.text import clean, without_text
from srt.verifiers.math.words import is_words, named_set, number_word

RELATIONS = ("=", "<", ">", r"\leq", r"\geq", r"\neq", r"\approx", r"\in", r"\equiv", r"\sim")
ORDER = ("<", ">", r"\leq", r"\geq", r"\neq")
_BUILDER = re.compile(r"^\\{\s*(.+?)\s*(?:\||:)\s*(.+)\\}$")
_FRENCH = re.compile(r"^([\[\]])([^,;\[\]]+)[,;]([^,;\[\]]+)([\[\]])$")
_INFINITIES = {
    "infinity": r"\infty",
    "positive infinity": r"\infty",
    "infinite": r"\infty",
    "negative infinity": r"-\infty",
}
_EXCEPT = re.compile(
    r"^(?:all |the )?(?:real numbers|reals|real [a-z])\s*,?\s*(?:except|other than|excluding|but)(?: "
    r"for)?\s*(.+)$",
    re.IGNORECASE,
)
_CASES = re.compile(r"\\begin{cases}([^&]*?)\\end{cases}")
_NAMED = re.compile(r"^\\text{\s*([^{}:]+):\s*}\s*(.+)$")
_MEMBERSHIP = re.compile(r"[A-Za-z](?:, [A-Za-z])*\s*\\in(?![A-Za-z])")
_ONE_LETTER = re.compile("[a-z]|[A-Z]")
_ANGLE_BRACKETS = re.compile(r"(?:^|(?<==))\s?<([^<>=]+,[^<>=]+)>$")
_PLUS_MINUS = re.compile(r"\\(?:pm|mp)(?![A-Za-z])")


@lru_cache(maxsize=4096)
def read(text: str) -> Answer:
    """The form of an answer, given as any text of bounded length."""
    return _read_cleaned(clean(formula_among_words(text)))


def _read_cleaned(text: str) -> Answer:
    text = _ANGLE_BRACKETS.sub(r"(\1)", without_lead(text))
    if match := _EXCEPT.match(without_text(text)):
        return Without(NamedSet("R"), _as_collection("set", re.sub(r"^[A-Za-z]\s*(?:=|\\neq)\s*", "", match[1])))
    if (name := named_set(text)) is not None:
        return NamedSet(name)
    if without_text(text).lower() in _INFINITIES:
        return Expression(_INFINITIES[without_text(text).lower()])
    if (word := number_word(text)) is not None:
        return Expression(str(word))
    if (date := read_date(text)) is not None:
        return date
    if is_words(text):
        return Words(text)
    return _read_list(without_thousands(mark_joining_words(text)))


def _read_list(text: str) -> Answer:
    text = _joined_at_quads(_CASES.sub(lambda m: ", ".join(re.split(r"\\\\|,", m[1])), text))
    if (answer := read_congruence(text) or read_cases(text, _read_list)) is not None:
        return answer
    if match := _FRENCH.match(text):
        if match[1] == "]" or match[4] == "[":
            return _read_item(text)
    if AND in text and (systems := _systems_joined_by_and(text)):
        return systems
    for separators in ((";",), (OR,), (AND, ",")):
        if any(s in text for s in separators):
            parts, found = split_top(text, separators)
            parts = [p.strip(" " + AND + OR) for p in parts]
            parts = [p for p in parts if p]
            if len(parts) > 1 and found:
                return _collect(parts, separators)
            if len(parts) == 1:
                text = parts[0]
    text, integers = without_trailing_member(text)
    answer = _read_item(text)
    if integers and not isinstance(answer, Collection):
        return Collection("list", (answer,), integers)
    return answer


def _systems_joined_by_and(text: str) -> Answer | None:
    """x=1, y=2 and x=3, y=4: each part names the same unknowns, so that the word separates solutions."""
    parts, found = split_top(text, (AND,))
    if not found or not all(part.count("=") > 1 for part in parts):
        return None
    items = [_read_list(part.strip(" ,")) for part in parts]
    names = [
        [i.name for i in item.items if isinstance(i, Assignment)] if isinstance(item, Collection) else []
        for item in items
    ]
    if not all(isinstance(item, Collection) and item.kind == "list" and _distinct(item) for item in items):
        return None
    return Collection("list", tuple(items)) if len({frozenset(n) for n in names}) == 1 else None


def _joined_at_quads(text: str) -> str:
    r"""y_1=x \quad y_2=x^2: a wide space separates relations, and nothing else."""
    if r"\quad" not in text:
        return text
    parts, _ = split_top(text, (r"\quad",))
    parts = [part for part in parts if part]
    separate = all(split_top(part, RELATIONS)[1] for part in parts)
    return ", ".join(part.rstrip(",") for part in parts) if separate else " ".join(parts)


def _collect(parts: list[str], separators: tuple[str, ...]) -> Answer:
    items: list[Answer] = []
    integers: set[str] = set()
    parts = _with_names_joined(parts)
    for part in parts:
        if names := declared_integers(part):
            integers |= names
            continue
        if any(_is_constant_in(name, p) for name in declared_constants(part) for p in parts if p != part):
            continue
        part, more = without_trailing_member(part)
        integers |= more
        item = _read_list(part)
        if isinstance(item, Collection) and item.integers:
            integers |= item.integers
        if isinstance(item, Collection) and item.kind == "list" and (separators != (";",) or len(item.items) == 1):
            if (
                separators[0] == OR
                and len(item.items) > 1
                and any(isinstance(i, Assignment) for i in item.items)
                and _distinct(item)
            ):
                items.append(item)  # systems: x=1, y=2 or x=3, y=4
            else:
                items.extend(item.items)
        else:
            items.append(item)
    if len(items) == 1 and not integers:
        return items[0]
    items = written_out(_with_inherited_names(items))
    conditions = [i for i in items if _is_condition(i)]
    are_sets = any(part.startswith(r"\{") for part in parts)  # several answers, not one set
    if len(items) > 1 and len(conditions) == len(items) and not are_sets:
        return Union(tuple(items)) if separators[0] == OR else Intersection(tuple(items))
    return Collection("list", tuple(items), frozenset(integers))


def _with_names_joined(parts: list[str]) -> list[str]:
    r"""a, b \in \mathbb{R} is one part."""
    joined: list[str] = []
    for part in reversed(parts):
        if joined and _ONE_LETTER.fullmatch(part) and _MEMBERSHIP.match(joined[-1]):
            joined[-1] = f"{part}, {joined[-1]}"
        else:
            joined.append(part)
    return joined[::-1]


def _is_constant_in(name: str, part: str) -> bool:
    """Whether a letter only occurs on the right of an equation: the c of f(x) = cx, where c is any number."""
    left, equals, right = part.partition("=")
    return bool(equals) and name in letters(Expression(right)) and name not in letters(Expression(left))


def _distinct(collection: Collection) -> bool:
    names = [i.name for i in collection.items if isinstance(i, Assignment)]
    return len(set(names)) == len(names) > 1


def _is_condition(item: Answer) -> bool:
    return (
        isinstance(item, (Intersection, Union))
        or (isinstance(item, Relation) and all(o in ORDER for o in item.operators))
        or (isinstance(item, Assignment) and isinstance(item.value, NamedSet))
    )


def _with_inherited_names(items: list[Answer]) -> list[Answer]:
    """n = 1, 2, 3: the values after an assignment have its name."""
    named: list[Answer] = []
    for item in items:
        last = named[-1] if named else None
        if isinstance(last, Assignment) and isinstance(item, (Expression, Quantity)):
            item = Assignment(last.name, item)
        elif isinstance(last, Relation) and last.operators == (r"\neq",) and isinstance(item, Expression):
            item = Relation((last.sides[0], item.text), last.operators)  # x \neq -1, 1
        elif isinstance(last, Assignment) and isinstance(item, Collection) and last.name.startswith("("):
            item = Assignment(last.name, item)
        named.append(item)
    return named


def _read_item(text: str) -> Answer:
    text = text.strip()
    if match := _NAMED.match(text):
        return Assignment(normal_name(match[1]), _read_item(match[2]))
    parts, found = split_top(text, (r"\cup",))
    if found and all(split_top(part, RELATIONS)[1] and r"\in" not in part for part in parts):
        return Union(tuple(_read_item(part) for part in parts))
    if _PLUS_MINUS.search(text):
        plus = re.sub(r"\\pm(?![A-Za-z])", "+", re.sub(r"\\mp(?![A-Za-z])", "-", text))
        minus = re.sub(r"\\pm(?![A-Za-z])", "-", re.sub(r"\\mp(?![A-Za-z])", "+", text))
        both = tuple(_read_item(re.sub(r"^\+\s*", "", t)) for t in (plus, minus))
        if all(isinstance(item, Relation) and item.operators == (r"\neq",) for item in both):
            return Intersection(both)
        return Collection("list", both)
    if read_number(text) is not None:
        return Expression(text)
    sides, operators = split_top(text, RELATIONS)
    if operators:
        return _read_relation(sides, operators)
    return _read_value(text)


def _read_relation(sides: list[str], operators: list[str]) -> Answer:
    if not all(sides):
        kept = [s for s in sides if s]
        if len(kept) != 1 or len(operators) != 1 or operators[0] in (r"\neq", r"\sim"):
            return Relation(tuple(sides), tuple(operators))
        return ray(operators[0], kept[0], bound_first=bool(sides[0])) or _read_value(kept[0])
    if set(operators) <= {"=", r"\approx"}:
        first = sides[0]
        if len(sides) > 2 and (system := _read_system(sides, operators)) is not None:
            return system
        if not NAME.fullmatch(first) and NAME.fullmatch(sides[-1]) and len(sides) == 2 and not read_number(first):
            sides = sides[::-1]  # 5 = x
        elif len(sides) == 2 and read_number(first) and NAME.fullmatch(sides[1]):
            sides = sides[::-1]
        if NAME.fullmatch(sides[0]):
            values = tuple(_read_value(side) for side in sides[1:])
            return Assignment(normal_name(sides[0]), values[0] if len(values) == 1 else Chain(values))
        if (
            len(sides) > 2
            or not (has_variables(sides[0]) or has_variables(sides[1]))
            or r"\approx" in operators
            or is_evaluation(sides[0])
        ):
            return Chain(tuple(_read_value(side) for side in sides))
        return Relation(tuple(sides), tuple(operators))
    if operators == [r"\in"]:
        if (name := named_set_symbol(sides[1])) is not None:
            return Assignment(normal_name(sides[0]), name)
        return Assignment(normal_name(sides[0]), _read_value(sides[1]))
    return Relation(tuple(sides), tuple(operators))


def _read_system(sides: list[str], operators: list[str]) -> Answer | None:
    """x = y = z, and sides without a common letter: equations, not the steps of a calculation."""
    if set(operators) != {"="}:
        return None
    *before, last = sides
    if all(_ONE_LETTER.fullmatch(side) for side in before) and len(set(before)) == len(before):
        if _ONE_LETTER.fullmatch(last):
            return Relation(tuple(sides), tuple(operators))
        if not has_variables(last):  # x = y = 1
            return Collection("list", tuple(Assignment(name, _read_value(last)) for name in before))
    used = [letters(Expression(side)) - {"e", "i"} for side in sides]
    if NAME.fullmatch(sides[0]) or not all(used) or len(set().union(*used)) < sum(map(len, used)):
        return None
    return Relation(tuple(sides), tuple(operators))


def _read_value(text: str) -> Answer:
    text = text.strip()
    if read_number(text) is not None:
        return Expression(text)
    if is_dots(text):
        return DOTS
    if (named := named_set_symbol(text)) is not None:
        return named
    if (name := named_set(text)) is not None:
        return NamedSet(name)
    if (cases := read_cases(text, _read_list)) is not None:
        return cases
    for read_form in (
        read_date,
        read_line,
        _read_union,
        read_determinant,
        read_matrix,
        _read_brackets,
        read_special,
        read_quantity,
        read_literal,
    ):
        answer = read_form(text)
        if answer is not None:
            return answer
    if is_words(text):
        return Words(text)
    return read_structure(text) or Expression(text)


def _read_union(text: str) -> Answer | None:
    parts, found = split_top(text, (r"\cup",))
    if found and all(parts):
        return Union(tuple(_read_value(p) for p in parts))
    parts, found = split_top(text, (r"\cap",))
    if found and all(parts):
        return Intersection(tuple(_read_value(p) for p in parts))
    parts, found = split_top(text, (r"\setminus",))
    if len(found) == 1 and all(parts):
        return Without(_read_value(parts[0]), _read_value(parts[1]))
    match = re.match(r"^(\\mathbb{R})\s*-\s*(\\{.*\\})$", text)
    return Without(NamedSet("R"), _read_value(match[2])) if match else None


def _read_brackets(text: str) -> Answer | None:
    if match := _FRENCH.match(text):
        left, low, high, right = match.groups()
        if left == "]" or right == "[":
            return Interval(low.strip(), high.strip(), left == "]", right == "[")
    if is_enclosed(text, r"\{", r"\}"):
        if builder := _BUILDER.match(text):
            return _read_builder(builder[1], builder[2])
        return _as_collection("set", text[2:-2])
    if is_enclosed(text, "{", "}"):
        return _as_collection("set", text[1:-1]) if "," in text else _read_item(text[1:-1])
    for opening, closing in (("(", ")"), ("[", "]"), ("[", ")"), ("(", "]")):
        if not is_enclosed(text, opening, closing):
            continue
        inside = text[1:-1]
        parts, found = split_top(inside, (";",))
        if not found:
            parts, found = split_top(inside, (",",))
        parts = [p for p in parts if p]
        if len(parts) == 1 and opening == "(" and closing == ")":
            return _read_item(parts[0]) if not re.fullmatch(r"[A-J]", parts[0]) else Expression(parts[0])
        if len(parts) == 2 and (opening, closing) != ("(", ")") and not any(map(is_spelled, parts)):
            return Interval(parts[0], parts[1], opening == "(", closing == ")")
        if len(parts) >= 2 and opening + closing in ("()", "[]"):
            return Collection("tuple" if opening == "(" else "bracket", tuple(_read_item(p) for p in parts))
    return None


def _as_collection(kind: str, inside: str) -> Answer:
    inside = inside.strip()
    if not inside:
        return NamedSet("empty")
    answer = _read_list(inside)
    if isinstance(answer, Collection) and answer.kind == "list":
        return Collection(kind, answer.items, answer.integers)
    return Collection(kind, (answer,))


def _read_builder(element: str, condition: str) -> Answer:
    conditions = _read_list(condition)
    name = element
    if match := re.match(r"^(.+?)\s*\\in\s*(.+)$", element):
        name, domain = match[1], named_set_symbol(match[2])
        if domain is not None and domain.name != "R":
            return Intersection((Assignment(normal_name(name), domain), conditions))
    if isinstance(conditions, Assignment) and conditions.name == normal_name(name):
        return conditions.value
    if isinstance(conditions, Collection) and conditions.integers and len(name) > 1:
        return Collection("set", (Expression(name),), conditions.integers)
    if names := declared_integers(condition):
        return Collection("set", (_read_item(name),), frozenset(names))
    if isinstance(conditions, (Relation, Union, Intersection)) and not is_variable(name, conditions):
        return Collection("set", (Expression(name), conditions))  # {3x | x > 2}
    return conditions
