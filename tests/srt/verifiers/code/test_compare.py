"""When an output matches the expected one."""

import math
import time

import pytest

from srt.verifiers.code import compare
from srt.verifiers.code.compare import _match, first_difference


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
        ("Yes\nNO", "YES\nno"),
        ("100", "1e+02"),
        ("1e2", "100.0"),
        (".0000001", "1e-07"),
        ("1" + "0" * 40, "1e+40"),
        ("2E1", "20."),
        ("1\x0b2\x0c3", "1 2 3"),
    ],
)
def test_equal(output, expected):
    assert first_difference(output.encode(), expected.encode()) is None


@pytest.mark.parametrize(
    ("output", "expected", "words"),
    [
        ("1 3", "1 2", "expected '2', got '3' (token 2)"),
        ("yess", "YES", "expected 'YES', got 'yess' (token 1)"),
        ("1", "1 2", "expected 2 tokens, got 1: missing token '2'"),
        ("1 2", "1", "expected 1 token, got 2: unexpected extra token '2'"),
        ("5.0", "5", "expected '5', got '5.0'"),
        ("12", "1 2", "expected '1', got '12'"),
        ("0.333", "0.333333333", "got '0.333'"),
        ("0.000002", "0.0", "got '0.000002'"),  # twice the absolute tolerance
        ("1000002000.0", "1000000000.0", "got '1000002000.0'"),  # and the relative one
        ("nan", "0.5", "expected '0.5', got 'nan'"),
        ("inf", "1e999", "expected '1e999', got 'inf'"),
        ("0.1_0", "0.10", "expected '0.10', got '0.1_0'"),
        ("100", "1e2", "expected '1e2', got '100'"),  # not written as a real number: text
        ("0e7", "0e5", "expected '0e5', got '0e7'"),
        ("5", "1e999.0", "expected '1e999.0', got '5'"),
        ("5", "9" * 400 + ".0", "got '5'"),  # overflows
        ("1" + "0" * 400 + ".5", "0.5", "expected '0.5'"),
        ("inf", "inf.", "expected 'inf.', got 'inf'"),
        ("-inf", "-1e+999", "expected '-1e+999'"),
        ("y", "yes", "expected 'yes', got 'y'"),
        ("TRUE", "true", "expected 'true', got 'TRUE'"),
        (".", "0.0", "expected '0.0', got '.'"),
        ("+-1", "1.0", "expected '1.0', got '+-1'"),
        ("1.2.3", "1.2.4", "expected '1.2.4', got '1.2.3'"),
        ("x" * 100, "y", f"expected 'y', got '{'x' * 60}...'"),
    ],
)
def test_different(output, expected, words):
    assert words in first_difference(output.encode(), expected.encode())


LIMIT = 2**25  # judge.OUTPUT_BYTES


@pytest.mark.parametrize(
    ("output", "expected", "words"),
    [
        (b"1 " * (LIMIT // 2), b"1\n" * (LIMIT // 2), None),
        (b"1 " * (LIMIT // 2), b"1 ", "expected 1 token, got 16777216"),
        (b"1 ", b"1 " * (LIMIT // 2), "expected 16777216 tokens, got 1"),
        (b"1 " * (LIMIT // 2 - 1) + b"2", b"1 " * (LIMIT // 2), "expected '1', got '2' (token 16777216)"),
        (b"1" * LIMIT, b"1" * (LIMIT - 1) + b".", "expected '1"),
        (b" " * LIMIT, b"x", "expected 1 token, got 0"),
    ],
    ids=["equal", "longer", "shorter", "last", "one token", "blank"],
)
def test_outputs_at_the_limit(output, expected, words, monkeypatch):
    tried = []
    monkeypatch.setattr(compare, "_match", lambda *pair: tried.append(pair) or _match(*pair))
    difference = first_difference(output, expected)
    assert (words in difference) if words else difference is None
    assert len(tried) <= 1  # no Python per token


@pytest.mark.parametrize("length", [compare.BLOCK_BYTES - 3, compare.BLOCK_BYTES, compare.BLOCK_BYTES + 1])
def test_tokens_at_the_ends_of_blocks_stay_whole(length):
    for text in (b"x" * length + b" yz 1", b"12 " * (length // 3) + b"123 45\n", b" " * length + b"12 3"):
        assert first_difference(text + b" a", b"\n".join(text.split()) + b"\t a") is None
        assert "got 'b'" in first_difference(text + b" b", text + b" a")


def test_bytes_that_are_not_text():
    assert "expected 'a', got" in first_difference(b"\xff\x00", b"a")


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        (b"1" * 30000 + b"x", b"0.5"),
        (b"1" * 30000 + b".", b"0.5"),
        (b"." * 30000, b"0.5"),
        (b"0.5", b"1" * 30000 + b".x"),
        (b"1e" + b"9" * 30000, b"0.5"),
        (b"0." + b"3" * 30000 + b"e", b"0.5"),
        (b"1 " * 30000, b"1 " * 29999),
        (b" \n" * 30000 + b"x", b"y"),
    ],
)
def test_time_is_linear_in_the_length(output, expected):
    times = []
    for repeats in (4, 16):
        long = [text if len(text) < 10 else text[:-1] * repeats + text[-1:] for text in (output, expected)]
        best = math.inf
        for _ in range(3):
            started = time.process_time()
            assert first_difference(*long) is not None
            best = min(best, time.process_time() - started)
        times.append(best)
    assert times[1] < 10 * times[0] + 0.05  # quadratic: sixteen times as long
