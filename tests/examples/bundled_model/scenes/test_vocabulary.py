from __future__ import annotations

import numpy as np
import pytest
import tiktoken

from examples.bundled_model.scenes import pairs, tasks
from examples.bundled_model.scenes.lexicon import COLORS, KINDS, NEW_KINDS, WORDS
from examples.bundled_model.scenes.phrases import OTHER_TEXT
from examples.bundled_model.scenes.scene import generate_scene
from examples.bundled_model.scenes.vocabulary import build_ranks, color_token_ids, object_token_ids, write_tokenizer
from paddlemix import zoo
from paddlemix.utils.files import VOCAB_FILE

# The pattern of the published tokenizer.
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TAGS = ("<ref>", "</ref>", "<box>", "</box>")


@pytest.fixture(scope="module")
def ranks() -> dict[bytes, int]:
    return build_ranks()


@pytest.fixture(scope="module")
def encoding(ranks) -> tiktoken.Encoding:
    special = {tag: len(ranks) + index for index, tag in enumerate(TAGS)}
    return tiktoken.Encoding("scenes", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens=special)


def test_the_rank_file_is_what_the_lexicon_gives(tmp_path):
    write_tokenizer(tmp_path)
    for name in (VOCAB_FILE, "tokenizer_config.json"):
        assert (tmp_path / name).read_bytes() == (zoo.DEFAULT_MODEL_DIR / name).read_bytes()


def test_ranks_are_consecutive_and_start_with_the_bytes(ranks):
    assert sorted(ranks.values()) == list(range(len(ranks)))
    assert all(ranks[bytes([value])] == value for value in range(256))
    assert len(ranks) <= 1400


def test_every_name_is_one_token(ranks, encoding):
    for kind, ids in zip(KINDS, object_token_ids(ranks)):
        assert [encoding.encode(form) for form in (kind.en, " " + kind.en, kind.zh)] == [[token] for token in ids]
        assert len(encoding.encode(" " + kind.plural)) == 1
    assert len({token for ids in object_token_ids(ranks) for token in ids}) == 3 * len(KINDS)
    for color, ids in zip(COLORS, color_token_ids(ranks)):
        assert [encoding.encode(form) for form in (color.en, " " + color.en, color.zh)] == [[token] for token in ids]
    assert all(len(encoding.encode(word)) == 1 for word in WORDS)


def test_kinds_that_training_never_shows_have_no_token_of_their_own(encoding):
    for kind in NEW_KINDS:
        assert len(encoding.encode(" " + kind.en)) > 1 and len(encoding.encode(kind.zh)) > 1


def test_texts_about_scenes_need_no_bytes_and_keep_names_whole(ranks, encoding):
    """Every token of every question and answer is whole text, and the Chinese name asked for is one of them."""
    names = {kind: ids[2] for kind, ids in zip(range(len(KINDS)), object_token_ids(ranks))}
    rng = np.random.default_rng(0)
    for seed in range(2**38, 2**38 + 150):
        first, second = pairs.generate_pair(seed, size=32)
        conversations = tasks.make_conversations(first, rng, 6)
        asked = [task(first, second, language, rng) for task in pairs.PAIR_TASKS for language in tasks.LANGUAGES]
        conversations += [conversation for conversation in asked if conversation is not None]
        conversations.append(tasks.make_text_conversation(rng))
        for conversation in conversations:
            for text in (part for turn in conversation.turns for part in turn):
                ids = encoding.encode(text, allowed_special="all")
                assert encoding.decode(ids) == text
                assert all(_is_text(encoding.decode_single_token_bytes(token)) for token in ids), text
            if conversation.task == "refer" and conversation.language == "zh":
                for text in conversation.turns[0]:
                    assert names[conversation.subject] in encoding.encode(text, allowed_special="all")


def _is_text(token: bytes) -> bool:
    try:
        token.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def test_the_chat_template_costs_little(encoding):
    for text in OTHER_TEXT:
        assert len(encoding.encode(text)) <= max(1, len(text.split()) + text.count(".") + text.count(":") + 2)
    assert [len(encoding.encode(role)) for role in ("system", "user", "assistant")] == [1, 1, 1]


@pytest.mark.parametrize("text", ["naïve café 東京 🚌", "\x00\n\t  x", "unheard-of words and 汉字之外", "¿Qué?"])
def test_any_other_text_survives(encoding, text):
    assert encoding.decode(encoding.encode(text)) == text


def test_answers_are_short(encoding):
    scene = generate_scene(2**38, size=32, num_objects=5)
    assert len(encoding.encode(tasks.caption_answer(scene, "en"), allowed_special="all")) <= 5 * 26
    assert len(encoding.encode(tasks.count_answer(scene, "zh"))) <= 7
