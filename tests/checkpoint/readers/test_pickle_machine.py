from __future__ import annotations

import builtins
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paddlemix.checkpoint.readers import pickle_machine, torch_names
from paddlemix.errors import CheckpointError, UnsafeCheckpointError
from tests.checkpoint.building import Call, Named, dumps


def load(program: bytes, allowed: dict | None = None) -> Any:
    return pickle_machine.load(np.frombuffer(program, np.uint8), allowed or {}, "x.bin")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text() | st.integers(0, 9), inner),
)


@given(VALUES, st.integers(2, 4))
def test_plain_values_are_read_as_pickle_reads_them(value: Any, protocol: int) -> None:
    if protocol < 3:
        value = [value] if not _holds_bytes(value) else None  # protocol 2 writes bytes as a call
    assert load(pickle.dumps(value, protocol)) == value


def _holds_bytes(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_holds_bytes, value.values()))
    return isinstance(value, bytes) or (isinstance(value, (list, tuple)) and any(map(_holds_bytes, value)))


@pytest.mark.parametrize("length", [pickle_machine.INLINE_BYTES + 1, 100_000])
def test_long_bytes_stay_in_the_file(length: int) -> None:
    program = pickle.dumps({"a": b"\x07" * length}, 4)
    span = load(program)["a"]
    assert program[span.start : span.start + span.length] == b"\x07" * length


class Reduces:
    """What an attacker's object does: it names a callable and its arguments."""

    def __init__(self, *reduction: Any) -> None:
        self.reduction = reduction

    def __reduce__(self) -> tuple:
        return self.reduction


def attacks(target: Path) -> dict[str, bytes]:
    """Pickles that would make ``target`` if anything in them ran."""
    code = f"open({str(target)!r}, 'w')"
    touch = Reduces(os.system, (f"touch {target}",))
    return {
        "os.system": pickle.dumps(touch, 2),
        "os.system, protocol 0": pickle.dumps(touch, 0),
        "os.system, protocol 4": pickle.dumps({"transformer.wte.weight": touch}, 4),
        "eval": pickle.dumps(Reduces(builtins.eval, (code,)), 2),
        "exec": pickle.dumps(Reduces(builtins.exec, (code,)), 4),
        "getattr": dumps(
            Call(Call(Named("builtins", "getattr"), Named("os", "system"), "__call__"), f"touch {target}")
        ),
        "nested in arguments": dumps(Call(Named("collections", "OrderedDict"), Call(Named("os", "system"), "true"))),
        "nested in a state": pickle.dumps(Reduces(dict, (), {"x": touch}), 2),
        "a key": dumps({"a": [{"b": Call(Named("builtins", "open"), str(target), "w")}]}),
        "dotted name": dumps(Named("collections", "OrderedDict.__init__.__globals__")),
        "module of an allowed name": dumps(Named("os", "OrderedDict")),
        "torch.load": dumps(Call(Named("torch", "load"), "http://127.0.0.1/x")),
        "numpy.load": dumps(Call(Named("numpy", "load"), "x.npy")),
        "instance opcode": b"(S'true'\nios\nsystem\n.",
        "object opcode": b"(cos\nsystem\nS'true'\no.",
        "new object opcode": b"\x80\x02cos\nsystem\n)\x81.",
        "extension registry": b"\x80\x02\x82\x01.",
        "persistent id in text": b"Pos.system\n.",
        "persistent id": b"\x80\x02K\x01Q.",
        "called by number": b"\x80\x02K\x01)R.",
        "state of a list": b"\x80\x02]}b.",
    }


@pytest.mark.parametrize("name", attacks(Path("x")))
def test_malicious_pickles_are_refused_and_nothing_runs(name: str, tmp_path: Path) -> None:
    target = tmp_path / "ran"
    with pytest.raises(UnsafeCheckpointError):
        load(attacks(target)[name], {("collections", "OrderedDict"): dict})
    assert not target.exists()


def test_refusal_names_what_was_asked_for() -> None:
    with pytest.raises(UnsafeCheckpointError, match="x.bin: pickle asks for posix.system, which weights never need"):
        load(pickle.dumps(Reduces(os.system, ("true",)), 2))


def test_names_that_are_allowed_may_not_always_be_called() -> None:
    allowed = {("torch", "FloatStorage"): None}
    assert load(dumps(Named("torch", "FloatStorage")), allowed) == pickle_machine.Symbol("torch", "FloatStorage")
    with pytest.raises(UnsafeCheckpointError, match="calls something"):
        load(dumps(Call(Named("torch", "FloatStorage"), 3)), allowed)


@pytest.mark.parametrize(
    "program",
    [
        b"",
        b"\x80",
        b"\x80\x02",
        b"\x80\x02.",
        b"\x80\x02}q\x00(X\x05\x00\x00\x00ab",
        b"\x80\x02(.",
        b"\x80\x02a.",
        b"\x80\x02K\x01K\x02a.",
        b"\x80\x02h\x07.",
        b"\x80\x02t.",
        b"\x80\x02X\x01\x00\x00\x00\xff.",
        b"\x80\x02\x8a\xff" + b"\x01" * 255 + b".",
        b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\xff.",
        b"\x80\x02}(]K\x01u.",
        b"c" + b"a" * 10_000,
    ],
)
def test_damaged_pickles_give_a_checkpoint_error(program: bytes) -> None:
    with pytest.raises(CheckpointError):
        load(program)


@given(st.binary(max_size=200))
def test_random_bytes_never_do_worse(program: bytes) -> None:
    try:
        load(b"\x80\x02" + program)
    except CheckpointError:
        return


def shared(levels: int) -> bytes:
    """A tuple of two equal tuples of two equal tuples ...: a few bytes of pickle, 2**levels elements."""
    return b")q\x000" + b"".join(b"h%ch%c\x86q%c0" % (n, n, n + 1) for n in range(levels)) + b"h%c" % levels


FOREIGN = {"deep": b")" + b"\x85" * 100_000, "shared": shared(60), "deep lists": b"]" * 100_000 + b"a" * 99_999}
PLACES = {
    "alone": b"%s",
    "in a list": b"]%sa",
    "in a dict": b"}K\x01%ss",
    "a key": b"}%sK\x01s",
    "a key among others": b"}(K\x01K\x02%sK\x03u",
    "in an argument": b"ccollections\nOrderedDict\n%s\x85R",
    "a pair in an argument": b"ccollections\nOrderedDict\n]]%saK\x01aa\x85R",
    "a state": b"ccollections\nOrderedDict\n)R%sb",
    "items of a set": b"cbuiltins\nset\n]%sa\x85R",
    "a name": b"%sX\x01\x00\x00\x00a\x93",
    "a function": b"%s)R",
    "a reference": b"%sQ",
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("value", FOREIGN)
def test_what_would_recurse_is_refused_or_never_walked_through(value: str, place: str) -> None:
    program = b"\x80\x02" + PLACES[place].replace(b"%s", FOREIGN[value]) + b"."
    if value == "shared" and place in ("alone", "in a list", "in a dict", "a state"):
        load(program, torch_names.TORCH_NAMES)
        return
    with pytest.raises(CheckpointError) as caught:
        load(program, torch_names.TORCH_NAMES)
    assert "x.bin" in str(caught.value) and len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("program", "problem"),
    [
        (b"]q\x00h\x00a.", "a container that holds itself"),
        (b"}q\x00K\x01h\x00s.", "a container that holds itself"),
        (b"]q\x00]h\x00a0h\x00K\x01a.", "adds to a container that is inside another one"),
        (b"}q\x00h\x00\x850h\x00K\x01K\x02s.", "adds to a container that is inside another one"),
    ],
)
def test_what_is_inside_something_is_not_added_to(program: bytes, problem: str) -> None:
    with pytest.raises(CheckpointError, match=problem):
        load(b"\x80\x02" + program)


def test_steps_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickle_machine, "MAX_STEPS", 1000)
    assert load(b"\x80\x02" + b"N0" * 498 + b"N.") is None
    with pytest.raises(CheckpointError, match="more than 1000 steps"):
        load(b"\x80\x02" + b"N0" * 499 + b"N.")


def test_short_strings_are_bounded_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickle_machine, "MAX_INLINE_BYTES", 1000)
    assert load(b"\x80\x02(" + (b"U\xc8" + bytes(200)) * 5 + b"t.") == (bytes(200),) * 5
    with pytest.raises(CheckpointError, match="short strings of more than 1000 bytes"):
        load(b"\x80\x02(" + (b"U\xc8" + bytes(200)) * 6 + b"t.")


def test_errors_say_where_and_show_no_controls() -> None:
    with pytest.raises(CheckpointError, match=r"^x.bin, near byte 4 of its pickle: damaged or .* \(KeyError: 7\)$"):
        load(b"\x80\x02h\x07.")
    with pytest.raises(UnsafeCheckpointError) as caught:
        load(b"\x80\x02cos\x1b]0;title\x07\n" + b"a" * 1000 + b"\n.")
    shown = "os\\x1b]0;title\\x07." + "a" * 40 + "…" + "a" * 26
    assert str(caught.value) == f"x.bin: pickle asks for {shown}, which weights never need; refused"


def test_what_a_step_runs_out_of_becomes_an_error_too() -> None:
    def exhausted(*_: Any) -> None:
        raise MemoryError

    with pytest.raises(CheckpointError, match="x.bin, near byte .*: needs more memory than there is"):
        load(b"\x80\x02ca\nb\n)R.", {("a", "b"): exhausted})
