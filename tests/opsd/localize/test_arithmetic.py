"""The first wrong step: exactly in the quickstart's world, by equations elsewhere."""

import random

import pytest

from opsd.localize.arithmetic import CHAIN, chain_solution, check_arithmetic
from quickstart.world import World, apply


def test_the_only_correct_solution_is_the_worlds(world_problems):
    for problem in world_problems:
        chain = CHAIN.fullmatch(problem.text)
        assert chain
        assert chain_solution(int(chain[1]), chain[2]) == World(0).solution(problem)


def test_solutions_without_slips_have_no_error(world_problems):
    for problem in world_problems:
        checked = check_arithmetic(problem.text, World(0).solution(problem))
        assert (checked.steps, checked.error) == (5, None)


def test_the_error_is_the_result_of_the_first_slip(world_problems):
    """Found here by walking the lines, each from the state that the line before it left."""
    rng, slips = random.Random(1), 0
    for problem in world_problems:
        text = World(0).attempt(problem, rng)
        expected, position = None, 0
        for line in text.split("\n")[:5]:
            _, state, operation, operand, _, result = line.split()
            if expected is None and apply(int(state), operation, int(operand)) != int(result):
                expected = position + len(line) - 1
            position += len(line) + 1
        slips += expected is not None
        assert check_arithmetic(problem.text, text).error == expected
    assert slips > 5


X = "x = 3 [A] + 4 [B] * 2"
RIGHT = "A 3 + 4 = 7\nB 7 * 2 = 4\n\\boxed{4}"


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (RIGHT, None),
        (RIGHT + "\n\nWait\n\nA 3 + 4 = 9", None),  # what follows the answer is another attempt
        (RIGHT[:15], None),  # cut off
        (RIGHT.replace("B 7 *", "B 7 +"), RIGHT.index("*")),  # copied wrongly
        (RIGHT.replace("B 7", "B 6"), RIGHT.index("7 *")),  # a wrong state carried on
        (RIGHT.replace("{4}", "{5}"), RIGHT.index("4}")),  # only the answer
        (RIGHT.replace("\nB", "\nC"), RIGHT.index("B")),
    ],
)
def test_chains_go_wrong_in_other_ways_than_by_slips(text, error):
    assert check_arithmetic(X, text).error == error


def test_text_that_is_no_chain_has_no_steps():
    assert check_arithmetic(X, "I do not know.").steps == 0


@pytest.mark.parametrize(
    ("text", "steps", "wrong"),
    [
        ("She has 3 + 4 = 7 apples.", 1, None),
        ("She has 3 + 4 = 8 apples.", 1, "8"),
        ("First 12 * 3 = 36. Then 36 - 6 = 31, and 31 + 1 = 33.", 3, "31,"),
        (r"So \[ 12 + 3 = 16 \]", 1, "16"),
        ("In all. 2 + 3 * 4 = 14", 1, None),
        ("2 + 3 * 4 = 20", 1, "20"),
        ("10 - 2 - 3 = 5 and 8 / 2 / 2 = 2", 2, None),
        (r"\(3 \times 12 = 36\) and \(36 \div 5 = 7.2\)", 2, None),
        (r"\(3 \times 12 = 35\)", 1, "35"),
        ("$5 * 4 = $20, so $1,000 + $20 = $1,020", 2, None),
        ("20% * 50 = 10", 1, None),
        ("2 / 3 = 0.67 and 2 / 3 = 0.66", 2, None),
        ("2 / 3 = 0.68", 1, "0.68"),
        ("4 x 5 = 21", 1, "21"),
        ("3 − 5 = -2", 1, None),
        ("7 / 0 = 7", 0, None),
        ("2x + 3 = 7 and a + 3 = 5", 0, None),  # unknowns: nothing to check
        ("(1 + 2) * 3 = 9, f(2 + 3) = 4", 0, None),
        ("x^2 + 3 = 7", 0, None),
        ("5 apples + 3 apples = 9 apples", 0, None),
        ("3 + 4 = 7x", 0, None),
        ("3 + 4 = 2 * 3.5", 0, None),
        ("1.5 + 2 = 3.5 and .5 + 2 = 2.5", 1, None),
        ("no numbers", 0, None),
    ],
)
def test_equations_between_numbers(text, steps, wrong):
    checked = check_arithmetic("How many?", text)
    assert checked.steps == steps
    assert checked.error == (None if wrong is None else text.index(wrong))
