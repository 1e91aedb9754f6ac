"""The subcommands of ``paddlemix``: a module each, with ``parser(prog)`` and ``main(arguments, prog)``."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from types import ModuleType


@dataclass(frozen=True)
class Command:
    """A subcommand.

    Attributes:
        name: as it is typed.
        module: where its ``parser`` and ``main`` are, below this package or by its whole name.
        help: one line about it.
        group: heading under which ``paddlemix --help`` lists it.
    """

    name: str
    module: str
    help: str
    group: str

    def load(self) -> ModuleType:
        """Import its module."""
        return importlib.import_module(self.module, __name__)


COMMANDS = (
    Command("predict", ".predict", "answer one question about images", "use a model"),
    Command("chat", ".chat", "converse about images in the terminal", "use a model"),
    Command("serve", ".serve", "serve a model over HTTP, as OpenAI's API", "use a model"),
    Command("evaluate", ".evaluate", "run the published benchmarks, and score the answers", "use a model"),
    Command("plan", ".plan", "estimate how many users some GPUs serve", "use a model"),
    Command("finetune", ".finetune", "fine-tune a model on conversations", "train a model"),
    Command("merge", ".merge", "merge a LoRA adapter into the weights of its model", "train a model"),
    Command("quantize", ".quantize", "quantize a model to 4 bits with GPTQ", "convert files"),
    Command("convert", ".convert", "convert weights between PyTorch's and Paddle's layout", "convert files"),
    Command("convert-lora", ".convert_lora", "convert a LoRA adapter to peft's files", "convert files"),
    Command("doctor", ".doctor", "report versions and devices, and try a tiny model", "this installation"),
    Command("completion", ".completion", "print a completion script for bash, zsh or fish", "this installation"),
)
"""All subcommands; a new one is a line here."""
