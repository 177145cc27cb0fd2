"""Whether an output matches the expected one: token by token, by one rule.

Two tokens match when they are equal, or when the expected one

- is "yes" or "no" in any case, and the other is the same word in any case: problems say that any case will do, and
  the public runner of open-r1/codeforces compares so (guipenedo/piston, packages/codeforces);
- is written as a real number, and the other is a number whose value is within TOLERANCE. Real numbers have a
  decimal point, or an exponent with a sign, as printf, Python and Java write them: 0.5, 2., 1e-07, 1.5E10. All
  else is text: integers, and words such as 1e2 or 0e5, which may be names or digests. So 100 does not match 1e2,
  but it matches 1e+02 and 100.0. Values that overflow to infinity are text, too.

Every step takes time linear in the length of the outputs.
"""

import math
import re
from collections.abc import Iterator

TOLERANCE = 1e-6  # absolute or relative, whichever is larger: what most problems with real numbers ask for
SHOWN_CHARACTERS = 60  # of a token in a reason
WORDS = (b"yes", b"no")

_TOKEN = re.compile(rb"\S+")
# Possessive quantifiers: a failing match never tries shorter runs of digits again.
_NUMBER = re.compile(
    rb"[-+]?+(?P<digits>[0-9]++)?+(?P<point>\.)?+(?P<decimals>[0-9]++)?+(?P<exponent>[eE](?P<sign>[-+])?+[0-9]++)?+"
)


def first_difference(actual: bytes, expected: bytes) -> str | None:
    """The first difference, in words; None when the outputs match. White space only separates tokens."""
    if actual == expected:
        return None
    actual_tokens, expected_tokens = _tokens(actual), _tokens(expected)
    number = 0
    for number, expected_token in enumerate(expected_tokens, start=1):  # noqa: B007 (used below)
        actual_token = next(actual_tokens, None)
        if actual_token is None:
            missing = number + sum(1 for _ in expected_tokens)
            return f"{_lengths(missing, number - 1)}: missing token {_shown(expected_token)}"
        if actual_token != expected_token and not _match(actual_token, expected_token):
            return f"expected {_shown(expected_token)}, got {_shown(actual_token)} (token {number})"
    extra = next(actual_tokens, None)
    if extra is None:
        return None
    num_actual = number + 1 + sum(1 for _ in actual_tokens)
    return f"{_lengths(number, num_actual)}: unexpected extra token {_shown(extra)}"


def _tokens(output: bytes) -> Iterator[bytes]:
    """One at a time: a list of them may take fifty times the memory of the output."""
    return (match[0] for match in _TOKEN.finditer(output))


def _match(actual: bytes, expected: bytes) -> bool:
    if len(expected) <= max(map(len, WORDS)) and expected.lower() in WORDS:
        return actual.lower() == expected.lower()
    value = _value(expected, real=True)
    if value is None:
        return False
    actual_value = _value(actual, real=False)
    return actual_value is not None and abs(actual_value - value) <= TOLERANCE * max(1.0, abs(value))


def _value(token: bytes, real: bool) -> float | None:
    """The value of a finite number, else None; with `real`, also None unless it is written as a real number."""
    match = _NUMBER.fullmatch(token)
    if match is None or not (match["digits"] or match["decimals"]):
        return None
    if real and not (match["point"] or match["sign"]):
        return None
    value = float(token)
    return value if math.isfinite(value) else None


def _lengths(num_expected: int, num_actual: int) -> str:
    return f"expected {num_expected} token{'s' * (num_expected != 1)}, got {num_actual}"


def _shown(token: bytes) -> str:
    text = token[: 4 * SHOWN_CHARACTERS + 4].decode("utf-8", "replace")
    return repr(text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "...")
