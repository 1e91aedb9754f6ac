"""Vocabulary files that are damaged or made up: a tokenizer that gives back what it is given, or a CheckpointError."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path
from random import Random

from paddlemix.models.qwen_vl.tokenization import QWenVLTokenizer
from paddlemix.zoo import DEFAULT_MODEL_DIR
from tests.fuzz.checking import attempt, peak_memory
from tests.fuzz.counts import FACTOR, record

WHOLE = (DEFAULT_MODEL_DIR / "qwen.tiktoken").read_bytes()
TEXTS = ("hello world", "公交车在哪里", "a" * 600, "\U0001f600 é\n\n  x", "<ref>a</ref>")
BYTES = b"\n".join(base64.b64encode(bytes([n])) + b" %d" % n for n in range(256))


def line(token: bytes, rank: int) -> bytes:
    return base64.b64encode(token) + b" %d" % rank


WRITTEN: dict[str, Callable[[], bytes]] = {
    "only bytes": lambda: BYTES,
    "bytes in the wrong order": lambda: b"\n".join(reversed(BYTES.splitlines())),
    "one line": lambda: b"AA== 0",
    "carriage returns": lambda: WHOLE.replace(b"\n", b"\r\n"),
    "byte order mark": lambda: b"\xef\xbb\xbf" + WHOLE,
    "UTF-16": lambda: WHOLE.decode().encode("utf-16"),
    "null bytes": lambda: bytes(1000),
    "underscore": lambda: WHOLE.replace(b" 1000\n", b" 1_000\n"),
    "sign": lambda: WHOLE.replace(b" 1000\n", b" +1000\n"),
    "arabic digits": lambda: WHOLE.replace(b" 1000\n", " ١٠٠٠\n".encode()),
    "thousands of digits": lambda: b"AA== " + b"9" * 5000,
    "twice": lambda: WHOLE + WHOLE,
    "JSON": lambda: b'{"model": {}}',
    "one endless line": lambda: b"A" * 400_000 * min(10, FACTOR) + b" 0",
    "nothing but line ends": lambda: b"\n" * 100_000 * min(10, FACTOR),
    "the same line again": lambda: b"AA== 0\n" * 20_000 * min(10, FACTOR),
    "a special token as rank": lambda: BYTES + b"\n" + line(b"<|im_start|>", 256),
    "a tag as rank": lambda: BYTES + b"\n" + line(b"<img>", 256),
    "a merge that nothing leads to": lambda: BYTES + b"\n" + line(b"abcdefgh", 256),
    "vertical tabs": lambda: WHOLE.replace(b"\n", b"\x0b"),
    "beyond the limit": lambda: WHOLE * 2000,
}


def use(path: Path) -> None:
    tokenizer = QWenVLTokenizer(path)
    for text in TEXTS:
        assert tokenizer.decode(tokenizer.encode(text)) == text


def damaged_lines(rng: Random) -> bytes:
    lines = WHOLE.splitlines()
    kind, at, other = rng.randrange(8), rng.randrange(len(lines)), rng.randrange(len(lines))
    if kind == 0:
        lines[at] = lines[other]
    elif kind == 1:
        del lines[at]
    elif kind == 2:
        rank = rng.choice((-1, 0, 10**6, 10**30, len(lines), at + 1))
        lines[at] = lines[at].split()[0] + b" %d" % rank
    elif kind == 3:
        lines[at], lines[other] = lines[other], lines[at]
    elif kind == 4:
        lines.append(line(rng.randbytes(rng.randrange(2000)), len(lines)))
    elif kind == 5:
        changed = bytearray(lines[at])
        changed[rng.randrange(len(changed))] = rng.randrange(256)
        lines[at] = bytes(changed)
    elif kind == 6:
        lines = lines[:at]
    else:
        lines[at] += rng.choice((b" 5", b"\t", b"\r", b" #x", b"\0", b" "))
    return b"\n".join(lines) + rng.choice((b"\n", b""))


def test_damaged_vocabularies(tmp_path: Path) -> None:
    rng, cases, path = Random(4), 20 * FACTOR, tmp_path / "qwen.tiktoken"
    for n in range(cases):
        path.write_bytes(damaged_lines(rng))
        attempt(f"damaged vocabulary, case {n}", lambda: use(path))
    record("damaged vocabularies", cases)


def test_written_vocabularies(tmp_path: Path) -> None:
    path = tmp_path / "qwen.tiktoken"
    for kind, content in WRITTEN.items():
        path.write_bytes(content())
        assert peak_memory(lambda kind=kind: attempt(kind, lambda: use(path))) < 100 << 20, kind
    record("written vocabularies", len(WRITTEN))
