"""Machine code of a compiled CUDA kernel, from the text that nvdisasm prints, and what it has to look like.

The emulation on a CPU proves results; what the compiler makes of a kernel decides its speed. The rules here are about
faults that compilers have made of these sources: wide stores cut into narrow ones, loads moved to their first use one
behind the other, and a prefetch that waits for what it fetched.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class Instruction:
    """One instruction: ``@!P0 LDG.E.128 R4, [R2.64+0x10]`` has the opcode ``LDG.E.128``."""

    text: str

    @cached_property
    def opcode(self) -> str:
        return self.text.split()[0]

    @cached_property
    def operands(self) -> list[str]:
        return [operand.strip() for operand in self.text.partition(" ")[2].split(",")]

    def is_a(self, *names: str) -> bool:
        """Whether it is one of these kinds, such as ``LDG``."""
        return self.opcode.partition(".")[0] in names

    @cached_property
    def width(self) -> int:
        """Bits that a load or store moves per thread."""
        found = re.search(r"\.(128|64|U?S?16|U?S?8)\b", self.opcode)
        return int(re.sub(r"\D", "", found[1])) if found else 32

    @cached_property
    def loaded(self) -> frozenset[int]:
        """Registers that a load writes."""
        first = re.match(r"R(\d+)", self.operands[0])
        return frozenset(range(int(first[1]), int(first[1]) + max(self.width // 32, 1))) if first else frozenset()

    @cached_property
    def read(self) -> frozenset[int]:
        """Registers that it reads."""
        stores = self.is_a("STG", "STS", "STL", "ST")
        registers: set[int] = set()
        for position, operand in enumerate(self.operands if stores else self.operands[1:], start=0 if stores else 1):
            for match in re.finditer(r"\bR(\d+)(\.64)?", operand):
                count = 2 if match[2] else 1
                if self.is_a("HMMA"):
                    count = {1: 4, 2: 2, 3: 4}.get(position, 1)
                elif stores and not operand.startswith("["):
                    count = max(self.width // 32, 1)
                registers.update(range(int(match[1]), int(match[1]) + count))
        return frozenset(registers)


@dataclass(frozen=True)
class Code:
    """The instructions of one kernel, and its loops as (first, last) instruction, the innermost first."""

    name: str
    instructions: Sequence[Instruction]
    loops: Sequence[tuple[int, int]]

    def loop_with(self, *names: str) -> Sequence[Instruction]:
        """The smallest loop that has instructions of all these kinds; nothing where there is none."""
        for first, last in self.loops:
            body = self.instructions[first : last + 1]
            if all(any(instruction.is_a(name) for instruction in body) for name in names):
                return body
        return []


def parse(disassembly: str) -> Iterator[Code]:
    """The kernels in what ``nvdisasm -c`` prints."""
    for section in re.split(r"^\s*//-+ \.text\.\S+.*$|^\.section\s+\.text\.", disassembly, flags=re.M)[1:]:
        name = re.search(r"^\.text\.(\S+):$", section, re.M)
        if name is None:
            continue
        instructions: list[Instruction] = []
        labels: dict[str, int] = {}
        for line in section.splitlines():
            label = re.match(r"\s*\.(L_x_\d+):", line)
            found = re.match(r"\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?(\S.*?)\s*;", line)
            if label:
                labels[label[1]] = len(instructions)
            elif found:
                instructions.append(Instruction(re.sub(r"\s+", " ", found[1])))
        yield Code(name[1], instructions, _loops(instructions, labels))


def _loops(instructions: Sequence[Instruction], labels: dict[str, int]) -> list[tuple[int, int]]:
    found = []
    for last, instruction in enumerate(instructions):
        target = re.search(r"\.(L_x_\d+)\)", instruction.text) if instruction.is_a("BRA") else None
        if target and labels.get(target[1], last + 1) <= last:
            found.append((labels[target[1]], last))
    return sorted(found, key=lambda loop: loop[1] - loop[0])


# ---------------------------------------------------------------- the rules

LEFT_OUT = 24  # instructions of a kernel that an architecture has no use for, padding included
PACKED = r"(swiglu|gelu_bias|rotary_qkv)_(grad_)?kernel<(\w+), (4|8)>"
PACKED_ROWS = r"norm_(grad_)?kernel<(\w+), (4|8), [124],"
ROW_STATISTICS = 2  # narrow stores of a norm: one number per row and statistic
ATTENTION = r"attention_decode_kernel<(\w+), \d+, ([14]), true>"
LOADS_TOGETHER = 8
PREFETCHED = r"few_rows_by_(matrix<\w+, \S+, true, \w+>|columns<\w+>)"
TURNS = 2  # of a warp in one pass of its loop: what is fetched takes turns in two sets of registers
BYTES_PER_TURN = {"few_rows_by_matrix": 2048, "few_rows_by_columns": 4096}  # of weights, per warp
MOST_INSTRUCTIONS = {"W4": 310, "W8": 250, "W16": 90, "columns": 125}
"""Instructions per 2 KB of weights, as recorded with nvcc 13.0 over all architectures, and a little more."""


def faults(name: str, code: Code) -> list[str]:
    """What is wrong with the code of the kernel with this readable name, one line each."""
    found = []
    if re.match(PACKED, name) or re.match(PACKED_ROWS, name) or name.startswith("unpack_chunk"):
        found += _narrow_stores(name, code)
    if re.match(ATTENTION, name):
        found += _late_loads(code)
    if re.match(PREFETCHED, name) and len(code.instructions) > LEFT_OUT:
        found += _waiting_prefetch(code) + _too_many_instructions(name, code)
    return [f"{name}: {fault}" for fault in found]


def _narrow_stores(name: str, code: Code) -> list[str]:
    stores = [instruction for instruction in code.instructions if instruction.is_a("STG", "ST")]
    narrow = [store.opcode for store in stores if store.width < 128]
    if not any(store.width == 128 for store in stores):
        return ["no store of 16 bytes"]
    # A matrix that is not aligned is written one element at a time.
    allowed = {"unpack_chunk": len(narrow), "norm_kernel": ROW_STATISTICS}.get(name.partition("<")[0], 0)
    return [f"16 bytes are stored in parts: {', '.join(narrow)}"] if len(narrow) > allowed else []


def _late_loads(code: Code) -> list[str]:
    body = code.loop_with("LDG", "SHFL")
    first = next((place for place, instruction in enumerate(body) if instruction.is_a("SHFL")), 0)
    loads = sum(instruction.is_a("LDG") and instruction.width == 128 for instruction in body[:first])
    if loads < LOADS_TOGETHER:
        return [f"{loads} loads of 16 bytes before the first exchange of the loop, expected {LOADS_TOGETHER}"]
    return []


def _waiting_prefetch(code: Code) -> list[str]:
    body = code.loop_with("LDG", "HMMA")
    products = sum(instruction.is_a("HMMA") for instruction in body) // TURNS
    for place, load in enumerate(body):
        if not load.is_a("LDG"):
            continue
        passed = 0
        for user in [*body[place + 1 :], *body[:place]]:
            passed += user.is_a("HMMA")
            if user.read & load.loaded:
                if passed < 0.75 * products:
                    return [
                        f"waits in its prefetch: {passed} of {products} matrix instructions lie between {load.text} "
                        f"and {user.text}"
                    ]
                break
    return [] if body else ["no loop with loads and matrix instructions"]


def _too_many_instructions(name: str, code: Code) -> list[str]:
    body = code.loop_with("LDG", "HMMA")
    kind = next(key for key in MOST_INSTRUCTIONS if re.search(rf"\b{key}\b|_{key}\b", name))
    count = len(body) * 2048 // (TURNS * BYTES_PER_TURN[name.partition("<")[0]])
    most = MOST_INSTRUCTIONS[kind]
    return [f"{count} instructions per 2 KB of weights, expected at most {most}"] if count > most else []
