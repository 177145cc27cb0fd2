"""Problems in the language of the tiny models, and the control phrases they are graded with."""

from srt.contract.records import Problem

PHRASES = {0: "Wait, this response is wrong. Let me correct it.", 1: "Let me rephrase the above solution."}


def problem(answer="7", x="x = 1 [A] + 1", id="p"):
    return Problem(id=id, x=x, answer=answer)


PROBLEMS = [problem("7", f"x = {digit} [A] + 1", f"p{digit}") for digit in range(6)]
TOO_LONG = problem(x=" ".join(["x = 1 [A] + 1"] * 20), id="too long")
