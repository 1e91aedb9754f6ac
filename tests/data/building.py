"""Files of conversations for tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image


def talk(*turns: str) -> dict[str, Any]:
    """A record of the original's form: question, answer, question, answer …"""
    roles = ("user", "assistant")
    return {"id": "x", "conversations": [{"from": roles[i % 2], "value": text} for i, text in enumerate(turns)]}


def messages(*turns: str) -> list[dict[str, Any]]:
    """The same in the message schema, without images."""
    roles = ("user", "assistant")
    return [{"role": roles[i % 2], "content": text} for i, text in enumerate(turns)]


def image_part(source: str) -> dict[str, str]:
    return {"type": "image", "image": source}


def write_json(path: Path, entries: object, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(entries, **options), encoding="utf-8")
    return path


def write_lines(path: Path, *entries: object) -> Path:
    path.write_text("".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries), encoding="utf-8")
    return path


def write_image(path: Path, color: str = "red", size: tuple[int, int] = (20, 16)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(path)
    return path
