"""Text from ids that arrive one at a time, as a model generates them."""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from ..errors import ConfigurationError
from .protocols import Codec


class StopStringMatcher:
    """Lets text through up to the first stop string.

    Text that may still turn out to begin a stop string is held back, so no part of one ever comes out. The result does
    not depend on how the text is split into pushes: the stop string that ends first counts, of two that end at the same
    character the longer one.
    """

    def __init__(self, stop_strings: Sequence[str]) -> None:
        """Raises ConfigurationError unless ``stop_strings`` are non-empty strings."""
        if isinstance(stop_strings, str) or not all(isinstance(s, str) and s for s in stop_strings):
            raise ConfigurationError(f"stop_strings: got {stop_strings!r}, expected a list of non-empty strings")
        self._stops = tuple(stop_strings)
        self._longest = max(map(len, self._stops), default=0)
        self._held = ""
        self.matched: str | None = None
        """The stop string that was met, once it was."""

    def push(self, text: str) -> str:
        """What of the text so far is certain not to belong to a stop string and was not returned before."""
        if self.matched is not None:
            return ""
        text = self._held + text
        found = [(text.find(stop) + len(stop), text.find(stop), stop) for stop in self._stops if stop in text]
        if found:
            _, start, self.matched = min(found)
            self._held = ""
            return text[:start]
        start = self._start_of_candidate(text)
        self._held = text[start:]
        return text[:start]

    def finish(self) -> str:
        """The text held back, which begins no stop string since no more will come."""
        held, self._held = self._held, ""
        return held

    def _start_of_candidate(self, text: str) -> int:
        for start in range(max(0, len(text) - self._longest + 1), len(text)):
            rest = text[start:]
            if any(stop.startswith(rest) for stop in self._stops):
                return start
        return len(text)


class IncrementalDecoder:
    """Text of a growing row of ids; constant work per id, and never half a character.

    All pushes and the finish together give ``tokenizer.decode(ids, ...)`` with the same options, up to the first stop
    string. By default the control tokens of the chat are left out and the tags of references and boxes kept. An image
    block comes out once it is closed.
    """

    def __init__(
        self,
        tokenizer: Codec,
        *,
        skip_special_tokens: bool = True,
        keep_image_special: bool = True,
        errors: str | None = None,
        stop_strings: Sequence[str] = (),
    ) -> None:
        """skip_special_tokens, keep_image_special, errors: as for ``tokenizer.decode``.
        stop_strings: text from the first of these on is dropped; see :class:`StopStringMatcher`.
        """
        self._tokenizer = tokenizer
        self._options = (skip_special_tokens, keep_image_special)
        self._blocks = tokenizer.placeholder_reader()
        self._utf8 = codecs.getincrementaldecoder("utf-8")(tokenizer.errors if errors is None else errors)
        self._stops = StopStringMatcher(stop_strings)

    @property
    def stopped_by(self) -> str | None:
        """The stop string that was met; None so far."""
        return self._stops.matched

    def push(self, token_id: int) -> str:
        """The text that ``token_id`` completes; often empty. KeyError for an id beyond the vocabulary."""
        pieces = self._blocks.push(int(token_id))
        return self._stops.push(self._text(pieces))

    def finish(self) -> str:
        """The rest: what was held back, and the replacement of an incomplete character where the policy has one."""
        text = self._text(self._blocks.finish()) + self._utf8.decode(b"", final=True)
        return self._stops.push(text) + self._stops.finish()

    def _text(self, pieces: Sequence) -> str:
        data = b"".join(self._tokenizer.piece_bytes(piece, *self._options) for piece in pieces)
        return self._utf8.decode(data)
