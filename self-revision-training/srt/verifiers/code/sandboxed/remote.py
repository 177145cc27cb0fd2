"""The tests' side of the connection: a function that lives in another sandbox, and what it returns and raises.

candidate.py describes the messages. The other side is hostile: whatever it sends, it can only be taken for a
value, an exception, or its end.
"""

import builtins
import json
import marshal
import os
import select
import struct
import sys
import threading
import time

from decoder import Decoder, Malformed, refuse_calls
from encoder import Encoder, Unsendable

REPLY_BYTES = 32 * 2**20
LARGE_REPLY = 2**16  # bytes
MAX_DIGITS = (
    4300  # of an integer in a reply: converting longer ones takes quadratic time (encoder.ATOM_BITS: 3011)
)
READING, RUNNING = "reading", "running"
STARTUP_SECONDS = 60  # that the other sandbox gets to start
# Exceptions with a meaning for the loops, generators and event loops of the tests, which would end early and pass.
CONTROL_FLOW = (StopIteration, StopAsyncIteration, GeneratorExit)
MARK = "_raised_by_the_function"
OTHER_EXCEPTIONS = {
    "decimal": ("DecimalException", "DivisionByZero", "InvalidOperation", "Inexact", "Overflow"),
    "json.decoder": ("JSONDecodeError",),
    "statistics": ("StatisticsError",),
}
FORWARDED = (  # operations of a value that cannot leave the program's sandbox
    "aenter aexit add aiter and await bool call contains delitem divmod enter exit float floordiv ge getitem gt "
    "iadd iand imul index int invert ior isub iter le len length_hint lshift lt mod mul neg next or pos pow radd "
    "rand reversed rfloordiv rmod rmul ror round rpow rsub rtruediv rxor setitem sub truediv xor abs complex "
    "reduce reduce_ex copy deepcopy"
).split()


class Ended(BaseException):
    """There is no use in calling again: the program died, or what it sent cannot be judged."""


class ProgramInterrupt(BaseException):
    """Stands for a GeneratorExit of the program."""


class Connection:
    """Requests and replies, and what the verdict needs to know of them.

    `num_calls`: calls of the function. `death`: why there will be no more replies. `unsupported`: what the tests
    do with the function that cannot be done from here. `compared` and `shown`: whether a value that cannot leave
    the program was. `classes` and `exceptions`: those of the preamble. `note` is called with READING before a
    large reply is read, which may take more time or memory than there is, and with RUNNING afterwards.
    """

    def __init__(self, requests, replies, seconds, test, note):
        os.set_blocking(requests, False)
        self.num_calls = 0
        self.death = self.unsupported = None
        self.shown = self.compared = False
        self.classes, self.exceptions = {}, {}
        self._requests, self._replies = requests, replies
        self._seconds = seconds  # of waiting that are left
        self._test = test
        self._number = 0
        self._note, self._reading = note, False
        self._lock = threading.RLock()

    def wait_for_start(self):
        """Whether the other sandbox has started."""
        program_seconds, self._seconds = self._seconds, STARTUP_SECONDS
        try:
            return self._receive() == {"started": True}
        except Ended:
            return False
        finally:
            self._seconds = program_seconds

    def call(self, args, kwargs):
        """What the function returns. Raises what it raises, and Ended."""
        with self._lock:
            self.num_calls += 1
            encoder = Encoder(self.classes)
            try:
                request = {
                    "kind": "call",
                    "args": encoder.items(args),
                    "kwargs": {name: encoder.item(value) for name, value in kwargs.items()},
                    "nodes": encoder.finish(),
                }
            except Unsendable as error:
                self.give_up(f"a test calls the function with {error}")
            return self.ask(request, encoder.objects)

    def ask(self, request, arguments):
        """The value of the reply, or STOP. `arguments`: the objects of the call that the request belongs to."""
        with self._lock:
            if self.death or self.unsupported:
                raise Ended
            self._number += 1
            try:
                self._send({**request, "n": self._number})
                reply = self._receive()
                if type(reply) is not dict or reply.get("n") != self._number:
                    raise Malformed("a reply to another request")
                value, error = self._value(reply, arguments)
            except (Malformed, KeyError, TypeError, ValueError) as problem:
                self._die(f"the program sent what is not a reply ({problem})"[:200])
            except Exception as alarm:  # of the tests' own, which stops waiting
                self.death = f"time limit: the tests interrupted a call ({type(alarm).__name__})"
                raise
            finally:
                if self._reading:
                    self._reading = False
                    self._note(RUNNING)
            if error is not None:
                setattr(error, MARK, self)
                raise error
            return value

    def raised(self, error):
        """Whether it is an exception of the function's."""
        return getattr(error, MARK, None) is self

    def give_up(self, reason):
        """There will be no verdict."""
        self.unsupported = self.unsupported or reason
        raise Ended

    def _die(self, reason):
        self.death = self.death or reason
        raise Ended from None

    def _send(self, message):
        data = marshal.dumps(message)
        data = memoryview(struct.pack("<I", len(data)) + data)
        while data:
            self._wait_for([], [self._requests])  # a program that does not read must not block us either
            try:
                data = data[os.write(self._requests, data) :]
            except BrokenPipeError:
                self._die("the program ended")

    def _receive(self):
        size = struct.unpack("<I", self._read(4))[0]
        if size > REPLY_BYTES:
            self._die(f"output limit ({REPLY_BYTES >> 20} MiB): the function returned more")
        data = self._read(size)
        self._reading = size > LARGE_REPLY
        if self._reading:
            self._note(READING)
        sys.set_int_max_str_digits(MAX_DIGITS)
        try:
            return json.loads(data)
        except (ValueError, RecursionError, MemoryError) as error:
            raise Malformed(f"{type(error).__name__}"[:100]) from None
        finally:
            sys.set_int_max_str_digits(0)

    def _read(self, size):
        data = bytearray()
        while len(data) < size:
            self._wait_for([self._replies], [])
            part = os.read(self._replies, min(size - len(data), 2**20))
            if not part:
                self._die("the program ended")
            data += part
        return bytes(data)

    def _wait_for(self, readable, writable):
        started = time.monotonic()
        ready = select.select(readable, writable, [], max(0.0, self._seconds))
        self._seconds -= time.monotonic() - started
        if not any(ready):
            self._die("time limit")

    def _value(self, reply, arguments):
        """(value, None) or (None, exception)."""
        decoder = Decoder(self.classes, arguments, self._imported(arguments))
        decoder.read(reply["nodes"])
        for index, node in reply["changed"]:
            if not 0 <= index < len(arguments):
                raise Malformed("a change of no argument")
            decoder.change(index, node)
        if reply["kind"] == "stop":
            return STOP, None
        if reply["kind"] == "returned":
            return decoder.item(reply["value"]), None
        return None, self._exception(reply["error"], decoder)

    def _imported(self, arguments):
        def iterator(number, kind):
            found = RemoteIterator(self, number, arguments)
            return _generate(found) if kind == "generator" else found

        return {
            "iterator": iterator,
            "awaitable": lambda number, kind: _wait(self, number, arguments),
            "aiterator": lambda number, kind: _generate_async(self, number, arguments),
            "opaque": lambda number, kind: Opaque(self, str(kind)[:100]),
        }

    def _exception(self, error, decoder):
        text, args = str(error["text"]), decoder.items(error["args"])
        values = decoder.items(error["values"])
        attributes = {str(name): value for name, value in zip(error["attributes"], values, strict=True)}
        for module, name in error["names"]:
            if cls := self._exception_class(module, name):
                if control := next((kind for kind in CONTROL_FLOW if issubclass(cls, kind)), None):
                    if name in self._test:
                        self.give_up(f"the tests expect {name} of the function, which means something here, too")
                    said = f"the function raised {name}"
                    return ProgramInterrupt(said) if control is GeneratorExit else RuntimeError(said)
                try:
                    # An __init__ of the problem's was already at work on the other side.
                    found = cls(*args) if module == "builtins" else cls.__new__(cls, *args)
                    shown, same_text = self.shown, str(found) == text
                    self.shown = shown  # it may have been shown by this comparison
                    if not same_text:
                        found = cls(text)
                except Exception:
                    break
                refuse_calls(cls, attributes.items())
                found.__dict__.update(attributes)
                return found
        return RuntimeError(text)

    def _exception_class(self, module, name):
        found = None
        if module == "builtins":
            found = getattr(builtins, name, None)
        elif module == "program":
            found = self.exceptions.get(name)
        elif name in OTHER_EXCEPTIONS.get(module, ()):
            found = getattr(__import__(module, fromlist=[name]), name)
        kinds = (Exception, GeneratorExit, SystemExit, KeyboardInterrupt)
        return found if isinstance(found, type) and issubclass(found, kinds) else None


STOP = object()


class RemoteIterator:
    """An iterator of the program's; its values are fetched as they are asked for."""

    def __init__(self, connection, number, arguments):
        self._connection, self._number, self._arguments = connection, number, arguments
        self._buffer = []

    def __iter__(self):
        return self

    def __next__(self):
        if not self._buffer:
            request = {"kind": "next", "id": self._number}
            values = self._connection.ask(request, self._arguments)
            if values is STOP:
                raise StopIteration
            self._buffer = values[::-1] if isinstance(values, list) else [values]
        return self._buffer.pop()


def _generate(iterator):
    yield from iterator


async def _wait(connection, number, arguments):
    return connection.ask({"kind": "await", "id": number}, arguments)


async def _generate_async(connection, number, arguments):
    while (values := connection.ask({"kind": "anext", "id": number}, arguments)) is not STOP:
        yield values[0]


class Opaque:
    """A value of a class that only the program knows. It equals nothing; no method of its own is ever asked.

    What else the tests do with it cannot be judged from here.
    """

    __slots__ = ("_connection", "_kind")

    def __init__(self, connection, kind):
        object.__setattr__(self, "_connection", connection)
        object.__setattr__(self, "_kind", kind)

    def __eq__(self, other):
        _connection(self).compared = True
        return self is other

    def __hash__(self):
        return id(self)

    def __repr__(self):
        _connection(self).shown = True  # perhaps in a message only
        return f"<{object.__getattribute__(self, '_kind')} object>"

    def __getattribute__(self, name):
        if name == "__class__":
            return Opaque
        _unsupported(self, f"the attribute {name}")

    def __setattr__(self, name, value):
        _unsupported(self, f"the attribute {name}")


def _connection(opaque):
    return object.__getattribute__(opaque, "_connection")


def _unsupported(opaque, what):
    kind = object.__getattribute__(opaque, "_kind")
    _connection(opaque).give_up(f"the tests use {what} of a {kind} object that the function returned")


def _forbid(name):
    def method(self, *args, **kwargs):
        _unsupported(self, f"__{name}__")

    return method


for _name in FORWARDED:
    setattr(Opaque, f"__{_name}__", _forbid(_name))
