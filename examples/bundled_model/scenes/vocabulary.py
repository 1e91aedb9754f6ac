"""Builds a small tokenizer for the scenes: a rank file in tiktoken's format, as ``qwen.tiktoken``, and a config.

    python -m examples.bundled_model.scenes.vocabulary OUTPUT_FOLDER

The 256 bytes come first, so any text can be written; then come merges until each name, word and character of the texts
about scenes is one token. Names are merged first: the merge of lower rank wins, so that a name stays whole
inside a run of Chinese, which the tokenizer does not split into words by itself.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from paddlemix.cli import common as cli
from paddlemix.models.qwen_vl.tokenization import TOKENIZER_CLASS
from paddlemix.models.qwen_vl.vocabulary import rank_file_bytes
from paddlemix.utils.files import TOKENIZER_CONFIG_FILE, VOCAB_FILE, told_as_checkpoint_error, write_json

from .lexicon import COLORS, KINDS, WORDS
from .phrases import ANSWERS, JOINERS, NO_IMAGE, ORDINALS, OTHER_TEXT, QUESTIONS, SMALL_TALK

MODEL_MAX_LENGTH = 2048
IMAGE_SLOTS = 36

CHINESE_WORDS: tuple[str, ...] = tuple(
    "中文 描述 图片 图中 所有 物体 框出 位置 哪里 找出 什么 这是 这些 看到 "
    "这张 一张 一下 多少 数一数 颜色 说出 左边 右边 还是 哪一边 写着 牌子 读出 "
    "文字 两张 哪张 第一张 第二张 没有 你好 我是 一个 模型 谢谢 帮助".split()
)
"""Words of the Chinese texts beside the names; every single character in them is a token as well."""


def _english_words(texts: Iterable[str]) -> list[str]:
    """English words as the tokenizer's pattern cuts them: with their leading space where they have one."""
    return [word for text in texts for word in re.findall(r" ?[A-Za-z]+", text)]


def _all_texts() -> list[str]:
    """Every wording, slots unfilled."""
    texts = [text for languages in QUESTIONS.values() for group in languages.values() for text in group]
    texts += [text for languages in ANSWERS.values() for text in languages.values()]
    texts += [joiner for joiners in JOINERS.values() for joiner in joiners]
    texts += list(NO_IMAGE.values()) + list(OTHER_TEXT)
    texts += [" " + ordinal for ordinals in ORDINALS.values() for ordinal in ordinals]
    for talks in SMALL_TALK.values():
        for questions, answer in talks:
            texts += [*questions, answer]
    return [re.sub(r"\{\w+\}", "", text) for text in texts]


def wanted_tokens() -> list[list[str]]:
    """Strings that must be single tokens, in groups: an earlier group gets the lower ranks."""
    texts = _all_texts()
    colors_zh = [color.zh for color in COLORS]
    chinese_text = (
        "".join(texts) + "".join(kind.zh + kind.measure for kind in KINDS) + "".join(colors_zh) + "".join(WORDS)
    )
    characters = sorted({char for char in chinese_text + "，。？！：、" if not char.isascii()})
    names_en = [kind.en for kind in KINDS] + [kind.plural for kind in KINDS] + [color.en for color in COLORS]
    english = _english_words(texts)
    lower = [word[0].lower() + word[1:] for word in english if not word.startswith(" ")]
    return [
        characters,
        [kind.zh for kind in KINDS] + [word for word in WORDS if not word.isascii()],
        colors_zh,
        list(CHINESE_WORDS),
        names_en + [" " + name for name in names_en] + [" a", " an"],
        [word for word in WORDS if word.isascii()],
        english + lower,
        ["),(", "),", ",("],
    ]


def _merge(parts: Sequence[bytes], pair: tuple[bytes, bytes]) -> list[bytes]:
    merged: list[bytes] = []
    index = 0
    while index < len(parts):
        if tuple(parts[index : index + 2]) == pair:
            merged.append(parts[index] + parts[index + 1])
            index += 2
        else:
            merged.append(parts[index])
            index += 1
    return merged


def _replay(word: bytes, ranks: dict[bytes, int]) -> list[bytes]:
    """``word`` cut by the merges so far: always the pair of lowest rank first, as tiktoken does."""
    parts = [word[index : index + 1] for index in range(len(word))]
    while len(parts) > 1:
        pairs = [pair for pair in zip(parts, parts[1:]) if pair[0] + pair[1] in ranks]
        if not pairs:
            break
        parts = _merge(parts, min(pairs, key=lambda pair: ranks[pair[0] + pair[1]]))
    return parts


def build_ranks() -> dict[bytes, int]:
    """Token bytes -> rank: byte-pair merges learned group by group until every wanted string is one token."""
    ranks = {bytes([value]): value for value in range(256)}
    for group in wanted_tokens():
        words = {text: _replay(text.encode("utf-8"), ranks) for text in dict.fromkeys(group)}
        while True:
            counts: Counter = Counter(pair for parts in words.values() for pair in zip(parts, parts[1:]))
            if not counts:
                break
            best = max(counts.values())
            first, second = min(pair for pair, times in counts.items() if times == best)
            ranks.setdefault(first + second, len(ranks))
            words = {text: _merge(parts, (first, second)) for text, parts in words.items()}
    return ranks


def write_tokenizer(folder: Path) -> int:
    """Writes the rank file and ``tokenizer_config.json`` into ``folder``; returns the number of ranks."""
    ranks = build_ranks()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / VOCAB_FILE).write_bytes(rank_file_bytes(ranks))
    config = {"tokenizer_class": TOKENIZER_CLASS, "model_max_length": MODEL_MAX_LENGTH, "image_slots": IMAGE_SLOTS}
    write_json(folder / TOKENIZER_CONFIG_FILE, config)
    return len(ranks)


def object_token_ids(ranks: dict[bytes, int]) -> list[list[int]]:
    """For each kind the ids that stand for it: English name, English name after a space, Chinese name.

    ``ranks`` maps token bytes to ids, as in tiktoken's ``mergeable_ranks``. Raises KeyError if a name is not one token.
    """
    return [[ranks[form.encode("utf-8")] for form in (kind.en, " " + kind.en, kind.zh)] for kind in KINDS]


def digit_token_ids(ranks: dict[bytes, int]) -> list[int]:
    """The ids of the digits 0 to 9."""
    return [ranks[str(digit).encode("utf-8")] for digit in range(10)]


def color_token_ids(ranks: dict[bytes, int]) -> list[list[int]]:
    """The same for each color."""
    return [[ranks[form.encode("utf-8")] for form in (color.en, " " + color.en, color.zh)] for color in COLORS]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = cli.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output_folder", type=Path)
    args = parser.parse_args(arguments)
    with told_as_checkpoint_error(args.output_folder):
        ranks = write_tokenizer(args.output_folder)
    cli.output(f"{ranks} ranks in {args.output_folder / VOCAB_FILE}")
    return 0


if __name__ == "__main__":
    cli.run(main)
