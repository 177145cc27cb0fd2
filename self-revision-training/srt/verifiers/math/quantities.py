"""Numbers with units, ratios, times of day, numbers in a base, and matrices."""

import re
from fractions import Fraction

from sympy import Expr, Integer, Symbol, latex

from srt.verifiers.math.expressions import number_of, parse, same_formula
from srt.verifiers.math.forms import (
    Answer,
    Based,
    Collection,
    Expression,
    Matrix,
    Measure,
    Quantity,
    Ratio,
    Same,
    Time,
)
from srt.verifiers.math.literals import is_formula
from srt.verifiers.math.text import without_text
from srt.verifiers.math.units import Unit, read_unit

_TEMPERATURES = {(("celsius", 1),), (("fahrenheit", 1),)}


def same_quantity(gold: Answer, answer: Answer, same: Same) -> bool:
    """`same` compares what stands without its unit; compare.py has it."""
    units = [read_unit(without_text(a.words)) if isinstance(a, Quantity) else None for a in (gold, answer)]
    values = [a.value if isinstance(a, Quantity) else a for a in (gold, answer)]
    for side, other in ((gold, answer), (answer, gold)):
        # Letters behind a number are a unit only against a plain number or another quantity.
        if (
            isinstance(side, Quantity)
            and not side.sure
            and isinstance(other, Expression)
            and re.search(r"[A-Za-z]", other.text)
        ):
            pair = [
                Expression(a.whole) if isinstance(a, Quantity) and not a.sure else v
                for a, v in zip((gold, answer), values, strict=True)
            ]
            if not re.search(
                r"\\(?:frac|sqrt|pi)|^[\d\s]*$", re.sub(r"\\pi|\\frac|\\sqrt|[{}\d\s./^()]", "", other.text) or "1"
            ):
                return same(pair[0], pair[1])
    first, second = units
    if first is not None and second is not None and _is_angle(first) != _is_angle(second):
        if {first.dimensions, second.dimensions} & _TEMPERATURES:  # 20^\circ may be a temperature
            first = second
    if first is not None and second is not None and first != second:
        if first.dimensions != second.dimensions:
            return False
        return _same_converted(values[0], values[1], second.factor / first.factor)
    if units == [None, None] and all(isinstance(a, Quantity) and _is_product(a) for a in (gold, answer)):
        return same(*(Expression(a.whole) for a in (gold, answer) if isinstance(a, Quantity)))  # 2abc, 2abd
    if values[0] == values[1]:
        return True
    if isinstance(values[0], Expression) and isinstance(values[1], Expression):
        if same_formula(values[0].text, values[1].text):
            return True
        return _same_angle(values, units)
    if all(isinstance(a, Quantity) for a in (gold, answer)):
        return False
    return same(values[0], values[1])


def _is_product(quantity: Quantity) -> bool:
    """2abc: letters right behind a number that spell no word, so no name of something counted."""
    return (
        not quantity.sure and re.search(r"\d[A-Za-z]", quantity.whole) is not None and is_formula(quantity.whole)
    )


def _is_angle(unit: Unit) -> bool:
    return unit.dimensions == (("angle", 1),)


def _same_converted(gold: Answer, answer: Answer, factor: Fraction) -> bool:
    if not isinstance(gold, Expression) or not isinstance(answer, Expression):
        return False
    numbers = [number_of(a.text) for a in (gold, answer)]
    return numbers[0] is not None and numbers[1] is not None and numbers[0] == numbers[1] * factor


def _same_angle(values: list[Answer], units: list[Unit | None]) -> bool:
    r"""60^\circ and \frac{\pi}{3}: only against a multiple of pi, since 60^\circ and 60 are the same as well."""
    for (degrees, unit), radians in (((values[0], units[0]), values[1]), ((values[1], units[1]), values[0])):
        if (
            unit is None
            or not _is_angle(unit)
            or not isinstance(degrees, Expression)
            or not isinstance(radians, Expression)
        ):
            continue
        if r"\pi" in radians.text and r"\pi" not in degrees.text:
            return same_formula(radians.text, f"({degrees.text})\\cdot\\frac{{\\pi}}{{180}}")
    return False


def same_measure(gold: Answer, answer: Answer) -> bool:
    totals = [_total(a) for a in (gold, answer)]
    return totals[0] is not None and totals[0] == totals[1]


def _total(answer: Answer) -> tuple[Fraction, tuple] | None:
    """A sum of quantities in base units, with their dimension."""
    quantities = answer.quantities if isinstance(answer, Measure) else (answer,)
    total, dimensions = Fraction(0), set()
    for quantity in quantities:
        if not isinstance(quantity, Quantity):
            return None
        unit, number = read_unit(without_text(quantity.words)), number_of(quantity.value.text)
        if unit is None or number is None:
            return None
        total += number * unit.factor
        dimensions.add(unit.dimensions)
    return (total, dimensions.pop()) if len(dimensions) == 1 else None


def same_ratio(gold: Answer, answer: Answer) -> bool:
    parts = [_parts(a) for a in (gold, answer)]
    first, second = parts
    if first is None or second is None or len(first) != len(second):
        return False
    return all(
        same_formula(f"({first[0]})\\cdot({second[i]})", f"({second[0]})\\cdot({first[i]})")
        for i in range(1, len(first))
    )


def _parts(answer: Answer) -> tuple[str, ...] | None:
    match answer:
        case Ratio(parts):
            return parts
        case Expression(text):
            return (text, "1")
        case Time(clock, ""):
            return tuple(clock.split(":"))
    return None


def same_time(gold: Answer, answer: Answer) -> bool:
    if isinstance(gold, Time) and isinstance(answer, Time):
        return gold.clock == answer.clock and (gold.half == answer.half or "" in (gold.half, answer.half))
    if any(isinstance(a, Time) and a.clock.endswith("00") for a in (gold, answer)):
        return False
    return same_ratio(gold, answer)


def same_based(gold: Answer, answer: Answer) -> bool:
    if isinstance(gold, Based) and isinstance(answer, Based):
        values = _value_in_base(gold), _value_in_base(answer)
        return gold.base == answer.base and values[0] == values[1] and values[0] is not None
    if isinstance(answer, Based) and isinstance(gold, Expression):
        value = _value_in_base(answer)
        return value is not None and number_of(gold.text) == value
    return False  # a gold answer in a base wants the base


def _value_in_base(number: Based) -> Fraction | None:
    """None when a digit does not fit the base."""
    whole, _, places = number.digits.partition(".")
    try:
        return Fraction(int(whole + places, number.base), number.base ** len(places))
    except ValueError:
        return None


def is_vector_of_units(answer: Answer) -> bool:
    r"""3\mathbf{i} - \mathbf{j}; text.py writes the unit vectors as i_{v}, j_{v}, k_{v}."""
    return isinstance(answer, Expression) and "_{v}" in answer.text


def same_matrix(gold: Answer, answer: Answer) -> bool:
    cells = [_cells(a) for a in (gold, answer)]
    for index in range(2):
        if cells[index] is None and (other := cells[1 - index]) is not None:
            cells[index] = _coordinates((gold, answer)[index], sum(map(len, other)))
    first, second = cells
    if first is None or second is None:
        return False
    if isinstance(gold, Matrix) and isinstance(answer, Matrix):
        if [len(r) for r in first] != [len(r) for r in second]:
            return False
    elif len(first) > 1 and len(first[0]) > 1 or len(second) > 1 and len(second[0]) > 1:
        return False
    flat = [[cell for row in rows for cell in row] for rows in (first, second)]
    return len(flat[0]) == len(flat[1]) and all(map(same_formula, flat[0], flat[1]))


def _coordinates(answer: Answer, size: int) -> tuple[tuple[str, ...], ...] | None:
    """Of a combination of `size` unit vectors, as a column."""
    if not is_vector_of_units(answer) or not 2 <= size <= 3:
        return None
    assert isinstance(answer, Expression)
    parsed = parse(answer.text)
    if not isinstance(parsed, Expr):
        return None
    names = [f"{letter}_v" for letter in "ijk"]
    units = {symbol.name: symbol for symbol in parsed.free_symbols if isinstance(symbol, Symbol)}
    coordinates = [parsed.coeff(units[name]) if name in units else Integer(0) for name in names]
    rest = parsed.expand() - sum(c * units[n] for c, n in zip(coordinates, names, strict=True) if n in units)
    if rest.expand() != 0 or any(c != 0 for c in coordinates[size:]):
        return None
    return tuple((latex(c),) for c in coordinates[:size])


def _cells(answer: Answer) -> tuple[tuple[str, ...], ...] | None:
    match answer:
        case Matrix(rows):
            return rows
        case Collection("tuple" | "bracket", items) if all(isinstance(i, Expression) for i in items):
            return tuple((i.text,) for i in items if isinstance(i, Expression))
    return None
