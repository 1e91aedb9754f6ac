"""Weight files that are damaged, made at random or made to do harm: tensors or a CheckpointError, always."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from paddlemix.checkpoint.readers.pdparams import read_pdparams
from paddlemix.checkpoint.readers.safetensors_file import read_safetensors
from paddlemix.checkpoint.readers.torch_zip import read_torch_zip
from tests.checkpoint.building import open_checkpoint, safetensors_bytes, write_pdparams, write_safetensors, write_torch
from tests.fuzz.checking import attempt, peak_memory
from tests.fuzz.counts import FACTOR, record
from tests.fuzz.damage import damaged

SHAPES = {
    "transformer.wte.weight": (16, 8),
    "transformer.h.0.attn.c_attn.weight": (24, 8),
    "transformer.h.0.attn.c_attn.bias": (24,),
    "transformer.h.0.ln_1.weight": (8,),
    "lm_head.weight": (16, 8),
}
WEIGHTS = {name: np.full(shape, 0.5, np.float32) for name, shape in SHAPES.items()}
READERS = {".safetensors": read_safetensors, ".bin": read_torch_zip, ".pdparams": read_pdparams}
#: opcodes of a pickle, and what stands before their arguments
OPCODES = b"\x80\x95(0N\x88\x89KMJ\x8aG\x8cXU\x8dTCB\x8e)]}t\x85\x86\x87aesuqr\x94hjc\x93RbQ.\x81"
PIECES = [bytes([opcode]) for opcode in OPCODES] + [
    b"K\x05", b"X\x01\0\0\0a", b"\x8c\x01b", b"U\x02f4", b"U\x06latin1", b"h\0", b"q\0", b"h\1", b"q\1", *[b"("] * 3,
    b"t", b")", b"]", b"}", b"u", b"R", b"b", b"\x94", b"Q", b"X\x07\0\0\0storage", b"X\x03\0\0\0cpu",
    b"X\x01\0\0\0000", b"X\x15\0\0\0UnpackBigParamInfor@@", b"X\x06\0\0\0slices", b"X\x0b\0\0\0OriginShape",
    b"cnumpy\nndarray\n", b"cnumpy\ndtype\n", b"cnumpy.core.multiarray\n_reconstruct\n", b"ccollections\nOrderedDict\n",
    b"c_codecs\nencode\n", b"ctorch\nFloatStorage\n", b"ctorch\nfloat32\n", b"ctorch\nSize\n",
    b"ctorch._utils\n_rebuild_tensor_v2\n", b"ctorch._utils\n_rebuild_parameter\n",
    b"ctorch._tensor\n_rebuild_from_type_v2\n", b"cbuiltins\nset\n",
]  # fmt: skip
MEGABYTE = 1 << 20
#: how far the bombs are blown up: wholly in a longer run
SIXTEENTHS = min(16, FACTOR)


def read_all(path: Path) -> None:
    found = READERS[path.suffix](path)
    for tensor in (found[0] if isinstance(found, tuple) else found).values():
        assert tensor.load().shape == tensor.shape


def try_file(path: Path, content: bytes, case: str) -> str:
    path.write_bytes(content)
    return attempt(case, lambda: read_all(path))


def archive(program: bytes, compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as file:
        file.writestr("archive/data.pkl", program)
        for number, array in enumerate(WEIGHTS.values()):
            file.writestr(f"archive/data/{number}", array.tobytes())
    return buffer.getvalue()


@pytest.fixture
def originals(tmp_path: Path) -> dict[str, bytes]:
    """Whole files, by the suffix that a damaged one of them gets."""
    write_safetensors(tmp_path / "a.safetensors", WEIGHTS, {"format": "pt"})
    write_torch(tmp_path / "a.bin", WEIGHTS)
    write_pdparams(tmp_path / "a.pdparams", WEIGHTS)
    return {suffix: (tmp_path / f"a{suffix}").read_bytes() for suffix in READERS}


@pytest.mark.parametrize("suffix", READERS)
def test_damaged_files(tmp_path: Path, originals: dict[str, bytes], suffix: str) -> None:
    rng, whole, cases = Random(1), originals[suffix], 80 * FACTOR
    # of safetensors, the header: any byte of a value is a value
    limit = 8 + struct.unpack("<Q", whole[:8])[0] if suffix == ".safetensors" else None
    assert try_file(tmp_path / f"b{suffix}", whole, "whole") == "ok"
    for n in range(cases):
        try_file(tmp_path / f"b{suffix}", damaged(whole, rng, OPCODES, limit), f"damaged {suffix}, case {n}")
    record(f"damaged {suffix}", cases)


@pytest.mark.parametrize("protocol", [2, 4])
def test_damaged_pickles(tmp_path: Path, originals: dict[str, bytes], protocol: int) -> None:
    rng, cases = Random(protocol), 60 * FACTOR
    with zipfile.ZipFile(io.BytesIO(originals[".bin"])) as file:
        torch_program = file.read("archive/data.pkl")
    paddle_program = pickle.dumps(WEIGHTS, protocol)
    for n in range(cases):
        content = archive(damaged(torch_program, rng, OPCODES))
        try_file(tmp_path / "b.bin", content, f"damaged data.pkl {protocol}, case {n}")
        content = damaged(paddle_program, rng, OPCODES)
        try_file(tmp_path / "b.pdparams", content, f"damaged .pdparams {protocol}, case {n}")
    record(f"damaged pickles of protocol {protocol}", 2 * cases)


def test_random_pickle_programs(tmp_path: Path) -> None:
    rng, cases = Random(3), 100 * FACTOR
    for _ in range(cases):
        body = b"".join(rng.choice(PIECES) for _ in range(rng.randrange(1, 60)))
        program = b"\x80\x02" + body + rng.choice((b".", b""))
        try_file(tmp_path / "b.pdparams", program, f"program {program!r}")
        try_file(tmp_path / "b.bin", archive(program), f"program in a zip {program!r}")
    record("random pickle programs", 2 * cases)


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def foreign_values() -> dict[str, bytes]:
    """Pickled values of a few bytes, or of a few for each of their parts, that are too much for careless hands."""
    levels = 60
    shared = b")q\0000" + b"".join(b"h%ch%c\x86q%c0" % (n, n, n + 1) for n in range(levels)) + b"h%c" % levels
    return {
        "deep tuple": b")" + b"\x85" * 30_000,
        "deep list": b"]" * 3000 + b"a" * 2999,
        "deep dict": b"}K\1" * 3000 + b"N" + b"s" * 3000,
        "shared tuples": shared,
        "list in itself": b"]q\0h\0a",
        "dict in itself": b"}q\0K\1h\0s",
        "pair that is none": b"]" + text("abc") + b"a",
        "large integer": b"\x8a\xff" + b"\x7f" * 255,
        "integer": b"K\5",
        "float": b"G" + b"\x7f\xf8" + bytes(6),
        "list": b"]",
        "none": b"N",
        "long text": text("\x1b[31m" + "x" * 100_000),
        "bytes that say they are long": b"\x8e" + b"\xff" * 8,
        "name": b"cnumpy\nndarray\n",
    }


#: where such a value may stand: %s
PLACES = {
    "whole file": b"%s",
    "key": b"}%sNs",
    "key of many": b"}(K\1N%sNu",
    "value": b"}" + text("a") + b"%ss",
    "argument of OrderedDict": b"ccollections\nOrderedDict\n%s\x85R",
    "arguments of OrderedDict": b"ccollections\nOrderedDict\n%sR",
    "pair of OrderedDict": b"ccollections\nOrderedDict\n]]%saK\1aa\x85R",
    "state of OrderedDict": b"ccollections\nOrderedDict\n)R%sb",
    "element of a set": b"cbuiltins\nset\n]%sa\x85R",
    "argument of dtype": b"cnumpy\ndtype\n%s\x85R",
    "state of dtype": b"cnumpy\ndtype\nU\2f4\x85R(K\3%s%s%s%s%s%s%s%st" + b"b",
    "shape": b"}" + text("a") + b"cnumpy.core.multiarray\n_reconstruct\n)R(K\1%scnumpy\ndtype\nU\2f4\x85R\x89U\0tbs",
    "bytes": b"}" + text("a") + b"cnumpy.core.multiarray\n_reconstruct\n)R(K\1)cnumpy\ndtype\nU\2f4\x85R\x89%stbs",
    "encoded": b"c_codecs\nencode\n%sU\6latin1\x86R",
    "encoding": b"c_codecs\nencode\nX\1\0\0\0a%s\x86R",
    "cut arrays": b"}" + text("UnpackBigParamInfor@@") + b"%ss",
    "cut array": b"}" + text("x") + b"Ns" + text("UnpackBigParamInfor@@") + b"}" + text("w") + b"%sss",
    "piece": b"}" + text("x") + b"Ns" + text("UnpackBigParamInfor@@") + b"}" + text("w")
    + b"}" + text("slices") + b"]%sas" + text("OriginShape") + b"]K\1ass" + b"s",
    "pieces": b"}" + text("x") + b"Ns" + text("UnpackBigParamInfor@@") + b"}" + text("w")
    + b"}" + text("slices") + b"%ss" + text("OriginShape") + b"]K\1ass" + b"s",
    "whole shape": b"}" + text("x") + b"Ns" + text("UnpackBigParamInfor@@") + b"}" + text("w")
    + b"}" + text("slices") + b"]" + text("x") + b"as" + text("OriginShape") + b"%sss" + b"s",
    "reference": b"}" + text("a") + b"%sQs",
    "storage's key": b"}" + text("a") + b"(" + text("storage") + b"ctorch\nFloatStorage\n%s" + text("cpu") + b"K\1tQs",
    "storage's count": b"}" + text("a") + b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0")
    + text("cpu") + b"%stQs",
    "tensor": b"}" + text("a") + b"ctorch._utils\n_rebuild_tensor_v2\n(%s%s%s%s%s%stRs",
    "parameter": b"}" + text("a") + b"ctorch._utils\n_rebuild_parameter\n%s%s%s\x87Rs",
    "function of a type": b"}" + text("a") + b"ctorch._tensor\n_rebuild_from_type_v2\n(%s%s%s%stRs",
    "module's name": b"%s" + text("a") + b"\x93",
    "function": b"%s)R",
    "size": b"ctorch\nSize\n%s\x85R",
}  # fmt: skip


def test_values_that_are_too_much_for_careless_hands(tmp_path: Path) -> None:
    values = foreign_values()
    cases = [(place, kind, suffix) for place in PLACES for kind in values for suffix in (".pdparams", ".bin")]
    cases = Random(6).sample(cases, min(len(cases), 250 * FACTOR))
    for place, kind, suffix in cases:
        program = b"\x80\x02" + PLACES[place].replace(b"%s", values[kind]) + b"."
        content = archive(program) if suffix == ".bin" else program
        try_file(tmp_path / f"b{suffix}", content, f"{kind} as {place} in {suffix}")
    record("hostile values in pickles", len(cases))


BOMBS: dict[str, tuple[str, Any]] = {
    "dicts": (".bin", lambda: archive(b"\x80\x02" + b"}" * (9 << 20) + b".", zipfile.ZIP_DEFLATED)),
    "dicts within the limit": (
        ".bin", lambda: archive(b"\x80\x02" + b"}" * (SIXTEENTHS * 7 << 16) + b".", zipfile.ZIP_DEFLATED),
    ),
    "dicts in .pdparams": (".pdparams", lambda: b"\x80\x02" + b"}" * (SIXTEENTHS << 18) + b"."),
    "short strings": (".pdparams", lambda: b"\x80\x02" + (b"T\0\4\0\0" + bytes(1024)) * 5000 * min(4, FACTOR) + b"."),
    "tuples": (".pdparams", lambda: b"\x80\x02" + b"K\1\x85" * (SIXTEENTHS << 16) + b"."),
    "lists in a header": (".safetensors", lambda: safetensors_bytes(b'{"a":[' + b"[]," * (2 << 20) + b"[]]}")),
    "numbers in a header": (".safetensors", lambda: safetensors_bytes(b'{"a":[' + b"1," * (SIXTEENTHS << 16) + b"1]}")),
    "names in a header": (
        ".safetensors", lambda: safetensors_bytes(b"{" + b",".join(b'"%x":1' % n for n in range(60_000)) + b"}"),
    ),
    "a header beyond the limit": (".safetensors", lambda: safetensors_bytes(b"{" + b" " * (20 << 20) + b"}")),
    "a long name": (".safetensors", lambda: safetensors_bytes(b'{"' + b"\\u001b" * MEGABYTE + b'":1}')),
    "deep lists in a header": (".safetensors", lambda: safetensors_bytes(b'{"a":' + b"[" * 200_000)),
    "deep objects in a header": (".safetensors", lambda: safetensors_bytes(b'{"a":' * 100_000 + b"1" + b"}" * 100_000)),
}  # fmt: skip


@pytest.mark.parametrize("kind", BOMBS)
def test_memory_is_bounded(tmp_path: Path, kind: str) -> None:
    suffix, content = BOMBS[kind]
    path = tmp_path / f"b{suffix}"
    path.write_bytes(content())
    assert peak_memory(lambda: attempt(kind, lambda: read_all(path))) < 150 * MEGABYTE
    record("bombs", 1)


def members_without_end() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for n in range(2500 * SIXTEENTHS):
            file.writestr(zipfile.ZipInfo(f"archive/data/{n}" + "x" * 200), b"")
    return buffer.getvalue()


def test_a_list_of_members_is_not_read_without_end(tmp_path: Path) -> None:
    (tmp_path / "b.bin").write_bytes(members_without_end())
    peak = peak_memory(lambda: attempt("members", lambda: read_all(tmp_path / "b.bin")))
    assert peak < 16 * MEGABYTE
    record("bombs", 1)


def test_damaged_folders(tmp_path: Path) -> None:
    """An index, shards and their metadata, opened as a checkpoint."""
    rng, cases = Random(5), 60 * FACTOR
    write_safetensors(tmp_path / "s1.safetensors", WEIGHTS, {"format": "pt"})
    write_safetensors(tmp_path / "s2.safetensors", {"transformer.ln_f.weight": WEIGHTS["transformer.h.0.ln_1.weight"]})
    names = ",".join(f'"{name}":"s1.safetensors"' for name in WEIGHTS)
    index = f'{{"metadata":{{}},"weight_map":{{{names},"transformer.ln_f.weight":"s2.safetensors"}}}}'.encode()
    alphabet = b'{}[]",:\\/.0s12\x00\x1b'
    for n in range(cases):
        (tmp_path / "model.safetensors.index.json").write_bytes(damaged(index, rng, alphabet))
        attempt(f"damaged index, case {n}", lambda: open_checkpoint(tmp_path).unknown_names())
    record("damaged indexes", cases)
