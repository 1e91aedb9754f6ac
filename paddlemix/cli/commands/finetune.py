r"""Fine-tune Qwen-VL on conversations of your own: all weights, adapters, or adapters on a quantized model.

    %(prog)s finetune_lora.json --data talks.json --output_dir talks-lora
    %(prog)s finetune_lora.json --data talks.json --output_dir talks-lora --check-only
    python -m paddle.distributed.launch examples/qwen_vl/finetune.py \
        finetune_full.json --data talks.json --output_dir talks-full

The options come from a JSON file, the command line, or both; those of the command line count. Started again, an
interrupted training goes on where its newest checkpoint is. What it writes into OUTPUT_DIR is loaded by the other
programs: --model_name_or_path OUTPUT_DIR after mode full, --adapter OUTPUT_DIR after the others.

Ctrl-C or SIGTERM ends it with a checkpoint after the step it is in (exit status 130 or 143); a second Ctrl-C at once.

On several CPU processes, launch with --nproc_per_node N --backend gloo. Progress goes to stderr; after an error the
exit status is 1, after wrong options 2.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from ...errors import TrainingInterruptedError
from ...finetune.arguments import add_options, given_options, unknown_argument
from ...finetune.configuration import FinetuneConfig
from .. import common as cli


def parser(prog: str | None = None) -> argparse.ArgumentParser:
    """The command line."""
    result = cli.Parser(
        prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    result.add_argument("config", nargs="?", metavar="CONFIG.json", help="file with the options")
    result.add_argument(
        "--check-only", "--check_only", action="store_true", help="check the records, list what is wrong, and end"
    )
    add_options(result)
    return result


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Run the command and return its exit status."""
    command_line = parser(prog)
    options, unknown = command_line.parse_known_args(arguments)
    if unknown:
        command_line.error(unknown_argument(unknown[0]))
    config = FinetuneConfig.from_file(options.config, given_options(options))
    # need what --help does not
    from ...finetune.run import check, finetune

    if options.check_only:
        reports = check(config, cli.note)
        for what, report in zip(("", "evaluation: "), reports):
            if report.problems:
                cli.output(report.table(), end="\n\n")
            cli.output(what + report.summary())
        return 1 if any(report.problems for report in reports) else 0
    try:
        finetune(config, cli.note)
    except TrainingInterruptedError as interrupted:
        cli.note(str(interrupted))
        return 128 + interrupted.signal
    return 0
