"""When an output is the expected one."""

import pytest

from srt.verifiers.code.compare import difference


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("1 2\n3", " 1\n2 3 \n"),
        ("", "\n"),
        ("0.3333333", "0.333333333333"),
        ("1", "1.0"),
        ("1e3", "1000.0"),
        ("-0.0", "0.0"),
        ("1000000000.5", "1000000000.0"),  # relative
        ("0.0000005", "0.0"),  # absolute
        ("2.", "2.0"),
        ("1.5E+2", "1.5e2"),
        ("\u00e4", "\u00e4"),
    ],
)
def test_equal(output, expected):
    assert difference(output.encode(), expected.encode()) is None


@pytest.mark.parametrize(
    ("output", "expected", "words"),
    [
        ("1 3", "1 2", "'3' instead of '2' (word 2)"),
        ("yes", "YES", "'yes' instead of 'YES' (word 1)"),
        ("1", "1 2", "1 words instead of 2; '2' is missing"),
        ("1 2", "1", "2 words instead of 1; '2' is too much"),
        ("5.0", "5", "'5.0' instead of '5'"),
        ("12", "1 2", "'12' instead of '1'"),
        ("0.333", "0.333333333", "'0.333' instead of"),
        ("nan", "0.5", "'nan' instead of '0.5'"),
        ("inf", "1e999", "'inf' instead of '1e999'"),
        ("0.1_0", "0.10", "'0.1_0' instead of '0.10'"),
        ("1.2.3", "1.2.4", "'1.2.3' instead of '1.2.4'"),
        ("x" * 100, "y", f"'{'x' * 60}...' instead of 'y'"),
    ],
)
def test_different(output, expected, words):
    assert words in difference(output.encode(), expected.encode())


def test_bytes_that_are_no_text():
    assert "instead of 'a'" in difference(b"\xff\x00", b"a")
