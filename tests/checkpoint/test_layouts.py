from __future__ import annotations

from paddlemix.checkpoint import layouts


def test_prefixes_are_found_in_a_row_and_not_without_end() -> None:
    assert layouts.common_prefix([]) == ""
    assert layouts.common_prefix(["module.a", "module.module.b"]) == "module."
    assert layouts.common_prefix(["a", "module.b"]) == ""
    assert layouts.common_prefix(["module." * 100_000 + "a"]) == "module." * 8
