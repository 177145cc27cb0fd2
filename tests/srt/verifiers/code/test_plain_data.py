"""Values as plain data (sandboxed/encoder.py, decoder.py): they arrive equal, and forged messages are refused."""

import array
import dataclasses
import datetime
import enum
import itertools
import json
import math
import random
import sys
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from types import ModuleType

import pytest

from srt.verifiers.code import function_submission

sys.path.append(
    str(Path(function_submission.__file__).parent / "sandboxed")
)  # as in the sandbox, where they lie flat

from decoder import Decoder, Malformed  # noqa: E402
from encoder import Encoder, Unsendable, own_classes  # noqa: E402

PREAMBLE = """
import dataclasses, enum, typing
from collections import namedtuple

Point = namedtuple("Point", "x y")
class Pair(typing.NamedTuple):
    left: int
    right: object = None
@dataclasses.dataclass
class Box:
    content: object
@dataclasses.dataclass(frozen=True, slots=True)
class Key:
    name: str
class Color(enum.Enum):
    RED = "r"
class Node:
    def __init__(self, value, next=None):
        self.value, self.next = value, next
        raise_if_called.append(self)
raise_if_called = []
class Numbers(list):
    pass
class Error(ValueError):
    pass
"""


@pytest.fixture
def preamble():
    module = ModuleType("program")
    sys.modules["program"] = module  # dataclasses look there
    exec(PREAMBLE, module.__dict__)
    yield module
    del sys.modules["program"]


def sent(value, classes=None, theirs=None):
    """The value on the other side."""
    encoder = Encoder(classes or {})
    item = encoder.item(value)
    message = json.loads(json.dumps({"item": item, "nodes": encoder.finish()}))
    decoder = Decoder(theirs or classes or {})
    decoder.read(message["nodes"])
    return decoder.item(message["item"])


VALUES = [
    *(
        None,
        True,
        7,
        -0.0,
        1.5,
        math.inf,
        "text",
        "\ud83d",
        "",
        1j,
        b"\0\xff",
        ...,
        NotImplemented,
        int,
        type(None),
    ),
    *(
        10**5000,
        -(2**40_000),
        [10**5000, 1],
        [-(10**5000), 1],
        [10**5000, "a"],
        (10**5000,),
        [],
        [1, "a", None],
        (1,),
        (),
        {1, 2},
        frozenset({(1, 2), "x"}),
    ),
    *({1: {2: {3: []}}}, {(1, 2): {None: True}}, {1.0: 1, "1": 2}, range(3, 9, 2), slice(1, None, 2)),
    *(
        Fraction(1, 3),
        Decimal("1.10"),
        Decimal("-Infinity"),
        datetime.date(2026, 2, 28),
        datetime.time(1, 2, 3, 4),
    ),
    *(datetime.datetime(2026, 1, 2, 3, fold=1), datetime.timedelta(-1, 2, 3), datetime.UTC),
    datetime.datetime(2026, 1, 2, tzinfo=datetime.timezone(datetime.timedelta(hours=-3))),
    *(deque([1, 2], maxlen=3), Counter("aab"), OrderedDict([("b", 1), ("a", 2)]), defaultdict(list, {1: [2]})),
    *(bytearray(b"ab"), array.array("d", [1.5, 2]), array.array("i"), {"a": 1}.keys(), {"a": [1]}.items()),
    [Fraction(1, 2), {Decimal(1): deque([(1, Fraction(3))])}, [[[[]]]]],
]


@pytest.mark.parametrize("value", VALUES, ids=[f"{i}-{type(v).__name__}" for i, v in enumerate(VALUES)])
def test_values_arrive_equal_and_of_the_same_type(value):
    arrived = sent(value)
    assert arrived == value and type(arrived) is type(value)


def test_what_equality_does_not_show():
    assert math.isnan(sent(math.nan)) and math.copysign(1, sent(-0.0)) == -1
    assert [type(value) for value in sent([1, True, 1.0])] == [int, bool, float]
    assert sent(deque([1], maxlen=3)).maxlen == 3
    assert list(sent(OrderedDict.fromkeys("ba"))) == ["b", "a"]
    assert sent(defaultdict(list))["new"] == []
    assert list(sent({1: 2}.values())) == [2]
    with pytest.raises(Unsendable):
        _ = sent(defaultdict(lambda: 5))["new"]
    assert sent(defaultdict(None, {1: 2})) == {1: 2}


def test_aliases_and_cycles_stay():
    row = [0]
    grid = sent([row, row])
    assert grid[0] is grid[1]
    loop = [1]
    loop.append((loop, {"again": loop}))
    loop = sent(loop)
    assert loop[1][0] is loop and loop[1][1]["again"] is loop


def test_depth_costs_no_stack():
    value = ()
    for _ in range(100_000):
        value = (value,) if random.random() < 0.5 else [value]
    arrived, depth = sent(value), 0
    while arrived:
        arrived, depth = arrived[0], depth + 1
    assert depth == 100_000


def test_instances_of_the_preambles_classes_arrive_without_running_their_code(preamble):
    classes = own_classes(preamble.__dict__)
    assert set(classes) == {"Point", "Pair", "Box", "Key", "Color", "Node"}
    values = [preamble.Point(1, [2]), preamble.Pair(1), preamble.Box([1]), preamble.Key("k"), preamble.Color.RED]
    arrived = sent(values, classes)
    assert arrived == values and [type(value) for value in arrived] == [type(value) for value in values]
    assert sent({preamble.Key("a"): 1, frozenset({preamble.Key("b")}): 2}, classes) == {
        preamble.Key("a"): 1,
        frozenset({preamble.Key("b")}): 2,
    }
    first = preamble.Node(1, preamble.Node(2))
    first.next.next, first.parents = first, (first, first.next)
    preamble.raise_if_called.clear()
    arrived = sent(first, classes)
    assert (arrived.value, arrived.next.value) == (1, 2) and arrived.next.next is arrived
    assert arrived.parents == (arrived, arrived.next) and preamble.raise_if_called == []
    assert sent(preamble.Numbers([1])) == [1]  # built on a built-in type: that is what travels


def test_a_class_that_the_program_defined_again_becomes_the_preambles(preamble):
    again = ModuleType("program")
    exec(
        PREAMBLE.replace("content: object", "content: object\n    def __eq__(self, other): return True"),
        again.__dict__,
    )
    classes, theirs = own_classes(preamble.__dict__), own_classes(again.__dict__)
    arrived = sent(again.Box(5), theirs, classes)
    assert type(arrived) is preamble.Box and arrived != preamble.Box(6) and arrived == preamble.Box(5)


@pytest.mark.parametrize("value", [print, object(), lambda: 0, sys, type, ValueError, itertools.count()])
def test_what_does_not_travel_is_refused(value):
    with pytest.raises(Unsendable):
        sent([value])


def test_subclasses_travel_as_what_they_are_built_on():
    class Same(list):
        def __eq__(self, other):
            return True

    class Level(enum.IntEnum):
        HIGH = 3

    Row = namedtuple("Row", "a b")
    arrived = sent([Same([1]), Level.HIGH, Row(1, 2), type("Text", (str,), {})("t")])
    assert arrived == [[1], 3, (1, 2), "t"] and [type(value) for value in arrived] == [list, int, tuple, str]
    assert list(sent(iter([1, 2]))) == [1, 2] and list(sent(x for x in "ab")) == ["a", "b"]


def test_numpy():
    numpy = pytest.importorskip("numpy")
    for value in (numpy.int64(3), numpy.float32(0.1), numpy.bool_(True), numpy.datetime64("2026-01-02")):
        assert sent(value) == value and type(sent(value)) is type(value)
    for value in (numpy.arange(6).reshape(2, 3), numpy.array(["a", "bc"]), numpy.zeros((0, 2)), numpy.array(5.0)):
        arrived = sent(value)
        assert (arrived == value).all() and (arrived.dtype, arrived.shape) == (value.dtype, value.shape)
        assert arrived.flags.writeable
    with pytest.raises(Unsendable):
        sent(numpy.array([object()]))
    for dtype in ("O", "i4,i4", "V8"):
        with pytest.raises(Malformed):
            Decoder({}).read([["ndarray", dtype, [1], "00" * 8]])


FORGED = [
    *([[]], [["code", "x"]], [["opaque", 0, "x"]], [["tuple", [[0]]]], [["tuple", [[1]]], ["tuple", [[0]]]]),
    *([["list", [[7]]]], [["list", [[-1]]]], [["list", [[True]]]], [["list", [{}]]], [["list"]], [["list", 3]]),
    *([["dict", [1]]], [["dict", [[1], 2]], ["list", []]], [["set", [[0]]]], [["frozenset", [[1]]], ["list", []]]),
    *([["Fraction", [1, 0]]], [["Fraction", ["1", 2]]], [["Decimal", "x"]], [["type", "open"]]),
    *([["int", "__import__"]], [["datetime", "now", 0]], [["array", "w", ""]], [["complex", "1", "j"]]),
    *([["instance", "int", [], []]], [["instance", "Box", ["__class__"], [1]]], [["instance", "Box", ["a"], []]]),
    *([["instance", "os", [], []]], [["namedtuple", "Point", [1]]], [["namedtuple", "Box", [1]]], [["bytes", 1]]),
    *([["instance", "Key", ["other"], [1]]], [["namedtuple", "Color", []]], [[["list"], []]], [None], ["list"]),
    *([["enum", "Color", "x"]], [7]),
]


@pytest.mark.parametrize("nodes", FORGED, ids=str)
def test_forged_messages_are_refused(nodes, preamble):
    with pytest.raises(Malformed):
        Decoder(own_classes(preamble.__dict__)).read(nodes)


@pytest.mark.parametrize(
    "item", [{"t": [[]]}, {"t": 1}, {"t": [], "u": 1}, {"u": []}, [7], [-1], [True], [0, 0], ["0"], [], {}, [[0]]]
)
def test_forged_references_are_refused(item):
    decoder = Decoder({})
    decoder.read([["list", []]])
    with pytest.raises(Malformed):
        decoder.item(item)


def test_a_change_must_be_of_the_same_kind(preamble):
    box = preamble.Box(1)
    known = [[1], {}, (1,), box, bytearray(b"a"), "text"]
    decoder = Decoder(own_classes(preamble.__dict__), known)
    decoder.change(0, ["list", [2, [1]]])
    decoder.change(3, ["instance", "Box", ["content"], [[0]]])
    decoder.change(4, ["bytearray", "6263"])
    assert known[0] == [2, {}] and known[0][1] is known[1] and box.content is known[0] and known[4] == b"bc"
    for index, node in [
        *((0, ["dict", []]), (1, ["list", []]), (2, ["tuple", [2]]), (2, ["list", [2]]), (5, ["atom", "x"])),
        *((3, ["instance", "Key", ["name"], ["x"]]), (0, ["instance", "Box", [], []]), (0, ["list", [[99]]])),
    ]:
        with pytest.raises(Malformed):
            decoder.change(index, node)
    assert known[0] == [2, {}] and dataclasses.asdict(box)["content"] == [2, {}]
