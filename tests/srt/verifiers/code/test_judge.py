"""The judge's verdicts on programs that were written for it, and their reasons."""

import re
from dataclasses import replace

import pytest

from srt.verifiers.code import languages
from srt.verifiers.code.grader import CodeGrader
from srt.verifiers.types import VerifierError
from tests.srt.helpers.code_cases import CONFIG, adding, doubling, fenced, judge, written_problems

pytestmark = pytest.mark.bwrap

REASONS = {
    "right": r"passed (\d+) of \1 tests",
    "wrong": r"test \d+ of \d+: wrong answer: ",
    "slow": r"test \d+ of \d+: time limit \(",
    "memory": r"test \d+ of \d+: memory limit \(",
    "crash": r"test \d+ of \d+: runtime error \(exit code \d+\)",
    "does not compile": r"compile error: program.cpp:3:14: error: ",
}


def test_programs_in_python_and_cpp_get_the_verdicts_they_were_written_for():
    cases = [(problem, program) for problem, programs in written_problems() for program in programs]
    assert len({problem.id for problem, _ in cases}) >= 20
    with CodeGrader(2, CONFIG) as grader:
        outcomes = grader.grade_all([(fenced(c["program"], c["language"]), p, "stop") for p, c in cases])
    for (problem, case), outcome in zip(cases, outcomes, strict=True):
        where = f"{problem.id}, {case['language']}, {case['kind']}: {outcome}"
        assert outcome.correct == (case["kind"] == "right"), where
        assert re.match(REASONS[case["kind"]], outcome.reason), where


@pytest.mark.parametrize(
    ("language", "program"),
    [
        (
            "c",
            "#include <math.h>\n#include <stdio.h>\n"
            'int main() { double n; scanf("%lf", &n); printf("%.0f", fabs(2 * n)); }',
        ),
        (
            "java",
            "import java.util.*;\nclass Helper { }\npublic class Double { public static void main(String[] a) { "
            "System.out.println(2 * new Scanner(System.in).nextInt()); } }",
        ),
        ("go", 'package main\nimport "fmt"\nfunc main() { var n int; fmt.Scan(&n); fmt.Println(2 * n) }'),
        (
            "rust",
            "fn main() { let mut s = String::new(); std::io::stdin().read_line(&mut s).unwrap(); "
            'println!("{}", 2 * s.trim().parse::<i64>().unwrap()); }',
        ),
    ],
)
def test_the_other_languages(language, program):
    if languages.find_toolchain(languages.BY_FENCE[language]) is None:
        pytest.skip(f"no compiler for {language}")
    assert judge().judge(fenced(program, language), doubling()).reason == "passed 3 of 3 tests"
    wrong = judge().judge(fenced(program.replace("2 * ", "3 * "), language), doubling())
    assert wrong.reason == "test 1 of 3: wrong answer: expected '2', got '3' (token 1)"


@pytest.mark.parametrize(
    ("head", "line"),
    [
        ("using namespace std;\nint midpoint = 2;", "n = n * midpoint / 2;"),  # C++20 has std::midpoint
        ("#include <ranges>", "for (int i : std::views::iota(0, 1)) n += i;"),
    ],
)
def test_cpp17_and_cpp20(head, line):
    program = f"#include <iostream>\n#include <numeric>\n{head}\nint main() {{ int n; std::cin >> n; {line} "
    assert judge().judge(fenced(program + "std::cout << 2 * n; }", "cpp"), doubling()).correct


def test_the_extracted_program_and_a_response_without_one():
    verdict = judge().judge("I give up.", doubling())
    assert (verdict.correct, verdict.extracted, verdict.reason) == (
        False,
        "",
        "no complete code block in a known language",
    )
    assert judge().judge(fenced("print(2 * int(input()))"), doubling()).extracted == "print(2 * int(input()))\n"


def test_the_last_line_of_standard_error_is_the_reason():
    program = "import sys\nprint('loading', file=sys.stderr)\nraise ValueError('odd')"
    verdict = judge().judge(fenced(program), doubling())
    assert verdict.reason == "test 1 of 3: runtime error (exit code 1): ValueError: odd"


def test_a_missing_compiler_is_our_failure(monkeypatch):
    monkeypatch.setattr(languages.shutil, "which", lambda name: None)
    languages.find_toolchain.cache_clear()
    try:
        with pytest.raises(VerifierError, match="rustc is not installed.*apt-get install rustc") as caught:
            judge().judge(fenced("fn main() {}", "rust"), doubling())
    finally:
        languages.find_toolchain.cache_clear()
    assert caught.value.kind == "no compiler for Rust"


def test_the_time_factor_multiplies_time_limits():
    work = "import time\nwhile time.process_time() < 0.7:\n    pass\nprint(2 * int(input()))"
    problem = doubling(limits={"time_seconds": 0.3})
    assert "time limit" in judge().judge(fenced(work), problem).reason
    with CodeGrader(1, replace(CONFIG, time_factor=4.0)) as grader:
        assert grader.grade_all([(fenced(work), problem, "stop")])[0].correct


def test_memory_that_is_reserved_but_not_used_is_allowed():
    program = "import threading\nthreading.stack_size(2**29)\n"
    program += "threading.Thread(target=lambda: print(2 * int(input()))).start()"
    assert judge().judge(fenced(program), doubling()).correct


# Checkers ------------------------------------------------------------------------------------------------


def test_a_checker_that_rejects_the_expected_output_is_our_failure():
    for checker in ("print(0)", "raise SystemExit(3)", "print('fine')"):
        problem = doubling(checker=checker)
        if checker == "print(0)":
            assert "the problem's checker rejects '4'" in judge().judge(fenced("print(4)"), problem).reason
            continue
        with pytest.raises(VerifierError, match="does not accept the expected output"):
            judge().judge(fenced("print(4)"), problem)


# Functions -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("def add(numbers: List[int], more):\n    return [n + more for n in numbers]", "passed 1 of 1 tests"),
        (
            "def add(numbers, more):\n    return [n - more for n in numbers]",
            "wrong answer: AssertionError at: assert candidate([1], 2) == [3]",
        ),
        ("def add(numbers, more):\n    return tuple(n + more for n in numbers)", "AssertionError"),
        ("def add(numbers, more):\n    return numbers[7]", "wrong answer: IndexError: list index out of range"),
        ("def plus(numbers, more):\n    return [n + more for n in numbers]", "wrong answer: AssertionError"),
        ("def add(numbers, more):\n    while True: pass", "time limit"),
        ("def add(numbers, more):\n    return [0] * 10**9", "MemoryError"),
        ("def add(:", "runtime error (exit code 1): SyntaxError: invalid syntax"),
        ("add = 7", "TypeError: 'int' object is not callable"),
    ],
)
def test_functions(program, reason):
    assert reason in judge().judge(fenced(program), adding()).reason


def test_a_function_in_another_language_is_wrong():
    assert judge().judge(fenced("int add;", "c"), adding()).reason == "expected a function in Python, got C"


@pytest.mark.parametrize(
    ("program", "test"),
    [
        ("def add(a, b):\n    a.append(b)", "a = [1]\nadd(a, 2)\nassert a == [1, 2]"),
        ("def add(a, b):\n    yield from (a, b)", "assert add(1, 2) != [1, 2] and list(add(1, 2)) == [1, 2]"),
        (
            "def add(a, b):\n    raise ValueError('no')",
            "try:\n    add(1, 2)\nexcept ValueError as e:\n    assert str(e) == 'no'\nelse:\n    assert False",
        ),
        (
            "from collections import Counter\ndef add(a, b):\n    return Counter([a, b])",
            "assert add(1, b=1) == {1: 2}",
        ),
        (
            "def add(a, b):\n    return {(1, 2.5): {None, True, 'x'}}, 10**30, b'y', 1j",
            "assert add(0, 0) == ({(1, 2.5): {None, True, 'x'}}, 10**30, b'y', 1j)",
        ),
    ],
)
def test_values_are_passed_unchanged(program, test):
    assert judge().judge(fenced(program), adding(test)).reason == "passed 1 of 1 tests"


@pytest.mark.parametrize("test", ["def check(:", "add(print, 1)"])
def test_tests_that_cannot_be_run_are_our_failure(test):
    with pytest.raises(VerifierError, match="the tests of problem add"):
        judge().judge(fenced("def add(a, b): return a"), adding(test))


# Without the sandbox -------------------------------------------------------------------------------------


def test_limits_alone_give_the_same_verdicts():
    bare = judge("rlimits")
    assert bare.judge(fenced("print(2 * int(input()))"), doubling()).correct
    assert "time limit" in bare.judge(fenced("while True: pass"), doubling()).reason
    assert "memory limit" in bare.judge(fenced("x = bytearray(10**10)"), doubling()).reason
    assert "output limit" in bare.judge(fenced("while True: print('x' * 10**6)"), doubling()).reason
    assert bare.judge(fenced("def add(a, b): return [n + b for n in a]"), adding()).correct
