"""Runs in a sandbox: a problem's tests, which call a function that lives in another sandbox.

    python harness.py <fd to write calls to> <fd to read replies from> < {"preamble", "test", "entry_point"}

The candidate, the program under test, never runs in this process: it cannot read the expected values, end the
tests, or replace what they compare with. Its values arrive as plain data, so that no __eq__ of its own decides.
candidate.py describes the messages.
"""

import builtins
import json
import marshal
import os
import struct
import sys

PASSED, FAILED, CANDIDATE_DIED, BROKEN = 10, 11, 12, 13  # exit codes


class Unsendable(BaseException):
    """A test passes an argument that is not plain data: the test's fault, not the candidate's."""


class CandidateDied(BaseException):
    """The candidate's process ended without a reply."""


def end(code, message=""):
    print(message, file=sys.stderr, flush=True)
    os._exit(code)


def candidate_function(calls, replies):
    """A stand-in for the candidate's function: sends each call to the candidate and waits for its reply."""

    def function(*args, **kwargs):
        try:
            message = marshal.dumps((args, kwargs))
        except ValueError:
            raise Unsendable(f"a test calls the function with {args!r:.100}, which is not plain data") from None
        try:
            calls.write(struct.pack("<I", len(message)) + message)
            calls.flush()
            size = replies.read(4)
            reply = replies.read(struct.unpack("<I", size)[0]) if len(size) == 4 else b""
        except BrokenPipeError:
            raise CandidateDied from None
        if not reply:
            raise CandidateDied
        kind, value, args_after = marshal.loads(reply)
        if kind == "raised":
            raise builtin_exception(value[0])(value[1])
        for before, after in zip(args, args_after, strict=True):  # changes made to the arguments in place
            if isinstance(before, list):
                before[:] = after
            elif isinstance(before, (dict, set)):
                before.clear()
                before.update(after)
        return iter(value) if kind == "iterator" else value

    return function


def builtin_exception(name) -> type:
    """The built-in exception of that name; RuntimeError when there is none."""
    found = getattr(builtins, name, None)
    return found if isinstance(found, type) and issubclass(found, Exception) else RuntimeError


def failing_line(error, test):
    """The line of the test that raised `error`."""
    frame, line = error.__traceback__, 0
    while frame is not None:
        line = frame.tb_lineno if frame.tb_frame.f_code.co_filename == "test.py" else line
        frame = frame.tb_next
    return (test.splitlines() + [""])[max(0, line - 1)].strip()


def main():
    task = json.load(sys.stdin)
    calls, replies = os.fdopen(int(sys.argv[1]), "wb"), os.fdopen(int(sys.argv[2]), "rb")
    namespace: dict = {"__name__": "tests"}
    function = candidate_function(calls, replies)
    try:
        exec(task["preamble"], namespace)
        test = compile(task["test"], "test.py", "exec")
    except Exception as error:
        end(BROKEN, f"{type(error).__name__}: {error}")
    namespace[task["entry_point"]] = function
    try:
        exec(test, namespace)
        if callable(namespace.get("check")):
            namespace["check"](function)
    except Unsendable as error:
        end(BROKEN, str(error))
    except CandidateDied:
        end(CANDIDATE_DIED)
    except BaseException as error:
        message = f"{type(error).__name__}{f': {error}' if str(error) else ''}"
        end(FAILED, f"{message} at: {failing_line(error, task['test'])}"[:500])
    end(PASSED)


if __name__ == "__main__":
    main()
