"""Untrusted pickles: read without running anything, and without trusting any state in them.

Naming what a pickle may ask for isn't enough. NumPy takes the state of a dtype or an array as it
comes, and a forged one makes memory of any bytes into objects. Here both are rebuilt by stand-ins
that admit plain numbers only, and are given back as NumPy's own.
"""

import io
import pickle
import pickletools
import types
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import numpy as np

from enl_detectron2.utils.errors import UnsafeCheckpoint

# Booleans, integers and floats of fixed size, as NumPy's pickles name them.
PLAIN_TYPES = frozenset(
    ("b1", *(f"{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8)), "f2", "f4", "f8")
)
# Of one object in another. Python hashes nested tuples by recursion, which overflows its stack.
DEEPEST = 100
_STRING = next(code for code in pickletools.opcodes if code.name == "STRING")
# These give back the object that they change.
_CHANGES = {"APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS", "BUILD", "READONLY_BUFFER"}


def read_pickle(content: bytes, also: dict[str, Callable] | None = None) -> Any:
    """What a pickle holds, if that is arrays of plain numbers, and plain containers.

    Args:
        content: of a file, as Python 2 or 3 wrote it.
        also: functions by the names that the pickle may ask for beside them.

    Raises:
        UnsafeCheckpoint: (a ValueError) if it asks for anything else; "asks for …".
        Exception: if it is damaged, of whatever kind.
    """
    check_stream(io.BytesIO(content), len(content))
    unpickler = _Unpickler(io.BytesIO(content), encoding="latin1")
    unpickler.admitted = _PICKLED | (also or {})
    return without_stand_ins(unpickler.load())


def check_stream(file: BinaryIO, size: int) -> list[str]:
    """Follows one pickle without building anything, to see what would exhaust Python itself.

    Args:
        file: at the pickle's beginning; it is read until the pickle's end.
        size: in bytes, of the file; what it remembers can't be more.

    Returns:
        What it asks for by the opcode GLOBAL, the only one that PyTorch's own files have for it.

    Raises:
        UnsafeCheckpoint: (a ValueError) if it nests too deeply, or claims more than it holds.
        ValueError: if it is no pickle.
    """
    depths: list[int | None] = []  # of the objects on the stack; None is a mark
    remembered: dict[int, int] = {}
    asked = []
    for code, argument in _codes(file):
        name, taken = code.name, [kind.name for kind in code.stack_before]
        if name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            index = len(remembered) if name == "MEMOIZE" else argument
            if index > size:
                raise UnsafeCheckpoint(f"asks for {index:,} places in memory, more than it can use")
            remembered[index] = _pop(depths)
            depths.append(remembered[index])
            continue
        if name == "GLOBAL":
            asked.append(argument.replace(" ", "."))
        items = []
        if "stackslice" in taken:
            while (depth := _pop(depths, marks=True)) is not None:
                items.append(depth)
            taken = taken[: taken.index("mark")]
        items += [_pop(depths) for _ in taken]
        depth = max(items, default=0)
        if items and name not in _CHANGES and name != "DUP":
            depth += 1
        if name in ("GET", "BINGET", "LONG_BINGET"):
            depth = remembered[argument]
        if depth > DEEPEST:
            raise UnsafeCheckpoint(f"asks for objects within objects, more than {DEEPEST} deep")
        depths += [None if name == "MARK" else depth for _ in code.stack_after]
    return asked


def _codes(file: BinaryIO) -> Iterator[tuple[pickletools.OpcodeInfo, Any]]:
    while True:
        try:
            yield from ((code, argument) for code, argument, _ in pickletools.genops(file))
            return
        except UnicodeDecodeError:
            # pickletools takes Python 2's strings for ASCII. It has read this one to its end.
            yield _STRING, None


def _pop(depths: list[int | None], marks: bool = False) -> int | None:
    if not depths or (depths[-1] is None and not marks):
        raise ValueError("it takes an object that isn't there")
    return depths.pop()


class _Dtype:
    """Stands in for ``numpy.dtype``."""

    dtype: np.dtype | None = None

    def __init__(self, name: Any, *_: Any):
        # Python 2 wrote bytes.
        if not isinstance(name, str) or name not in PLAIN_TYPES:
            raise refusal(f"an array of the type {name!r}")
        self.dtype = np.dtype(name)

    def __setstate__(self, state: Any) -> None:
        # The version of NumPy's format, the byte order, and what only other types than plain
        # numbers have: fields, sizes and flags of their own.
        order = state[1] if isinstance(state, tuple) and len(state) in (8, 9) else None
        if order not in ("<", ">", "|", "=") or self.dtype is None:
            raise refusal(f"a type of arrays in the state {state!r}"[:200])
        if state[2:8] != (None, None, None, -1, -1, 0) or state[8:] not in ((), (None,)):
            raise refusal(f"a type of arrays in the state {state!r}"[:200])
        if order in "<>":
            self.dtype = self.dtype.newbyteorder(order)


class _Array(np.ndarray):
    """Stands in for ``numpy.ndarray``."""

    __slots__ = ()  # a pickle can't set attributes

    def __new__(cls, *arguments: Any) -> "_Array":
        if arguments:
            raise refusal("an array that isn't rebuilt as NumPy does it")
        return super().__new__(cls, 0)

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise refusal("an array in another state than NumPy's")
        _, shape, dtype, by_columns, content = state
        dtype, content = _content(dtype, content, shape)
        super().__setstate__((1, shape, dtype, bool(by_columns), content))


for _class, _name in ((_Dtype, "dtype"), (_Array, "ndarray")):
    _class.__module__, _class.__name__, _class.__qualname__ = "numpy", _name, _name


def _content(dtype: Any, content: Any, shape: Any) -> tuple[np.dtype, bytes]:
    """The type and the bytes of an array, after a check that they make one of this shape."""
    if type(dtype) is not _Dtype or dtype.dtype is None:
        raise refusal(f"an array of the type {dtype!r}"[:200])
    if isinstance(content, str):  # of Python 2, and read as latin1
        content = content.encode("latin1")
    if not isinstance(content, (bytes, bytearray)):
        raise refusal(f"an array of a {type(content).__name__}")
    if not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape):
        raise refusal(f"an array of the shape {shape!r}"[:200])
    size = dtype.dtype.itemsize
    for length in shape:
        size *= length  # Python's integers don't overflow
    if size != len(content):
        raise refusal(f"an array of {size:,} bytes and holds {len(content):,} for it")
    return dtype.dtype, bytes(content)


def _reconstruct(kind: Any, shape: Any, _: Any) -> _Array:
    """Stands in for NumPy's, which makes an array of any kind and size to be filled by a state."""
    if kind is not _Array or shape != (0,):
        raise refusal("an array that isn't rebuilt as NumPy does it")
    return _Array()


def _scalar(dtype: Any, content: Any = b"") -> np.generic:
    dtype, content = _content(dtype, content, ())
    return np.frombuffer(content, dtype)[0]


def _from_buffer(content: Any, dtype: Any, shape: Any, order: str = "C") -> np.ndarray:
    dtype, content = _content(dtype, content, shape)
    array = np.frombuffer(content, dtype).reshape(shape, order="F" if order == "F" else "C")
    # A copy, which can be written to, in the machine's own byte order, as NumPy itself has it.
    return array.astype(dtype.newbyteorder("="))


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """How Python 3 writes bytes for Python 2. Other encodings would call codecs by name."""
    return text.encode("latin1")


def _no_bytes() -> bytes:
    """How Python 3 writes empty bytes for Python 2."""
    return b""


# All that arrays and plain containers need of a pickle, beside OrderedDict. NumPy has moved these
# functions between its versions.
_STAND_INS = {
    "numpy.dtype": _Dtype,
    "numpy.ndarray": _Array,
    **{f"numpy.{core}.multiarray._reconstruct": _reconstruct for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray.scalar": _scalar for core in ("core", "_core")},
    **{f"numpy.{core}.numeric._frombuffer": _from_buffer for core in ("core", "_core")},
    **{f"{module}.bytes": _no_bytes for module in ("builtins", "__builtin__")},
}
_PICKLED = {"collections.OrderedDict": OrderedDict, "_codecs.encode": _encode, **_STAND_INS}


class _Unpickler(pickle.Unpickler):
    admitted: dict[str, Callable]

    def find_class(self, module: str, name: str) -> Any:
        if f"{module}.{name}" not in self.admitted or "." in name:
            raise refusal(f"{module}.{name}")
        found = self.admitted[f"{module}.{name}"]
        # A copy of a function, as a pickle can set attributes of what it asks for.
        return found if isinstance(found, type) else _renamed(found, module, name)


def stand_ins() -> list[Callable]:
    """For ``torch.serialization.safe_globals``, which goes by module and name."""
    renamed = []
    for path, stand_in in _STAND_INS.items():
        module, _, name = path.rpartition(".")
        # The classes have NumPy's names from the start.
        renamed.append(stand_in if isinstance(stand_in, type) else _renamed(stand_in, module, name))
    return renamed


def full_name(thing: Any) -> str:
    """Under which a pickle asks for it; of a pair, as PyTorch has them, the second says it."""
    return thing[1] if isinstance(thing, tuple) else f"{thing.__module__}.{thing.__qualname__}"


def _renamed(function: Callable, module: str, name: str) -> Callable:
    """A copy of a function, which says that it is another one."""
    copy = types.FunctionType(function.__code__, function.__globals__, name, function.__defaults__)
    copy.__module__, copy.__qualname__ = module, name
    return copy


def without_stand_ins(value: Any, known: dict[int, Any] | None = None) -> Any:
    """The same with NumPy's own arrays, changed in place where it can be."""
    known = {} if known is None else known
    if isinstance(value, _Array):
        return value.view(np.ndarray)
    if id(value) in known:
        return known[id(value)]
    if isinstance(value, _Dtype):
        return value.dtype
    if isinstance(value, (dict, list)):
        known[id(value)] = value  # before its items, as it may hold itself
        for key, item in list(value.items() if isinstance(value, dict) else enumerate(value)):
            value[key] = without_stand_ins(item, known)
    elif type(value) is tuple:
        known[id(value)] = tuple(without_stand_ins(item, known) for item in value)
    return known.get(id(value), value)


def refusal(asked: str) -> UnsafeCheckpoint:
    """What to raise at a pickle that asks for something else than it may."""
    return UnsafeCheckpoint(
        f"asks for {asked}; it may hold tensors, arrays and plain containers only, as "
        "anything else can run code. It was not loaded"
    )


def line(error: Any) -> str:
    """What an error says; an untrusted file can put line ends and commands to a terminal there."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(error))
