"""What the attack tests share: a problem with tight limits, and the judging of a hostile program.

Programs that succeed print 2, the expected output: a correct verdict means that an attack went through.
"""

import time

from srt.contract.records import Problem
from srt.verifiers.code.sandbox.limits import wall_seconds
from srt.verifiers.code.sandbox.process import MAX_WAIT_FACTOR
from tests.srt.helpers.code_cases import fenced, judge

LIMIT = 0.25  # seconds of CPU time; see wall_seconds()
PROBLEM = Problem(
    "attack",
    "?",
    "",
    mode="code",
    tests=[{"input": "1\n", "output": "2\n"}],
    limits={"time_seconds": LIMIT, "memory_mb": 64},
)
IF_TRUE = "\nprint(2 if {} else 'held')\n"


def attack(program, problem=PROBLEM, language="python"):
    """The reason of the verdict, which must be incorrect and arrive in time."""
    started = time.monotonic()
    verdict = judge().judge(fenced(program, language), problem)
    # The wall-clock limit grows by the time for which other work has the CPUs; a hanging judge takes for ever.
    assert time.monotonic() - started < 2 * (1 + MAX_WAIT_FACTOR) * wall_seconds(LIMIT)
    assert not verdict.correct, verdict
    return verdict.reason
