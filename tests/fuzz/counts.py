"""How many cases the property tests try, and how many they tried.

``PADDLEMIX_FUZZ_FACTOR`` multiplies the random cases of each test (1 by default, seconds; more for a longer run). Where
``PADDLEMIX_FUZZ_COUNTS`` names a file, each test adds a line ``kind<TAB>cases`` to it.
"""

from __future__ import annotations

import os

FACTOR = max(1, int(os.environ.get("PADDLEMIX_FUZZ_FACTOR", "1")))


def record(kind: str, cases: int) -> None:
    """Note that ``cases`` inputs of this kind were tried, and none of them did what it must not."""
    print(f"{kind}: {cases} cases")
    path = os.environ.get("PADDLEMIX_FUZZ_COUNTS")
    if path:
        with open(path, "a", encoding="utf-8") as file:
            file.write(f"{kind}\t{cases}\n")
