"""What ends an answer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .protocols import Codec


def answer_end_ids(eos_token_ids: Iterable[int], tokenizer: Codec) -> tuple[int, ...]:
    """The ids that end an answer: those given, the end of a text, and the marks around a message of a chat."""
    return tuple(sorted({*eos_token_ids, tokenizer.eod_id, tokenizer.im_end_id, tokenizer.im_start_id}))


class StopSequences:
    """Watches the new tokens of one row for runs of tokens that end it; the prompt does not count."""

    def __init__(self, sequences: Sequence[Sequence[int]]) -> None:
        self._sequences = [list(sequence) for sequence in sequences]
        self._longest = max((len(sequence) for sequence in self._sequences), default=0)
        self._recent: list[int] = []

    def push(self, token: int) -> bool:
        """Whether the tokens so far end with one of the sequences."""
        if not self._longest:
            return False
        self._recent = [*self._recent, token][-self._longest :]
        return any(self._recent[-len(sequence) :] == sequence for sequence in self._sequences)
