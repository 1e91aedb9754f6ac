"""Answers of a given form: JSON after a schema, a regular expression, one of several choices, boxes alone.

The work is done by the package ``llguidance``, which the extra ``serve`` installs.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import PromptError
from ..utils.dependencies import require
from .request import Grammar

if TYPE_CHECKING:
    import tiktoken

MAX_SOURCE = 1 << 16
"""Characters of a schema or expression."""
KEPT = 64
"""Compiled grammars that are kept."""
KINDS = ("json_schema", "json_object", "regex", "lark", "choice", "grounding")

GROUNDING = r"""
start: item+
item: <ref> LABEL </ref> box+
box: <box> "(" NUMBER "," NUMBER "),(" NUMBER "," NUMBER ")" </box>
LABEL: /[^<>\n]{1,80}/
NUMBER: /[0-9]|[1-9][0-9]|[1-9][0-9][0-9]/
"""
"""References with their boxes, in thousandths of the image's sides."""


class GrammarCompiler:
    """Grammars for one vocabulary. Its methods may be called from any thread.

    Args:
        encoding: the vocabulary, special tokens included.
        vocab_size: number of ids that may be chosen.
        end_id: the token that ends an answer.

    Raises:
        MissingDependencyError: ``llguidance`` is not installed.
    """

    def __init__(self, encoding: tiktoken.Encoding, vocab_size: int, end_id: int) -> None:
        self._library = require("llguidance", "grammars")
        from llguidance.tiktoken import lltokenizer_from_encoding

        self._vocab_size = vocab_size
        self._tokenizer = lltokenizer_from_encoding(encoding, n_vocab=vocab_size, eos_token=end_id)
        self._lock = threading.Lock()
        self._kept: OrderedDict[Grammar, Any] = OrderedDict()

    def check(self, grammar: Grammar) -> None:
        """Compile a grammar, so that its matcher is ready at once.

        Raises:
            PromptError: it is too large or cannot be compiled.
        """
        self._compiled(grammar)

    def matcher(self, grammar: Grammar) -> GrammarMatcher:
        """A matcher at the start of an answer.

        Raises:
            PromptError: the grammar is too large or cannot be compiled.
        """
        return GrammarMatcher(self._compiled(grammar).deep_copy(), self._vocab_size)

    def _compiled(self, grammar: Grammar) -> Any:
        with self._lock:
            if grammar in self._kept:
                self._kept.move_to_end(grammar)
                return self._kept[grammar]
        compiled = self._compile(grammar)
        with self._lock:
            self._kept[grammar] = compiled
            if len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return compiled

    def _compile(self, grammar: Grammar) -> Any:
        if grammar.kind not in KINDS:
            raise PromptError(f"grammar: unknown kind {grammar.kind!r}; expected one of {', '.join(KINDS)}")
        if len(grammar.source) > MAX_SOURCE:
            raise PromptError(f"grammar: {len(grammar.source)} characters, at most {MAX_SOURCE} may be")
        matcher = self._library.LLMatcher
        try:
            text = _as_llguidance(matcher, grammar)
        except ValueError as error:
            raise PromptError(f"grammar: {_first_line(error)}") from None
        problem = matcher.validate_grammar(text, self._tokenizer)
        if problem:
            raise PromptError(f"grammar: {_first_line(problem)}")
        return matcher(self._tokenizer, text, log_level=0)


class GrammarMatcher:
    """Where in its grammar an answer stands.

    Args:
        matcher: of ``llguidance``, for this row alone.
        vocab_size: number of ids that may be chosen.
    """

    def __init__(self, matcher: Any, vocab_size: int) -> None:
        self._matcher = matcher
        self._vocab_size = vocab_size

    def allowed(self) -> np.ndarray:
        """Bool ``[vocab_size]``: the ids that may come next.

        Raises:
            PromptError: the grammar has reached one of the library's limits.
        """
        mask = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        if self._matcher.is_error():
            raise PromptError(f"grammar: {_first_line(self._matcher.get_error())}")
        return np.unpackbits(mask, bitorder="little")[: self._vocab_size].astype(bool)

    def push(self, token: int) -> bool:
        """Go on by a token that is allowed; whether the answer is complete.

        Raises:
            PromptError: the token is not allowed.
        """
        if not self._matcher.consume_token(token):
            raise PromptError(f"grammar: {_first_line(self._matcher.get_error())}")
        return self._matcher.is_stopped()


def _as_llguidance(matcher: Any, grammar: Grammar) -> str:
    # Where any amount of space is allowed, models write it until they are cut off.
    compact = {"whitespace_flexible": False}
    if grammar.kind == "json_schema":
        return matcher.grammar_from_json_schema(grammar.source, defaults=compact)
    if grammar.kind == "json_object":
        return matcher.grammar_from_json_schema('{"type": "object"}', defaults=compact)
    if grammar.kind == "regex":
        return matcher.grammar_from_regex(grammar.source)
    if grammar.kind == "choice":
        return matcher.grammar_from_lark(_choice(grammar.source))
    return matcher.grammar_from_lark(GROUNDING if grammar.kind == "grounding" else grammar.source)


def _choice(source: str) -> str:
    choices = json.loads(source)
    if not isinstance(choices, list) or not choices or not all(isinstance(text, str) and text for text in choices):
        raise ValueError("choices must be a list of non-empty texts")
    return "start: " + " | ".join(json.dumps(text, ensure_ascii=False) for text in choices)


def _first_line(problem: object) -> str:
    return (str(problem).strip().splitlines() or ["it cannot be compiled"])[0][:200]
