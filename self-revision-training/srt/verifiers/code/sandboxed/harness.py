"""Runs in a sandbox: a problem's tests, which call a function that lives in another sandbox.

    python harness.py <fd to write requests to> <fd to read replies from>
        < {"preamble", "test", "entry_point", "seconds"}

The candidate, the program under test, never runs in this process: it cannot read the expected values, end the
tests, or replace what they compare with. Its values arrive as plain data (encoder.py), and no __eq__ of its own
decides.

Standard output is lines of JSON, {"outcome", "message", "num_calls"}, of which the last one counts. Outcomes:
"passed", "failed", "died" (the program did, or sent nonsense), "not started" (the program's sandbox), or the kind
of the tests' own failure. When this process ended in any other way, there is no line, or the last one says what it
was doing: "reading" a large reply of the program's, or "running" the tests.
"""

import ast
import json
import os
import sys
import types

from encoder import Unsendable, own_classes
from interpreter import complete
from remote import Connection, Ended

MISSING_MODULE = "tests with a missing module"
BROKEN = "tests that break"
EXIT = "tests that exit"
NO_CALL = "tests that do not call the function"
UNSUPPORTED = "tests that need more than plain data"


class ReturnedFalse(Exception):
    """A test returned False."""


class UnclearResult(Exception):
    """A test returned what is neither None nor a bool."""


def run_tests(test, namespace, function, entry_point):
    """Execute the tests, then run what they define. Raises what fails."""
    defined_before = dict(namespace)
    exec(compile(test, "test.py", "exec"), namespace)
    called = {
        node.value.func.id
        for node in ast.parse(test).body
        if isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Call)
        and isinstance(node.value.func, ast.Name)
    }
    name = entry_point.rpartition(".")[2]
    for prepare in ("setUpModule", "setup_module"):
        if prepare not in called:
            call_if_there(namespace.get(prepare), sys.modules["program"])
    for key, value in list(namespace.items()):
        if defined_before.get(key) is value or key in called:
            continue
        if isinstance(value, type) and is_test_case(value):
            run_test_case(value)
        elif isinstance(value, type) and key.startswith("Test"):
            call_if_there(getattr(value, "setup_class", None), value)
            for method in [method for method in dir(value) if method.startswith("test")]:
                instance = value()
                call_if_there(getattr(instance, "setup_method", None), getattr(instance, method))
                finish(getattr(instance, method)())
                call_if_there(getattr(instance, "teardown_method", None), getattr(instance, method))
        elif isinstance(value, types.FunctionType) and key in ("check", f"check_{name}"):
            finish(value(function))
        elif isinstance(value, types.FunctionType) and key.startswith("test"):
            call_if_there(namespace.get("setup_function"), value)
            finish(value(*[function] * value.__code__.co_argcount) if not value.__defaults__ else value())


def call_if_there(function, argument):
    """What pytest and unittest call around tests: with an argument or without one, as it is written."""
    if function is not None:
        is_bound = isinstance(function, types.MethodType)
        function(*[argument] * (function.__code__.co_argcount - is_bound))


def is_test_case(cls):
    return "unittest" in sys.modules and issubclass(cls, sys.modules["unittest"].TestCase)


def run_test_case(case):
    """Raises the first exception, of whatever kind."""
    import unittest

    class FirstProblem(unittest.TestResult):
        error = None

        def _keep(self, error):
            self.error = self.error or error
            self.stop()

        def addError(self, test, err):
            self._keep(err[1])

        def addFailure(self, test, err):
            self._keep(err[1])

        def addSubTest(self, test, subtest, err):
            if err is not None:
                self._keep(err[1])

        def addUnexpectedSuccess(self, test):
            self._keep(AssertionError("unexpected success"))

    result = FirstProblem()
    unittest.defaultTestLoader.loadTestsFromTestCase(case).run(result)
    if result.error:
        raise result.error


def finish(result):
    """What a test returned: awaited, and False is a failure."""
    if isinstance(result, types.CoroutineType):
        import asyncio

        result = asyncio.run(result)
    if result is None:
        return
    if type(result).__name__ not in ("bool", "bool_"):
        raise UnclearResult(f"a test returned {result!r:.60}, neither None nor a bool")
    if not result:
        raise ReturnedFalse("a test returned False")


def judge(error, connection):
    """(outcome, message) after the tests ended with `error`, or without one."""
    if connection.death:
        return "died", connection.death
    if connection.unsupported:
        return UNSUPPORTED, connection.unsupported
    if isinstance(error, Unsendable):
        return UNSUPPORTED, str(error)
    message = words_of(error)
    if error is not None and not connection.raised(error):
        if isinstance(error, (SystemExit, KeyboardInterrupt)):
            return EXIT, message
        if isinstance(error, ImportError):
            return MISSING_MODULE, message
        if isinstance(error, (NameError, SyntaxError, MemoryError, UnclearResult)):
            return BROKEN, message
        if not connection.num_calls:
            return BROKEN, f"they fail before they call the function: {message}"
        if connection.shown and not connection.compared:
            return UNSUPPORTED, "the tests use the text of an object that the function returned"
    if error is not None:
        return "failed", message
    return ("passed", "") if connection.num_calls else (NO_CALL, "")


def words_of(error):
    try:
        return f"{type(error).__name__}{f': {error}' if str(error) else ''}"
    except Exception:  # integers may be too long to be shown
        return type(error).__name__


def failing_line(error, test):
    """The line of the test that raised `error`."""
    frame, line = error.__traceback__, 0
    while frame is not None:
        line = frame.tb_lineno if frame.tb_frame.f_code.co_filename == "test.py" else line
        frame = frame.tb_next
    return (test.splitlines() + [""])[max(0, line - 1)].strip()


def put(function, entry_point, namespace):
    """Make the function known to the tests, by all names that they may use."""
    first, *rest = entry_point.replace("()", "").split(".")
    value = function
    for name in reversed(rest):
        value = type(first, (), {name: staticmethod(value)})
    solution = types.ModuleType("solution")  # tests may say `from solution import ...`
    for names in (namespace, solution.__dict__):
        names[first] = value
    namespace["candidate"] = function
    sys.modules.setdefault("solution", solution)


def main():
    complete()
    # What the tests print must not be taken for the report.
    report = os.dup(1)
    os.dup2(os.open("/dev/null", os.O_WRONLY), 1)
    task = json.load(sys.stdin)

    def write(outcome, message=""):
        line = {"outcome": outcome, "message": message[:500], "num_calls": connection.num_calls}
        os.write(report, json.dumps(line).encode() + b"\n")

    def end(outcome, message=""):
        write(outcome, message)
        os._exit(0)

    connection = Connection(int(sys.argv[1]), int(sys.argv[2]), task["seconds"], task["test"], write)
    sys.argv = ["test.py"]

    if not connection.wait_for_start():
        end("not started", connection.death or "")

    def function(*args, **kwargs):
        return connection.call(args, kwargs)

    module = sys.modules["program"] = types.ModuleType("program")
    namespace = module.__dict__
    if "unittest" in task["test"]:
        import unittest

        unittest.main = lambda *args, **kwargs: None  # test cases are found and run below
    try:
        exec(compile(task["preamble"], "problem.py", "exec"), namespace)
    except BaseException as error:
        end(MISSING_MODULE if isinstance(error, ImportError) else BROKEN, words_of(error))
    connection.classes = own_classes(namespace)
    connection.exceptions = {
        name: value
        for name, value in namespace.items()
        if isinstance(value, type) and issubclass(value, BaseException) and value.__module__ == "program"
    }
    put(function, task["entry_point"], namespace)
    namespace["__name__"] = "__main__"  # what tests do when they are started runs, too
    error = None
    try:
        run_tests(task["test"], namespace, function, task["entry_point"])
    except Ended:
        pass
    except BaseException as caught:
        error = caught
    outcome, message = judge(error, connection)
    if outcome == "failed":
        message = f"{message} at: {failing_line(error, task['test'])}"
    end(outcome, message)


if __name__ == "__main__":
    main()
