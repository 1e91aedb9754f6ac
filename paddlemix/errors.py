"""Every exception that paddlemix raises on purpose.

Each derives from :class:`PaddleMixError` and from the built-in type that a caller would expect, so
``except ValueError`` keeps working. Messages are one line: they name the field, what came, what was expected and what
to do.
"""

from __future__ import annotations


class PaddleMixError(Exception):
    """Base of all errors raised on purpose by this package."""


class ConfigurationError(PaddleMixError, ValueError):
    """A configuration field or an option has a value that cannot work."""


class ImageError(PaddleMixError, ValueError):
    """An image cannot be used: missing, unreadable, too large, of a refused kind or from a refused place."""


class FetchError(ImageError):
    """An image's URL was refused, timed out, was too large or did not answer with an image."""


class PromptError(PaddleMixError, ValueError):
    """A prompt, message or history is malformed, too long or holds too many images."""


class RecordError(PromptError):
    """A record of training or calibration data cannot be used; the message has its file and line."""


class RecordTooLongError(RecordError):
    """A record has more ids than may be, and no turns to leave out."""


class CheckpointError(PaddleMixError, ValueError):
    """A checkpoint has missing, unexpected, misshapen, truncated or otherwise unusable tensors or files."""


class UnsafeCheckpointError(CheckpointError):
    """A checkpoint asks for something that reading weights never needs: code, or files outside its folder."""


class AdapterError(PaddleMixError, ValueError):
    """An adapter cannot be used: of another base model, of a kind that is not supported, or for layers that are not
    there.
    """


class TargetError(ConfigurationError, CheckpointError, AdapterError):
    """A folder cannot be written to: it holds something else, is that of the source, or was given no name."""


class ModelNotFoundError(PaddleMixError, LookupError):
    """A model name is neither a directory, nor known, nor to be had from a store."""


class NotEnoughMemoryError(PaddleMixError, MemoryError):
    """The weights do not fit into the memory of this machine; the message has the numbers."""


class NumericalError(PaddleMixError, ArithmeticError):
    """A computation gave NaN: damaged weights or inputs, or a dtype too narrow for them."""


class MissingDependencyError(PaddleMixError, ImportError):
    """An optional package is not installed; the message says what to install."""


class OperatorError(PaddleMixError, RuntimeError):
    """A fused operator was asked for that is not there, or was called with shapes or dtypes it cannot take."""


class EngineError(PaddleMixError, RuntimeError):
    """The engine could not go on with a request: a step failed, or it is being stopped."""


class TrainingError(PaddleMixError, RuntimeError):
    """A training cannot start, go on or be resumed as it is: its loss is not finite, its checkpoint is another's."""


class TrainingInterruptedError(TrainingError):
    """A signal ended a training after a step; a checkpoint of that step is written. ``signal``: its number."""

    def __init__(self, message: str, signal: int) -> None:
        super().__init__(message)
        self.signal = signal


class EvaluationError(PaddleMixError, ValueError):
    """Benchmark data, answers or options of an evaluation cannot be used; the message has file and line or the id."""


class OutputError(PaddleMixError, OSError):
    """What a program prints cannot be written: its output is closed, or the disk under it is full."""
