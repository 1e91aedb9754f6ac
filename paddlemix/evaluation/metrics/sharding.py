"""Which records a process of the original evaluates: contiguous ranges, the first ones longer by one.

Source: the original's sampler, and its grounding script, which leaves out each process's last incomplete batch.
"""

from __future__ import annotations


def original_ranges(total: int, processes: int) -> list[tuple[int, int] | None]:
    """Start and end of the records of each process; None for a process without any."""
    size, longer = divmod(total, processes)
    starts = [rank * size + min(rank, longer) for rank in range(processes + 1)]
    return [(start, end) if start < end else None for start, end in zip(starts, starts[1:])]


def indices_in_whole_batches(total: int, processes: int, batch_size: int) -> list[int]:
    """The records that are evaluated where each process leaves out its last incomplete batch."""
    kept: list[int] = []
    for span in original_ranges(total, processes):
        if span is not None:
            kept.extend(range(span[0], span[1] - (span[1] - span[0]) % batch_size))
    return kept
