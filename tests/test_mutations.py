"""The mutations of tests/mutations still fit the code; scripts/mutate.py runs them, which takes too long here."""

import importlib
import subprocess
import sys
from collections import Counter
from pathlib import Path
from unittest import mock

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "mutate.py"


@pytest.fixture(scope="module")
def mutate():
    sys.path.insert(0, str(SCRIPT.parent))  # also for the processes that it forks
    yield importlib.import_module("mutate")
    sys.path.remove(str(SCRIPT.parent))


def test_every_edit_applies_exactly_once_and_its_tests_exist(mutate):
    mutations = mutate.read_mutations()
    assert [problem for mutation in mutations for problem in mutate.problems_of(mutation)] == []
    areas = Counter(mutation.name.split("-")[0] for mutation in mutations)
    expected = "kl layout seed verdict collect optimizer schedule denominator sync resume evaluation"
    assert set(expected.split()) <= areas.keys()
    assert areas.total() >= 80


FILE = "def double(x):\n    return 2 * x\n\n\ndef half(x):\n    return x / 2\n"
TESTS = """import pytest
from number import double, half

def test_double(): assert double(3) == 6
def test_half_of_0(): assert half(0) == 0
@pytest.mark.skip(reason="a reason")
def test_skipped(): pass
def test_wrong(): assert False
"""


@pytest.fixture
def repository(mutate, tmp_path, monkeypatch):
    """run(name, old, new, test) -> (exit code, what was printed): one mutation in a repository of its own."""
    (tmp_path / "tests" / "mutations").mkdir(parents=True)
    (tmp_path / "number.py").write_text(FILE)
    (tmp_path / "tests" / "test_number.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\npythonpath = .\n")
    for command in (["init", "-q"], ["add", "-A"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    monkeypatch.setattr(mutate, "REPOSITORY", tmp_path)
    monkeypatch.setattr(mutate, "LISTS", tmp_path / "tests" / "mutations")
    monkeypatch.setattr(mutate, "PRELOADED", ["pytest"])

    def run(capsys, old, new, test):
        lines = [
            f"- name: m\n  file: number.py\n  old: {old!r}\n  new: {new!r}\n  tests: tests/test_number.py::{test}"
        ]
        (tmp_path / "tests" / "mutations" / "list.yaml").write_text("\n".join(lines))
        code = mutate.main([])
        assert (tmp_path / "number.py").read_text() == FILE
        captured = capsys.readouterr()
        return code, captured.out + captured.err

    with mock.patch.dict("os.environ"):  # the script sets variables for the processes that it forks
        yield run


@pytest.mark.parametrize(
    ("old", "new", "test", "code", "words"),
    [
        ("2 * x", "3 * x", "test_double", 0, "caught"),
        ("x / 2", "x / 3", "test_half_of_0", 1, "SURVIVED m (number.py)\n- x / 2\n+ x / 3"),
        ("x / 2", "x / 3", "test_skipped", 0, "skipped m"),
        ("x / 2", "x / 3", "test_wrong", 2, "fails without any mutation"),
        ("return", "pass", "test_double", 2, "occurs 2 times in number.py, expected once"),
        ("2 * x", "2 * * x", "test_double", 2, "the edit is not Python"),
        ("2 * x", "3 * x", "test_nothing", 2, "tests/test_number.py::test_nothing does not exist"),
    ],
)
def test_the_verdict_on_a_mutation(repository, capsys, old, new, test, code, words):
    actual, printed = repository(capsys, old, new, test)
    assert actual == code, printed
    assert words in printed


def test_help_explains_the_exit_code():
    done = subprocess.run([sys.executable, SCRIPT, "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and "Exit code: 0" in done.stdout and "--only PATTERN" in done.stdout
