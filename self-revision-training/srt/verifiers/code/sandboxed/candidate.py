"""Runs in a sandbox: a program that a model wrote, one function of which is called by tests in another sandbox.

    python candidate.py <fd to read requests from> <fd to write replies to>
        < {"preamble", "program", "entry_point"}

A message is its length (4 bytes, little-endian) and JSON, whose values encoder.py describes; requests, which
nobody needs to distrust, are marshaled instead, which is faster. The first message comes from here, before the
program is executed: {"started"}. Then one reply for each request, with its number `n`:

- call {args, kwargs, nodes}, next {id} (the next value of an iterator), await {id};
- returned {value, nodes}, raised {error, nodes}, stop (an iterator has no more values); each with `changed`: the
  new nodes of arguments of the call that are not what they were.
"""

import itertools
import json
import marshal
import os
import struct
import sys
import types

from decoder import Decoder, mutable_tag
from encoder import Encoder, own_classes
from interpreter import complete

TYPE_CHECKING = False  # typing takes milliseconds to import
if TYPE_CHECKING:
    from typing import Any

SINGLE_VALUES = 64  # of an iterator, sent one by one, in case the next is expensive and not wanted; then in chunks
CHUNK = 256
SMALL_ARGUMENTS = 1000  # values in arguments whose changes are reported with every value of an iterator
STOP = object()
EXACT = frozenset((type(None), bool, int, str))  # equal values of the same type are the same (not 0.0 and -0.0)


class Call:
    """A call, and what it leaves behind: copies of its arguments, which its iterators may go on changing."""

    def __init__(self, decoder, request):
        self.args = decoder.items(request["args"])
        self.kwargs = {name: decoder.item(item) for name, item in request["kwargs"].items()}
        self.objects = decoder.objects
        self._nodes = request["nodes"]
        self.size = sum(len(items_of(node)) for node in self._nodes)
        self._mutable = [
            index
            for index, value in enumerate(self.objects)
            if mutable_tag(value) or self._nodes[index][0] == "instance"
        ]

    def changes(self, encoder):
        """[number, node] of the arguments whose content is not what it was when last sent."""
        changed = []
        for index in self._mutable:
            node: Any = encoder.node(self.objects[index])
            if self._nodes[index] is None or not same(node, self._nodes[index]):
                changed.append([index, node])
                # Numbers of objects that are new in this message mean nothing in the next.
                new = any(is_new(item, len(self.objects)) for item in items_of(node))
                self._nodes[index] = None if new else node
        return changed


class Program:
    """The program under test, executed when the first request comes."""

    def __init__(self, task):
        self._task = task
        self._exports = []  # (call, value): iterators, awaitables
        self._num_sent = {}  # values of an iterator, by the number of its export
        self._loop = None
        self._classes: dict = {}
        self._function: Any = None

    def reply(self, request):
        """The reply to a request."""
        if self._function is None:
            self._load()
        value = None
        if request["kind"] == "call":
            decoder = Decoder(self._classes)
            decoder.read(request["nodes"])
            call = Call(decoder, request)
        else:
            call, value = self._exports[request["id"]]
        encoder = Encoder(self._classes, call.objects, export=lambda value: self._export(call, value))
        reply: dict = {}
        try:
            value = self._run(request, call, value)
            if value is STOP:
                reply["kind"] = "stop"
            else:
                reply |= {"kind": "returned", "value": encoder.item(value)}
        except BaseException as error:
            reply |= {"kind": "raised", "error": describe(error, encoder)}
        every_time = request["kind"] == "call" or call.size <= SMALL_ARGUMENTS
        reply["changed"] = call.changes(encoder) if every_time or reply["kind"] != "returned" else []
        return {**reply, "nodes": encoder.finish()}

    def _run(self, request, call, value):
        if request["kind"] == "call":
            return self._function(*call.args, **call.kwargs)
        if request["kind"] == "next":
            return self._next(request["id"], value)
        if self._loop is None:
            import asyncio

            self._loop = asyncio.new_event_loop()
        wait = next_value if request["kind"] == "anext" else wait_for
        return self._loop.run_until_complete(wait(value))

    def _next(self, number, iterator):
        """A list of the next values, or STOP."""
        sent = self._num_sent.get(number, 0)
        values = list(itertools.islice(iterator, 1 if sent < SINGLE_VALUES else CHUNK))
        self._num_sent[number] = sent + len(values)
        return values or STOP

    def _load(self):
        module = sys.modules["program"] = types.ModuleType("program")
        namespace = module.__dict__
        exec(compile(self._task["preamble"], "problem.py", "exec"), namespace)
        names = set(own_classes(namespace))  # the tests know these; the program may have defined them again
        exec(compile(self._task["program"], "program.py", "exec"), namespace)
        self._classes = own_classes(namespace, names)
        self._function = find_function(namespace, self._task["entry_point"])

    def _export(self, call, value):
        """The node for what cannot leave: it stays here and is asked for."""
        kind = type(value)
        tags = (("iterator", "__next__"), ("awaitable", "__await__"), ("aiterator", "__anext__"))
        tag = next((tag for tag, method in tags if hasattr(kind, method)), "opaque")
        self._exports.append((call, value))
        return [tag, len(self._exports) - 1, kind.__name__]


def describe(error, encoder):
    """An exception: its classes, the nearest first, its text, its arguments and its attributes."""
    try:
        text = str(error)
    except BaseException:
        text = ""
    names = [[cls.__module__, cls.__name__] for cls in type(error).__mro__]
    attributes, args = dict(error.__dict__), error.args
    if isinstance(error, OSError) and error.filename is not None:
        args = (error.errno, error.strerror, error.filename)
    values = encoder.items(list(attributes.values()))
    return {
        "names": names,
        "text": text,
        "args": encoder.items(args),
        "attributes": list(attributes),
        "values": values,
    }


async def wait_for(awaitable):
    return await awaitable


async def next_value(iterator):
    try:
        return [await iterator.__anext__()]
    except StopAsyncIteration:
        return STOP


def is_new(item, num_known):
    return type(item) is list and item[0] >= num_known


def items_of(node):
    """The items of a node of a mutable value."""
    content: Any = node[3 if node[0] == "instance" else 1]
    return content if type(content) is list else []


def same(node, other):
    """Whether two nodes are the same; 1, 1.0 and True are not, and sets have no order."""
    if node[0] == "set" == other[0]:
        return sorted(map(json.dumps, node[1])) == sorted(map(json.dumps, other[1]))
    if node[0] == "list" == other[0]:
        kinds = list(map(type, node[1]))
        if EXACT.issuperset(kinds):
            return node[1] == other[1] and kinds == list(map(type, other[1]))
    return json.dumps(node) == json.dumps(other)


def find_function(namespace, entry_point):
    """The function that `entry_point` names: a name, or a method as in Solution.add or Solution().add."""
    first, *rest = entry_point.replace("()", "").split(".")
    found = namespace[first]
    for name in rest:
        found = getattr(found() if isinstance(found, type) else found, name)
    return found


def main():
    complete()
    leave = os._exit  # the program may replace it
    task = json.load(sys.stdin)
    requests, replies = os.fdopen(int(sys.argv[1]), "rb"), os.fdopen(int(sys.argv[2]), "wb")
    sys.argv = ["program.py"]
    program = Program(task)

    def send(message):
        data = json.dumps(message).encode()
        replies.write(struct.pack("<I", len(data)) + data)
        replies.flush()

    send({"started": True})
    while len(size := requests.read(4)) == 4:
        request = marshal.loads(requests.read(struct.unpack("<I", size)[0]))
        send({**program.reply(request), "n": request["n"]})
    leave(0)  # threads of the program may still run; its time and memory are only known once it has ended


if __name__ == "__main__":
    main()
