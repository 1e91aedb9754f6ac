"""Generate the tables of docs/finetuning.md and docs/finetuning_cn.md: all options, and memory by mode.

    python docs/finetuning_tables.py

rewrites the text between ``<!-- NAME -->`` and ``<!-- end of NAME -->``. The options come from the fields of
``FinetuneConfig``, their Chinese help texts from finetuning_options_cn.json, the memory from the published model's
parameter shapes.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import MISSING, fields
from math import prod
from pathlib import Path

DOCS = Path(__file__).resolve().parent
sys.path.insert(0, str(DOCS.parent))

from docs import generated_tables  # noqa: E402
from paddlemix.finetune.configuration import FinetuneConfig, spec_of  # noqa: E402
from paddlemix.finetune.freezing import frozen_names  # noqa: E402
from paddlemix.models.qwen_vl.configuration import QWenVLConfig  # noqa: E402
from paddlemix.models.qwen_vl.weights import ADAPTER_TARGETS, FREEZE_PRESETS, WEIGHTS  # noqa: E402

RANK = 64
DEVICES = 8
#: GB of the quantized weights of a published model, see quantization.md
QUANTIZED_GB = {"int8": 10.3, "int4": 7.2}

PAGES = {"en": DOCS / "finetuning.md", "zh": DOCS / "finetuning_cn.md"}
CHINESE_HELP = DOCS / "finetuning_options_cn.json"

OPTION_HEADS = {
    "en": "| option | default | description |\n|---|---|---|",
    "zh": "| 选项 | 默认值 | 说明 |\n|---|---|---|",
}
MEMORY_HEADS = {
    "en": "| what is trained | weights | gradients | optimizer | together |\n|---|--:|--:|--:|--:|",
    "zh": "| 训练什么 | 权重 | 梯度 | 优化器 | 合计 |\n|---|--:|--:|--:|--:|",
}


def help_texts(language: str) -> Mapping[str, str]:
    """The help text of each option."""
    if language == "zh":
        texts: dict[str, str] = json.loads(CHINESE_HELP.read_text(encoding="utf-8"))
        return texts
    return {item.name: item.metadata["help"] for item in fields(FinetuneConfig)}


def option_table(language: str) -> str:
    """All options with default, help text and, where they are a few words, values."""
    required, values = ("required", "values") if language == "en" else ("必填", "可选值")
    defaults, texts = FinetuneConfig.defaults(), help_texts(language)
    rows = [OPTION_HEADS[language]]
    for item in fields(FinetuneConfig):
        default = required if item.default is MISSING else f"`{json.dumps(defaults[item.name])}`"
        choices = spec_of(item).choices
        separator = ", " if language == "en" else "、"
        listed = separator.join(f"`{choice}`" for choice in choices)
        suffix = f"; {values}: {listed}" if language == "en" else f"；{values}：{listed}"
        rows.append(f"| `{item.name}` | {default} | {texts[item.name]}{suffix if choices else ''} |")
    return "\n".join(rows)


def memory_table(language: str) -> str:
    """GB of weights, gradients and optimizer state per device, by what is trained."""
    all_weights = "all weights" if language == "en" else "全部权重"
    devices = f"{DEVICES} devices" if language == "en" else f"{DEVICES} 个设备"
    comma = ", " if language == "en" else "，"
    with_embeddings = " with `wte`, `lm_head`" if language == "en" else "，另加 `wte`、`lm_head`"
    rows = [MEMORY_HEADS[language]]
    for label, numbers in zip(
        (
            comma.join(["`full`", all_weights]),
            comma.join(["`full`", "`freeze_vit`"]),
            comma.join(["`full`", "`freeze_vit`", devices, "`stage1`"]),
            "`lora`",
            "`lora`" + with_embeddings,
            comma.join(["`qlora`", "`int8`"]),
            comma.join(["`qlora`", "`int4`"]),
        ),
        memory(),
    ):
        rows.append(f"| {label} | {' | '.join(f'{number:.1f}' for number in numbers)} |")
    return "\n".join(rows)


def memory() -> list[list[float]]:
    """The numbers of :func:`memory_table`: weights, gradients, optimizer, sum.

    A 16-bit weight takes 2 bytes, a trained one 2 more for its gradient and 12 for AdamW.
    """
    shapes = WEIGHTS.expected_shapes(QWenVLConfig())
    sizes = {name: prod(shape) for name, shape in shapes.items()}
    total = sum(sizes.values())
    constants = sum(size for name, size in sizes.items() if WEIGHTS.is_constant(name))
    without_vit = total - sum(
        sizes[name] for name in frozen_names(list(sizes), ["freeze_vit"], FREEZE_PRESETS, WEIGHTS)
    )
    adapters = sum(RANK * sum(shape) for name, shape in shapes.items() if _is_adapted(name))
    embeddings = sizes["transformer.wte.weight"] + sizes["lm_head.weight"]
    share = 1 / DEVICES
    with_adapters = 2 * (total + adapters)
    return [
        _row(2 * total, total - constants),
        _row(2 * total, without_vit),
        _row(2 * total, without_vit, optimizer=share),
        _row(with_adapters, adapters),
        _row(with_adapters, adapters + embeddings),
        _row(QUANTIZED_GB["int8"] * 1e9 + 2 * adapters, adapters),
        _row(QUANTIZED_GB["int4"] * 1e9 + 2 * adapters, adapters),
    ]


def _is_adapted(name: str) -> bool:
    in_decoder = name.startswith("transformer.h.")
    return in_decoder and any(name.endswith(f".{target}.weight") for target in ADAPTER_TARGETS)


def _row(weights: float, trained: float, optimizer: float = 1) -> list[float]:
    """GB on a device that keeps this fraction of the optimizer state."""
    parts = [weights, 2 * trained, 12 * trained * optimizer]
    return [part / 1e9 for part in (*parts, sum(parts))]


def with_tables(text: str, language: str) -> str:
    """A page with its generated tables."""
    tables = {"options": option_table(language), "memory": memory_table(language)}
    return generated_tables.with_tables(text, tables, PAGES[language])


def main() -> None:
    """Rewrite both pages."""
    for language, path in PAGES.items():
        path.write_text(with_tables(path.read_text(encoding="utf-8"), language), encoding="utf-8")


if __name__ == "__main__":
    main()
