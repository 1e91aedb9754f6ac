"""A processor of the small test vocabulary: 4 slots an image, images of 28 pixels."""

from __future__ import annotations

import pytest

from paddlemix.models.qwen_vl.processing import QwenVLImageProcessor, QwenVLProcessor
from paddlemix.models.qwen_vl.tokenization import QWenVLTokenizer
from tests.tiny_vocabulary import write_rank_file


@pytest.fixture(scope="module")
def processor(tmp_path_factory) -> QwenVLProcessor:
    tokenizer = QWenVLTokenizer(write_rank_file(tmp_path_factory.mktemp("vocabulary") / "a.tiktoken"), image_slots=4)
    return QwenVLProcessor(tokenizer, QwenVLImageProcessor(image_size=28), max_images=3)
