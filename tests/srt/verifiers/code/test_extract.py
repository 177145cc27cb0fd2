"""Which program is extracted from a response."""

import math
import time

import pytest

from srt.verifiers.code.extract import extract_program
from srt.verifiers.code.languages import BY_FENCE, LANGUAGES


def extracted(response):
    program = extract_program(response)
    return program and (program.language.name, program.source)


def test_the_last_complete_block_in_a_known_language_counts():
    response = "```python\none\n```\nno, rather\n```cpp\ntwo\n```\nwhich prints\n```\n7\n```\n```text\nthat\n```\n"
    assert extracted(response) == ("C++", "two\n")


@pytest.mark.parametrize(
    "response",
    ["", "print(1)", "```\nprint(1)\n```", "```brainf\n+\n```", "```python\nprint(1)\n", "``python\nprint(1)\n``"],
)
def test_no_program(response):
    assert extracted(response) is None


def test_a_block_that_is_never_closed_is_skipped():
    assert extracted("```python\none\n```\n```python\ntwo\n") == ("Python", "one\n")


@pytest.mark.parametrize("info", ["Python", " python3 ", "py title='a.py'", "{.python}", "python:main.py"])
def test_what_may_follow_the_backticks(info):
    assert extracted(f"```{info}\npass\n```") == ("Python", "pass\n")


def test_a_longer_fence_holds_shorter_ones():
    assert extracted("````python\ns = '''\n```\n'''\n````") == ("Python", "s = '''\n```\n'''\n")


def test_tildes_and_windows_line_ends():
    assert extracted("~~~python\r\nx = 1\r\n~~~\r\n") == ("Python", "x = 1\r\n")


def test_the_indentation_of_a_list_item_is_removed():
    assert extracted("1. so:\n   ```python\n   if x:\n       y\n\n   ```") == ("Python", "if x:\n    y\n\n")


def test_a_fence_inside_a_block_of_another_language_opens_nothing():
    assert extracted("```text\n```python\nnot a program\n```\n") is None


def test_every_fence_word_stands_for_one_language():
    assert len(BY_FENCE) == sum(len(language.fences) for language in LANGUAGES)
    assert {BY_FENCE[word].name for word in ("python", "cpp", "c", "java", "go", "rust")} == {
        "Python",
        "C++",
        "C",
        "Java",
        "Go",
        "Rust",
    }


@pytest.mark.parametrize(
    "line",
    ["```" + " " * 45000 + "`", "`" * 45000 + "x`", "~" * 45000, " " * 45000 + "`", "```" + "a " * 45000 + "`"],
)
def test_a_long_line_takes_linear_time(line):
    times = []
    for repeats in (4, 16):
        middle = line[3] * (len(line) * repeats)
        response = "```python\nprint(2)\n```\n" + line[:3] + middle + line[3:] + "\n"
        best = math.inf
        for _ in range(3):
            started = time.perf_counter()
            extract_program(response)
            best = min(best, time.perf_counter() - started)
        times.append(best)
    assert times[1] < 10 * times[0] + 0.05  # quadratic: sixteen times as long


def test_a_line_of_backticks_that_is_no_fence_changes_nothing():
    assert extracted("```python\nprint(2)\n```\n```" + " " * 45000 + "`\n") == ("Python", "print(2)\n")
    assert extracted("~~~ python ``` \nprint(2)\n~~~\n") == ("Python", "print(2)\n")
