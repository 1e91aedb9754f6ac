"""From the name of a model to what the server needs of it. Paddle is imported in the engine's thread only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..checkpoint import hub
from ..engine.request import Grammar
from ..engine.stopping import answer_end_ids
from ..engine.thread import EngineThread
from ..errors import CheckpointError
from ..models.qwen_vl.chat_template import DEFAULT_WINDOW, ChatWindow
from ..models.qwen_vl.config_schema import read_config
from ..models.qwen_vl.generation_file import published_options, read_generation_config
from ..models.qwen_vl.processing import QwenVLProcessor
from ..options import ModelOptions
from ..utils.dependencies import require
from .sampling import SamplingDefaults
from .server import ServedModel

if TYPE_CHECKING:
    from ..engine.engine import Engine, EngineConfig
    from ..engine.grammar import GrammarCompiler


class EngineLoader:
    """Loads the model in the engine's thread.

    Args:
        options: which model, and how.
        config: sizes of the engine.
    """

    def __init__(self, options: ModelOptions, config: EngineConfig) -> None:
        self._options = options
        self._config = config
        self._grammars: GrammarCompiler | None = None

    def thread(self) -> EngineThread:
        """The engine's thread, not started."""
        return EngineThread(self.load, context=_without_gradients)

    def load(self) -> Engine:
        """The engine."""
        from ..engine.engine import Engine
        from ..inference import load_model
        from ..models.qwen_vl.runner import grammar_compiler, model_runner

        loaded = load_model(self._options)
        tokenizer = loaded.processor.tokenizer
        adapter = "" if self._options.adapter is None else str(self._options.adapter)
        runner = model_runner(loaded.model, tokenizer.vocab_size, adapter)
        self._grammars = grammar_compiler(loaded.model, tokenizer)
        return Engine(runner, tokenizer, self._config, self._grammars)

    def check_grammar(self, grammar: Grammar) -> None:
        """Compile a grammar, so that the engine finds it ready.

        Raises:
            PromptError: it cannot be compiled.
        """
        if self._grammars is not None:
            self._grammars.check(grammar)


def served_model(options: ModelOptions, loader: EngineLoader) -> ServedModel:
    """What the server needs of a model before, and while, the engine loads it.

    Raises:
        CheckpointError, ConfigurationError, ModelNotFoundError.
    """
    directory = Path(hub.resolve(options.model, store="huggingface" if options.from_hf_hub else None))
    config = read_config(directory)
    if config is None:
        raise CheckpointError(f"{directory}: it has no config.json, and so is no model's folder")
    processor = QwenVLProcessor.from_directory(
        directory, exif_transpose=options.exif_transpose, background=options.background
    )
    if options.adapter is not None and processor.chat_format == "raw":
        processor.chat_format = "chatml"  # adapters learn from conversations, also those of base models
    generation = read_generation_config(directory, config["vocab_size"])
    if generation is None:
        generation = published_options(config["visual"]["image_start_id"])
    window = ChatWindow(generation.get("max_window_size") or DEFAULT_WINDOW, generation.get("max_window_images"))
    return ServedModel(
        processor,
        config["max_position_embeddings"],
        sampling_defaults(generation, processor),
        loader.check_grammar,
        window,
    )


def sampling_defaults(generation: dict[str, Any], processor: QwenVLProcessor) -> SamplingDefaults:
    """What a model's ``generation_config.json`` means for requests."""
    tokenizer = processor.tokenizer
    given = generation.get("eos_token_id", [])
    ends = answer_end_ids([given] if isinstance(given, int) else given, tokenizer)
    sequences = tuple(tuple(sequence) for sequence in generation.get("stop_token_sequences", ()))
    vocab_size = tokenizer.vocab_size
    return SamplingDefaults(generation, tuple(i for i in ends if 0 <= i < vocab_size), sequences, vocab_size)


@contextmanager
def _without_gradients() -> Iterator[None]:
    with require("paddle", "serving a model").no_grad():
        yield
