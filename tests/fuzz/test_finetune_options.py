"""Options of a fine-tuning run, of any kind of value, and the files that they come in: options, or one line."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from random import Random
from typing import Any

from paddlemix.finetune.configuration import FinetuneConfig, read_config
from tests.fuzz.checking import attempt
from tests.fuzz.counts import FACTOR, record
from tests.fuzz.damage import damaged

FIELDS = [field.name for field in dataclasses.fields(FinetuneConfig)]
REQUIRED = {"data": "talks.json", "output_dir": "out"}
VALUES: tuple[Any, ...] = (
    0, -1, 1, 2, 1e-5, 1e30, 1e308, -1e308, math.nan, math.inf, 2**31, 2**63, 10**30, 10**400, True, False, None, "",
    "x", "true", "1e-3", " 5 ", "١", "full", "lora", "qlora", "int4", "int8", "stage1", "cosine", [], ["x"], [1],
    [None], [[]], {}, {"path": "x"}, {"path": "x", "weight": 0}, {"path": "x", "weight": math.nan}, {"path": 5},
    [{"path": "x", "weight": "y"}], "x" * 10_000, "\0", "\ud800", "\x1b[31m", ["freeze_vit", "!x"], ["["],
    ["*" * 1000],
)  # fmt: skip


def use(values: dict[str, Any]) -> None:
    config = FinetuneConfig.from_dict(values)
    assert FinetuneConfig.from_dict(config.to_dict()) == config
    json.dumps(config.to_dict())


def test_every_kind_of_value_in_every_option() -> None:
    cases = [(name, value) for name in [*FIELDS, "x", "Data", "__class__", ""] for value in VALUES]
    for name, value in cases:
        attempt(f"{name}={ascii(value)[:100]}", lambda name=name, value=value: use({**REQUIRED, name: value}))
    record("fine-tuning options", len(cases))


def test_random_options_together() -> None:
    rng, cases = Random(1), 300 * FACTOR
    for _ in range(cases):
        values = {**REQUIRED, **{name: rng.choice(VALUES) for name in rng.sample(FIELDS, rng.randrange(1, 6))}}
        attempt(f"options {ascii(values)[:1000]}", lambda values=values: use(values))
    record("fine-tuning options together", cases)


WRITTEN = (
    b"", b"null", b"[]", b"[" * 100_000, b'{"a":' * 100_000, b"\xff", b"9" * 9000, b'{"seed":' + b"9" * 9000 + b"}",
    b"\xef\xbb\xbf{}", b'{"a":1,"a":2}', b'{"seed": NaN}', b'{"\\ud800": 1}', b'{"\\u001b[2J": 1}', b"\0" * 100,
)  # fmt: skip


def test_files_of_options(tmp_path: Path) -> None:
    rng, cases, path = Random(2), 200 * FACTOR, tmp_path / "options.json"
    whole = json.dumps({**REQUIRED, **FinetuneConfig.defaults()}, indent=1).encode()
    path.write_bytes(whole)
    assert attempt("whole file", lambda: use(read_config(path))) == "ok"
    for content in (*WRITTEN, *(damaged(whole, rng, b'{}[]",:\\\n\0\xff9-') for _ in range(cases))):
        path.write_bytes(content)
        attempt(f"options {content[:100]!r}", lambda: FinetuneConfig.from_file(path))
    record("files of fine-tuning options", cases + len(WRITTEN) + 1)
