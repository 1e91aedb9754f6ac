"""``python -m external_ops.harness``: build the CUDA kernels, check them against float64, measure them."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from .build import BuildError, build


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m external_ops.harness", description=__doc__.split(": ")[1])
    parser.add_argument(
        "--arch", action="append", help="compute capability to build for, such as 90; default: the GPU's"
    )
    parser.add_argument("--ops", nargs="+", metavar="NAME", help="only these operators")
    parser.add_argument("--output", type=Path, help="also write the table of measurements to this file")
    parser.add_argument("--quick", action="store_true", help="small cases only, as with --emulate; for sanitizers")
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--build-only", action="store_true", help="build, and use no GPU")
    only.add_argument("--check-only", action="store_true", help="do not measure")
    only.add_argument("--emulate", action="store_true", help="check small cases on the CPU, with g++ and no GPU")
    return parser.parse_args()


def main() -> int:
    arguments = parse_arguments()
    if not arguments.emulate:
        try:
            library = build(arguments.arch)
        except BuildError as error:
            print(error, file=sys.stderr)
            return 1
        print(f"built {library}")
        if arguments.build_only:
            return 0
    import torch

    from .check import OPERATORS, check
    from .ops import Kernels

    operators = arguments.ops or list(OPERATORS)
    unknown = sorted(set(operators) - set(OPERATORS))
    if unknown:
        print(f"--ops: no operator {', '.join(unknown)}; there are {', '.join(OPERATORS)}", file=sys.stderr)
        return 2
    if arguments.emulate:
        from .build import cuda_sources
        from .emulate.build import build as build_emulated

        kernels = Kernels([build_emulated(source.stem) for source in cuda_sources()], lambda: None)
        return report(check(kernels, "cpu", operators, quick=True))
    if not torch.cuda.is_available():
        print("PyTorch finds no CUDA device; --build-only and --emulate need none", file=sys.stderr)
        return 1
    kernels = Kernels([library], lambda: torch.cuda.current_stream().cuda_stream)
    failed = report(check(kernels, "cuda", operators, quick=arguments.quick))
    if not arguments.check_only and not failed:
        from .bench import measure

        table = measure(kernels, operators)
        print(table)
        if arguments.output:
            arguments.output.write_text(table + "\n")
    return failed


def report(failures: list[str]) -> int:
    for failure in failures:
        print(failure, file=sys.stderr)
    print(f"{len(failures)} failures" if failures else "all within the error rule")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
