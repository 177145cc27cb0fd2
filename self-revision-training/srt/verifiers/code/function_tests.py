"""Whether tests that call a function can judge one, as far as their text says; the rest is found when they run.

sandboxed/harness.py runs them: code at the top level, `check(candidate)` or `check_<function>(candidate)`,
pytest's functions and classes (without fixtures), and unittest's test cases.
"""

import ast
import builtins
import functools
import re
from collections.abc import Iterator

ENTRY_POINT = re.compile(r"[^\W\d]\w*(?:(?:\(\))?\.[^\W\d]\w*)*")
Function = ast.FunctionDef | ast.AsyncFunctionDef
EVALUATING = {"eval", "exec", "globals", "getattr", "vars", "__import__"}  # may do what is not in the text


@functools.lru_cache(maxsize=256)  # the responses to one problem come together
def why_tests_cannot_judge(test: str, entry_point: str) -> str | None:
    """The reason, in words; None when the tests seem to be able to."""
    if not ENTRY_POINT.fullmatch(entry_point):
        return f"entry_point: the name of a function or method (Solution.add) is expected, got {entry_point!r:.80}"
    try:
        tree = ast.parse(test)
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        return f"the tests are not Python ({error})"[:200]
    name = entry_point.rpartition(".")[2]
    entries, other = _entries(tree, name)
    for function in entries:
        if reason := _why_not_run(function):
            return reason
    calls = [node for statement in tree.body if not _defines(statement) for node in ast.walk(statement)]
    runs_at_top_level = any(isinstance(node, (ast.Call, ast.Assert)) for node in calls)
    if not entries and not runs_at_top_level:
        if other:
            return (
                f"the tests define {other[0]!r}, which nothing calls; expected check(candidate), "
                f"check_{name}(candidate), test functions, test cases, or code at the top level"
            )
        return "the tests are empty"
    nodes = list(ast.walk(tree))
    names = {node.id for node in nodes if isinstance(node, ast.Name)}
    attributes = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    if names & EVALUATING:
        return None
    parameters = {argument.arg for function in entries for argument in function.args.args} - {"self"}
    known_as = {name, entry_point.partition(".")[0].replace("()", ""), "candidate", "solution"} | parameters
    defined = {node.name for node in nodes if isinstance(node, Function | ast.ClassDef)}
    called = {node.func.id for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    # A function of the problem's text may assert, too.
    helpers = called - known_as - defined - set(dir(builtins))
    fails = any(_can_fail(node) for node in nodes) or any(_returns_value(function) for function in entries)
    if not fails and not helpers:
        return "the tests assert nothing: they pass whatever the function returns"
    imported = {
        alias.name for node in nodes if isinstance(node, (ast.Import, ast.ImportFrom)) for alias in node.names
    }
    if not known_as & (names | attributes | imported) and "*" not in imported:
        return f"the tests never use {name!r}"
    return None


def _entries(tree: ast.Module, name: str) -> tuple[list[Function], list[str]]:
    """The functions that the harness calls, and the names of other functions and classes."""
    entries, other = [], []
    for statement in tree.body:
        if isinstance(statement, Function):
            runs = statement.name in ("check", f"check_{name}") or statement.name.startswith("test")
            entries += [statement] if runs else []
            other += [] if runs else [statement.name]
        elif isinstance(statement, ast.ClassDef):
            methods = [node for node in statement.body if isinstance(node, Function)]
            tests = [method for method in methods if method.name.startswith("test")]
            is_case = statement.name.startswith("Test") or any(
                "TestCase" in ast.unparse(b) for b in statement.bases
            )
            entries += tests if is_case else []
            other += [] if is_case and tests else [statement.name]
    return entries, other


def _why_not_run(function: Function) -> str | None:
    """Why it is not clear what a test function means."""
    if any(isinstance(node, (ast.Yield, ast.YieldFrom)) for node in _own_nodes(function)):
        return f"{function.name} is a generator: calling it runs none of its tests"
    arguments = function.args
    required = [argument.arg for argument in [*arguments.posonlyargs, *arguments.args]]
    required = required[: len(required) - len(arguments.defaults)]
    required = [argument for argument in required if argument not in ("self", "cls")]
    keywords = [
        a.arg for a, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True) if default is None
    ]
    if function.name.startswith("check") or (function.name == "test" and required):
        if len(required) != 1 or keywords:
            return f"{function.name} is expected to take one argument, the function"
    elif keywords or (required and required != ["candidate"]):
        return (
            f"{function.name} needs {', '.join([*required, *keywords])}: fixtures and parameters are not supported"
        )
    return None


def _own_nodes(function: Function) -> Iterator[ast.AST]:
    """The nodes of a function's body, without those of functions inside it."""
    pending: list[ast.AST] = list(function.body)
    while pending:
        node = pending.pop()
        yield node
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)):
            pending.extend(ast.iter_child_nodes(node))


def _defines(statement: ast.stmt) -> bool:
    return isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom))


def _can_fail(node: ast.AST) -> bool:
    if isinstance(node, (ast.Assert, ast.Raise)):
        return True
    if isinstance(node, ast.Call):
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        return called.lower().startswith(("assert", "fail", "raises", "check", "verify", "expect", "testmod"))
    return False


def _returns_value(function: Function) -> bool:
    return any(isinstance(node, ast.Return) and node.value is not None for node in _own_nodes(function))
