"""Every kind of value in every field of a model's settings works or is a documented error of one short line.

Nothing is built that takes memory: the schemas stand before all that does.
"""

from __future__ import annotations

import json
import os
import random
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from paddlemix.engine import options as generation_options
from paddlemix.errors import CheckpointError, ConfigurationError
from paddlemix.models.qwen_vl import config_schema
from paddlemix.models.qwen_vl.configuration import QWenVLConfig
from paddlemix.models.qwen_vl.generation_file import read_generation_config
from paddlemix.models.qwen_vl.image_processing import QwenVLImageProcessor, read_preprocessor_config
from paddlemix.models.qwen_vl.tokenization import QWenVLTokenizer
from paddlemix.utils.files import CONFIG_FILE, GENERATION_CONFIG_FILE, PREPROCESSOR_CONFIG_FILE, TOKENIZER_CONFIG_FILE
from paddlemix.zoo import DEFAULT_MODEL_DIR
from tests.fuzz.checking import attempt
from tests.fuzz.counts import FACTOR, record

RANDOM_CASES = 40 * FACTOR
CASES_OF_ONE_VALUE = 150 * FACTOR

# JSON texts, so that values which no Python object writes can stand among them.
VALUES = [
    "null", "true", "false", "0", "1", "-1", "2", "3", "7", "64", "1000000000", "1000000000000", "9223372036854775808",
    "1" + "0" * 320, "-1" + "0" * 400, "9" * 5000, "0.5", "-0.5", "1e308", "1e320", "-1e320", "1e-320", "NaN",
    "-Infinity", '""', '"x"', '"192"', '"\\u001b[31m"', '"\\ud800"', '"' + "x" * 5000 + '"', "[]", "[1]", '["x", "x"]',
    "[[1]]", "[[]]", "[null]", "[1" + "0" * 320 + "]", "{}", '{"a": 1}', '{"rope_type": "default"}',
    "[" * 70 + "]" * 70, "[" * 2000, '{"":' * 2000,
]  # fmt: skip
RAW = [
    b"", b" ", b"null", b"[]", b"5", b'"x"', b"{", b'{"a":1,}', b'{"a":NaN}', b"{}", b"[" * 100_000, b'{"a":' * 100_000,
    b"\xef\xbb\xbf{}", b"\xff\xfe{\0}\0", b"\0" * 1000, b"9" * 5000, b'{"a": 1 // one\n}', b"<html></html>",
    b"\xff\xff", b"{'a': 1}", b'{"hidden_size": 1, "hidden_size": 192}',
]  # fmt: skip
ODD_NAMES = [
    "self",
    "cls",
    "__class__",
    "__dict__",
    "__init__",
    "to_dict",
    "validate",
    "update",
    "",
    "\x1b[31m",
    "a\nb",
]
EXTRA = {
    CONFIG_FILE: [*sorted(config_schema.KNOWN_FIELDS), *ODD_NAMES],
    GENERATION_CONFIG_FILE: [
        *sorted(generation_options.NAMES),
        "chat_format",
        "max_window_size",
        "max_window_images",
        *ODD_NAMES,
    ],
    PREPROCESSOR_CONFIG_FILE: ["do_resize", "image_mean", "rescale_factor", "resample", *ODD_NAMES],
    TOKENIZER_CONFIG_FILE: ["errors", "padding_side", "auto_map", *ODD_NAMES],
}
QUANTIZED: list[dict[str, Any]] = [
    {"quant_method": "gptq", "bits": 4, "group_size": 128, "checkpoint_format": "gptq"},
    {
        "quant_method": "paddlemix", "version": 1, "group_size": 128, "blocks": "int4", "head": "int8",
        "visual": "int8", "embeddings": "bfloat16",
    },
]  # fmt: skip


def read_config(folder: Path) -> None:
    fields = config_schema.read_config(folder)
    assert fields is not None
    config = QWenVLConfig(**fields)
    json.dumps(config.to_dict())
    config_schema.read_visual(folder)


def read_generation(folder: Path) -> None:
    fields = read_generation_config(folder, 1600)
    assert fields is not None
    config = types.SimpleNamespace(**{"max_new_tokens": 20, **fields})
    for given in ({}, {"do_sample": True}, {"do_sample": False, "num_return_sequences": 1}):
        generation_options.resolve_options(config, None, given)


def read_preprocessor(folder: Path) -> None:
    QwenVLImageProcessor.from_dict(read_preprocessor_config(folder, 168))


def read_tokenizer(folder: Path) -> None:
    tokenizer = QWenVLTokenizer.from_pretrained(folder)
    assert tokenizer.decode(tokenizer("hi <img>a</img>").input_ids) == "hi <img>a</img>"


READERS: dict[str, Callable[[Path], None]] = {
    CONFIG_FILE: read_config,
    GENERATION_CONFIG_FILE: read_generation,
    PREPROCESSOR_CONFIG_FILE: read_preprocessor,
    TOKENIZER_CONFIG_FILE: read_tokenizer,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    os.symlink(DEFAULT_MODEL_DIR / "qwen.tiktoken", tmp_path / "qwen.tiktoken")
    return tmp_path


def _paths(fields: dict[str, Any], before: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, value in fields.items():
        yield (*before, name)
        if isinstance(value, dict):
            yield from _paths(value, (*before, name))


def _with(fields: dict[str, Any], path: tuple[str, ...], text: str) -> str:
    """JSON of the fields with the JSON ``text`` at a path."""
    if not path:
        return text
    if not isinstance(fields, dict):
        fields = {}
    parts = {name: json.dumps(value) for name, value in fields.items()}
    parts[path[0]] = _with(fields.get(path[0], {}), path[1:], text)
    return "{" + ", ".join(f"{json.dumps(name)}: {part}" for name, part in parts.items()) + "}"


def _check(name: str, folder: Path, content: bytes) -> bool:
    """Whether the settings are taken; anything but a documented line fails the test."""
    (folder / name).write_bytes(content)

    def read() -> None:
        try:
            READERS[name](folder)
        except (CheckpointError, ConfigurationError) as error:
            line = str(error).replace(str(folder), "")
            assert line.isprintable() and 10 < len(line) < 500, line
            raise

    return attempt(f"{name} {content[:200]!r}", read) == "ok"


@pytest.mark.parametrize("name", READERS)
def test_every_kind_of_value_in_every_field(name: str, folder: Path) -> None:
    fields = json.loads((DEFAULT_MODEL_DIR / name).read_text())
    assert _check(name, folder, json.dumps(fields).encode())
    source = random.Random(8)
    cases = [(fields, path, text) for path in _paths(fields) for text in VALUES]
    cases += [(fields, (extra,), text) for extra in EXTRA[name] for text in VALUES]
    for section in QUANTIZED if name == CONFIG_FILE else ():
        quantized = {**fields, "quantization_config": section}
        assert _check(name, folder, json.dumps(quantized).encode())
        cases += [(quantized, ("quantization_config", part), text) for part in section for text in VALUES]
    cases = source.sample(cases, min(len(cases), CASES_OF_ONE_VALUE))
    taken = [_check(name, folder, _with(whole, path, text).encode()) for whole, path, text in cases]
    assert 0 < sum(taken) < len(taken)
    record(f"values in {name}", len(taken))


@pytest.mark.parametrize("name", READERS)
def test_files_that_are_no_settings(name: str, folder: Path) -> None:
    taken = [_check(name, folder, content) for content in RAW]
    assert sum(taken) <= 5
    record(f"other files as {name}", len(taken))


@pytest.mark.parametrize("name", READERS)
def test_random_combinations(name: str, folder: Path) -> None:
    source = random.Random(18)
    fields = json.loads((DEFAULT_MODEL_DIR / name).read_text())
    paths = [*_paths(fields), *((extra,) for extra in EXTRA[name])]
    plain = [text for text in VALUES if len(text) < 1000]
    for _ in range(RANDOM_CASES):
        changed = fields
        for _ in range(source.randrange(1, 4)):
            text = _with(changed, source.choice(paths), source.choice(plain))
            try:
                changed = json.loads(text)
            except (ValueError, RecursionError):
                break
        _check(name, folder, text.encode())
    record(f"random values in {name}", RANDOM_CASES)


@pytest.mark.parametrize("name", READERS)
def test_random_bytes_in_good_files(name: str, folder: Path) -> None:
    source = random.Random(81)
    good = (DEFAULT_MODEL_DIR / name).read_bytes()
    for _ in range(RANDOM_CASES):
        content = bytearray(good)
        for _ in range(source.randrange(1, 5)):
            content[source.randrange(len(content))] = source.choice(b'{}[]",:0129-.eEtfn \n\x00\x80\xff')
        _check(name, folder, bytes(content[: source.randrange(1, len(content))] if source.random() < 0.2 else content))
    record(f"damaged {name}", RANDOM_CASES)
