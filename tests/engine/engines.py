"""Small models in engines, and what an engine answers."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle

from paddlemix.engine.engine import Engine, EngineConfig
from paddlemix.engine.request import ImageInput, Output, Request, SamplingParams
from paddlemix.models.qwen_vl.modeling import QWenLMHeadModel
from paddlemix.models.qwen_vl.processing import QwenVLProcessor
from paddlemix.models.qwen_vl.runner import QWenVLRunner
from tests.random_model import SLOTS


def engine_of(model: QWenLMHeadModel, processor: QwenVLProcessor, blocks: int = 64, **sizes: Any) -> Engine:
    """An engine with so many blocks."""
    runner = QWenVLRunner(model, processor.tokenizer.vocab_size)
    config = EngineConfig(**{"step_budget": 0.0, "chunk_size": 24, "vision_layers": 1, **sizes})
    return Engine(
        runner,
        processor.tokenizer,
        EngineConfig(**{**vars(config), "cache_bytes": blocks * runner.block_bytes(config.block_size)}),
    )


def random_request(name: str, generator: np.random.Generator, processor: QwenVLProcessor, **sampling: Any) -> Request:
    """A prompt of 2 to 150 ids, up to two of few images among them, and a number of tokens."""
    tokenizer = processor.tokenizer
    ids: list[int] = []
    images = []
    for _ in range(generator.integers(0, 3)):
        ids += generator.integers(0, tokenizer.eod_id, generator.integers(0, 30)).tolist()
        which = int(generator.integers(0, 3))
        images.append(image_input(len(ids) + 1, which))
        ids += [tokenizer.img_start_id, *[tokenizer.img_pad_id] * SLOTS, tokenizer.img_end_id]
    ids += generator.integers(0, tokenizer.eod_id, generator.integers(2, 90)).tolist()
    params = {"max_tokens": int(generator.integers(1, 14)), "stop_token_ids": (tokenizer.eod_id,), **sampling}
    return Request(name, tuple(ids), tuple(images), SamplingParams(**params))


def image_input(start: int, which: int) -> ImageInput:
    """One of any number of images."""
    pixels = np.random.default_rng(which).normal(size=(3, 28, 28)).astype(np.float32)
    return ImageInput(start, f"image {which}".encode(), pixels)


def run(engine: Engine, *requests: Request, check: bool = True) -> dict[str, list[Output]]:
    """All outputs of these requests, added at once."""
    for request in requests:
        engine.add(request)
    return finish(engine, check=check)


def finish(engine: Engine, check: bool = True) -> dict[str, list[Output]]:
    """Step until nothing is left to do."""
    outputs: dict[str, list[Output]] = {}
    with paddle.no_grad():
        while engine.has_work():
            for output in engine.step():
                outputs.setdefault(output.request_id, []).append(output)
            if check:
                engine.check()
    return outputs


def tokens(outputs: list[Output]) -> list[int]:
    return [token for output in outputs for token in output.token_ids]


def text(outputs: list[Output]) -> str:
    return "".join(output.text for output in outputs)
