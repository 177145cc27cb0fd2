"""Whether an output matches the expected one: token by token, real numbers within a tolerance."""

import re

TOLERANCE = 1e-6  # absolute or relative, whichever is larger: what most problems with real numbers ask for
SHOWN_CHARACTERS = 60  # of a token in a reason

_REAL = re.compile(rb"[-+]?(?:\d+\.\d*|\.\d+|\d+(?=[eE]))(?:[eE][-+]?\d+)?")
_NUMBER = re.compile(rb"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")


def first_difference(actual: bytes, expected: bytes) -> str | None:
    """The first difference, in words; None when the outputs match.

    Tokens are separated by any amount of white space, and compared case-sensitively.
    """
    actual_tokens, expected_tokens = actual.split(), expected.split()
    pairs = zip(actual_tokens, expected_tokens, strict=False)
    for number, (actual_token, expected_token) in enumerate(pairs, start=1):
        if actual_token != expected_token and not _same_number(actual_token, expected_token):
            return f"expected {_shown(expected_token)}, got {_shown(actual_token)} (token {number})"
    num_actual, num_expected = len(actual_tokens), len(expected_tokens)
    if num_actual == num_expected:
        return None
    lengths = f"expected {num_expected} token{'s' * (num_expected != 1)}, got {num_actual}"
    if num_actual < num_expected:
        return f"{lengths}: missing token {_shown(expected_tokens[num_actual])}"
    return f"{lengths}: unexpected extra token {_shown(actual_tokens[num_expected])}"


def _same_number(actual: bytes, expected: bytes) -> bool:
    """Whether `expected` is a real number (not an integer) and `actual` is close to it."""
    if not _REAL.fullmatch(expected) or not _NUMBER.fullmatch(actual):
        return False
    expected_value = float(expected)
    return abs(float(actual) - expected_value) <= TOLERANCE * max(1.0, abs(expected_value))


def _shown(token: bytes) -> str:
    text = token.decode("utf-8", "replace")
    return repr(text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "...")
