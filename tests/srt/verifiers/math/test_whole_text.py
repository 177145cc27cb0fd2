"""An answer that is not understood whole is never compared by the part that was understood."""

import pytest

from srt.verifiers.math.expressions import parse
from srt.verifiers.math.golds import GoldChecker
from srt.verifiers.math.text import clean
from srt.verifiers.math.verify import verify_math
from srt.verifiers.types import VerifierError

# kind: (gold, right answers, wrong answers)
READINGS = {
    "seconds": (
        "03:30:57",
        ["3:30:57", r"\text{03:30:57}", "03:30:57.0"],
        ["03:30:58", "03:30", "03:30:57.5", "03:57:30", "3:30:57 pm, 4:00"],
    ),
    "no seconds": ("12:00", ["12:00:00", "12:00 pm"], ["12:00:01", "12:01"]),
    "days and seconds": (
        "59 days, 17:53:00",
        [r"59\text{ days, }17:53:00", r"\text{59 days, 17:53:00}"],
        ["59 days, 17:53:01", "58 days, 17:53:00", "17:53:00"],
    ),
    "hexadecimal": (
        "0x1d6b0",
        ["0x1D6B0", "0x01d6b0", r"\texttt{0x1d6b0}", "1D6B0_{16}"],
        ["0x1d6b1", "0x1d6b", "-0x1d6b0", "0", "1d6b1_{16}", "0b1101", "120496"],
    ),
    "hexadecimal letters": ("0xFF", ["FF_{16}", "ff_{16}", "0xff"], ["FF_{15}", "FF", "0xFE"]),
    "negative hexadecimal": ("-0x94b47bf", ["-0x94B47BF"], ["-0x94b48bf", "0x94b47bf", "-0x94b47be"]),
    "a number in any base": ("5", ["0x5", "0b101", "0o5", "101_2"], ["0b110", "101_3", "0x6"]),
    "negative in a base": ("-101_2", ["-101_{2}", "-0101_2"], ["-101_3", "101_2", "-5", "-111_2"]),
    "a point in a base": ("0.1_2", ["0.10_{2}"], ["0.1_3", "0.01_2", "0.1"]),
    "sums in a base": ("101_2+x", ["x+5"], ["101_3+x", "x+101"]),
    "names are no digits": ("a_{12}", ["a_{12}"], ["A_{12}", "10"]),
    "versions": ("3.1.2.10", [r"\text{3.1.2.10}"], ["3.1.2.1", "0.31", "3.1.2"]),
    "versions in inequalities": ("y<0.6", ["0.6>y"], ["y<1.2.5", "y<1.5.4"]),
    "dates": (
        "2024-01-15",
        ["January 15, 2024", "15 Jan 2024", r"\text{January 15th, 2024}", "2024-1-15"],
        ["2008", "2024-01-16", "2024-15-01", "2023-01-15", "January 15", "15 February 2024"],
    ),
    "dates of unknown order": ("1/2/2020", ["01/02/2020"], ["2/4/2020", "2/1/2020"]),
    "dates with dots": ("15.01.2024", ["15.1.2024"], ["16.01.2024", "15.01.2025", "1.15.2024"]),
    "dates with a time": (
        "2024-01-15T03:04:05",
        ["2024-01-15 03:04:05"],
        ["2024-01-15T03:04:06", "2024-01-15", "03:04:05"],
    ),
    "months are no units": ("15 March", ["March 15", "15th of March"], ["15 April", "15"]),
    "words with numbers": ("room 12", ["Room 12", r"\text{room 12}"], ["moor 12", "room 21", "room", "12"]),
    "words around a number": ("Player 1 wins", ["player 1 wins"], ["Player 1", "Player 2 wins", "Player 1 loses"]),
    "words between numbers": ("3 out of 5", ["3 out of 5"], ["3 out of 6", "3 tou of 5", "3"]),
    "words without a number": ("up up down", ["Up up down"], ["down up up", "pu up down"]),
    "words without a vowel": ("QZXW KJH", ["qzxw kjh"], ["QXZW KJH", "KJH QZXW"]),
    "short words": ("aba", [r"\text{aba}"], ["aab", "baa"]),
    "short words in lists": ('["cat", "dog"]', ["[cat, dog]"], ['["act", "dog"]', '["dog", "cat"]', "[cat]"]),
    "codes": ("A1", [r"\text{A1}", "A_1"], ["1A", "A", "A2", "a1"]),
    "longer codes": ("R2D2", ["R2D2"], ["2RD2", "R2D", "D2R2"]),
    "quotes": ("['a', 'b']", ["['a','b']"], ["['a', 'c']", "['b', 'a']"]),
    "moves": ("Nf3", ["Nf3"], ["N3f", "Nf4", "Nf"]),
    "e with a number": ("e4", ["e4"], ["1e4", "4e", "e5"]),
    "numbered names": ("x_1=3, x_2=5", ["x1=3, x2=5"], ["x1=5, x2=3", "x1=3, x2=6"]),
    "sums of numbered names": ("x_1+x_2", ["x2+x1"], ["3x", "x_1+x_3"]),
    "an exponent behind a letter": ("x1+n2^{n-1}", [r"2^{n-1}\cdot n+x_1"], ["x+n2^{n-1}", "x1+n^{n-1}"]),
    "derivatives of something unknown": ("0", ["0"], [r"\frac{dy}{dx}"]),
    "powers of ten in fractions": (r"\frac{2e5}{4}x", ["50000x"], ["5000x", r"\frac{e5}{2}x"]),
    "exponents called T": ("2^{T}", ["2^T"], ["2", "2^{S}", "2^{2T}"]),
    "numbered I": ("I_1", ["I_1"], ["I_2", "I", "i"]),
    "primes": ("x+1", ["1+x"], ["(x+1)'", "x+(1)'"]),
    "degrees within": (
        r"1+\sin\frac{180}{7}^\circ",
        [r"1+\sin\frac{\pi}{7}"],
        [r"1+\sin\frac{180}{7}"],
    ),
    "multipliers": (
        "3 million",
        ["3000000", r"3\text{ million}", "3,000,000"],
        ["3", "3 billion", "3 thousand", "3000"],
    ),
    "multiplied money": (r"\$1.5\text{ million}", [r"\$1,500,000", "1.5 million dollars"], ["1.5", r"\$1.5"]),
    "fractions in words": (r"\frac{5}{2}", ["5 halves"], ["5", "5 thirds", "2 fifths"]),
    "Chinese multipliers": ("30000", ["3万"], ["3", "3亿", "3千"]),
    "numbers beside units": (r"5\text{ (mod 7)}", [r"5 \text{ (mod 7)}"], [r"5\text{ (mod 8)}", "5"]),
    "letters behind a number": ("2xyw", ["2wxy", r"xy\cdot 2w"], ["2xyv", "2xyww", "3xyw"]),
    "minus before words": ("seven", ["7", "Seven"], ["-seven", "minus seven"]),
    "minus before a name": ("Monday", ["monday"], ["-Monday", r"-\text{Monday}"]),
    "Celsius and Fahrenheit": (r"20^\circ\text{C}", ["20", r"20\text{ degrees Celsius}"], [r"20^\circ\text{F}"]),
    "half an inequality": ("5", ["=5"], [">5", "5<", r"\le 5", r"\neq 5"]),
    "inequalities without a name": ("x>5", [">5", r"(5,\infty)"], ["<5", "5", r"\geq 5"]),
    "elements of a set": (
        r"\{x: x>2\}",
        ["x>2", r"\{x\mid x>2\}", r"\{x \in\mathbb{R} : x>2\}"],
        [r"\{3x: x>2\}", r"\{s: x>2\}", r"\{x-1: x>2\}"],
    ),
    "other elements": (r"\{x^2: x>2\}", [r"\{x^2 \mid x > 2\}"], ["x>2", r"\{x^3: x>2\}"]),
    "angles by their vertex": (r"\angle ABC", [r"\angle CBA"], [r"\angle ACB", r"-\angle ABC", "ABC"]),
    "a name beside a formula is no label": (r"\text{H}_2\text{O}", [r"\text{H}_2\text{O}"], ["H", r"_2\text{O}"]),
    "a choice is no article": (r"A \text{ and } B", ["A, B", "B and A"], [r"\text{and } B", "B", "A"]),
    "conditions joined by logic": ("1<x<3", [r"x>1 \land x<3"], [r"x>1 \lor x<3", r"x>1 \lor x<2"]),
    "values joined by logic": (r"2\pi, 3", [r"2\pi \lor 3", r"3 \vee 2\pi"], [r"2\pi \lor 4"]),
    "logic between names": ("p, q", ["q, p", "p or q"], [r"p \lor q", r"p \land q", "p∧q"]),
    "an ampersand": ("a=1 & b=2", ["b=2, a=1"], ["a=1 & c=2", "a=1 & b=3", "a=1"]),
}  # fmt: skip

# Operations, and no lists: of one another they are neither equal nor different.
LOGICAL = [(r"p \lor q", r"p \land q"), (r"dx \wedge dy", r"dy \wedge dx"), ("p∨q", "p∧q")]

# Of these every letter and every digit counts, and their order.
CODES = [
    *("03:30:57", "11:59:59 pm", "PT3H20M", "5:12:13"),
    *("January 15, 2024", "Jan 5"),
    *("0x1d6b0", "-0x94b47bf", "0b1011", "0o17", "1d6b0", "12e4f", "-101_2", "12.3_4"),
    *("192.168.0.1", "10.0.0.0/8", "1.0.0-rc1", "v2"),
    *("A1", "x1", "H2O", "C6H12O6", "abc123", "Nf3", "exd5", "g1f3", "a1 b2 c3"),
    *("room 12", "Room 12B", "Player 1 wins", "week 3 day 2", "3 out of 5", "between 3 and 5", "pages 3-7"),
]  # fmt: skip


@pytest.mark.parametrize("kind", READINGS)
def test_only_the_whole_answer_counts(kind):
    gold, right, wrong = READINGS[kind]
    verdicts = {answer: verify_math(f"\\boxed{{{answer}}}", gold).correct for answer in (gold, *right, *wrong)}
    assert verdicts == dict.fromkeys((gold, *right), True) | dict.fromkeys(wrong, False)


@pytest.mark.parametrize(("gold", "other"), LOGICAL)
def test_an_operation_of_logic_joins_no_answers(gold, other):
    assert GoldChecker().problem(gold) is not None
    assert verify_math(f"\\boxed{{{gold}}}", gold).correct
    with pytest.raises(VerifierError):
        verify_math(f"\\boxed{{{other}}}", gold)


@pytest.mark.parametrize("gold", CODES)
def test_another_character_is_another_answer(gold):
    assert GoldChecker().problem(gold) is None
    changed = []
    for place, (one, other) in enumerate(zip(gold, gold[1:] + " ", strict=True)):
        if one.isdigit():
            changed.append(f"{gold[:place]}{(int(one) + 1) % 10}{gold[place + 1 :]}")
        if one.isalnum() and other.isalnum() and one != other:
            changed.append(f"{gold[:place]}{other}{one}{gold[place + 2 :]}")
    assert len(changed) > 1
    assert [answer for answer in changed if verify_math(f"\\boxed{{{answer}}}", gold).correct] == []


@pytest.mark.parametrize(
    ("text", "without"),
    [
        ("2^T", "2"),
        ("x+3_{n}", "x+3"),
        (r"1+\sqrt{3}^\circ", r"1+\sqrt{3}"),
        (r"\sin_2 x", r"\sin x"),
        (r"\Gamma_2(5)", r"\Gamma(5)"),
        (r"x|_{2}", "x"),
        ("I_1", "I"),
    ],
)
def test_what_the_parser_would_drop_is_not_dropped(text, without):
    parsed = parse(clean(text))
    assert isinstance(parsed, str) or parsed != parse(clean(without))
