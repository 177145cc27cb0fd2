"""Forms of answers that go beyond single formulas, each with right and with wrong answers."""

import pytest

from srt.verifiers.math.extract import extract_gold
from srt.verifiers.math.golds import GoldChecker
from srt.verifiers.math.verify import verify_math
from srt.verifiers.types import VerifierError

# kind: (gold, right answers, wrong answers)
READINGS = {
    "a function's variable has any name": (
        "f(x)=2x+1",
        ["f(n)=2n+1", "f(t) = 1+2t", "2x+1"],
        ["f(n)=2n", "g(n)=2n+1", "f(n)=2x+1", "f(n)=2n+1+x"],
    ),
    "functions of two variables": ("f(x,y)=x-y", ["f(a,b)=a-b"], ["f(a,b)=b-a", "f(a,a)=0"]),
    "several functions": ("f(x)=x, f(x)=-x", ["f(t)=-t, f(t)=t"], ["f(t)=t", "f(t)=t, f(t)=2t"]),
    "terms of a sequence": ("a_n=3n-1", ["a_k=3k-1"], ["a_k=3k+1", "b_k=3k-1"]),
    "an arbitrary constant": (
        r"f(x)=cx, c\in\mathbb{R}",
        ["f(x)=cx", r"f(x)=cx \text{ for any constant } c"],
        ["f(x)=c", r"f(x)=cx^2, c\in\mathbb{R}"],
    ),
    "two constants": (r"f(x)=ax+b, a,b\in\mathbb{R}", ["f(x)=ax+b"], ["f(x)=ax"]),
    "a product on the left": ("xy=4", [r"y=\frac{4}{x}", r"x=\frac4y"], [r"y=\frac{x}{4}", "y=4"]),
    "coordinates by name": ("(2,5)", ["x=2, y=5", "y=5, x=2"], ["y=2, x=5", "x=5, y=2"]),
    "other names in the order given": ("(3,2)", ["n=3, k=2"], ["n=2, k=3"]),
    "numbered names": ("(1,2)", ["x_2=2, x_1=1"], ["x_1=2, x_2=1"]),
    "equal letters": ("a=b=c", ["c=b=a"], ["a=b", "a=b=d", "c"]),
    "equal letters with a value": ("x=y=1", ["(1,1)", "x=1, y=1"], ["x=1, y=2", "(1,2)"]),
    "an integer of any name": (
        r"k\pi",
        [r"n\pi", r"n\pi, n\in\mathbb{Z}", r"m\pi \text{ for any integer } m"],
        [r"2n\pi", r"(n+1)\pi", r"\pi"],
    ),
    "positive integers": (
        r"3k, k\in\mathbb{Z}^+",
        [r"3k \text{ where } k \text{ is a positive integer}", r"3n, n\in\mathbb{N}", r"3k+3, k\in\mathbb{N}_0"],
        [r"3k, k\in\mathbb{Z}", r"3k+3, k\in\mathbb{Z}^+", r"6k, k\in\mathbb{Z}^+"],
    ),
    "integers from a number on": (
        r"2^k, k\ge 1",
        [r"2^n, n\geq 1", r"2^k \text{ where } k\ge 1"],
        [r"2^n, n\geq 0", "2^n"],
    ),
    "residue classes": (
        r"n\equiv 1,5 \pmod 6",
        [r"n\equiv \pm 1 \pmod{6}", r"n=6k+1 \text{ or } n=6k-1", r"n \equiv 1 \text{ or } n\equiv 5\pmod 6"],
        [r"n\equiv 1 \pmod 6", "n=6k+1", r"m\equiv 1,5 \pmod 6", "1, 5", r"n=6k+1 \text{ or } n=6k+2"],
    ),
    "shifted residues": (
        r"n\equiv 1 \pmod 6",
        [r"n\equiv 7\pmod 6", r"n\equiv -5 \pmod 6", "6k+1"],
        [r"n\equiv 1\pmod 3", r"n=6k+1, k\in\mathbb{N}", "n=6n+1", "1"],
    ),
    "multiples": (r"3 \mid n", ["n=3k", r"n \equiv 0 \pmod 3"], [r"n \mid 3", r"6\mid n"]),
    "lines": (
        "(1,2,0)+t(3,-1,4)",
        ["(4,1,4)+s(-6,2,-8)", "(x,y,z)=(1+3t,2-t,4t)", r"\frac{x-1}{3}=\frac{y-2}{-1}=\frac{z}{4}"],
        ["(1,2,1)+t(3,-1,4)", "(1,2,0)+t(3,1,4)", "(1,2,0)", "(1,2)+t(3,-1)"],
    ),
    "lines of columns": (
        r"\begin{pmatrix}1\\2\end{pmatrix}+t\begin{pmatrix}3\\-1\end{pmatrix}",
        [r"\begin{pmatrix}4\\1\end{pmatrix}+s\begin{pmatrix}3\\-1\end{pmatrix}", "x=1+3t, y=2-t"],
        [r"\begin{pmatrix}4\\2\end{pmatrix}+s\begin{pmatrix}3\\-1\end{pmatrix}", "x=1+3t, y=2+t"],
    ),
    "symmetric equations": (
        r"\frac{x-1}{3}=\frac{y-2}{-1}=\frac{z}{4}",
        [r"\frac{x-4}{3}=\frac{y-1}{-1}=\frac{z-4}{4}"],
        [r"\frac{x-1}{3}=\frac{y-5}{7}=\frac{z}{4}", r"\frac{x-1}{3}", r"\frac{z}{4}"],
    ),
    "finite groups": (
        r"\mathbb{Z}_2\times\mathbb{Z}_{12}",
        [r"\mathbb{Z}/2\mathbb{Z}\oplus\mathbb{Z}/12\mathbb{Z}", r"\mathbb{Z}_3\times\mathbb{Z}_4\times C_2"],
        [r"\mathbb{Z}_{24}", r"\mathbb{Z}_2\times\mathbb{Z}_{18}", "24"],
    ),
    "free groups": (r"\mathbb{Z}^2", [r"\mathbb{Z}\oplus\mathbb{Z}"], [r"\mathbb{Z}", r"\mathbb{Z}^3"]),
    "fields": (r"\mathbb{Q}(\sqrt{2})", [r"\mathbb{Q}( \sqrt2 )"], [r"\mathbb{Q}(\sqrt{3})", r"\sqrt{2}"]),
    "groups of any order": (
        r"\mathbb{Z}/p\mathbb{Z}\times\mathbb{Z}",
        [r"\mathbb{Z}_p\oplus \mathbb{Z}"],
        [r"\mathbb{Z}_q\times\mathbb{Z}", r"\mathbb{Z}_p"],
    ),
    "signs of sets": (r"\mathbb{R}^+", [r"(0,\infty)", "x>0", r"\mathbb{R}_{>0}"], [r"[0,\infty)", r"\mathbb{R}"]),
    "natural numbers": (r"\mathbb{N}", [r"\mathbb{Z}^+", r"\mathbb{N}_0"], [r"\mathbb{Z}", r"\mathbb{Q}^+"]),
    "cases": (
        r"1 \text{ if } n \text{ is even}, 2 \text{ otherwise}",
        [
            r"2 \text{ for odd } n, 1 \text{ for even } n",
            r"\begin{cases} 1 & n \text{ even} \\ 2 & n \text{ odd} \end{cases}",
            r"1, \text{ if } n \text{ is even, otherwise } 2",
        ],
        [r"2 \text{ if } n \text{ is even}, 1 \text{ otherwise}", "1, 2", "1"],
    ),
    "cases of relations": (
        r"\begin{cases} x & x\ge 0 \\ -x & x<0 \end{cases}",
        [r"\begin{cases} -x, & \text{if } x<0, \\ x, & \text{if } x \geq 0. \end{cases}"],
        [r"\begin{cases} -x & x\ge 0 \\ x & x<0 \end{cases}", r"\begin{cases} x & x\ge 0 \\ 2x & x<0 \end{cases}"],
    ),
    "absolute values": (
        "|2x-1|<3",
        ["-1<x<2", "(-1,2)"],
        ["-1<x<3", r"-1\le x<2", "|x|<3", "x>2"],
    ),
    "absolute values between bounds": (r"1\le|x|\le 2", [r"[-2,-1]\cup[1,2]"], ["[1,2]", r"[-2,-1]\cup[1,3]"]),
    "the larger of two": (r"\max(a,b)", [r"\max\{a,b\}", r"\max\{b, a\}"], [r"\min\{a,b\}", r"\max\{a,c\}"]),
    "all that fulfil a condition": (r"\text{all integers } n \ge 3", [r"n\ge 3"], [r"n>3", r"n\ge 2"]),
    "determinants": (r"\begin{vmatrix} 1 & 2 \\ 3 & x \end{vmatrix}", ["x-6"], ["x+6", "6-x"]),
    "a denominator without braces": (r"\frac{\sqrt{3}}{2}", [r"\frac{\sqrt3}2"], [r"\frac{\sqrt3}4"]),
    "labels": (r"\textbf{(D)}\ 24", ["24", "D", "(D) 24"], ["(A) 24", "A", r"\textbf{(D)}\ 42"]),
    "counted things": (
        r"\text{1 red and 4 blue}",
        [r"\text{4 blue and 1 red}", "1, 4"],
        [r"\text{4 red and 1 blue}", "4, 1", r"\text{1 red}"],
    ),
    "things of other names": (
        r"4\text{ boys}, 6\text{ girls}",
        ["4, 6", r"4\text{ men}, 6\text{ women}"],
        ["6, 4"],
    ),
    "measured things": (r"3\text{ cm}, 5\text{ cm}", ["5, 3"], ["5, 4"]),
    "sets of sets": (r"\{\{1\},\{2\}\}", [r"\{\{2\},\{1\}\}"], [r"\{1,2\}", r"\{\{1,2\}\}"]),
    "the set of the empty set": (r"\{\emptyset\}", [r"\{ \emptyset \}"], [r"\emptyset", r"\{0\}"]),
    "orders of letters": ("RGB", [r"\text{RGB}"], ["BGR", "GRB"]),
    "triangles": (r"\triangle ABC", ["ABC"], ["DEF", "AB"]),
    "a function's values are not shifted": (
        r"f(n)=2n+1 \text{ for all integers } n",
        ["f(n)=2n+1", r"f(x)=2x+1, x\in\mathbb{Z}", "2n+1"],
        ["f(n)=2n-1", r"f(n)=2n-1, n\in\mathbb{Z}"],
    ),
    "for all numbers": (r"f(x)=x+1 \text{ for all } x\in\mathbb{R}", ["f(x)=x+1", "x+1"], ["f(x)=x", "f(x)=x-1"]),
    "excluded numbers": (
        r"x\ne \pm 1",
        [r"(-\infty,-1)\cup(-1,1)\cup(1,\infty)", r"x \neq -1, 1", r"x\ne 1 \text{ and } x\ne -1"],
        [r"x\ne 1", r"x=\pm 1", r"\mathbb{R}"],
    ),
    "dots between numbers": (
        r"\{1,2,3,\ldots,6\}",
        [r"\{1,2,\dots,6\}", r"\{1,2,3,4,5,6\}"],
        [r"\{1,2,3,\ldots,8\}", r"\{1,2,3,6\}", r"\{1,3,\ldots,6\}"],
    ),
    "dots between formulas": (r"1,2,4,\ldots,2^{n}", [r"1, 2, 4, ..., 2^n"], [r"1,2,4,\ldots,2^{n-1}", "1,2,4"]),
    "dots without an end": (r"0,2,4,\ldots", [r"0, 2, 4, \dots"], [r"0,2,6,\ldots", "0,2,4"]),
    "unit vectors": (
        "(3,-1)",
        [r"3\mathbf{i}-\mathbf{j}", r"-\vec{j}+3\vec{i}"],
        [r"3\mathbf{i}+\mathbf{j}", r"3\mathbf{i}-\mathbf{k}", r"3\mathbf{i}-\mathbf{j}+1"],
    ),
    "integers from 0 on": (
        r"3^k, k\ge 0",
        [r"3^k \text{ where } k \text{ is a nonnegative integer}", r"3^n, n\in\mathbb{N}_0"],
        [r"3^k \text{ where } k \text{ is a positive integer}", r"3^k, k\ge 1"],
    ),
    "a modulus in words": (r"1\pmod 4", [r"n\equiv 1\ (\mathrm{mod}\ 4)"], [r"n\equiv 1\ (\mathrm{mod} 8)"]),
    "subject and verb": (
        r"\text{converges}",
        [r"\text{The series converges}", r"\text{it is convergent}"],
        [r"\text{The series diverges}", r"\text{The series does not converge}"],
    ),
    "a currency in letters": (r"\$12.50", ["USD 12.50"], ["USD 12.05"]),
    "minutes of arc": (r"60^\circ", ["60"], ["60'"]),
    "a rounding in words": ("3.14", [r"3.14\text{ (2 d.p.)}"], [r"3.1\text{ (1 d.p.)}"]),
    "a coefficient with an exponent": ("n2^{n-1}", [r"2^{n-1}\cdot n"], ["n^{n-1}", "2^{n-1}"]),
    "a Chinese lead": (r"\frac{1}{3}", [r"答案：\frac{1}{3}"], [r"答案：\frac{2}{3}"]),
}  # fmt: skip


@pytest.mark.parametrize("kind", READINGS)
def test_forms_are_compared_by_their_meaning(kind):
    gold, right, wrong = READINGS[kind]
    assert GoldChecker().problem(gold) is None
    verdicts = {answer: verify_math(f"\\boxed{{{answer}}}", gold).correct for answer in (gold, *right, *wrong)}
    assert verdicts == dict.fromkeys((gold, *right), True) | dict.fromkeys(wrong, False)


def test_conditions_in_other_words_give_no_verdict():
    with pytest.raises(VerifierError, match="conditions that cannot be compared"):
        verify_math(
            r"\boxed{1 \text{ if } n \text{ is prime}, 2 \text{ if } n \text{ is composite}}",
            r"1 \text{ if } n \text{ has two divisors}, 2 \text{ if } n \text{ has more}",
        )


@pytest.mark.parametrize(
    ("solution", "gold"),
    [
        (r"So $x=\boxed{1}$ or $x=\boxed{2}$.", "1, 2"),
        (r"Thus \boxed{(2, 2)} \quad \text{and} \quad \boxed{(6, 2)}.", "(2, 2), (6, 2)"),
        (r"\boxed{1} paper and \boxed{2} bins", "1, 2"),
        (r"With $\boxed{5}$ we are stuck. So \boxed{1}, \boxed{\frac{1}{2}}", r"1, \frac{1}{2}"),
        (r"First \boxed{3}, but after checking \boxed{4}.", "4"),
        (r"$\boxed{7}$, that is, $\boxed{7}$", "7"),
        (r"\boxed{\boxed{1} and \boxed{2}}", r"\boxed{1} and \boxed{2}"),
    ],
)
def test_boxes_that_belong_together_are_one_gold_answer(solution, gold):
    assert extract_gold(solution) == gold
