"""Pickle, as far as weights need it, and no further.

Weight files of torch and Paddle are pickles, and Python's ``pickle`` runs whatever callable a file names. This machine
shares no code with it: it knows some thirty opcodes, a name in the file becomes a :class:`Symbol`, and calling a symbol
looks it up in the table of the caller. What is not in the table raises :class:`UnsafeCheckpointError`; no name is ever
imported. Large byte strings are not copied: they become a :class:`Span` of the file.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Callable, Optional

import numpy as np

from ...errors import CheckpointError, UnsafeCheckpointError

#: longer strings stay in the file
INLINE_BYTES = 4096

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
        raise NotImplementedError


_MARK = object()


def shown(value: Any) -> str:
    """A value out of a pickle for messages: text as it is (cut), of anything else the type. A few bytes of pickle can
    describe nested tuples whose ``repr`` fills the memory."""
    return f"{value[:40]!r}" if isinstance(value, str) else f"of type {type(value).__name__}"


def load(
    data: np.ndarray,
    allowed: Mapping[tuple[str, str], Constructor],
    where: str,
    persistent: Callable[[Any], Any] | None = None,
) -> Any:
    """Run the pickle in ``data`` (uint8 array) and return what it describes.

    ``allowed`` maps (module, name) to the function that stands for it; None: may be named but not called.
    ``persistent`` resolves persistent ids. Raises :class:`UnsafeCheckpointError` for anything else that the file asks
    for and :class:`CheckpointError` if it is damaged.
    """
    machine = _Machine(data, allowed, where, persistent)
    try:
        return machine.run()
    except (IndexError, struct.error, UnicodeDecodeError) as error:
        raise CheckpointError(f"{where}: damaged or truncated pickle near byte {machine.at}") from error


class _Machine:
    def __init__(self, data: np.ndarray, allowed: Mapping, where: str, persistent: Callable | None) -> None:
        self.data, self.allowed, self.where, self.persistent = data, allowed, where, persistent
        self.at = 0
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        while True:
            opcode = self._take(1)
            if opcode == b".":
                return self._pop()
            handler = _OPCODES.get(opcode)
            if handler is None:
                raise UnsafeCheckpointError(
                    f"{self.where}: pickle opcode {opcode!r} at byte {self.at - 1} is not needed for weights; refused"
                )
            handler(self)

    # reading

    def _take(self, count: int) -> bytes:
        if count > len(self.data) - self.at:
            raise IndexError("pickle ends early")
        self.at += count
        return self.data[self.at - count : self.at].tobytes()

    def _number(self, code: str) -> int:
        return struct.unpack("<" + code, self._take(struct.calcsize(code)))[0]

    def _line(self) -> str:
        line = bytearray()
        while True:
            char = self._take(1)
            if char == b"\n":
                return line.decode("utf-8")
            line += char
            if len(line) > INLINE_BYTES:
                raise IndexError("line too long")

    def _string(self, code: str, is_text: bool) -> None:
        length = self._number(code)
        if length <= INLINE_BYTES:
            raw = self._take(length)
            # surrogates may occur in text that stands for bytes
            self.stack.append(raw.decode("utf-8", "surrogatepass") if is_text else raw)
            return
        if length > len(self.data) - self.at:
            raise IndexError("pickle ends early")
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

    def _tuple(self, count: int) -> None:
        self.stack.append(tuple([self._pop() for _ in range(count)][::-1]))

    def _extend(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not list:
            raise IndexError("append to something that is no list")
        target.extend(items)

    def _set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict) or len(items) % 2:
            raise IndexError("items for something that is no dict")
        for key, value in zip(items[::2], items[1::2]):
            if type(key) not in (str, int):
                raise CheckpointError(f"{self.where}: dict key is a {type(key).__name__}, expected a tensor's name")
            target[key] = value

    # names and calls

    def _symbol(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str) or (module, name) not in self.allowed:
            raise UnsafeCheckpointError(
                f"{self.where}: pickle asks for {module if isinstance(module, str) else '?'}."
                f"{name if isinstance(name, str) else '?'}, which weights never need; refused"
            )
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
            raise CheckpointError(f"{self.where}: {function.module}.{function.name} with wrong arguments") from error

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

    def _put(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def _get(self, index: int) -> None:
        if index not in self.memo:
            raise IndexError("unknown memo")
        self.stack.append(self.memo[index])


def _push(value: Any) -> Callable[[_Machine], None]:
    return lambda m: m.stack.append(value)


_OPCODES: dict[bytes, Callable[[_Machine], Any]] = {
    b"\x80": lambda m: m._take(1),  # PROTO
    b"\x95": lambda m: m._take(8),  # FRAME
    b"(": _push(_MARK),
    b"0": lambda m: m._pop(),
    b"N": _push(None),
    b"\x88": _push(True),
    b"\x89": _push(False),
    b"K": lambda m: m.stack.append(m._number("B")),
    b"M": lambda m: m.stack.append(m._number("H")),
    b"J": lambda m: m.stack.append(m._number("i")),
    b"\x8a": _Machine._long,
    b"G": lambda m: m.stack.append(struct.unpack(">d", m._take(8))[0]),
    b"\x8c": lambda m: m._string("B", True),
    b"X": lambda m: m._string("I", True),
    b"\x8d": lambda m: m._string("Q", True),
    b"U": lambda m: m._string("B", False),
    b"T": lambda m: m._string("I", False),
    b"C": lambda m: m._string("B", False),
    b"B": lambda m: m._string("I", False),
    b"\x8e": lambda m: m._string("Q", False),
    b")": lambda m: m.stack.append(()),
    b"]": lambda m: m.stack.append([]),
    b"}": lambda m: m.stack.append({}),
    b"t": lambda m: m.stack.append(tuple(m._pop_to_mark())),
    b"\x85": lambda m: m._tuple(1),
    b"\x86": lambda m: m._tuple(2),
    b"\x87": lambda m: m._tuple(3),
    b"a": lambda m: m._extend([m._pop()]),
    b"e": lambda m: m._extend(m._pop_to_mark()),
    b"s": lambda m: m._set_items([m._pop(), m._pop()][::-1]),
    b"u": lambda m: m._set_items(m._pop_to_mark()),
    b"q": lambda m: m._put(m._number("B")),
    b"r": lambda m: m._put(m._number("I")),
    b"\x94": lambda m: m._put(len(m.memo)),
    b"h": lambda m: m._get(m._number("B")),
    b"j": lambda m: m._get(m._number("I")),
    b"c": lambda m: m._symbol(m._line(), m._line()),
    b"\x93": _Machine._stack_global,
    b"R": _Machine._reduce,
    b"b": _Machine._build,
    b"Q": _Machine._persistent_id,
}
