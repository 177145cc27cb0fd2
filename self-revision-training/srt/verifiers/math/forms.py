"""The forms that an answer can have. `read.py` makes them, `compare.py` compares them."""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction


class Answer:
    """A read answer."""


Same = Callable[[Answer, Answer], bool]  # (gold, answer) -> whether they are the same


@dataclass(frozen=True)
class Expression(Answer):
    """A formula, as cleaned LaTeX; parsed only when it is compared."""

    text: str


@dataclass(frozen=True)
class Quantity(Answer):
    r"""A formula and the words behind it. `sure`: they stood in \text{}; plain letters may also be variables."""

    value: "Expression"
    words: str
    sure: bool
    whole: str = ""  # the text as it was, when not sure


@dataclass(frozen=True)
class Measure(Answer):
    """Several quantities that make up one: 1 hour 30 minutes."""

    quantities: tuple[Quantity, ...]


@dataclass(frozen=True)
class Words(Answer):
    text: str


@dataclass(frozen=True)
class Literal(Answer):
    """A code, a date, a version: equal to the same text only."""

    text: str


@dataclass(frozen=True)
class Ratio(Answer):
    parts: tuple[str, ...]


@dataclass(frozen=True)
class Time(Answer):
    """12:00 or 12:00:30, with "am", "pm" or "" beside it."""

    clock: str
    half: str


@dataclass(frozen=True)
class Based(Answer):
    """204_5, -0x1F: digits in a base, with a sign and a point where they have one."""

    digits: str
    base: int


@dataclass(frozen=True)
class Assignment(Answer):
    """x = ..., f(x) = ..., x in ...: a name on the left."""

    name: str
    value: Answer


@dataclass(frozen=True)
class Chain(Answer):
    """Expressions that are said to be equal: 10^3 = 1000, sqrt(2) = 1.414 (approximately)."""

    values: tuple[Answer, ...]


@dataclass(frozen=True)
class Relation(Answer):
    """An equation or (chain of) inequalities: sides[0] operators[0] sides[1] ..."""

    sides: tuple[str, ...]
    operators: tuple[str, ...]


@dataclass(frozen=True)
class Collection(Answer):
    """`kind`: "list" (no brackets), "set", "tuple" (parentheses), "bracket" (square ones)."""

    kind: str
    items: tuple[Answer, ...]
    integers: frozenset[str] = frozenset()  # names that stand for any integer: k in Z


@dataclass(frozen=True)
class Interval(Answer):
    low: str
    high: str
    low_open: bool
    high_open: bool


@dataclass(frozen=True)
class Union(Answer):
    parts: tuple[Answer, ...]


@dataclass(frozen=True)
class Intersection(Answer):
    """Conditions that hold together: x > 1, x != 3."""

    parts: tuple[Answer, ...]


@dataclass(frozen=True)
class Without(Answer):
    """A set without the elements of another."""

    whole: Answer
    removed: Answer


@dataclass(frozen=True)
class NamedSet(Answer):
    """R, Z, N, Q, C, Z+, or the empty set."""

    name: str


@dataclass(frozen=True)
class Matrix(Answer):
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Congruence(Answer):
    r"""n \equiv 1, 5 \pmod 6; `name` is "" where no variable is named."""

    name: str
    modulus: int
    residues: frozenset[int]


@dataclass(frozen=True)
class Line(Answer):
    """point + t * direction."""

    point: tuple[Fraction, ...]
    direction: tuple[Fraction, ...]


@dataclass(frozen=True)
class Group(Answer):
    """A product of infinite (`rank` of them) and finite cyclic groups, whose orders are prime powers."""

    rank: int
    orders: tuple[int, ...]


@dataclass(frozen=True)
class Structure(Answer):
    """A group, ring or field that only its text identifies."""

    text: str


@dataclass(frozen=True)
class Cases(Answer):
    """Values under conditions: 1 if n is even, 2 otherwise."""

    pieces: tuple[tuple[Answer, str], ...]
