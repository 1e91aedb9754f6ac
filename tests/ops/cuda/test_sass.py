"""What ``make cuda-check`` reads from the disassembler, on code of the kinds that the rules are about."""

from __future__ import annotations

from external_ops.harness import sass


def kernel(name: str, *lines: str) -> sass.Code:
    """The code of one kernel; a line ``top:`` is a label that ``BRA top`` jumps to."""
    text = [f"//--------------------- .text.{name} ----------", f".text.{name}:"]
    for place, line in enumerate(lines):
        if line.endswith(":"):
            text.append(f".{line.replace('top', 'L_x_1')}")
        else:
            text.append(f"        /*{16 * place:04x}*/                   {line.replace('top', '`(.L_x_1)')} ;")
    (code,) = sass.parse("\n".join(text))
    return code


def test_instructions_registers_and_loops_are_read():
    code = kernel(
        "f", "MOV R1, c[0x0][0x28]", "top:", "@!P0 LDG.E.EF.128 R36, [R12.64+0x100]",
        "HMMA.16816.F32.BF16 R44, R12, R6.reuse, R44", "STG.E.64 desc[UR4][R2.64], R8", "@P0 BRA top", "EXIT",
    )  # fmt: skip
    assert code.loops == [(1, 4)]
    load, product, store = code.instructions[1:4]
    assert load.opcode == "LDG.E.EF.128" and load.width == 128
    assert load.loaded == {36, 37, 38, 39} and load.read == {12, 13}
    assert product.read == {12, 13, 14, 15, 6, 7, 44, 45, 46, 47}
    assert store.width == 64 and store.read == {2, 3, 8, 9}


def test_a_store_in_parts_is_a_fault():
    name = "swiglu_kernel<bf16, 8>"
    assert sass.faults(name, kernel("f", "STG.E.128 [R2.64], R4", "EXIT")) == []
    parts = kernel("f", "STG.E.128 [R2.64], R4", "STG.E [R2.64], R4", "STG.E.U16 [R2.64], R5", "EXIT")
    assert sass.faults(name, parts) == [f"{name}: 16 bytes are stored in parts: STG.E, STG.E.U16"]
    assert sass.faults("swiglu_kernel<bf16, 1>", parts) == []
    assert sass.faults("norm_kernel<bf16, 8, 1, true>", parts) == []  # two statistics of the row
    assert sass.faults("norm_grad_kernel<bf16, 8, 1, true>", parts) != []


def test_loads_behind_the_first_exchange_are_a_fault():
    name = "attention_decode_kernel<fp16, 16, 1, true>"
    load = "LDG.E.EF.128 R4, [R2.64]"
    together = kernel("f", "top:", *[load] * 8, "SHFL.BFLY PT, R1, R2, 0x1, 0x1f", "@P0 BRA top")
    assert sass.faults(name, together) == []
    late = kernel("f", "top:", *[load] * 7, "SHFL.BFLY PT, R1, R2, 0x1, 0x1f", load, "@P0 BRA top")
    assert "7 loads of 16 bytes before the first exchange" in sass.faults(name, late)[0]


def test_a_prefetch_that_waits_is_a_fault():
    name = "few_rows_by_matrix<bf16, W4, true, false>"
    load, use, product = "LDG.E.128 R36, [R2.64]", "MOV R9, R37", "HMMA.16816.F32 R44, R12, R6, R44"
    turns = [load, product, product, use, *["NOP"] * 20]
    assert sass.faults(name, kernel("f", "top:", *turns, *turns, "@P0 BRA top")) == []
    waiting = [load, use, product, product]
    assert "waits in its prefetch: 0 of 2" in sass.faults(name, kernel("f", "top:", *waiting, *turns, "BRA top"))[0]


def test_too_many_instructions_are_a_fault():
    name = "few_rows_by_matrix<bf16, W16<bf16>, true, false>"
    turn = ["LDG.E.128 R36, [R2.64]", *["HMMA.16816.F32 R44, R12, R6, R44"] * 2, *["FADD R1, R1, R2"] * 100]
    (fault,) = sass.faults(name, kernel("f", "top:", *turn, *turn, "@P0 BRA top"))
    assert "103 instructions per 2 KB of weights, expected at most" in fault


def test_a_kernel_that_an_architecture_has_no_use_for_is_no_fault():
    assert sass.faults("few_rows_by_columns<bf16>", kernel("f", "EXIT", *["NOP"] * 15)) == []
