"""Runs in a sandbox: the tests of a problem, which call a function that lives in another sandbox.

    python caller.py <fd to write calls to> <fd to read answers from> < {"preamble", "test", "entry_point"}

The program under test is never in this process, so that it cannot read what the tests expect, end them, or
replace what they compare with; and its values arrive as plain data, so that no __eq__ of its own decides.
"""

import builtins
import json
import marshal
import os
import struct
import sys

PASSED, FAILED, CALLEE_DIED, BROKEN = 10, 11, 12, 13


class Unsendable(BaseException):
    """A test passes something that is no plain value: its author's business, not the program's."""


class CalleeDied(BaseException):
    """No answer comes any more."""


def end(code, why=""):
    print(why, file=sys.stderr, flush=True)
    os._exit(code)


def proxy(calls, answers):
    def function(*args, **kwargs):
        try:
            message = marshal.dumps((args, kwargs))
        except ValueError:
            raise Unsendable(f"a test calls the function with {args!r:.100}, which is no plain value") from None
        try:
            calls.write(struct.pack("<I", len(message)) + message)
            calls.flush()
            size = answers.read(4)
            answer = answers.read(struct.unpack("<I", size)[0]) if len(size) == 4 else b""
        except BrokenPipeError:
            raise CalleeDied from None
        if not answer:
            raise CalleeDied
        kind, value, after = marshal.loads(answer)
        if kind == "raised":
            error = getattr(builtins, value[0], None)
            is_error = isinstance(error, type) and issubclass(error, Exception)
            raise (error if is_error else RuntimeError)(value[1])
        for before, now in zip(args, after, strict=True):  # what it did to its arguments
            if isinstance(before, list):
                before[:] = now
            elif isinstance(before, (dict, set)):
                before.clear()
                before.update(now)
        return iter(value) if kind == "iterator" else value

    return function


def main():
    given = json.load(sys.stdin)
    calls, answers = os.fdopen(int(sys.argv[1]), "wb"), os.fdopen(int(sys.argv[2]), "rb")
    namespace = {"__name__": "tests"}
    function = proxy(calls, answers)
    try:
        exec(given["preamble"], namespace)
        code = compile(given["test"], "test.py", "exec")
    except Exception as error:
        end(BROKEN, f"{type(error).__name__}: {error}")
    namespace[given["entry_point"]] = function
    try:
        exec(code, namespace)
        if callable(namespace.get("check")):
            namespace["check"](function)
    except Unsendable as error:
        end(BROKEN, str(error))
    except CalleeDied:
        end(CALLEE_DIED)
    except BaseException as error:
        frame, line = error.__traceback__, 0
        while frame is not None:
            line = frame.tb_lineno if frame.tb_frame.f_code.co_filename == "test.py" else line
            frame = frame.tb_next
        text = (given["test"].splitlines() + [""])[max(0, line - 1)].strip()
        end(FAILED, f"{type(error).__name__}{f': {error}' if str(error) else ''} at: {text}"[:500])
    end(PASSED)


if __name__ == "__main__":
    main()
