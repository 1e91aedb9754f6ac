"""Damaging files: the same changes for the same seed."""

from __future__ import annotations

from random import Random


def damaged(content: bytes, rng: Random, alphabet: bytes = b"", limit: int | None = None) -> bytes:
    """``content`` cut, changed, spliced or extended at random places before byte ``limit``. Some of the changed bytes
    are out of ``alphabet``: what means something in the format."""
    data = bytearray(content)
    end = min(limit or len(data), len(data))

    def place() -> int:
        return rng.randrange(max(1, min(end, len(data))))

    kind = rng.randrange(7)
    if kind == 0:
        return bytes(data[: place()])
    if kind in (1, 2):
        values = alphabet if kind == 2 and alphabet else bytes(range(256))
        for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
            data[place()] = rng.choice(values)
    elif kind == 3:
        at = place()
        data[at:at] = rng.randbytes(rng.randrange(1, 20))
    elif kind == 4:
        at = place()
        del data[at : at + rng.randrange(1, 20)]
    elif kind == 5:
        source, at, count = place(), place(), rng.randrange(1, 60)
        data[at : at + count] = data[source : source + count]
    else:
        at = place()
        data[at : at + 8] = rng.choice((b"\xff" * 8, b"\0" * 8, b"\xff" * 7 + b"\x7f", b"\x80" + b"\0" * 7))
    return bytes(data)
