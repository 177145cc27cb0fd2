r"""Words that multiply the number before them: 3 million is 3000000, 5 halves are 5/2."""

from fractions import Fraction

from srt.verifiers.math.forms import Expression, Quantity
from srt.verifiers.math.numbers import read_number
from srt.verifiers.math.text import without_text

_POWERS = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_PARTS = "half third fourth fifth sixth seventh eighth ninth tenth".split()
_SCALES = {word: Fraction(10**power) for word, power in _POWERS.items()}
_FRACTIONS = {word: Fraction(1, number) for number, word in enumerate(_PARTS, 2)}
_FRACTIONS |= {f"{word}th": 1 / scale for word, scale in _SCALES.items()}
_CHINESE = {"百万": 10**6, "万": 10**4, "亿": 10**8, "百": 100, "千": 1000}


def scaled(value: str, words: str) -> Expression | Quantity | None:
    """The number with the word worked in, and the unit behind, if any; None when the words only name a unit."""
    plain = without_text(words).strip(" .,")
    for word, scale in _CHINESE.items():
        if plain == word or (scale >= 10**4 and plain.startswith(word)):  # 千米 are kilometers
            return _product(value, Fraction(scale), plain.removeprefix(word))
    word, _, rest = plain.partition(" ")
    name = word.lower().replace("halves", "half").removesuffix("s")
    if (scale := _SCALES.get(name)) is not None:
        return _product(value, scale, rest)
    if (scale := _FRACTIONS.get(name)) is not None and (not rest or rest.startswith("of ")):
        return _product(value, scale, "")
    return None


def _product(value: str, scale: Fraction, unit: str) -> Expression | Quantity:
    number = read_number(value.strip())
    if number is not None and not number.percent and (product := number.value * scale).denominator == 1:
        formula = Expression(str(product))
    else:
        formula = Expression(rf"({value.strip()})\cdot\frac{{{scale.numerator}}}{{{scale.denominator}}}")
    return Quantity(formula, unit, sure=True) if unit.strip() else formula
