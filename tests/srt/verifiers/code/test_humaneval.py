"""HumanEval: every canonical solution passes, and fails once it contains one small mistake."""

import ast
import gzip
import json
import random
from pathlib import Path

import pytest

from srt.problems import load_problems
from srt.verifiers.code.grader import CodeGrader
from srt.verifiers.code.judge import JudgeConfig
from tests.srt.helpers.code_cases import fenced

pytestmark = pytest.mark.bwrap

FILE = Path(__file__).parents[2] / "data" / "humaneval" / "HumanEval.jsonl.gz"
CONFIG = JudgeConfig("bwrap", time_limit=3.0, memory_limit=512, time_factor=1.0)
# Problems whose random mistake changes nothing: a bound that is never reached, a tie that cannot occur, a count
# that is only compared with 0.
EQUIVALENT = {25, 35, 39, 116, 128, 131, 132, 139, 148, 154}
# Problems whose random mistake HumanEval's own tests do not detect; they pass without this judge, too.
UNDETECTED = {20, 52, 59, 72, 124, 150}

OTHER_OPERATOR = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.Mod: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Div: ast.Mult,
    ast.And: ast.Or,
    ast.Or: ast.And,
}


def mistakes(tree):
    """Functions, each of which makes one mistake in the tree."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            if type(node.ops[0]) in OTHER_OPERATOR:
                yield lambda n=node: n.ops.__setitem__(0, OTHER_OPERATOR[type(n.ops[0])]())
        elif isinstance(node, (ast.BinOp, ast.BoolOp)) and type(node.op) in OTHER_OPERATOR:
            yield lambda n=node: setattr(n, "op", OTHER_OPERATOR[type(n.op)]())
        elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
            yield lambda n=node: setattr(n, "value", not n.value)
        elif isinstance(node, ast.Constant) and isinstance(node.value, int):
            yield lambda n=node: setattr(n, "value", n.value + 1)
        elif isinstance(node, ast.Return) and node.value is not None:
            yield lambda n=node: setattr(n, "value", ast.Tuple([n.value], ast.Load()))


def broken(program, entry_point, seed):
    """The program with one random mistake in the function `entry_point`."""
    tree = ast.parse(program)
    function = next(n for n in reversed(tree.body) if isinstance(n, ast.FunctionDef) and n.name == entry_point)
    random.Random(seed).choice(list(mistakes(ast.Module(function.body, []))))()
    return ast.unparse(tree)


def test_canonical_solutions_pass_and_broken_ones_fail(tmp_path):
    path = tmp_path / "humaneval.jsonl"
    path.write_bytes(gzip.decompress(FILE.read_bytes()))
    records = [json.loads(line) for line in path.read_text().splitlines()]
    problems = load_problems(str(path), "code").problems
    assert len(problems) == 164
    programs = [record["prompt"] + record["canonical_solution"] for record in records]
    mutants = [
        broken(program, record["entry_point"], record["task_id"])
        for program, record in zip(programs, records, strict=True)
    ]
    with CodeGrader(2, CONFIG) as grader:
        right = grader.grade_all([(fenced(s), p, "stop") for s, p in zip(programs, problems, strict=True)])
        wrong = grader.grade_all([(fenced(s), p, "stop") for s, p in zip(mutants, problems, strict=True)])
    assert {p.id: v for p, v in zip(problems, right, strict=True) if not v.correct} == {}
    passing = {p.id for p, v in zip(problems, wrong, strict=True) if v.correct}
    assert passing == {f"HumanEval/{number}" for number in EQUIVALENT | UNDETECTED}
