"""A rank file of 264 tokens, for tests that need a tokenizer but not the published vocabulary."""

from __future__ import annotations

import base64
from pathlib import Path

MERGES = [b"th", b"the", b" t", b" the", b"in", b"12", "你".encode()[:2], "你".encode()]
N_RANKS = 256 + len(MERGES)


def write_rank_file(path: Path) -> Path:
    """Write the 256 bytes, in an order of their own so that no rank is taken for a byte value, and eight merges."""
    tokens = [bytes([(byte * 7 + 3) % 256]) for byte in range(256)] + MERGES
    path.write_bytes(b"".join(base64.b64encode(token) + b" %d\n" % rank for rank, token in enumerate(tokens)))
    return path
