"""What the tests of function verdicts share: a judged program, or the failure of ours."""

import pytest

from srt.contract.records import Problem
from srt.verifiers.types import VerifierError
from tests.srt.helpers.code_cases import fenced, judge


def verdict(program, test, x="?", entry_point="add", limits=None):
    tests = [{"test": test, "entry_point": entry_point}]
    return judge().judge(fenced(program), Problem("p", x, "", mode="code", tests=tests, limits=limits or {}))


def failure(program, test, **more):
    """(kind, text) of the VerifierError."""
    with pytest.raises(VerifierError) as caught:
        verdict(program, test, **more)
    return caught.value.kind, str(caught.value)
