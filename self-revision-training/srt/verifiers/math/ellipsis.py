r"""Lists with dots: 1, 2, ..., 10 written out, and 1, 2, 4, \ldots, 2^{n-1} as it is."""

from collections.abc import Sequence
from fractions import Fraction

from srt.verifiers.math.forms import Answer, Expression, Words
from srt.verifiers.math.numbers import read_number

DOTS = Words(r"\ldots")
MAX_ITEMS = 60  # of a list that is written out, as MAX_LIST in lists.py


def is_dots(text: str) -> bool:
    return text.strip(" ,") in (r"\ldots", "...", "..")


def written_out(items: Sequence[Answer]) -> list[Answer]:
    """The items with the dots between whole numbers of equal distance filled in; others are left as they are."""
    full: list[Answer] = []
    for index, item in enumerate(items):
        before, after = _whole(items, index - 1), _whole(items, index + 1)
        if item != DOTS or before is None or after is None:
            full.append(item)
            continue
        earlier = _whole(items, index - 2)
        step = 1 if earlier is None else before - earlier
        missing = (after - before) / step - 1 if step else Fraction(-1)
        if missing.denominator != 1 or not 0 <= missing <= MAX_ITEMS:
            full.append(item)
            continue
        full.extend(Expression(str(before + step * i)) for i in range(1, int(missing) + 1))
    return full


def _whole(items: Sequence[Answer], index: int) -> Fraction | None:
    item = items[index] if 0 <= index < len(items) else None
    number = read_number(item.text) if isinstance(item, Expression) else None
    return number.value if number is not None and number.value.denominator == 1 else None
