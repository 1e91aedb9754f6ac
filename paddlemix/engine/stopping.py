"""When a row of generated tokens is finished."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..errors import ConfigurationError
from .detokenizer import IncrementalDecoder
from .protocols import Codec

STOP, LENGTH = "stop", "length"
"""Why an answer ended: by a stop id, sequence or string; or cut off, by ``max_new_tokens`` or the model's window."""


def finish_reason(finished: bool) -> str:
    """The reason for a row that got its last token: ``finished`` says whether a stop ended it."""
    return STOP if finished else LENGTH


def answer_end_ids(eos_token_ids: Iterable[int], tokenizer: Codec) -> tuple[int, ...]:
    """The ids that end an answer: those given, the end of a text, and the marks around a message of a chat."""
    return tuple(sorted({*eos_token_ids, tokenizer.eod_id, tokenizer.im_end_id, tokenizer.im_start_id}))


class StopChecker:
    """Watches the new tokens of one row.

    Args:
        stop_ids: single tokens that end the row.
        sequences: runs of tokens that end the row once it ends with one of them; the prompt does not count.
        strings: texts that end the row once they occur in the text of its new tokens.
        tokenizer: turns tokens into text; needed for ``strings`` only.
    """

    def __init__(
        self,
        stop_ids: Sequence[int] = (),
        sequences: Sequence[Sequence[int]] = (),
        strings: Sequence[str] = (),
        tokenizer: Codec | None = None,
    ) -> None:
        self._stop_ids = frozenset(stop_ids)
        self._sequences = [list(sequence) for sequence in sequences]
        self._longest = max((len(sequence) for sequence in self._sequences), default=0)
        self._recent: list[int] = []
        self._decoder: IncrementalDecoder | None = None
        if strings:
            if tokenizer is None:
                raise ConfigurationError("stop_strings: they need the tokenizer as well; pass tokenizer=")
            self._decoder = IncrementalDecoder(tokenizer, stop_strings=strings)

    def push(self, token: int) -> bool:
        """Whether the row ends with ``token``."""
        if token in self._stop_ids:
            return True
        if self._longest:
            self._recent = [*self._recent, token][-self._longest :]
            if any(self._recent[-len(sequence) :] == sequence for sequence in self._sequences):
                return True
        if self._decoder is not None:
            self._decoder.push(token)
            return self._decoder.stopped_by is not None
        return False
