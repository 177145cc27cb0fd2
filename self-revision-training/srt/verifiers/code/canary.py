"""Programs known to be right and wrong: when the judge is mistaken about them, its verdicts mean nothing.

Each mode in use (tests that call a function, and each language) is checked before its first verdict, and again
after a series of identical failures, which may be the programs' doing or the machine's.
"""

import re
import threading

from srt.common.errors import UserError
from srt.contract.records import Problem
from srt.verifiers.code.deadline import bounded
from srt.verifiers.code.extract import extract_program
from srt.verifiers.code.judge import CodeJudge
from srt.verifiers.types import Outcome, Verdict, VerifierError

SERIES = 20  # identical failures in a row after which the canary runs again
FUNCTION = "function"  # the mode of tests that call one; the other modes are languages
LIMITS = {"time_seconds": 10, "memory_mb": 512}
NO_COMPILER = "no compiler for "  # how the kind of a failure begins that has nothing to do with the machine
# Print the double of a number; {} is an integer literal.
PROGRAMS = {
    "Python": "print(int(input()) * {})",
    "C++": "#include <iostream>\nint main() {{ int n; std::cin >> n; std::cout << n * {}; }}",
    "C": '#include <stdio.h>\nint main() {{ int n; if (scanf("%d", &n)) printf("%d", n * {}); return 0; }}',
    "Java": (
        "import java.util.Scanner;\npublic class Main {{ public static void main(String[] args) {{ "
        "System.out.println(new Scanner(System.in).nextInt() * {}); }} }}"
    ),
    "Go": 'package main\nimport "fmt"\nfunc main() {{ var n int; fmt.Scan(&n); fmt.Println(n * {}) }}',
    "Rust": (
        "fn main() {{ let mut s = String::new(); std::io::stdin().read_line(&mut s).unwrap(); "
        'println!("{{}}", s.trim().parse::<i64>().unwrap() * {}); }}'
    ),
    FUNCTION: "def double(numbers):\n    return [n * {} for n in numbers]",
}
PRINTING = Problem("canary", "?", "", mode="code", tests=[{"input": "21\n", "output": "42\n"}], limits=LIMITS)
CALLING = Problem(
    "canary",
    "?",
    "",
    mode="code",
    tests=[{"test": "assert double([1, 21]) == [2, 42]\n", "entry_point": "double"}],
    limits=LIMITS,
)


class Canary:
    """Thread-safe. `check` and `saw` raise UserError when the judge is mistaken."""

    def __init__(self, judge: CodeJudge):
        self._judge = judge
        self._lock = threading.Lock()
        self._checked: set[str] = set()
        self._last_failure: str | None = None
        self._num_identical = 0

    def check(self, mode: str | None, again: bool = False) -> None:
        """Judge the programs of `mode`; once, unless `again`. A mode without a compiler is not checked."""
        with self._lock:
            if mode not in PROGRAMS or (mode in self._checked and not again):
                return
            for factor, expected in ((2, True), (3, False)):
                try:
                    outcome = self._outcome(mode, factor)
                except VerifierError as error:
                    if error.kind.startswith(NO_COMPILER):
                        return
                    outcome = error
                right = isinstance(outcome, Verdict) and outcome.correct == expected
                if not right:
                    said = outcome.reason if isinstance(outcome, Verdict) else outcome
                    raise UserError(
                        f"MODE=code: judging does not work on this machine now: a {mode} program known to be "
                        f"{'right' if expected else 'wrong'} got: {said}"
                    )
            self._checked.add(mode)

    def saw(self, outcome: Outcome, response: str, problem: Problem) -> None:
        """Count an outcome; after a series of identical failures the programs of its mode are judged again."""
        failure = failure_of(outcome)
        if failure == "":
            return
        with self._lock:
            self._num_identical = self._num_identical + 1 if failure == self._last_failure else 1
            self._last_failure = failure
            if failure is None or self._num_identical < SERIES:
                return
            self._num_identical = 0
        self.check(mode_of(response, problem), again=True)

    def _outcome(self, mode: str, factor: int) -> Verdict:
        language = "Python" if mode == FUNCTION else mode
        source = PROGRAMS[mode].format(factor)
        return self._judge.judge(f"```{language}\n{source}\n```", CALLING if mode == FUNCTION else PRINTING)


def mode_of(response: str, problem: Problem) -> str | None:
    """FUNCTION, or the name of the program's language; None without a program."""
    if problem.tests and "entry_point" in problem.tests[0]:
        return FUNCTION
    try:
        program = bounded(extract_program, response)
    except VerifierError:  # the response is set aside when it is judged
        return None
    return program.language.name if program else None


def failure_of(outcome: Outcome) -> str | None:
    """What identical failures have in common; None for none, "" for what does not count: nothing was run."""
    if isinstance(outcome, VerifierError):
        return outcome.kind
    if outcome.correct:
        return None
    if not outcome.extracted:
        return ""
    return re.sub(r"^test \d+ of \d+: ", "", outcome.reason)
