"""Pickle, as far as weights need it, and no further.

Weight files of torch and Paddle are pickles, and Python's ``pickle`` runs whatever callable a file names. This machine
shares no code with it: it knows some thirty opcodes, a name in the file becomes a :class:`Symbol`, and calling a symbol
looks it up in the table of the caller. What is not in the table raises :class:`UnsafeCheckpointError`; no name is ever
imported. Large byte strings are not copied: they become a :class:`Span` of the file.

What a file makes the machine do is bounded: the steps, the bytes of short strings, the depth of containers
(:mod:`.nesting`). Only text and small integers are ever hashed or compared.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Callable, Optional

import numpy as np

from ...errors import CheckpointError, UnsafeCheckpointError
from ...utils.display import NAME_LIMIT, escape_controls, quoted, shorten
from .guard import reading
from .nesting import Nesting, NestingError

#: longer strings stay in the file
INLINE_BYTES = 1024
#: a tensor takes some thirty to forty: enough for ten thousand tensors in a file
MAX_STEPS = 400_000
#: of all short strings together
MAX_INLINE_BYTES = 64 << 20

Constructor = Optional[Callable[..., Any]]


@dataclass(frozen=True)
class Symbol:
    """``module.name`` of a pickle, found in the table of what is allowed."""

    module: str
    name: str


@dataclass(frozen=True)
class Span:
    """A long byte string, or long text (UTF-8), at ``start`` of the pickle."""

    start: int
    length: int
    is_text: bool


class Buildable:
    """An object of a constructor that accepts a state; others refuse the BUILD opcode."""

    def build(self, state: Any) -> None:
        """Take the state that a pickle gives the object."""
        raise NotImplementedError


_MARK = object()


def shown(value: Any) -> str:
    """A value out of a pickle for messages: text in quotes (cut), a plain integer, of anything else the type. A few
    bytes of pickle can describe nested tuples whose ``repr`` fills the memory.
    """
    if isinstance(value, str):
        return quoted(value)
    return str(value) if type(value) is int else f"of type {type(value).__name__}"


def hint(value: Any) -> str:
    """What to do where a dict stands in place of a tensor, as in files that trainers save: to end a message with."""
    return "; if its weights are in there, save that dict alone" if isinstance(value, dict) else ""


def load(
    data: np.ndarray,
    allowed: Mapping[tuple[str, str], Constructor],
    where: str,
    persistent: Callable[[Any], Any] | None = None,
) -> Any:
    """Run the pickle in ``data`` (uint8 array) and return what it describes.

    ``allowed`` maps (module, name) to the function that stands for it; None: may be named but not called.
    ``persistent`` resolves persistent ids. Raises :class:`UnsafeCheckpointError` for anything else that the file asks
    for and :class:`CheckpointError` if it is damaged, or asks for more than weights can need.
    """
    machine = _Machine(data, allowed, where, persistent)
    with reading(where, lambda: f"near byte {machine.at} of its pickle"):
        return machine.run()


class _Machine:
    def __init__(self, data: np.ndarray, allowed: Mapping, where: str, persistent: Callable | None) -> None:
        self.data, self.allowed, self.where, self.persistent = data.data, allowed, where, persistent
        self.at = self.inline_bytes = 0
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.nesting = Nesting()

    def run(self) -> Any:
        for _ in range(MAX_STEPS):
            opcode = self.data[self.at]
            self.at += 1
            if opcode == _STOP:
                return self._pop()
            handler = _OPCODES.get(opcode)
            if handler is None:
                raise UnsafeCheckpointError(
                    f"{self.where}: pickle opcode {bytes([opcode])!r} at byte {self.at - 1} is not needed for weights; "
                    "refused"
                )
            handler(self)
        raise self.refusal(f"its pickle has more than {MAX_STEPS} steps, and weights need some thirty for a tensor")

    def refusal(self, problem: str) -> CheckpointError:
        return CheckpointError(f"{self.where}, near byte {self.at} of its pickle: {problem}; refused")

    # reading

    def _take(self, count: int) -> bytes:
        if count > len(self.data) - self.at:
            raise EOFError("the pickle ends early")
        self.at += count
        return bytes(self.data[self.at - count : self.at])

    def _number(self, code: str) -> int:
        return struct.unpack("<" + code, self._take(struct.calcsize(code)))[0]

    def _line(self) -> str:
        ahead = bytes(self.data[self.at : self.at + INLINE_BYTES])
        length = ahead.index(b"\n")
        self.at += length + 1
        return ahead[:length].decode("utf-8")

    def _string(self, code: str, is_text: bool) -> None:
        length = self._number(code)
        if length <= INLINE_BYTES:
            raw = self._take(length)
            self.inline_bytes += length
            if self.inline_bytes > MAX_INLINE_BYTES:
                raise self.refusal(f"short strings of more than {MAX_INLINE_BYTES} bytes")
            # surrogates may occur in text that stands for bytes
            self.stack.append(raw.decode("utf-8", "surrogatepass") if is_text else raw)
            return
        if length > len(self.data) - self.at:
            raise EOFError("the pickle ends early")
        self.stack.append(Span(self.at, length, is_text))
        self.at += length

    # stack

    def _pop(self) -> Any:
        value = self.stack.pop()
        if value is _MARK:
            raise IndexError("mark where a value is expected")
        return value

    def _pop_to_mark(self) -> list[Any]:
        for index in range(len(self.stack) - 1, -1, -1):
            if self.stack[index] is _MARK:
                items = self.stack[index + 1 :]
                del self.stack[index:]
                return items
        raise IndexError("no mark")

    def _tuple(self, items: list[Any]) -> None:
        made = tuple(items)
        self._put_into(made, items)
        self.stack.append(made)

    def _put_into(self, container: Any, items: list[Any]) -> None:
        try:
            self.nesting.put(container, items)
        except NestingError as error:
            raise self.refusal(str(error)) from error

    def _pop_many(self, count: int) -> list[Any]:
        return [self._pop() for _ in range(count)][::-1]

    def _extend(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not list:
            raise TypeError("append to something that is no list")
        self._put_into(target, items)
        target.extend(items)

    def _set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict) or len(items) % 2:
            raise TypeError("items for something that is no dict")
        self._put_into(target, items)
        for key, value in zip(items[::2], items[1::2]):
            if type(key) not in (str, int):
                raise self.refusal(f"dict key is a {type(key).__name__}, expected a tensor's name")
            target[key] = value

    # names and calls

    def _symbol(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str) or (module, name) not in self.allowed:
            asked = ".".join(part if isinstance(part, str) else "?" for part in (module, name))
            asked = escape_controls(shorten(asked, NAME_LIMIT))
            raise UnsafeCheckpointError(f"{self.where}: pickle asks for {asked}, which weights never need; refused")
        self.stack.append(Symbol(module, name))

    def _stack_global(self) -> None:
        name, module = self._pop(), self._pop()
        self._symbol(module, name)

    def _reduce(self) -> None:
        arguments, function = self._pop(), self._pop()
        constructor = self.allowed.get((function.module, function.name)) if isinstance(function, Symbol) else None
        if constructor is None or not isinstance(arguments, tuple):
            raise UnsafeCheckpointError(f"{self.where}: pickle calls something that is not on the list; refused")
        try:
            self.stack.append(constructor(*arguments))
        except TypeError as error:
            raise self.refusal(f"{function.module}.{function.name} with wrong arguments") from error

    def _build(self) -> None:
        state, target = self._pop(), self.stack[-1]
        if isinstance(target, OrderedDict):
            return  # torch hangs module versions there
        if not isinstance(target, Buildable):
            raise UnsafeCheckpointError(f"{self.where}: pickle sets the state of a {type(target).__name__}; refused")
        target.build(state)

    def _persistent_id(self) -> None:
        if self.persistent is None:
            raise UnsafeCheckpointError(f"{self.where}: pickle refers to objects outside of it; refused")
        self.stack.append(self.persistent(self._pop()))

    def _long(self) -> None:
        length = self._number("B")
        if length > 8:
            raise CheckpointError(f"{self.where}: integer of {length} bytes in a pickle, expected at most 8")
        self.stack.append(int.from_bytes(self._take(length), "little", signed=True))

    def _remember(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def _get(self, index: int) -> None:
        self.stack.append(self.memo[index])


def _push(value: Any) -> Callable[[_Machine], None]:
    return lambda m: m.stack.append(value)


_STOP = ord(b".")
_OPCODES: dict[int, Callable[[_Machine], Any]] = {
    ord(b"\x80"): lambda m: m._take(1),  # PROTO
    ord(b"\x95"): lambda m: m._take(8),  # FRAME
    ord(b"("): _push(_MARK),
    ord(b"0"): lambda m: m._pop(),
    ord(b"N"): _push(None),
    ord(b"\x88"): _push(True),
    ord(b"\x89"): _push(False),
    ord(b"K"): lambda m: m.stack.append(m._number("B")),
    ord(b"M"): lambda m: m.stack.append(m._number("H")),
    ord(b"J"): lambda m: m.stack.append(m._number("i")),
    ord(b"\x8a"): _Machine._long,
    ord(b"G"): lambda m: m.stack.append(struct.unpack(">d", m._take(8))[0]),
    ord(b"\x8c"): lambda m: m._string("B", True),
    ord(b"X"): lambda m: m._string("I", True),
    ord(b"\x8d"): lambda m: m._string("Q", True),
    ord(b"U"): lambda m: m._string("B", False),
    ord(b"T"): lambda m: m._string("I", False),
    ord(b"C"): lambda m: m._string("B", False),
    ord(b"B"): lambda m: m._string("I", False),
    ord(b"\x8e"): lambda m: m._string("Q", False),
    ord(b")"): lambda m: m.stack.append(()),
    ord(b"]"): lambda m: m.stack.append([]),
    ord(b"}"): lambda m: m.stack.append({}),
    ord(b"t"): lambda m: m._tuple(m._pop_to_mark()),
    ord(b"\x85"): lambda m: m._tuple(m._pop_many(1)),
    ord(b"\x86"): lambda m: m._tuple(m._pop_many(2)),
    ord(b"\x87"): lambda m: m._tuple(m._pop_many(3)),
    ord(b"a"): lambda m: m._extend([m._pop()]),
    ord(b"e"): lambda m: m._extend(m._pop_to_mark()),
    ord(b"s"): lambda m: m._set_items(m._pop_many(2)),
    ord(b"u"): lambda m: m._set_items(m._pop_to_mark()),
    ord(b"q"): lambda m: m._remember(m._number("B")),
    ord(b"r"): lambda m: m._remember(m._number("I")),
    ord(b"\x94"): lambda m: m._remember(len(m.memo)),
    ord(b"h"): lambda m: m._get(m._number("B")),
    ord(b"j"): lambda m: m._get(m._number("I")),
    ord(b"c"): lambda m: m._symbol(m._line(), m._line()),
    ord(b"\x93"): _Machine._stack_global,
    ord(b"R"): _Machine._reduce,
    ord(b"\x81"): _Machine._reduce,  # NEWOBJ
    ord(b"b"): _Machine._build,
    ord(b"Q"): _Machine._persistent_id,
}
