"""generation_config.json: known fields are checked, unused and unknown ones passed over."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from paddlemix.errors import ConfigurationError
from paddlemix.models.qwen_vl.generation_file import (
    check_generation_config,
    published_options,
    read_generation_config,
)

PUBLISHED = {
    "chat_format": "chatml", "do_sample": True, "eos_token_id": 151643, "max_new_tokens": 512, "max_window_size": 6144,
    "pad_token_id": 151643, "top_k": 0, "top_p": 0.3, "transformers_version": "4.31.0",
}  # fmt: skip


def test_the_published_file_is_read(tmp_path: Path) -> None:
    assert read_generation_config(tmp_path) is None
    (tmp_path / "generation_config.json").write_text(json.dumps(PUBLISHED))
    expected = {name: value for name, value in PUBLISHED.items() if name != "transformers_version"}
    assert read_generation_config(tmp_path, 151936) == expected


def test_the_published_values_stand_in_for_a_missing_file() -> None:
    options = published_options(151857)
    assert options.pop("eos_token_id") == [151643, 151644, 151645]
    assert options == {name: PUBLISHED[name] for name in options}
    assert check_generation_config(published_options(5)) == published_options(5)
    assert "eos_token_id" not in published_options(5)


@pytest.mark.parametrize(
    "fields",
    [
        dict.fromkeys(("__class__", "__dict__", "update", "validate", "to_dict", "_from_model_config", "foo"), 5),
        {"temperature": None, "eos_token_id": None, "chat_format": None, "early_stopping": "x", "length_penalty": []},
        {"num_beams": 1, "typical_p": 1.0, "guidance_scale": None, "bad_words_ids": None, "use_cache": True},
        {"max_length": 20},
    ],
)
def test_unknown_and_neutral_fields_change_nothing(fields: dict[str, Any]) -> None:
    assert check_generation_config({**fields, "do_sample": True}).keys() <= {"do_sample", "num_beams"}


def test_what_is_not_used_is_not_looked_at() -> None:
    for unused in ({"temperature": 0}, {"temperature": "x"}, {"top_p": -1}, {"top_k": {}}, {"min_p": 0.1}):
        check_generation_config({"do_sample": False, **unused})
    assert check_generation_config({"max_length": 4096, "max_new_tokens": 9}) == {"max_new_tokens": 9}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"eos_token_id": 0.5}, "eos_token_id: expected an integer from -1 to"),
        ({"eos_token_id": [5, 600]}, "eos_token_id: 600 is beyond the vocabulary of 512 ids"),
        ({"pad_token_id": "x"}, "pad_token_id: expected"),
        ({"stop_token_sequences": "x"}, "stop_token_sequences: expected a list of non-empty lists of ids, got 'x'"),
        ({"num_return_sequences": 10**12}, "num_return_sequences: expected an integer from 1 to 1024"),
        ({"do_sample": "yes"}, "do_sample: expected true or false, got 'yes'"),
        ({"do_sample": True, "temperature": -1}, "temperature: expected a number from 0 to"),
        ({"do_sample": True, "min_p": 0.1}, "min_p: not supported, got 0.1; remove it"),
        ({"num_beams": 4}, "num_beams: beam search is not supported, got 4; leave it at 1"),
        ({"no_repeat_ngram_size": 3}, "no_repeat_ngram_size: not supported"),
        ({"max_length": 4096}, "max_length: counts the prompt, too, got 4096; use max_new_tokens"),
        ({"chat_format": "llama"}, "chat_format: expected one of chatml, raw, got 'llama'"),
        ({"max_window_size": 0}, "max_window_size: expected an integer from 1"),
        ({"max_window_images": -1}, "max_window_images: expected an integer from 0"),
        ({"decode_strategy": "beam_search"}, "decode_strategy: expected one of greedy_search, sampling"),
    ],
)
def test_what_cannot_work_is_refused_by_name(fields: dict[str, Any], said: str, tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text(json.dumps(fields))
    with pytest.raises(ConfigurationError) as caught:
        read_generation_config(tmp_path, 512)
    assert f"generation_config.json: {said}" in str(caught.value)
