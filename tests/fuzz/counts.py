"""How many cases the property tests try, how many they tried, and what came of them.

``PADDLEMIX_FUZZ_FACTOR`` multiplies the random cases of each test (1 by default, seconds; more for a longer run). Where
``PADDLEMIX_FUZZ_COUNTS`` names a file, each test adds a line of JSON to it for each kind of case: see :func:`record`.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from pathlib import Path

FACTOR = max(1, int(os.environ.get("PADDLEMIX_FUZZ_FACTOR", "1")))
#: what may come of a case; all but the first two fail the test
OUTCOMES = ("ok", "refused", "hang", "undocumented")

_outcomes: Counter[str] = Counter()
_memory_before = 0


def begin() -> None:
    """Forget what was noted, and measure memory from here on."""
    global _memory_before
    _outcomes.clear()
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins at what is held now
    except OSError:  # not Linux, or not allowed here: then the peak is that of the whole process
        pass
    _memory_before = _status("VmRSS")


def note(outcome: str) -> None:
    """Count one case by what came of it, one of ``OUTCOMES``; what fails is written at once."""
    if outcome in OUTCOMES[2:]:
        _outcomes.clear()
    _outcomes[outcome] += 1
    if outcome in OUTCOMES[2:]:
        record("failed", 1)


def record(kind: str, cases: int) -> None:
    """Note that ``cases`` inputs of this kind were tried: those noted since the last record say what came of them."""
    peak = max(0, _status("VmHWM") - _memory_before)
    print(f"{kind}: {cases} cases")
    path = os.environ.get("PADDLEMIX_FUZZ_COUNTS")
    if path:
        counted = {outcome: _outcomes[outcome] for outcome in OUTCOMES}
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"kind": kind, "cases": cases, "peak": peak, **counted}) + "\n")
    _outcomes.clear()


def _status(field: str) -> int:
    """A number of bytes out of what Linux tells of this process; 0 elsewhere."""
    try:
        found = re.search(rf"^{field}:\s*(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    except OSError:
        return 0
    return int(found[1]) << 10 if found else 0
