"""Processors of a replica: all of one NUMA node, whose memory then holds its weights, and shared with no other replica.

Memory is taken from the node of the thread that first writes to it, so binding the threads is enough.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

NODES = Path("/sys/devices/system/node")


def parse_cpu_list(text: str) -> list[int]:
    """Numbers of processors as the kernel lists them: ``0-3,8`` is ``[0, 1, 2, 3, 8]``."""
    numbers: list[int] = []
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        numbers.extend(range(int(first), int(last or first) + 1))
    return numbers


def numa_nodes(folder: Path = NODES) -> list[list[int]]:
    """The processors of each NUMA node that has some; none where the kernel does not say."""
    paths = [path for path in folder.glob("node*/cpulist") if re.fullmatch(r"node\d+", path.parent.name)]
    lists = [parse_cpu_list(path.read_text()) for path in sorted(paths, key=lambda path: int(path.parent.name[4:]))]
    return [numbers for numbers in lists if numbers]


def processors(local_rank: int, count: int, nodes: Sequence[Sequence[int]], allowed: Sequence[int]) -> list[int]:
    """The processors of a replica.

    Args:
        local_rank: which replica of this machine it is, from 0 on.
        count: of processors that it has.
        nodes: the processors of each NUMA node.
        allowed: processors that this process may use.

    Returns:
        ``count`` processors of one node, other ones for each replica, as long as there are such; otherwise all that are
        allowed.
    """
    usable = [[number for number in node if number in set(allowed)] for node in nodes] or [list(allowed)]
    places = [node[start : start + count] for node in usable for start in range(0, len(node) - count + 1, count)]
    # neighbors in rank on different nodes: two replicas of a machine with two nodes have one each
    places.sort(key=lambda place: next(node.index(place[0]) for node in usable if place[0] in node))
    return places[local_rank] if local_rank < len(places) else sorted(allowed)
