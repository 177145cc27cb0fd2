"""When an output matches the expected one."""

import pytest

from srt.verifiers.code.compare import first_difference


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
    assert first_difference(output.encode(), expected.encode()) is None


@pytest.mark.parametrize(
    ("output", "expected", "words"),
    [
        ("1 3", "1 2", "expected '2', got '3' (token 2)"),
        ("yes", "YES", "expected 'YES', got 'yes' (token 1)"),
        ("1", "1 2", "expected 2 tokens, got 1: missing token '2'"),
        ("1 2", "1", "expected 1 token, got 2: unexpected extra token '2'"),
        ("5.0", "5", "expected '5', got '5.0'"),
        ("12", "1 2", "expected '1', got '12'"),
        ("0.333", "0.333333333", "got '0.333'"),
        ("nan", "0.5", "expected '0.5', got 'nan'"),
        ("inf", "1e999", "expected '1e999', got 'inf'"),
        ("0.1_0", "0.10", "expected '0.10', got '0.1_0'"),
        ("1.2.3", "1.2.4", "expected '1.2.4', got '1.2.3'"),
        ("x" * 100, "y", f"expected 'y', got '{'x' * 60}...'"),
    ],
)
def test_different(output, expected, words):
    assert words in first_difference(output.encode(), expected.encode())


def test_bytes_that_are_not_text():
    assert "expected 'a', got" in first_difference(b"\xff\x00", b"a")
