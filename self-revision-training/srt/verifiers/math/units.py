"""Units of measurement: what they are worth, so that 5 kg is 5000 g, and 10 cm is not 10 m."""

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

# name: (factor, dimension); factors within a dimension are exact
_TABLE: dict[str, tuple[Fraction, str]] = {}


def _define(dimension: str, **factors: str) -> None:
    for factor, names in factors.items():
        for name in names.split():
            _TABLE[name] = (_FACTORS[factor], dimension)


_FACTORS = {
    "nano": Fraction(1, 10**9),
    "micro": Fraction(1, 10**6),
    "milli": Fraction(1, 1000),
    "centi": Fraction(1, 100),
    "deci": Fraction(1, 10),
    "one": Fraction(1),
    "kilo": Fraction(1000),
    "mega": Fraction(10**6),
    "giga": Fraction(10**9),
    "twelve": Fraction(12),
    "three": Fraction(3),
    "sixteenth": Fraction(1, 16),
    "third": Fraction(1, 3),
    "twelfth": Fraction(1, 12),
    "sixty": Fraction(60),
    "hour": Fraction(3600),
    "day": Fraction(86400),
    "week": Fraction(604800),
    "mile": Fraction(5280),
    "hundredth": Fraction(1, 100),
    "ten": Fraction(10),
}
_define(
    "length",
    nano="nm",
    milli="mm millimeter millimeters millimetre millimetres 毫米",
    centi="cm centimeter centimeters centimetre centimetres 厘米",
    deci="dm decimeter decimeters decimetre decimetres 分米",
    one="m meter meters metre metres 米",
    kilo="km kilometer kilometers kilometre kilometres 千米 公里",
)
_define(
    "feet",
    twelfth="in inch inches",
    one="ft foot feet",
    three="yd yard yards",
    mile="mi mile miles",
)
_define(
    "mass",
    milli="mg milligram milligrams 毫克",
    one="g gram grams 克",
    kilo="kg kilogram kilograms kgs 千克 公斤",
    mega="t ton tons tonne tonnes 吨",
)
_define("pounds", sixteenth="oz ounce ounces", one="lb lbs pound pounds")
_define(
    "time",
    milli="ms",
    one="s sec secs second seconds 秒",
    sixty="min mins minute minutes 分钟",
    hour="h hr hrs hour hours 小时 时",
    day="day days 天 日",
    week="week weeks",
)
_define("months", one="month months", twelve="year years yr yrs")
_define("volume", milli="ml mL milliliter milliliters 毫升", one="l L liter liters litre litres 升")
_define("money", hundredth="cent cents ¢", one="USD usd dollar dollars")
_define("euros", one="€ euro euros")
_define("pounds sterling", one="£")
_define("yuan", one="¥ yuan 元")
_define("rupees", one="rs rupees rupee")
_define("angle", one="degree degrees deg ° 度")
_define("force", one="N newton newtons", kilo="kN")
_define("energy", one="J joule joules", kilo="kJ")
_define("power", one="W watt watts", kilo="kW")
_define("voltage", one="V volt volts", kilo="kV")
_define("current", one="A ampere amperes amps", milli="mA")
_define("pressure", one="Pa", kilo="kPa")
_define("frequency", one="Hz hertz", kilo="kHz", mega="MHz", giga="GHz")
_define("amount", one="mol moles", milli="mmol")
_define("temperature", one="K kelvin")
_define("celsius", one="celsius")
_define("fahrenheit", one="fahrenheit")
_define("bits", one="bit bits")
_SPECIAL = {
    "mph": "mi/h",
    "kmh": "km/h",
    "kph": "km/h",
    "kmph": "km/h",
    "sq": "square",
    "cu": "cubic",
    "cc": "cm^3",
    "平方米": "m^2",
    "平方厘米": "cm^2",
    "平方分米": "dm^2",
    "平方千米": "km^2",
    "立方米": "m^3",
    "立方厘米": "cm^3",
}
_POWERS = {"square": 2, "squared": 2, "cubic": 3, "cubed": 3}
_FACTOR = re.compile(r"([A-Za-z$€£¥¢°Ω]+|[\u4e00-\u9fff]+)\.?(?:\s*\^?\s*{?\s*(-?[1-9])\s*}?)?")
_TEMPERATURE = re.compile(r"(?:degrees?|deg|°) ?(c|f)(?:elsius|ahrenheit)?(?![A-Za-z])", re.IGNORECASE)


@dataclass(frozen=True)
class Unit:
    """`factor` times the base units of `dimensions`, a sorted tuple of (name, exponent)."""

    factor: Fraction
    dimensions: tuple[tuple[str, int], ...]


@lru_cache(maxsize=2048)
def read_unit(text: str) -> Unit | None:
    """The unit that `text` names, None when a part of it is no known unit.

    >>> read_unit("km/h") == read_unit("kilometers per hour")
    True
    >>> read_unit("apples") is None
    True
    """
    text = text.replace(r"\cdot", "*").replace(r"\text", "").replace("{", "").replace("}", "").replace("\\", " ")
    text = re.sub(r"(?<![A-Za-z])(?:an?|the|of)(?![A-Za-z])", " ", text)
    text = _TEMPERATURE.sub(lambda m: "celsius" if m[1].lower() == "c" else "fahrenheit", text)
    if not text.strip() or len(text) > 60:
        return None
    factor, dimensions = Fraction(1), dict[str, int]()
    for index, part in enumerate(re.split(r"/|(?<![A-Za-z])per(?![A-Za-z])", text)):
        sign = 1 if index == 0 else -1
        pending = 1  # the power from a word before the unit: square meters
        position = 0
        part = part.replace("*", " ").strip()
        if not part:
            return None
        while position < len(part):
            match = _FACTOR.match(part, position)
            if match is None:
                return None
            name, power = match[1], int(match[2] or 1)
            position = match.end()
            while position < len(part) and part[position] == " ":
                position += 1
            if name in _POWERS or name in ("sq", "cu"):
                word = _POWERS[_SPECIAL.get(name, name)]
                if name.endswith("ed"):  # meters squared
                    continue_with = _last(dimensions)
                    if continue_with is None:
                        return None
                    last_factor = factor  # a single unit so far
                    factor, dimensions[continue_with] = last_factor**word, dimensions[continue_with] * word
                else:
                    pending = word
                continue
            if name in _SPECIAL:
                known = read_unit(_SPECIAL[name])
                assert known is not None
            else:
                entry = _TABLE.get(name) or _TABLE.get(name.lower() if len(name) > 2 else "")
                if entry is None:
                    return None
                known = Unit(entry[0], ((entry[1], 1),))
            exponent = sign * power * pending
            pending = 1
            factor *= known.factor**exponent
            for dimension, times in known.dimensions:
                dimensions[dimension] = dimensions.get(dimension, 0) + times * exponent
        if pending != 1:
            return None
    return Unit(factor, tuple(sorted(dimensions.items())))


def _last(dimensions: dict[str, int]) -> str | None:
    return list(dimensions)[-1] if dimensions else None
