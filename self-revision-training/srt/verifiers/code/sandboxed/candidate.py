"""Runs in a sandbox: a program that a model wrote, one function of which is called from another sandbox.

python callee.py <fd to read calls from> <fd to write answers to> < {"preamble", "program", "entry_point"}
"""

import json
import marshal
import os
import struct
import sys
import types


def plain(value):
    """The value as marshal writes it: subclasses of plain types become these. Raises ValueError for others."""
    if value is None or type(value) in (bool, int, float, complex, str, bytes):
        return value
    for kind in (bool, int, float, complex, str, bytes):
        if isinstance(value, kind):
            return kind(value)
    for kind in (list, tuple, set, frozenset):
        if isinstance(value, kind):
            return kind(plain(item) for item in value)
    if isinstance(value, dict):
        return {plain(key): plain(item) for key, item in value.items()}
    raise ValueError(f"a value of type {type(value).__name__}")


def answer_to(function, args, kwargs):
    try:
        value = function(*args, **kwargs)
        kind = "returned"
        if isinstance(value, (types.GeneratorType, map, filter, zip, enumerate, range)):
            kind, value = "iterator", list(value)
    except Exception as error:
        builtin = next(cls.__name__ for cls in type(error).__mro__ if cls.__module__ == "builtins")
        return marshal.dumps(("raised", (builtin, str(error)), ()))
    try:
        return marshal.dumps((kind, plain(value), tuple(plain(arg) for arg in args)))
    except ValueError as error:
        return marshal.dumps(("raised", ("TypeError", f"the function gave {error}"), ()))


def main():
    given = json.load(sys.stdin)
    calls, answers = os.fdopen(int(sys.argv[1]), "rb"), os.fdopen(int(sys.argv[2]), "wb")
    sys.argv = ["program.py"]
    namespace = {"__name__": "program"}
    exec(compile(given["preamble"], "problem.py", "exec"), namespace)
    exec(compile(given["program"], "program.py", "exec"), namespace)
    function = namespace[given["entry_point"]]
    while size := calls.read(4):
        args, kwargs = marshal.loads(calls.read(struct.unpack("<I", size)[0]))
        message = answer_to(function, args, kwargs)
        answers.write(struct.pack("<I", len(message)) + message)
        answers.flush()


if __name__ == "__main__":
    main()
