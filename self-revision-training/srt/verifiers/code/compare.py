"""Whether an output is the expected one: token by token, numbers with a point to a tolerance."""

import re

TOLERANCE = 1e-6  # absolute or relative, whichever is more: what most problems with real numbers ask for
SHOWN = 60  # characters of a token in a reason

_REAL = re.compile(rb"[-+]?(?:\d+\.\d*|\.\d+|\d+(?=[eE]))(?:[eE][-+]?\d+)?")
_NUMBER = re.compile(rb"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")


def difference(output: bytes, expected: bytes) -> str | None:
    """The first difference, in words; None when there is none. White space only separates, and case counts."""
    found, wanted = output.split(), expected.split()
    for place, (one, other) in enumerate(zip(found, wanted, strict=False), start=1):
        if one != other and not _same_number(one, other):
            return f"{_shown(one)} instead of {_shown(other)} (word {place})"
    if len(found) < len(wanted):
        return f"{len(found)} words instead of {len(wanted)}; {_shown(wanted[len(found)])} is missing"
    if len(found) > len(wanted):
        return f"{len(found)} words instead of {len(wanted)}; {_shown(found[len(wanted)])} is too much"
    return None


def _same_number(one: bytes, other: bytes) -> bool:
    """Whether `other`, which is expected, is a real number and `one` is close to it."""
    if not _REAL.fullmatch(other) or not _NUMBER.fullmatch(one):
        return False
    wanted = float(other)
    return abs(float(one) - wanted) <= TOLERANCE * max(1.0, abs(wanted))


def _shown(token: bytes) -> str:
    text = token.decode("utf-8", "replace")
    return repr(text if len(text) <= SHOWN else text[:SHOWN] + "...")
