r"""Formulas in plain typing, in old TeX, and in the spelling of computer algebra systems."""

import pytest

from srt.verifiers.math.extract import extract_gold
from srt.verifiers.math.golds import GoldChecker
from srt.verifiers.math.text import clean
from srt.verifiers.math.typed import MAX_REPLACED
from srt.verifiers.math.verify import verify_math

# kind: (gold, right answers, wrong answers)
SPELLINGS = {
    "functions without a backslash": (
        r"3\sin(2x)-\ln x",
        ["3sin(2x)-ln(x)", "3sin(2x) - ln x", r"3\operatorname{sin}(2x)-\operatorname{ln}x"],
        ["3sin(x)-ln(x)", "3cos(2x)-ln(x)", "3sin(2x)-log_2(x)"],
    ),
    "powers and bases of functions": (
        r"\cos^2 x+\log_3 7",
        ["cos^2(x)+log_3(7)", "(cos x)^2 + log_3 7", "log(7)/log(3) + cos(x)^2"],
        ["cos(x^2)+log_3(7)", "cos(x)^2+log_7(3)"],
    ),
    "logarithms to 2 and 10 by name": (r"\log_2 5+\log_{10}7", ["log2(5)+log10(7)"], ["log10(5)+log2(7)"]),
    "the exponential function": ("e^{x+1}", ["exp(x+1)", r"\operatorname{exp}(x+1)"], ["exp(x)", "exp(x)+1"]),
    "inverse functions": (
        r"\arctan 5",
        ["atan(5)", "arctan(5)", r"\operatorname{atan}{\left(5 \right)}", "arctg 5"],
        ["atan(4)", "tan(5)", "asin(5)"],
    ),
    "inverse hyperbolic functions": (
        r"\operatorname{arcsinh}(2)",
        ["asinh(2)", r"\operatorname{arsinh}(2)", r"\ln(2+\sqrt{5})"],
        ["acosh(2)", "sinh(2)"],
    ),
    "absolute values by name": ("|x-2|", ["abs(x-2)", r"\operatorname{abs}(2-x)"], ["abs(x+2)", "x-2"]),
    "rounding by name": (
        r"\lfloor \frac{n}{2} \rfloor",
        ["floor(n/2)", r"\operatorname{floor}(n/2)"],
        ["ceil(n/2)", "floor(n/3)", "n/2"],
    ),
    "roots of products": (
        r"\sqrt{(x+1)(x+4)}",
        ["sqrt((x+1)(x+4))", "sqrt((x+1)*(x+4))"],
        ["sqrt((x+1))*(x+4)", "sqrt((x+1)(x+5))"],
    ),
    "cube roots": (r"\sqrt[3]{7}", ["cbrt(7)", "7^(1/3)"], ["cbrt(8)", "sqrt(7)"]),
    "letters that look like functions": ("asin", ["asin"], [r"\arcsin"]),
    "functions without a space": (r"\sin x+\ln x", ["sinx+lnx"], ["sinx+ln2", "cosx+lnx"]),
    "words that look like functions": (r"4\text{ logs}", ["4 logs", "4"], ["4 log(s)", "4 log s"]),
    "costs": (r"\text{cost}=5", ["5", "cost=5"], ["cost=6"]),
    "seconds": (r"10\text{ sec}", ["10 sec", "10 s"], ["10 min"]),
    "fractions and roots as exponents": (
        r"\sqrt{5}+3^{\sqrt{2}}",
        [r"5^\frac{1}{2}+3^\sqrt{2}", r"5^\frac12+3^\sqrt2"],
        [r"5^\frac{1}{3}+3^\sqrt{2}", r"5^\frac{1}{2}+3^\sqrt{3}"],
    ),
    "binomials in old TeX": (
        r"\binom{9}{4}",
        [r"{9 \choose 4}", r"9\choose4", "C(9,4)", "126"],
        [r"{9 \choose 3}", "C(9,3)"],
    ),
    "binomials within a formula": (r"2\binom{n}{k}+1", [r"2{n \choose k}+1"], [r"2{k \choose n}+1"]),
    "double factorials": ("105", ["7!!"], ["8!!", "7!", "(7!)!"]),
    "factorials of factorials": ("720", ["(3!)!"], ["(4!)!", "3!!", "(9!)!", "((3!)!)!"]),
    "a subscript behind primes": ("g_1''", ["g''_1"], ["g'_1", "g''_2"]),
    "not in a set": (
        r"x\ne 3, 5",
        [r"x \notin \{3,5\}", r"x\not\in\left\{5,3\right\}"],
        [r"x\notin\{3\}", r"x\in\{3,5\}", "3, 5"],
    ),
    "a backslash at the end": ("412\\", ["412"], ["413"]),
    "limits": (
        r"\lim_{x\to\infty}\frac{2x+1}{x}",
        ["2", r"\lim_{t\rightarrow\infty}\frac{2t+1}{t}"],
        ["1", r"\lim_{x\to\infty}\frac{3x+1}{x}"],
    ),
    "limits from one side": (r"\lim_{x\to 0^+}\frac{|x|}{x}", ["1"], ["-1"]),
    "systems that a word joins": (
        "(6,1),(8,3)",
        [r"m=6, n=1 \text{ and } m=8, n=3", "m=6, n=1; m=8, n=3"],
        [r"m=6, n=1 \text{ and } m=8, n=2", r"m=6, n=1 \text{ and } n=8, k=3", "m=6, n=1"],
    ),
    "three unknowns that a word joins": (
        "(4,5,6)",
        [r"x=4, y=5 \text{ and } z=6"],
        [r"x=4, y=6 \text{ and } z=5"],
    ),
    "products of matrices": (
        r"\begin{pmatrix}4&1\\8&3\end{pmatrix}",
        [r"\begin{pmatrix}1&1\\3&2\end{pmatrix}\begin{pmatrix}0&1\\4&0\end{pmatrix}"],
        [r"\begin{pmatrix}0&1\\4&0\end{pmatrix}\begin{pmatrix}1&1\\3&2\end{pmatrix}"],
    ),
    "products of unlike matrices": (
        r"\begin{pmatrix}1&2\\3&4\end{pmatrix}\cdot\begin{pmatrix}1\\0\end{pmatrix}",
        [r"\begin{bmatrix}1\\3\end{bmatrix}", "(1,3)"],
        [r"\begin{bmatrix}1\\2\end{bmatrix}", r"\begin{bmatrix}1&3\end{bmatrix}^2"],
    ),
    "sets of matrices": (
        r"\left\{\begin{pmatrix}1\\5\end{pmatrix}\right\}",
        [r"\{\begin{bmatrix}1\\5\end{bmatrix}\}"],
        [r"\{\begin{bmatrix}5\\1\end{bmatrix}\}", r"\{1,5\}"],
    ),
    "several sets of numbers": (
        r"\{x \mid x \geq 5\},\{x \mid x > 1\}",
        [r"[5,\infty), (1,\infty)", r"\{x : x>1\}, \{x : x\ge 5\}"],
        [r"\{x \mid x \geq 5\},\{x \mid x > 2\}", r"\{x \mid x \geq 5\}", "x > 1"],
    ),
    "systems in an array": (
        r"\left\{\begin{array}{l} x=4 \\ y=7 \end{array}\right.",
        ["(4,7)", "y=7, x=4", r"\begin{cases} x=4 \\ y=7 \end{cases}"],
        ["(7,4)", "x=4", r"\begin{cases} x=7 \\ y=4 \end{cases}"],
    ),
    "cases in an array": (
        r"f(x)=\left\{\begin{array}{rll} 2x & \text { if } & x \geq 1 \\ 3 & \text { if } & x<1\end{array}\right.",
        [
            r"\begin{cases} 2x & x\ge 1 \\ 3 & x<1 \end{cases}",
            r"\{\begin{array}{ll} 3, & x<1 \\ 2x, & x\geq 1 \end{array}",
        ],
        [r"\begin{cases} 3 & x\ge 1 \\ 2x & x<1 \end{cases}"],
    ),
    "matrices in brackets of their own": (
        r"\frac{1}{7}\begin{pmatrix}1&0\\2&5\end{pmatrix}",
        [r"\frac{1}{7} \left[\begin{matrix}1 & 0\\2 & 5\end{matrix}\right]"],
        [r"\frac{1}{7} \left[\begin{matrix}1 & 0\\5 & 2\end{matrix}\right]"],
    ),
    "a logarithm without a base": (
        r"3\log 2",
        [r"3\ln 2", r"\ln 8", r"3\log_{10}2"],
        [r"3\ln 3", r"3\log_2 2", "0.693147"],
    ),
    "the natural logarithm": (r"\frac{\ln 3}{2}", [r"\frac{\log 3}{2}"], [r"\frac{\log_{10} 3}{2}", r"\log 3"]),
}  # fmt: skip


@pytest.mark.parametrize("kind", SPELLINGS)
def test_the_spelling_makes_no_difference(kind):
    gold, right, wrong = SPELLINGS[kind]
    assert GoldChecker().problem(gold) is None
    verdicts = {answer: verify_math(f"\\boxed{{{answer}}}", gold).correct for answer in (*right, *wrong)}
    assert verdicts == dict.fromkeys(right, True) | dict.fromkeys(wrong, False)


@pytest.mark.parametrize(
    ("solution", "gold"),
    [
        (r"Hence $y=\boxed{4}$ and $x=\boxed{9}$.", "y=4, x=9"),
        (r"Hence $y=\boxed{4}$ and $x=\boxed{4}$.", "y=4, x=4"),
        (r"Hence $x_1=\boxed{4}$, $x_2=\boxed{9}$.", "x_1=4, x_2=9"),
        (r"Hence $\boxed{y=4}$ and $x=\boxed{9}$.", "y=4, 9"),
        (r"Hence \boxed{4}" + " " * 300 + r"\boxed{9}", "9"),
    ],
)
def test_boxes_keep_the_names_before_them(solution, gold):
    assert extract_gold(solution) == gold


def test_values_follow_the_names_before_their_boxes():
    gold = extract_gold(r"Hence $y=\boxed{4}$ and $x=\boxed{9}$.")
    assert verify_math(r"\boxed{(9, 4)}", gold).correct
    assert not verify_math(r"\boxed{(4, 9)}", gold).correct


@pytest.mark.parametrize("part", ["abs(", "sqrt(x)", "{a \\choose b}", "\\choose ", "2^\\frac", "f''_", "sin "])
def test_repeated_parts_are_cleaned_fast_and_a_bounded_number_of_times(part):
    cleaned = clean(part * (1000 // len(part)))
    assert len(cleaned) < 3000
    assert cleaned.count(r"\binom") <= MAX_REPLACED


def test_a_chain_of_matrices_is_not_multiplied_out():
    chain = r"\begin{pmatrix}1&1\\1&1\end{pmatrix}" * 20
    assert not verify_math(f"\\boxed{{{chain}}}", r"\begin{pmatrix}2&2\\2&2\end{pmatrix}").correct
