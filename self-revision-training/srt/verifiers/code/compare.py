"""Whether an output matches the expected one: token by token, by one rule.

Two tokens match when they are equal, or when the expected one

- is "yes" or "no" in any case, and the other is the same word in any case: problems say that any case will do, and
  the public runner of open-r1/codeforces compares so (guipenedo/piston, packages/codeforces);
- is written as a real number, and the other is a number whose value is within TOLERANCE. Real numbers have a
  decimal point, or an exponent with a sign, as printf, Python and Java write them: 0.5, 2., 1e-07, 1.5E10. All
  else is text: integers, and words such as 1e2 or 0e5, which may be names or digests. So 100 does not match 1e2,
  but it matches 1e+02 and 100.0. Values that overflow to infinity are text, too.

Every step takes time linear in the length of the outputs, and memory for a few copies of them. No Python runs per
token that is as expected, nor after the first difference: what is left are numbers that are written differently,
at most as many as the test expects, however much a program prints.
"""

import math
import re
from collections.abc import Iterator

TOLERANCE = 1e-6  # absolute or relative, whichever is larger: what most problems with real numbers ask for
SHOWN_CHARACTERS = 60  # of a token in a reason
WORDS = (b"yes", b"no")
BLOCK_BYTES = 2**16  # of an output whose tokens are compared at a time

_SPACE = re.compile(rb"\s")
_KINDS = bytes(0x20 if chr(byte) in " \t\n\r\f\v" else ord("x") for byte in range(256))  # each byte as " " or "x"
# Possessive quantifiers: a failing match never tries shorter runs of digits again.
_NUMBER = re.compile(
    rb"[-+]?+(?P<digits>[0-9]++)?+(?P<point>\.)?+(?P<decimals>[0-9]++)?+(?P<exponent>[eE](?P<sign>[-+])?+[0-9]++)?+"
)


def first_difference(actual: bytes, expected: bytes) -> str | None:
    """The first difference, in words; None when the outputs match. White space only separates tokens."""
    if actual == expected:
        return None
    actual_blocks, expected_blocks = _blocks(actual), _blocks(expected)
    got: list[bytes] = []
    wanted: list[bytes] = []
    number = 0  # of tokens that match
    while True:
        got, wanted = got or next(actual_blocks, []), wanted or next(expected_blocks, [])
        count = min(len(got), len(wanted))
        if not count:
            break
        if got[:count] != wanted[:count]:
            for index in range(count):
                if got[index] != wanted[index] and not _match(got[index], wanted[index]):
                    words = f"expected {_shown(wanted[index])}, got {_shown(got[index])}"
                    return f"{words} (token {number + index + 1})"
        number += count
        got, wanted = got[count:], wanted[count:]
    if wanted:
        return f"{_lengths(_num_tokens(expected), number)}: missing token {_shown(wanted[0])}"
    if got:
        return f"{_lengths(number, _num_tokens(actual))}: unexpected extra token {_shown(got[0])}"
    return None


def _blocks(output: bytes) -> Iterator[list[bytes]]:
    """The tokens, a list of some at a time: a list of all may take fifty times the memory of the output."""
    start = 0
    while start < len(output):
        space = _SPACE.search(output, start + BLOCK_BYTES)
        end = space.start() if space else len(output)
        if tokens := output[start:end].split():
            yield tokens
        start = end


def _num_tokens(output: bytes) -> int:
    """Without a step of Python per token: an output at its limit may have sixteen million."""
    return (b" " + output.translate(_KINDS)).count(b" x")


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
