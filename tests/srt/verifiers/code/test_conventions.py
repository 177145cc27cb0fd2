"""Conventions of competitive programming, as the public runner of open-r1/codeforces keeps them."""

from dataclasses import replace

import pytest

from srt.contract.records import Problem
from srt.verifiers.code import build
from srt.verifiers.code.extract import extract_program
from srt.verifiers.code.java_source import java_file_name, java_main_class
from srt.verifiers.code.languages import BY_NAME, find_toolchain
from srt.verifiers.code.program_submission import checker_limits, without_carriage_returns, without_empty_lines
from tests.srt.helpers.code_cases import doubling, fenced, judge


def problem_of(given, output, **more):
    return Problem("p", "?", "", mode="code", tests=[{"input": given, "output": output}], **more)


# Fences ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("info", "language", "standard"),
    [
        ("c++14", "C++", "14"),
        ("cpp11", "C++", "14"),
        ("C++0x", "C++", "14"),
        ("cpp23", "C++", "23"),
        ("GNU C++17", "C++", "17"),
        ("GNU G++20 13.2 (64 bit, winlibs)", "C++", "20"),
        ("C++17 (GCC 7-32)", "C++", "17"),
        ("c++ 20", "C++", "20"),
        ("g++", "C++", ""),
        ("MS C++ 2017", "C++", ""),
        ("c11", "C", ""),
        ("GNU C11", "C", ""),
        ("GNU GCC C11 5.1.0", "C", ""),
        ("C/C++", "C++", ""),
        ("src/main.cpp", "C++", ""),
        ("solution.py", "Python", ""),
        ("ipython3", "Python", ""),
        ("pypy3", "Python", ""),
        ("PyPy 3-64", "Python", ""),
        ("python 3", "Python", ""),
        ("python3.11", "Python", ""),
        ("Python 3.8.10", "Python", ""),
        ("language-python", "Python", ""),
        ("java 17", "Java", ""),
        ("java8", "Java", ""),
        ("go1.22", "Go", ""),
        ("rust 2021", "Rust", ""),
    ],
)
def test_names_of_languages_with_versions(info, language, standard):
    program = extract_program(f"```{info}\nit\n```")
    assert program and (program.language.name, program.standard) == (language, standard)


@pytest.mark.parametrize(
    "info",
    ["", "python2", "Python 2.7", "kotlin 1.4", "text python", "c#", "output", "14", "python-repl", "out.txt"],
)
def test_names_of_other_languages(info):
    assert extract_program(f"```{info}\nit\n```") is None


@pytest.mark.bwrap
@pytest.mark.parametrize(
    ("fence", "line"),
    [
        ("c++14", "register int more = 0; n += more;"),  # gone in C++17
        ("c++23", 'static_assert(__cplusplus > 202002L, "C++23");'),
    ],
)
def test_the_standard_in_the_fence_comes_first(fence, line):
    program = f"#include <iostream>\nint main() {{ int n; std::cin >> n; {line} std::cout << 2 * n; }}"
    assert judge().judge(fenced(program, fence), doubling()).correct
    assert not judge().judge(fenced(program.replace("2 * n", "3 * n"), fence), doubling()).correct


# Comparison -----------------------------------------------------------------------------------------------


@pytest.mark.bwrap
def test_windows_line_ends_and_words_in_any_case():
    program = "word = input()\nprint('Yes' if word == 'ab' else repr(word))"
    assert judge().judge(fenced(program), problem_of("ab\r\nc\r\n", "YES\r\n")).correct
    assert judge().judge(fenced(program), problem_of("ab\r", "yes")).correct
    in_file = problem_of("ab\r\n", "YES\n", input_file="in.txt")
    assert (
        judge()
        .judge(fenced(program.replace("input()", "open('in.txt', newline='').read().strip('\\n')")), in_file)
        .correct
    )


@pytest.mark.parametrize("text", [b"a\r\n\r\n\nb\n\n", b"\n\na\n\nb\n", b"a\r\nb\r\n", b"a\nb\n\r\n"])
def test_without_empty_lines(text):
    assert without_empty_lines(text) == b"a\nb\n"


def test_carriage_returns_inside_a_line_stay():
    assert without_carriage_returns(b"a\rb\r\nc\r") == b"a\rb\nc"


# Checkers -------------------------------------------------------------------------------------------------

CHECKER = """
import sys
given, correct, output = (open(name, newline="").read() for name in sys.argv[1:])
same = "\\r" not in given + correct + output and correct == output == "4\\n5\\n"
print({yes} if same else {no})
"""


@pytest.mark.bwrap
@pytest.mark.parametrize("yes", [1, 100, "'1.0'"])
def test_checkers_see_clean_files_and_print_1_or_100(yes):
    problem = problem_of("1\r\n", "4\r\n\r\n5\r\n", checker=CHECKER.format(yes=yes, no=0))
    assert judge().judge(fenced("print('4\\n\\n5\\r')"), problem).correct
    assert "the problem's checker rejects" in judge().judge(fenced("print(4)"), problem).reason
    partial = replace(problem, checker=CHECKER.format(yes=yes, no=50))
    assert "the problem's checker rejects" in judge().judge(fenced("print(4)"), partial).reason


def test_a_checkers_time_is_bounded_by_the_problems_limit():
    limits = judge().limits(doubling(limits={"time_seconds": 0.5}), BY_NAME["Python"])
    assert checker_limits(limits).cpu_seconds < 2 and checker_limits(limits).wall_seconds < 8
    slow = judge().limits(doubling(limits={"time_seconds": 60}), BY_NAME["Python"])
    assert checker_limits(slow).cpu_seconds == 10


# Compilers ------------------------------------------------------------------------------------------------


@pytest.mark.bwrap
def test_a_compilation_that_was_killed_is_not_tried_again(monkeypatch):
    monkeypatch.setattr(build, "BUILD_LIMITS", replace(build.BUILD_LIMITS, cpu_seconds=1, wall_seconds=6))
    sandbox, runs = judge().sandbox, []

    class Counting:
        def run(self, *arguments):
            runs.append(arguments)
            return sandbox.run(*arguments)

    bomb = "template <class T> struct N0 {};\n"
    for n in range(1, 40):
        bomb += f"template <class T> struct N{n} {{ N{n - 1}<T*> a; N{n - 1}<T**> b; }};\n"
    bomb += "int main() { N39<char> it; }"
    program = extract_program(fenced(bomb, "cpp"))
    with pytest.raises(build.CompileError, match="the compiler (exceeded its|was killed)"):
        build.build(program, Counting())
    assert len(runs) == 1
    with pytest.raises(build.CompileError, match="error"):
        build.build(extract_program(fenced("int main() { return x; }", "cpp")), Counting())
    assert len(runs) == 3  # one for each standard


# Python ---------------------------------------------------------------------------------------------------


@pytest.mark.bwrap
def test_python_prints_and_reads_integers_of_any_length():
    program = "n = int(input())\nassert int(str(7 ** 9000)) == 7 ** 9000\nprint(2 * n)"
    assert judge().judge(fenced(program), doubling()).correct


# Java -----------------------------------------------------------------------------------------------------

MAIN = "public static void main(String[] a) { }"


@pytest.mark.parametrize(
    ("program", "file", "main"),
    [
        (f"public class A {{ {MAIN} }}", "A.java", "A"),
        (f"class B {{ static class Pair {{ int a; }} {MAIN} }}", "B.java", "B"),
        (f"public class Helper {{ int f() {{ return 1; }} }}\nclass Main {{ {MAIN} }}", "Helper.java", "Main"),
        (f"class Helper {{ }}\npublic class C {{ {MAIN} }}", "C.java", "C"),
        (f"/* public class X {{ */ // public class Y {{\nclass D {{ {MAIN} }}", "D.java", "D"),
        (f'class E {{ String s = "public class X {{ \\" }}"; char c = \'"\'; {MAIN} }}', "E.java", "E"),
        (f'class F {{ String s = """\n  public class X {{ \\""" " }}\n  """; {MAIN} }}', "F.java", "F"),
        (f"package com.example;\npublic class G {{ {MAIN} }}", "G.java", "com.example.G"),
        (f"public class H {{ public static class Run {{ {MAIN} }} }}", "H.java", "H$Run"),
        (
            "class I { void main(String[] a) { } }\nclass J { static public void main(String... a) { } }",
            "J.java",
            "J",
        ),
        (f"interface K {{ static void main(String[] a) {{ }} }}\npublic class L {{ {MAIN} }}", "L.java", "L"),
        (f"record P(int x, int y) {{ }}\nclass M {{ {MAIN} }}", "M.java", "M"),
        (f"@Deprecated enum N {{ A {{ int f() {{ return 1; }} }}; {MAIN} }}", "N.java", "N"),
        (f"class O {{ Object o = new Object() {{ {MAIN} }}; }}\nclass Q {{ {MAIN} }}", "Q.java", "Q"),
        (f"class R {{ Class<?> c = R.class; int[] n = {{1, 2}}; {MAIN} }}", "R.java", "R"),
        ("class S { }", "Main.java", "Main"),
    ],
)
def test_the_main_class(program, file, main):
    assert (java_file_name(program), java_main_class(program)) == (file, main)


@pytest.mark.parametrize("text", ["/*" * 20000, '"""' * 20001, "'\\" * 30000, "class A { " * 20000, '"\\' * 30000])
def test_reading_java_takes_linear_time(text):
    from time import perf_counter

    times = []
    for repeats in (1, 4):
        best = float("inf")
        for _ in range(3):
            started = perf_counter()
            java_main_class(text * repeats)
            best = min(best, perf_counter() - started)
        times.append(best)
    assert times[1] < 10 * times[0] + 0.05


JAVA_PROGRAMS = {
    "nested": "class Twice { static class Pair { int a; Pair(int a) { this.a = a; } }\n %s }",
    "helper": "public class Helper { }\nclass Run { %s }",
    "package": "package judged.here;\nimport java.util.*;\npublic class Twice { interface F { int f(); } %s }",
}
JAVA_MAIN = (
    "public static void main(String[] a) throws Exception { "
    'if (!"true".equals(System.getProperty("ONLINE_JUDGE"))) throw new Exception(); '
    "System.out.println(2 * new java.util.Scanner(System.in).nextInt()); }"
)


@pytest.mark.bwrap
@pytest.mark.parametrize("kind", JAVA_PROGRAMS)
def test_java_programs(kind):
    if find_toolchain(BY_NAME["Java"]) is None:
        pytest.skip("no Java compiler")
    verdict = judge().judge(fenced(JAVA_PROGRAMS[kind] % JAVA_MAIN, "java"), doubling())
    assert verdict.correct, verdict


@pytest.mark.bwrap
def test_javas_heap_is_the_memory_limit_and_the_runtime_comes_on_top():
    if find_toolchain(BY_NAME["Java"]) is None:
        pytest.skip("no Java compiler")
    program = (
        "public class Fill { public static void main(String[] a) { "
        "int n = new java.util.Scanner(System.in).nextInt(); byte[][] held = new byte[%d][]; "
        "for (int i = 0; i < held.length; i++) { held[i] = new byte[1 << 20]; "
        "java.util.Arrays.fill(held[i], (byte) 1); } System.out.println(2 * n); } }"
    )
    problem = doubling(limits={"memory_mb": 128, "time_seconds": 4})
    assert judge().judge(fenced(program % 90, "java"), problem).correct
    assert "memory limit" in judge().judge(fenced(program % 200, "java"), problem).reason
