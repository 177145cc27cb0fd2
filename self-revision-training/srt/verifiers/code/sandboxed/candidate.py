"""Runs in a sandbox: a program that a model wrote, one function of which is called by tests in another sandbox.

    python candidate.py <fd to read calls from> <fd to write replies to> < {"preamble", "program", "entry_point"}

A message is its length (4 bytes, little-endian) and a marshaled tuple. Call: (args, kwargs). Reply: (kind, value,
args after the call), where kind is "returned", "iterator" or "raised", the latter with (exception name, message).
"""

import json
import marshal
import os
import struct
import sys
import types

SCALARS: "tuple[type, ...]" = (bool, int, float, complex, str, bytes)
COLLECTIONS: "tuple[type, ...]" = (list, tuple, set, frozenset)


def to_plain(value):
    """The value as marshal can write it: instances of subclasses become their built-in type.

    Raises ValueError for values of other types.
    """
    if value is None or type(value) in SCALARS:
        return value
    for kind in SCALARS:
        if isinstance(value, kind):
            return kind(value)
    for kind in COLLECTIONS:
        if isinstance(value, kind):
            return kind(to_plain(item) for item in value)
    if isinstance(value, dict):
        return {to_plain(key): to_plain(item) for key, item in value.items()}
    raise ValueError(f"a value of type {type(value).__name__}")


def call(function, args, kwargs):
    """The reply to a call."""
    try:
        value = function(*args, **kwargs)
        kind = "returned"
        if isinstance(value, (types.GeneratorType, map, filter, zip, enumerate, range)):
            kind, value = "iterator", list(value)
    except Exception as error:
        builtin = next(cls.__name__ for cls in type(error).__mro__ if cls.__module__ == "builtins")
        return marshal.dumps(("raised", (builtin, str(error)), ()))
    try:
        return marshal.dumps((kind, to_plain(value), tuple(to_plain(arg) for arg in args)))
    except ValueError as error:
        return marshal.dumps(("raised", ("TypeError", f"the function returned {error}"), ()))


def main():
    task = json.load(sys.stdin)
    calls, replies = os.fdopen(int(sys.argv[1]), "rb"), os.fdopen(int(sys.argv[2]), "wb")
    sys.argv = ["program.py"]
    namespace: dict = {"__name__": "program"}
    exec(compile(task["preamble"], "problem.py", "exec"), namespace)
    exec(compile(task["program"], "program.py", "exec"), namespace)
    function = namespace[task["entry_point"]]
    while size := calls.read(4):
        args, kwargs = marshal.loads(calls.read(struct.unpack("<I", size)[0]))
        reply = call(function, args, kwargs)
        replies.write(struct.pack("<I", len(reply)) + reply)
        replies.flush()


if __name__ == "__main__":
    main()
