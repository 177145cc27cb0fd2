"""The reading half of encoder.py: nodes -> objects, without running anything that came with them."""

from encoder import ATOMS, BUILTIN_TYPES, FACTORIES, NUMPY_KINDS, Unsendable

TYPE_CHECKING = False  # typing takes milliseconds to import
if TYPE_CHECKING:
    from typing import Any

UNSET = object()


class Malformed(Exception):
    """A message that no encoder writes."""


class Decoder:
    """Reads nodes into objects; raises Malformed for what no encoder writes.

    `classes`: see encoder.own_classes. `known`: the objects whose numbers come before those of the nodes.
    `imported`: tag -> function that makes an object of the rest of a node, for what an encoder exported.

    The order needs no recursion: first the empty containers, then what needs its parts at once, then the content
    of containers, what hashes it last.
    """

    def __init__(self, classes, known=(), imported=None):
        self.objects = list(known)
        self._classes = classes
        self._imported = imported or {}

    def read(self, nodes):
        """Append the objects of `nodes`."""
        try:
            self._read(nodes)
        except Malformed:
            raise
        except Exception as error:
            raise Malformed(f"{type(error).__name__}: {error}"[:200]) from None

    def change(self, index, node):
        """Give the mutable object number `index` the content of `node`, which must be of its kind."""
        try:
            self._change(self.objects[index], node)
        except Malformed:
            raise
        except Exception as error:
            raise Malformed(f"{type(error).__name__}: {error}"[:200]) from None

    def item(self, item):
        if type(item) in ATOMS:
            return item
        if type(item) is dict:
            return atoms_of(item)
        value = self.objects[self._index(item)]
        if value is UNSET:
            raise Malformed("a value that contains itself")
        return value

    def items(self, items):
        if ATOMS.issuperset(map(type, items)):
            return list(items)
        return [self.item(item) for item in items]

    def _index(self, item):
        if type(item) is list and len(item) == 1 and type(item[0]) is int and 0 <= item[0] < len(self.objects):
            return item[0]
        raise Malformed("neither an atom nor a reference")

    def _read(self, nodes):
        first = len(self.objects)
        plain, hashing, late = [], [], []
        self.objects.extend([UNSET] * len(nodes))
        for index, node in enumerate(nodes, start=first):
            if empty := CONTAINERS.get(node[0]):
                self.objects[index] = empty(node)
                (hashing if node[0] in HASHING else plain).append((index, node))
        entered = set()
        for root in range(first, len(self.objects)):
            stack = [root]
            while stack:
                index = stack[-1]
                if self.objects[index] is not UNSET:
                    stack.pop()
                    continue
                node = nodes[index - first]
                waiting = self._waiting(node)
                if waiting and index not in entered:
                    entered.add(index)
                    stack.extend(waiting)
                    continue
                for child in [index, *waiting] if waiting else []:  # a cycle, which must go through an instance
                    if nodes[child - first][0] == "instance" and self.objects[child] is UNSET:
                        self.objects[child] = object.__new__(self._class(nodes[child - first][1], object))
                        late.append((self.objects[child], nodes[child - first]))
                if self.objects[index] is UNSET:
                    self.objects[index] = self._make(node)
        for index, node in plain:
            FILL[node[0]](self.objects[index], self.items(node[1]))
        for instance, node in late:
            self._set_attributes(instance, node)
        for index, node in hashing:
            FILL[node[0]](self.objects[index], self.items(node[1]))

    def _waiting(self, node):
        """The numbers of the parts of `node` that do not exist yet."""
        if node[0] not in PARTS:
            return []
        references = (self._index(item) for item in node[PARTS[node[0]]] if type(item) is list)
        return [index for index in references if self.objects[index] is UNSET]

    def _make(self, node):
        tag, *content = node
        if tag in READ:
            return READ[tag](self, *content)
        if tag in self._imported:
            return self._imported[tag](*content)
        if tag == "instance":
            instance = object.__new__(self._class(content[0], object))
            self._set_attributes(instance, node)
            return instance
        if tag == "namedtuple":
            cls: Any = self._class(content[0], tuple)
            values = self.items(content[1])
            if len(values) != len(cls._fields):
                raise Malformed("a named tuple of another length")
            return tuple.__new__(cls, values)
        if tag == "enum":
            enumeration: Any = self._class(content[0], object)
            return enumeration.__members__[content[1]]
        raise Malformed(f"the tag {tag!r:.40}")

    def _class(self, name, base):
        found = self._classes.get(name)
        if found is None or not issubclass(found, base):
            raise Malformed(f"an instance of {name!r:.40}")
        return found

    def _set_attributes(self, instance, node):
        names, values = node[2], self.items(node[3])
        if len(names) != len(values) or not all(type(name) is str and name[:2] != "__" for name in names):
            raise Malformed("the attributes of an instance")
        refuse_calls(type(instance), zip(names, values, strict=True))
        attributes = getattr(instance, "__dict__", None)
        for name, value in zip(names, values, strict=True):
            # Past properties and __setattr__: a frozen dataclass must be readable, too.
            if attributes is not None and not hasattr(getattr(type(instance), name, None), "__objclass__"):
                attributes[name] = value
            else:
                object.__setattr__(instance, name, value)

    def _change(self, value, node):
        tag = node[0]
        if tag == "instance":
            if type(value) is not self._class(node[1], object):
                raise Malformed("an argument became one of another type")
            getattr(value, "__dict__", {}).clear()
            self._set_attributes(value, node)
        elif tag != mutable_tag(value):
            raise Malformed("an argument became one of another type")
        elif tag in FILL:
            content = self.items(node[1])
            value.clear()
            FILL[tag](value, content)
        else:
            new = READ[tag](self, *node[1:])
            if tag == "ndarray" and (new.shape, new.dtype) != (value.shape, value.dtype):
                raise Malformed("an array became one of another shape")
            value[... if tag == "ndarray" else slice(None)] = new


def refuse_calls(cls, attributes):
    """Raises Malformed for a type in the place of a method: is_valid = object would make is_valid() true."""
    for name, value in attributes:
        method = getattr(cls, name, None) if isinstance(value, type) else None
        if callable(method) and not isinstance(method, type):
            raise Malformed(f"a type in the place of the method {name}"[:80])


def atoms_of(item):
    """The tuple of an item {"t": [atoms]}."""
    atoms = item.get("t")
    if len(item) != 1 or type(atoms) is not list or not ATOMS.issuperset(map(type, atoms)):
        raise Malformed("a tuple of other things than atoms")
    return tuple(atoms)


def mutable_tag(value):
    """The tag of the nodes of a mutable value; None for values that do not change, and for instances."""
    for cls in type(value).__mro__:
        if (cls.__module__, cls.__qualname__) in MUTABLE:
            return cls.__name__
    return None


def _defaultdict(node):
    from collections import defaultdict

    return defaultdict(None if node[2] is None else FACTORIES.get(node[2], _unknown_default))


def _unknown_default():
    raise Unsendable("a default that only the program could compute")


def _collection(name, **options):
    import collections

    return getattr(collections, name)(**options)


def _fill_pairs(value, flat):
    for key, item in zip(flat[::2], flat[1::2], strict=True):
        value[key] = item


def _array(decoder, typecode, data):
    from array import array

    value = array(typecode)
    value.frombytes(bytes.fromhex(data))
    return value


def _fraction(decoder, items):
    from fractions import Fraction

    numerator, denominator = decoder.items(items)
    if type(numerator) is not int or type(denominator) is not int:
        raise Malformed("a fraction")
    return Fraction(numerator, denominator)


def _decimal(decoder, text):
    from decimal import Decimal

    return Decimal(text)


def _date(kind):
    def read(decoder, text, fold=0):
        import datetime

        value = getattr(datetime, kind).fromisoformat(text)
        return value.replace(fold=fold) if fold else value

    return read


def _timedelta(decoder, days, seconds, microseconds):
    from datetime import timedelta

    return timedelta(days, seconds, microseconds)


def _timezone(decoder, items):
    from datetime import timezone

    return timezone(*decoder.items(items))


def _ndarray(decoder, dtype, shape, data):
    import numpy

    return numpy.frombuffer(bytes.fromhex(data), _dtype(dtype)).reshape(shape).copy()


def _numpy_scalar(decoder, dtype, data):
    import numpy

    return numpy.frombuffer(bytes.fromhex(data), _dtype(dtype))[0]


def _dtype(text):
    import numpy

    dtype = numpy.dtype(text)
    if dtype.kind not in NUMPY_KINDS:
        raise Malformed("a numpy type")
    return dtype


def _integer(decoder, text):
    return int(text, 16)  # in linear time, unlike decimal


def _atom(decoder, value):
    return decoder.item(value)


def _pairs(items):
    return dict(zip(items[::2], items[1::2], strict=True))


CONTAINERS = {
    "list": lambda node: [],
    "set": lambda node: set(),
    "dict": lambda node: {},
    "OrderedDict": lambda node: _collection("OrderedDict"),
    "Counter": lambda node: _collection("Counter"),
    "defaultdict": _defaultdict,
    "deque": lambda node: _collection("deque", maxlen=node[2]),
}
HASHING = ("set", "dict", "OrderedDict", "Counter", "defaultdict")
FILL = {
    "list": lambda value, items: list.extend(value, items),
    "deque": lambda value, items: value.extend(items),
    "set": lambda value, items: set.update(value, items),
    **dict.fromkeys(HASHING[1:], _fill_pairs),
}
PARTS = {  # tag -> where in its node the items are that it needs at once
    **dict.fromkeys(("tuple", "frozenset", "iter", "range", "slice", "Fraction", "timezone"), 1),
    **dict.fromkeys(("dict_keys", "dict_values", "dict_items"), 1),
    "namedtuple": 2,
    "instance": 3,
}
READ = {
    "atom": _atom,
    "int": _integer,
    "complex": lambda decoder, real, imaginary: complex(real, imaginary),
    "bytes": lambda decoder, data: bytes.fromhex(data),
    "bytearray": lambda decoder, data: bytearray.fromhex(data),
    "tuple": lambda decoder, items: tuple(decoder.items(items)),
    "frozenset": lambda decoder, items: frozenset(decoder.items(items)),
    "iter": lambda decoder, items: iter(decoder.items(items)),
    "dict_keys": lambda decoder, items: dict.fromkeys(decoder.items(items)).keys(),
    "dict_values": lambda decoder, items: dict(enumerate(decoder.items(items))).values(),
    "dict_items": lambda decoder, items: _pairs(decoder.items(items)).items(),
    "range": lambda decoder, items: range(*decoder.items(items)),
    "slice": lambda decoder, items: slice(*decoder.items(items)),
    "type": lambda decoder, name: BUILTIN_TYPES[name],
    "constant": lambda decoder, name: {"Ellipsis": Ellipsis, "NotImplemented": NotImplemented}[name],
    "array": _array,
    "Fraction": _fraction,
    "Decimal": _decimal,
    "datetime": _date("datetime"),
    "date": _date("date"),
    "time": _date("time"),
    "timedelta": _timedelta,
    "timezone": _timezone,
    "ndarray": _ndarray,
    "numpy": _numpy_scalar,
}
MUTABLE = {
    *(("builtins", name) for name in ("list", "dict", "set", "bytearray")),
    *(("collections", name) for name in ("OrderedDict", "Counter", "defaultdict", "deque")),
    ("array", "array"),
    ("numpy", "ndarray"),
}
