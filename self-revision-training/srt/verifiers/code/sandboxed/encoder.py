"""Values as plain data: what tests and the program under test, each in a sandbox of its own, send each other.

A message is JSON. An item is an atom (None, bool, int, float, str), {"t": [atoms]}, a tuple of atoms, or [i], a
reference to node i; a node is [tag, content, ...] with one of the tags below and nothing else, so whoever reads it
never runs code of whoever wrote it. References keep aliasing and cycles, and nesting costs no stack on any side.
Both sides number the objects of a message alike: a reply refers to the arguments of its call by their numbers.
"""

import itertools

ATOMS = frozenset((type(None), bool, int, float, str))
ATOM_BITS = 10_000  # longer integers travel in hexadecimal: converting them to decimal takes quadratic time
LARGEST = 2**ATOM_BITS
INTEGERS = frozenset((bool, int))
MAX_ARGUMENT_ITEMS = 10**6  # of an iterator that a test passes to the function
NUMPY_KINDS = "biufcSUMm"  # no objects
FACTORIES = {kind.__name__: kind for kind in (bool, dict, float, int, list, set, str, tuple)}
BUILTIN_TYPES = {
    kind.__name__: kind
    for kind in (
        bool,
        bytearray,
        bytes,
        complex,
        dict,
        float,
        frozenset,
        int,
        list,
        object,
        range,
        set,
        str,
        tuple,
    )
} | {"NoneType": type(None)}


class Unsendable(Exception):
    """A value that is not plain data."""


def own_classes(namespace, names=None):
    """name -> class, of the classes that the code of `namespace` defined (only those called `names`).

    Their instances travel as their attributes: dataclasses, named tuples, enumerations, nodes of lists and trees.
    """
    return {
        name: value
        for name, value in namespace.items()
        if isinstance(value, type)
        and value.__module__ == namespace["__name__"]
        and (names is None or name in names)
        and _has_plain_instances(value)
    }


def _has_plain_instances(cls):
    """Whether attributes are all there is to an instance."""
    if hasattr(cls, "__members__") or (issubclass(cls, tuple) and hasattr(cls, "_fields")):
        return True
    try:
        object.__new__(cls)
    except TypeError:  # built on a built-in type, or abstract
        return False
    return True


def is_small(values):
    """Whether all values of a list or tuple are atoms."""
    kinds = set(map(type, values))
    if not kinds <= ATOMS:
        return False
    if kinds <= INTEGERS:
        return not values or (-LARGEST < min(values) and max(values) < LARGEST)
    return int not in kinds or not any(type(value) is int and value.bit_length() > ATOM_BITS for value in values)


class Encoder:
    """Writes objects as nodes. `objects[i]` is what node i describes; the first, `known`, are not written.

    `classes`: see own_classes. `export` turns what only lives on this side (an iterator, an awaitable, an object
    of any other class) into a node; without it, iterators are used up and the rest raises Unsendable.
    """

    def __init__(self, classes, known=(), export=None):
        self.objects = list(known)
        self.nodes = []
        self._memo = {id(value): index for index, value in enumerate(self.objects)}
        self._names = {kind: name for name, kind in classes.items()}
        self._export = export
        self._pending = []

    def item(self, value):
        """The item for `value`; nodes that it needs are written by `finish`."""
        kind = type(value)
        if kind in ATOMS and not (kind is int and value.bit_length() > ATOM_BITS):
            return value
        if kind is tuple and is_small(value):
            return {"t": list(value)}
        index = self._memo.get(id(value))
        if index is None:
            index = self._memo[id(value)] = len(self.objects)
            self.objects.append(value)
            self.nodes.append(None)
            self._pending.append(index)
        return [index]

    def items(self, values):
        """The items for a list or tuple of values; fast where all of them are atoms."""
        if is_small(values):
            return list(values)
        return [self.item(value) for value in values]

    def finish(self):
        """Write the nodes that are still to be written."""
        first = len(self.objects) - len(self.nodes)
        while self._pending:
            index = self._pending.pop()
            self.nodes[index - first] = self.node(self.objects[index])
        return self.nodes

    def node(self, value):
        kind = type(value)
        if name := self._names.get(kind):
            return self._instance(name, value)
        for cls in kind.__mro__:
            if write := WRITERS.get((cls.__module__, cls.__qualname__)):
                try:
                    return write(self, value)
                except Unsendable:
                    break
        if hasattr(kind, "__next__") and hasattr(kind, "__iter__") and not self._export:
            values = list(itertools.islice(value, MAX_ARGUMENT_ITEMS + 1))
            if len(values) > MAX_ARGUMENT_ITEMS:
                raise Unsendable(f"an iterator of more than {MAX_ARGUMENT_ITEMS} values")
            return ["iter", self.items(values)]
        if isinstance(value, type) and BUILTIN_TYPES.get(value.__name__) is value:
            return ["type", value.__name__]
        if not self._export:
            raise Unsendable(f"a value of type {kind.__name__}")
        return self._export(value)

    def _instance(self, name, value):
        if hasattr(type(value), "__members__"):
            return ["enum", name, value.name]
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            return ["namedtuple", name, self.items(tuple(value))]
        attributes = dict(getattr(value, "__dict__", {}))
        for cls in type(value).__mro__:
            slots = cls.__dict__.get("__slots__", ())
            for slot in (slots,) if isinstance(slots, str) else slots:
                if slot not in ("__dict__", "__weakref__") and hasattr(value, slot):
                    attributes[slot] = getattr(value, slot)
        return ["instance", name, list(attributes), self.items(list(attributes.values()))]


def _pairs(encoder, value):
    return encoder.items([part for pair in value.items() for part in pair])


def _defaultdict(encoder, value):
    factory = value.default_factory
    name = None if factory is None else getattr(factory, "__name__", "?")
    return ["defaultdict", _pairs(encoder, value), "?" if name and FACTORIES.get(name) is not factory else name]


def _ndarray(encoder, value):
    if value.dtype.kind not in NUMPY_KINDS:
        raise Unsendable(f"a numpy array of {value.dtype}")
    return ["ndarray", value.dtype.str, list(value.shape), value.tobytes().hex()]


def _numpy_scalar(encoder, value):
    if value.dtype.kind not in NUMPY_KINDS:
        raise Unsendable(f"a numpy scalar of {value.dtype}")
    return ["numpy", value.dtype.str, value.tobytes().hex()]


WRITERS = {
    ("builtins", "bool"): lambda e, v: ["atom", bool(v)],
    ("builtins", "int"): lambda e, v: ["int", hex(v)],
    ("builtins", "float"): lambda e, v: ["atom", float.__float__(v)],
    ("builtins", "str"): lambda e, v: ["atom", str.__str__(v)],
    ("builtins", "complex"): lambda e, v: ["complex", v.real, v.imag],
    ("builtins", "bytes"): lambda e, v: ["bytes", bytes(v).hex()],
    ("builtins", "bytearray"): lambda e, v: ["bytearray", bytes(v).hex()],
    ("builtins", "memoryview"): lambda e, v: ["bytes", bytes(v).hex()],
    ("builtins", "list"): lambda e, v: ["list", e.items(v)],
    ("builtins", "tuple"): lambda e, v: ["tuple", e.items(v)],
    ("builtins", "set"): lambda e, v: ["set", e.items(list(v))],
    ("builtins", "frozenset"): lambda e, v: ["frozenset", e.items(list(v))],
    ("builtins", "dict"): lambda e, v: ["dict", _pairs(e, v)],
    ("builtins", "dict_keys"): lambda e, v: ["dict_keys", e.items(list(v))],
    ("builtins", "dict_values"): lambda e, v: ["dict_values", e.items(list(v))],
    ("builtins", "dict_items"): lambda e, v: ["dict_items", e.items([part for pair in v for part in pair])],
    ("builtins", "range"): lambda e, v: ["range", e.items((v.start, v.stop, v.step))],
    ("builtins", "slice"): lambda e, v: ["slice", e.items((v.start, v.stop, v.step))],
    ("builtins", "ellipsis"): lambda e, v: ["constant", "Ellipsis"],
    ("builtins", "NotImplementedType"): lambda e, v: ["constant", "NotImplemented"],
    ("collections", "OrderedDict"): lambda e, v: ["OrderedDict", _pairs(e, v)],
    ("collections", "Counter"): lambda e, v: ["Counter", _pairs(e, v)],
    ("collections", "defaultdict"): _defaultdict,
    ("collections", "deque"): lambda e, v: ["deque", e.items(list(v)), v.maxlen],
    ("array", "array"): lambda e, v: ["array", v.typecode, v.tobytes().hex()],
    ("fractions", "Fraction"): lambda e, v: ["Fraction", e.items((v.numerator, v.denominator))],
    ("decimal", "Decimal"): lambda e, v: ["Decimal", str(v)],
    ("datetime", "datetime"): lambda e, v: ["datetime", v.isoformat(), v.fold],
    ("datetime", "date"): lambda e, v: ["date", v.isoformat()],
    ("datetime", "time"): lambda e, v: ["time", v.isoformat()],
    ("datetime", "timedelta"): lambda e, v: ["timedelta", v.days, v.seconds, v.microseconds],
    ("datetime", "timezone"): lambda e, v: ["timezone", [e.item(v.utcoffset(None))]],
    ("numpy", "ndarray"): _ndarray,
    ("numpy", "generic"): _numpy_scalar,
}
