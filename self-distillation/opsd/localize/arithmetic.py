"""The first wrong step of arithmetic text: exactly for chains of labeled operations, else by its equations.

A chain is a problem such as `x = 3 [A] + 4 [B] * 2`, computed modulo 10, whose solution has one line per operation
(`A 3 + 4 = 7`) and boxes the result: the quickstart's world. There is one correct solution, so the first character
that differs from it is the error, be it a result, an operand or a label. Other text is searched for equations
between numbers (`12 * 3 = 36`), of which the first whose two sides differ is the error.
"""

import re
from dataclasses import dataclass
from fractions import Fraction

CHAIN = re.compile(r"x = (\d)((?: \[[A-Z]\] [-+*] \d)+)\s*")
CHAIN_STEP = re.compile(r" \[([A-Z])\] ([-+*]) (\d)")
MODULUS = 10

NUMBER = r"-?\\?\$?\d[\d,]*(?:\.\d+)?(?:\\?%)?"
OPERATOR = r"(?:[-+*/×÷−]|x(?= )|\\times|\\cdot|\\div)"
EQUATION = re.compile(rf"({NUMBER}(?:\s*{OPERATOR}\s*{NUMBER})+)\s*=\s*({NUMBER})")
TERM = re.compile(rf"({OPERATOR})\s*({NUMBER})")
CONTINUES_BEFORE = re.compile(
    r"(?:[-+*/×÷−^)\]}_]|(?<!\\)[(\[]|\\(?:times|cdot|div)|[\d\s][A-Za-z]|^[A-Za-z])\s*$|\.$"
)
CONTINUES_AFTER = re.compile(r"\s*(?:[-+*/×÷−^({\[]|\\(?:times|cdot|div))|[\dA-Za-z]|\.\d")


@dataclass(frozen=True)
class CheckedText:
    """`steps`: how many were found; `error`: where the first wrong one goes wrong, None if all are right."""

    steps: int
    error: int | None


def check_arithmetic(x: str, text: str) -> CheckedText:
    """`x`: the problem; `error` is a position in `text`, the response. No steps: it is not arithmetic text."""
    chain = CHAIN.fullmatch(x)
    return _check_chain(int(chain[1]), chain[2], text) if chain else _check_equations(text)


def chain_solution(start: int, steps: str) -> str:
    """The only correct solution of a chain. `steps`: the labeled operations, as they stand in the problem."""
    lines, state = [], start
    for label, operation, operand in CHAIN_STEP.findall(steps):
        result = _apply(state, operation, int(operand))
        lines.append(f"{label} {state} {operation} {operand} = {result}")
        state = result
    return "\n".join([*lines, f"\\boxed{{{state}}}"])


def _apply(state: int, operation: str, operand: int) -> int:
    result = {"+": state + operand, "-": state - operand, "*": state * operand}[operation]
    return result % MODULUS


def _check_chain(start: int, steps: str, text: str) -> CheckedText:
    """What follows the boxed answer, a revision for example, is not looked at, nor that a text ends too early."""
    correct = chain_solution(start, steps)
    if text[:2] != correct[:2]:  # the first label and a space
        return CheckedText(0, None)
    pairs = enumerate(zip(text, correct, strict=False))
    error = next((index for index, (actual, expected) in pairs if actual != expected), None)
    return CheckedText(len(CHAIN_STEP.findall(steps)), error)


def _check_equations(text: str) -> CheckedText:
    steps, error = 0, None
    for match in EQUATION.finditer(text):
        if CONTINUES_BEFORE.search(text[max(0, match.start() - 8) : match.start()]):
            continue
        if CONTINUES_AFTER.match(text, match.end()):
            continue
        left = _evaluate(match[1])
        if left is None:
            continue
        steps += 1
        if error is None and not _equal(left, match[2]):
            error = match.start(2)
    return CheckedText(steps, error)


def _evaluate(expression: str) -> Fraction | None:
    """Products before sums; None for a division by zero."""
    first = re.match(NUMBER, expression)
    assert first is not None  # EQUATION begins with a number
    sums = [_number(first[0])]
    for operator, operand in TERM.findall(expression[first.end() :]):
        value = _number(operand)
        if operator in ("+", "-", "−"):
            sums.append(value if operator == "+" else -value)
        elif operator in ("/", "÷", "\\div"):
            if not value:
                return None
            sums[-1] /= value
        else:
            sums[-1] *= value
    return sum(sums, Fraction(0))


def _number(text: str) -> Fraction:
    digits = re.sub(r"[\\$,%]", "", text)
    return Fraction(digits) / (100 if text.endswith("%") else 1)


def _equal(left: Fraction, right: str) -> bool:
    """Up to the rounding, or cutting off, of the digits that are written."""
    decimals = len(right.rstrip("\\%").partition(".")[2])
    unit = Fraction(1, 10**decimals) / (100 if right.endswith("%") else 1)
    return abs(left - _number(right)) < unit
