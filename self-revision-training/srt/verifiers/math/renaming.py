r"""Letters that may be called anything: of f(x) = 2x and f(n) = 2n, of 2k\pi and 2n\pi."""

import re
from collections.abc import Iterator, Mapping

from srt.verifiers.math.forms import (
    Answer,
    Assignment,
    Chain,
    Collection,
    Expression,
    Intersection,
    Interval,
    Quantity,
    Relation,
    Union,
)
from srt.verifiers.math.names import NAME

_TOKEN = re.compile(r"\\text{[^{}]*}|\\[A-Za-z]+|[A-Za-z]")
_FUNCTION = re.compile(r"(\\?[A-Za-z]+)\(([a-z](?:[,;][a-z])*)\)|([A-Za-z])_{?([a-z])}?")
INTEGER_LETTERS = frozenset("kmnl")


def of_function(name: str) -> tuple[str, tuple[str, ...]] | None:
    """(f, (x,)) of f(x), (a, (n,)) of a_n: what is defined, and its variables."""
    match = _FUNCTION.fullmatch(name)
    if match is None:
        return None
    variables = tuple(re.split("[,;]", match[2])) if match[2] else (match[4],)
    return (match[1] or match[3]), variables


def letters(answer: Answer) -> set[str]:
    return {token for text in texts(answer) for token in _TOKEN.findall(text) if len(token) == 1}


def texts(answer: Answer) -> Iterator[str]:
    """The formulas that an answer is made of."""
    match answer:
        case Expression(text):
            yield text
        case Relation(sides, _):
            yield from sides
        case Interval(low, high, _, _):
            yield from (low, high)
        case Quantity(_, _, False, whole):  # 2t: perhaps no tons
            yield whole
        case Quantity(value, _, _, _) | Assignment(_, value):
            yield from texts(value)
        case Chain(parts) | Union(parts) | Intersection(parts) | Collection(_, parts, _):
            for part in parts:
                yield from texts(part)


def renamed(answer: Answer, new: Mapping[str, str]) -> Answer:
    """`answer` with other letters in its formulas, all exchanged at once; names on the left stay."""

    def text_of(text: str) -> str:
        return _TOKEN.sub(lambda match: new.get(match[0], match[0]), text)

    def part_of(part: Answer) -> Answer:
        return renamed(part, new)

    match answer:
        case Expression(text):
            return Expression(text_of(text))
        case Quantity(_, _, False, whole) if letters(answer) & new.keys():
            return Expression(text_of(whole))
        case Relation(sides, operators):
            return Relation(tuple(map(text_of, sides)), operators)
        case Interval(low, high, low_open, high_open):
            return Interval(text_of(low), text_of(high), low_open, high_open)
        case Assignment(name, value):
            return Assignment(name, part_of(value))
        case Chain(values):
            return Chain(tuple(map(part_of, values)))
        case Union(parts):
            return Union(tuple(map(part_of, parts)))
        case Intersection(parts):
            return Intersection(tuple(map(part_of, parts)))
        case Collection(kind, items, integers):
            declared = frozenset(new.get(name[0], name[0]) + name[1:] for name in integers)
            return Collection(kind, tuple(map(part_of, items)), declared)
    return answer


def is_variable(element: str, conditions: Answer) -> bool:
    """Whether the element x, or (x, y), of a set is what the conditions are about; 3x is not."""
    names = [part.strip() for part in element.strip("()").split(",")]
    return all(NAME.fullmatch(name) and letters(Expression(name)) <= letters(conditions) for name in names)


def with_variables_of(gold: Assignment, answer: Assignment) -> Answer | None:
    """The value of `answer` in the variables of `gold`, when both define the same function; else None."""
    functions = of_function(gold.name), of_function(answer.name)
    if functions[0] is None or functions[1] is None or functions[0][0] != functions[1][0]:
        return None
    expected, actual = functions[0][1], functions[1][1]
    if len(expected) != len(actual) or len(set(actual)) < len(actual):
        return None
    if letters(answer.value) & (set(expected) - set(actual)):  # f(n) = n + x: there x is something else
        return None
    return renamed(answer.value, dict(zip(actual, expected, strict=True)))
