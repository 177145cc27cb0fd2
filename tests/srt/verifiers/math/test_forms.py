r"""Properties of math verdicts: one changed digit, untrusted texts of the worst kind, gold answers."""

import json
import random
import re
import time
from pathlib import Path

import pytest

from srt.common.errors import UserError
from srt.problems import load_problems
from srt.verifiers.math.extract import extract_boxed, extract_gold
from srt.verifiers.math.golds import GoldChecker, is_ordinary
from srt.verifiers.math.limits import MAX_ANSWER_CHARACTERS
from srt.verifiers.math.text import clean, key
from srt.verifiers.math.verify import unreadable_gold, verify_math
from srt.verifiers.types import VerifierError

LINES = (Path(__file__).parents[2] / "data" / "math_verdicts.jsonl").read_text("utf-8").splitlines()
GOLDS = sorted({extract_gold(json.loads(line)["gold"]) for line in LINES})


def verdict(gold: str, answer: str):
    return verify_math(f"\\boxed{{{answer}}}", gold)


# A changed digit that leaves these right: another point of a limit, and 5 choose 3.
SAME_VALUE = (r"\lim", r"\binom{5}{2}=10")


def test_no_answer_with_one_changed_digit_is_accepted():
    changed = 0
    for gold in GOLDS:
        if any(part in gold for part in SAME_VALUE):
            continue
        for match in list(re.finditer(r"\d", gold))[:4]:
            digit = str((int(match[0]) + random.Random(gold).choice((1, 3, 7))) % 10)
            answer = gold[: match.start()] + digit + gold[match.end() :]
            assert not verdict(gold, answer).correct, (gold, answer)
            changed += 1
    assert changed > 500


def test_every_gold_answer_equals_itself_in_another_spelling():
    for gold in GOLDS:
        for spelling in (f" {gold} ", gold.replace(r"\frac", r"\dfrac"), f"${gold}$"):
            if "$" not in gold or spelling.count("$") == gold.count("$"):
                assert verdict(gold, spelling).correct, (gold, spelling)


@pytest.mark.parametrize(
    ("gold", "response", "reason"),
    [
        ("5", r"\boxed{5}", "equal"),
        ("5", r"\boxed{\frac{10}{2}}", "equal"),
        ("5", r"\boxed{6}", "different"),
        ("5", r"\boxed{5} or rather \boxed{6}", "several boxes"),
        ("5", r"\boxed{6} and again \boxed{6}", "different"),
        ("5", "It is 5.", "no box"),
        ("5", r"\boxed{ }", "empty box"),
        ("5", r"\boxed{\frac{5}{}}", "unreadable response"),
        ("5", r"\boxed{" + "5+" * 1000 + "5}", "unreadable response"),
        ("5", "\\boxed{5\ufffd}", "unreadable response"),
    ],
)
def test_the_reason_is_one_of_a_few_texts(gold, response, reason):
    assert verify_math(response, gold).reason == reason


def test_an_unreadable_gold_answer_is_right_only_as_the_same_text():
    gold = r"f(x)=\begin{cases}x & x>0\\-x & x<0\end{cases}"
    assert verdict(gold, gold.replace("=", " = ")).correct
    with pytest.raises(VerifierError) as error:
        verdict(gold, "|x|")
    assert error.value.kind == "unreadable gold"


@pytest.mark.parametrize(
    ("text", "boxed"),
    [
        (r"\boxed 7", "7"),
        (r"So we get $\boxed 7$ as the answer.", "7"),
        (r"\boxed7.", "7"),
        (r"\boxed -3", "-3"),
        (r"\boxed\frac12", r"\frac12"),
        (r"\boxed{3} and \boxed 7", "7"),
        (r"\boxed 7 and \boxed{3}", "3"),
        (r"\boxed{4}. Then \boxed", "4"),
        (r"\boxedtext{5}", None),
        (r"\boxed answer", None),
    ],
)
def test_boxes_without_braces(text, boxed):
    assert extract_boxed(text) == boxed


UNITS = (
    *r"1 a ( ) { } [ ] , ; : | = < - ^ _ \ & ' ! % e A $ ½ 元 ① .".split(),
    *(" ", "\n", "1 ", "a ", "km ", "and ", "or ", "yes ", "is ", "the a ", "for integer ", "1h", "1or", "1,000"),
    *(r"\boxed ", r"\boxed{", r"\fbox", r"\pm ", r"\text{a}", r"\text{", r"\frac", r"\sqrt", r"\left", "1,"),
    *(r"\begin{pmatrix}", r"\begin{pmatrix}1\end{pmatrix}+", r"\{", r"\{x:", r"k\in\mathbb{Z},", "|x|"),
    *("f(x)", "a_{1}", "x=1,", "(1,2),", "(A)", "1 2 3 ", r"\quad ", r"\cup ", "0.", "10!", r"\binom{9}", "```"),
)  # fmt: skip


@pytest.mark.parametrize("unit", UNITS, ids=repr)
def test_texts_of_45_000_characters_take_no_time(unit):
    text = (unit * 45_000)[:45_000]
    for response in (text, f"\\boxed{{{text}}}", f"{text}\\boxed{{7}}", f"\\boxed{{7}}{text}", rf"\boxed{{{text}"):
        start = time.process_time()
        try:
            verify_math(response, "7")
            extract_gold(response)
        finally:
            assert time.process_time() - start < 5  # of the processor: what else runs does not count


@pytest.mark.parametrize("unit", UNITS, ids=repr)
@pytest.mark.parametrize("around", ["{}", "x={}", "1{}", r"\text{{{}}}", "({})", "{}1"])
def test_answers_up_to_the_limit_take_little_time(unit, around):
    for length in (MAX_ANSWER_CHARACTERS - 20, 290):
        answer = around.format((unit * length)[:length])
        start = time.process_time()
        outcome = verdict("7", answer)
        assert time.process_time() - start < 10  # 1 s at most
        assert not outcome.correct


@pytest.mark.parametrize(
    ("gold", "reason"),
    [
        ("N/A", "placeholder"),
        ("?", "placeholder"),
        ("unknown", "placeholder"),
        ("We have $2x=8$, so $x=4$.", "prose"),
        ("Since the sum is even and n is odd, it follows that n = 7 is the only case left.", "prose"),
        (r"\frac{1}{", "cannot read"),
        (r"\frac{1}{0}", "cannot read"),
        ("9" * 300, "cannot read"),
    ],
)
def test_gold_answers_that_cannot_be_compared(gold, reason, tmp_path):
    path = tmp_path / "problems.jsonl"
    records = [{"id": "good", "problem": "?", "answer": "7"}, {"id": "bad", "problem": "?", "answer": gold}]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    loaded = load_problems(str(path))
    assert [problem.id for problem in loaded.problems] == ["good"]
    assert reason in loaded.bad[0]["reason"] and loaded.bad[0]["place"].endswith("line 2")


def test_a_data_set_of_bad_gold_answers_is_refused(tmp_path):
    path = tmp_path / "problems.jsonl"
    path.write_text(json.dumps({"problem": "?", "solution": "N/A"}) + "\n")
    with pytest.raises(UserError, match="a placeholder in place of an answer"):
        load_problems(str(path))


def test_gold_answers_of_our_cases_are_good_and_ordinary_ones_can_be_parsed():
    checker = GoldChecker()
    for gold in GOLDS:
        assert checker.problem(gold) is None, gold
        if is_ordinary(gold):
            assert unreadable_gold(gold) is None, gold


def test_checking_gold_answers_is_fast_and_bounded():
    rng = random.Random(0)
    golds = [f"\\frac{{{rng.randint(1, 10**6)}}}{{{rng.randint(1, 99)}}}" for _ in range(10_000)]
    start = time.process_time()
    checker = GoldChecker()
    assert not any(map(checker.problem, golds))
    assert time.process_time() - start < 5  # 0.1 s
    spent = GoldChecker(max_parsing_seconds=0.0)
    assert spent.problem(r"\frac{1}{") is None  # is set aside when it is first compared
    assert spent.problem("N/A") is not None  # costs no parsing


def test_spelling():
    assert clean(r"$\left(\dfrac12,\; \sqrt2\right)$") == r"(\frac{1}{2}, \sqrt{2})"
    assert key("n \\equiv 1\\pmod 7") == key(r"n\equiv 1 \pmod{7}")
    assert key("1 2") != key("12")
    assert key("x^{12}") != key("x^{12} 3")
