"""The numeric value of a sympy expression, at a precision of our choice and within a budget of work.

A wrong answer is nearly always wrong at the first random point, which costs less than a millisecond, whereas sympy
may simplify the difference for minutes. Two precisions bound the rounding error: what a value changes between 40
and 80 digits is its error.
"""

import random
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import mpmath
from mpmath.libmp import NoConvergence
from sympy import (
    Basic,
    Float,
    Integer,
    Rational,
    Symbol,
    UnevaluatedExpr,
)
from sympy.core.function import AppliedUndef

LOW_DIGITS, HIGH_DIGITS = 40, 80
MAX_OPERATIONS = 60_000  # of one evaluation: a sum over 1 000 terms is fine
MAX_TERMS = 5_000
MAX_EXPONENT = 1e6  # powers beyond have millions of digits or none

_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "exp": mpmath.exp,
    "sin": mpmath.sin,
    "cos": mpmath.cos,
    "tan": mpmath.tan,
    "cot": mpmath.cot,
    "sec": mpmath.sec,
    "csc": mpmath.csc,
    "asin": mpmath.asin,
    "acos": mpmath.acos,
    "atan": mpmath.atan,
    "acot": mpmath.acot,
    "asec": mpmath.asec,
    "acsc": mpmath.acsc,
    "sinh": mpmath.sinh,
    "cosh": mpmath.cosh,
    "tanh": mpmath.tanh,
    "coth": mpmath.coth,
    "asinh": mpmath.asinh,
    "acosh": mpmath.acosh,
    "atanh": mpmath.atanh,
    "Abs": mpmath.fabs,
    "conjugate": mpmath.conj,
    "re": mpmath.re,
    "im": mpmath.im,
    "arg": mpmath.arg,
    "gamma": mpmath.gamma,
    "zeta": mpmath.zeta,
    "erf": mpmath.erf,
    "sign": mpmath.sign,
}
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "Pi": lambda: +mpmath.pi,
    "Exp1": lambda: +mpmath.e,
    "ImaginaryUnit": lambda: mpmath.mpc(0, 1),
    "GoldenRatio": lambda: +mpmath.phi,
    "EulerGamma": lambda: +mpmath.euler,
    "Infinity": lambda: mpmath.inf,
    "NegativeInfinity": lambda: -mpmath.inf,
}


class NotNumericError(Exception):
    """The expression has no numeric value here, or none within the budget."""


class Evaluator:
    """Evaluates expressions with the symbols at `point` (by name); i stands for the imaginary unit."""

    def __init__(self, point: dict[str, Any]):
        self.point = point
        self.operations = 0

    def value(self, expression: Any) -> Any:
        """At the current mpmath precision. Raises NotNumericError."""
        try:
            return self._value(expression)
        except (
            ArithmeticError,
            ValueError,
            TypeError,
            NoConvergence,
            RecursionError,
            NotImplementedError,
        ) as error:
            raise NotNumericError(type(error).__name__) from error

    def _value(self, node: Any) -> Any:
        self.operations += 1
        if self.operations > MAX_OPERATIONS:
            raise NotNumericError("too many operations")
        if isinstance(node, Integer):
            return mpmath.mpf(int(node))
        if isinstance(node, Rational):
            return mpmath.mpf(int(node.p)) / int(node.q)
        if isinstance(node, Float):
            return mpmath.mpf(str(node))
        if isinstance(node, Symbol):
            return self._symbol(node.name)
        name = type(node).__name__
        if name in _CONSTANTS:
            return _CONSTANTS[name]()
        if name in ("Sum", "Product"):
            return self._series(node, name == "Sum")
        if isinstance(node, AppliedUndef):
            arguments = tuple(mpmath.nstr(self._value(a), 15) for a in node.args)
            return self._symbol(f"{node.func.__name__}{arguments}")
        if not isinstance(node, Basic) or name in ("Integral", "Derivative", "Limit", "Subs"):
            raise NotNumericError(name)
        arguments = [self._value(a) for a in node.args]
        if name == "Add":
            return mpmath.fsum(arguments)
        if name == "Mul":
            return mpmath.fprod(arguments)
        if name == "Pow":
            return self._power(node, *arguments)
        if name in _FUNCTIONS:
            return _FUNCTIONS[name](*arguments)
        return self._other(node, name, arguments)

    def _symbol(self, name: str) -> Any:
        if name == "i":
            return mpmath.mpc(0, 1)
        if name not in self.point:
            self.point[name] = _coordinate(name, self.point)
        return self.point[name]

    def _power(self, node: Basic, base: Any, exponent: Any) -> Any:
        if abs(exponent) > MAX_EXPONENT or (abs(exponent) > 1000 and abs(base) > 1e300):
            raise NotNumericError("a power that is too large")
        root = node.args[1]
        # The real root of a negative number, as in school: (-8)^(1/3) = -2.
        if (
            isinstance(root, Rational)
            and root.q % 2
            and root.q > 1
            and mpmath.im(base) == 0
            and mpmath.re(base) < 0
        ):
            magnitude = mpmath.power(-base, exponent)
            return -magnitude if root.p % 2 else magnitude
        return mpmath.power(base, exponent)

    def _other(self, node: Basic, name: str, arguments: list[Any]) -> Any:
        if isinstance(node, UnevaluatedExpr):
            return arguments[0]
        if name == "log":
            value = mpmath.log(arguments[0])
            return value / mpmath.log(arguments[1]) if len(arguments) > 1 else value
        real = [mpmath.re(a) for a in arguments]
        if name == "floor":
            return mpmath.floor(real[0])
        if name == "ceiling":
            return mpmath.ceil(real[0])
        if name == "Max":
            return max(real)
        if name == "Min":
            return min(real)
        if name == "Mod":
            return real[0] - real[1] * mpmath.floor(real[0] / real[1])
        if name == "factorial" and abs(arguments[0]) < 1e5:
            return mpmath.factorial(arguments[0])
        if name == "binomial" and abs(arguments[0]) < 1e6:
            return mpmath.binomial(*arguments)
        if name == "factorial2" and abs(arguments[0]) < 1e5:
            return mpmath.fac2(arguments[0])
        raise NotNumericError(name)

    def _series(self, node: Any, is_sum: bool) -> Any:
        if len(node.limits) != 1:
            raise NotNumericError("a double sum")
        variable, lower, upper = node.limits[0]
        first, last = (self._value(bound) for bound in (lower, upper))
        if not all(mpmath.isint(b) for b in (first, last)) or last - first > MAX_TERMS:
            raise NotNumericError("a long or infinite sum")
        outer = self.point.get(variable.name)
        terms = []
        for index in range(int(first), int(last) + 1):
            self.point[variable.name] = mpmath.mpf(index)
            terms.append(
                self._value(node.function) if variable.name != "i" else self._with_index_i(node.function, index)
            )
        if outer is None:
            self.point.pop(variable.name, None)
        else:
            self.point[variable.name] = outer
        return mpmath.fsum(terms) if is_sum else mpmath.fprod(terms)

    def _with_index_i(self, expression: Basic, index: int) -> Any:
        symbols = [s for s in expression.free_symbols if getattr(s, "name", "") == "i"]
        return self._value(expression.xreplace({s: Integer(index) for s in symbols}))


def _coordinate(name: str, point: dict[str, Any]) -> Any:
    """A number that depends on the name only (and on the seed in `point`), with 30 random digits."""
    generator = random.Random(f"{point.get('', 0)}:{name}")
    low, high = point.get("range", (0.3, 1.9))
    if point.get("integers"):
        return mpmath.mpf(generator.randint(2, 9))
    digits = generator.randrange(10**30)
    span = Fraction(high) - Fraction(low)
    exact = Fraction(low) + span * Fraction(digits, 10**30)
    return mpmath.mpf(exact.numerator) / exact.denominator


def points(number: int) -> list[dict[str, Any]]:
    """Random points: small and large, positive and of both signs; floor and max show only over a wide range."""
    ranges = [(0.3, 1.9), (-1.9, 1.9), (5.0, 40.0), (-40.0, 40.0)]
    return [{"": seed, "range": ranges[seed % len(ranges)]} for seed in range(number)]


def integer_points(number: int) -> list[dict[str, Any]]:
    return [{"": seed, "integers": True} for seed in range(number)]


class Approximation:
    """A value together with a bound of its rounding error."""

    def __init__(self, expression: Any, point: dict[str, Any]):
        """Raises NotNumericError when the expression has no finite value there."""
        with mpmath.workdps(LOW_DIGITS):
            low = Evaluator(dict(point)).value(expression)
        with mpmath.workdps(HIGH_DIGITS):
            high = Evaluator(dict(point)).value(expression)
            if not (mpmath.isfinite(low) and mpmath.isfinite(high)):
                raise NotNumericError("not finite")
            self.value = high
            self.error = 100 * abs(high - low) + abs(high) * mpmath.mpf(10) ** (4 - LOW_DIGITS)

    @property
    def is_real(self) -> bool:
        return abs(mpmath.im(self.value)) <= self.error

    def equals(self, other: "Approximation") -> bool:
        with mpmath.workdps(HIGH_DIGITS):
            return bool(abs(self.value - other.value) <= self.error + other.error)

    def exactly(self) -> Fraction:
        """The real part as a fraction of about HIGH_DIGITS digits."""
        with mpmath.workdps(HIGH_DIGITS):
            sign, mantissa, exponent, _ = mpmath.re(self.value)._mpf_
            number = Fraction(int(mantissa)) * Fraction(2) ** int(exponent)
            return -number if sign else number


def is_constant(expression: Any) -> bool:
    """Whether an expression is a number: no symbols but i, and no unknown functions."""
    symbols = getattr(expression, "free_symbols", ())
    return not any(getattr(s, "name", "") != "i" for s in symbols) and not expression.has(AppliedUndef)
