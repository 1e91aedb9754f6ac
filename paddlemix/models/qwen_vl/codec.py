"""Text to ids and back: byte pairs by tiktoken, special tokens, and image placeholders.

An image in text is ``<img>path</img>``; :mod:`.image_placeholders` says what its ids are. Text is normalized to NFC
before it is encoded.
"""

from __future__ import annotations

import functools
import os
import re
import unicodedata
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from ...errors import ConfigurationError, PromptError
from ...utils.schema import check_kind, shown
from . import vocabulary as s
from .config_schema import VISUAL
from .image_placeholders import (
    ImagePlaceholder,
    Piece,
    PlaceholderFormat,
    PlaceholderReader,
    cut_outside_placeholders,
    split_ids,
)
from .vocabulary import load_vocabulary

if TYPE_CHECKING:
    import tiktoken

DEFAULT_NUM_IMAGE_TOKENS = 256

_SPECIAL = re.compile("|".join(map(re.escape, s.SPECIAL_TOKENS)))
_ALL_SPECIAL = frozenset(s.SPECIAL_TOKENS)
# The regular expression engine of tiktoken gives up (by aborting the call) on runs of about a million spaces.
_LONGEST_WHITESPACE = 50_000
_WHITESPACE = re.compile(r"\s+")
_ERROR_POLICIES = ("strict", "replace", "ignore")
_SURROGATE = re.compile("[\ud800-\udfff]")
# Runs of combining marks up to this length are sorted by unicodedata itself.
_SHORT_RUN = 64
# No character beyond has a combining class (Unicode 15); one that gets one later costs time, not correctness.
_LAST_MARK = 0x1FFFF


def normalize_text(text: str) -> str:
    """NFC, as every text is before it is encoded; surrogates that stand alone become U+FFFD."""
    text = nfc(text)
    if _SURROGATE.search(text):
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def nfc(text: str) -> str:
    """``unicodedata.normalize("NFC", text)``, in linear time for long runs of combining marks, too.

    unicodedata puts the marks behind a letter into their canonical order by moving each past those before it, which is
    quadratic. Marks that are in order already are left alone, and the order of its input's marks does not change the
    result; so long runs are decomposed and sorted first.
    """
    if len(text) > _SHORT_RUN and not text.isascii():
        text = _long_runs().sub(_in_canonical_order, text)
    return unicodedata.normalize("NFC", text)


def _in_canonical_order(run: re.Match[str]) -> str:
    decomposed = (unicodedata.normalize("NFD", mark) for mark in run.group())
    return "".join(sorted("".join(decomposed), key=unicodedata.combining))


@functools.lru_cache(maxsize=1)
def _long_runs() -> re.Pattern[str]:
    """Matches runs of characters that decompose into combining marks alone."""
    marks = (chr(code) for code in range(0x300, _LAST_MARK + 1) if not 0xD800 <= code < 0xE000)
    found = [mark for mark in marks if unicodedata.combining(unicodedata.normalize("NFD", mark)[0])]
    return re.compile(f"[{''.join(found)}]{{{_SHORT_RUN},}}")


class QWenVLCodec:
    """One text to ids and back, and the ids of the special tokens."""

    image_start_tag, image_end_tag, image_pad_tag = s.IMG_START, s.IMG_END, s.IMG_PAD
    ref_start_tag, ref_end_tag = s.REF_START, s.REF_END
    box_start_tag, box_end_tag = s.BOX_START, s.BOX_END
    quad_start_tag, quad_end_tag = s.QUAD_START, s.QUAD_END
    IMAGE_ST = s.IMAGE_TAGS
    GROUNDING_ST = s.GROUNDING_TAGS

    def __init__(self, vocab_file: str | os.PathLike[str], num_image_tokens: int, errors: str) -> None:
        """Read the vocabulary.

        Raises:
            CheckpointError: ``vocab_file`` cannot be read.
            ConfigurationError: another argument cannot be.
        """
        check_kind("num_image_tokens", num_image_tokens, VISUAL["n_queries"].kind)
        if errors not in _ERROR_POLICIES:
            raise ConfigurationError(f"errors: got {shown(errors)}, expected one of {', '.join(_ERROR_POLICIES)}")
        self.vocab_file = str(vocab_file)
        self.num_image_tokens = num_image_tokens
        self.errors = errors
        self._vocabulary = load_vocabulary(self.vocab_file)
        ids = {token: len(self.mergeable_ranks) + i for i, token in enumerate(s.SPECIAL_TOKENS)}
        self.special_tokens = ids
        self.eod_id = ids[s.ENDOFTEXT]
        self.im_start_id, self.im_end_id = ids[s.IM_START], ids[s.IM_END]
        self.ref_start_id, self.ref_end_id = ids[s.REF_START], ids[s.REF_END]
        self.box_start_id, self.box_end_id = ids[s.BOX_START], ids[s.BOX_END]
        self.quad_start_id, self.quad_end_id = ids[s.QUAD_START], ids[s.QUAD_END]
        self.img_start_id, self.img_end_id, self.img_pad_id = ids[s.IMG_START], ids[s.IMG_END], ids[s.IMG_PAD]
        self.placeholder = PlaceholderFormat(self.img_start_id, self.img_end_id, self.img_pad_id, num_image_tokens)
        self.grounding_ids = frozenset(ids[tag] for tag in s.GROUNDING_TAGS)

    def __getstate__(self) -> dict[str, Any]:
        """All but the vocabulary."""
        # worker processes read the rank file again rather than getting 151643 ranks through a pipe
        return {name: value for name, value in self.__dict__.items() if name != "_vocabulary"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Read the vocabulary again."""
        self.__dict__.update(state)
        self._vocabulary = load_vocabulary(self.vocab_file)

    # ------------------------------------------------------------------ the vocabulary

    @property
    def image_slots(self) -> int:
        """``num_image_tokens`` under the name that ``tokenizer_config.json`` has for it."""
        return self.num_image_tokens

    @property
    def mergeable_ranks(self) -> dict[bytes, int]:
        """Bytes -> id of every token that is not special."""
        return self._vocabulary.ranks

    @property
    def encoding(self) -> tiktoken.Encoding:
        """The vocabulary as tiktoken's."""
        return self._vocabulary.encoding

    @property
    def vocab_size(self) -> int:
        """Number of ids, special ones included. A model's embedding may have more rows."""
        return self.eod_id + len(self.special_tokens)

    def __len__(self) -> int:
        """As ``vocab_size``."""
        return self.vocab_size

    def get_vocab(self) -> dict[bytes | str, int]:
        """Every token -> id: bytes for text, str for special tokens."""
        entries: list[tuple[bytes | str, int]] = [*self.mergeable_ranks.items(), *self.special_tokens.items()]
        return dict(entries)

    def convert_tokens_to_ids(self, tokens: bytes | str | Sequence[bytes | str]) -> int | None | list[int | None]:
        """Ids of tokens (bytes for text, str for special tokens); None for what is no token."""
        if isinstance(tokens, (str, bytes)):
            return self._token_id(tokens)
        return [self._token_id(token) for token in tokens]

    def _token_id(self, token: bytes | str) -> int | None:
        return self.special_tokens.get(token) if isinstance(token, str) else self.mergeable_ranks.get(token)

    def convert_ids_to_tokens(
        self, ids: int | Sequence[int], skip_special_tokens: bool = False
    ) -> bytes | str | list[bytes | str]:
        """Tokens of ids: bytes for text, str for special tokens. KeyError for an id beyond the vocabulary."""
        if isinstance(ids, int):
            return self._token(ids)
        return [self._token(i) for i in ids if i < self.eod_id or not skip_special_tokens]

    def _token(self, token_id: int) -> bytes | str:
        token = self.token_bytes(token_id)
        return token.decode() if token_id >= self.eod_id else token

    def convert_tokens_to_string(self, tokens: Iterable[bytes | str]) -> str:
        """The text of tokens, with this tokenizer's policy for bytes that are not UTF-8."""
        data = b"".join(token if isinstance(token, bytes) else token.encode() for token in tokens)
        return data.decode("utf-8", errors=self.errors)

    def token_bytes(self, token_id: int) -> bytes:
        """What one id stands for. KeyError for an id beyond the vocabulary, OverflowError for a negative one."""
        return self._vocabulary.encoding.decode_single_token_bytes(token_id)

    # ------------------------------------------------------------------ text to ids

    def encode(
        self,
        text: str,
        allowed_special: str | Collection[str] = "all",
        disallowed_special: str | Collection[str] = (),
    ) -> list[int]:
        """Ids of ``text``, NFC normalized; lone surrogates become U+FFFD.

        ``<img>`` counts only with its ``</img>`` and no allowed special token between them, else it is text.

        Args:
            text: any text.
            allowed_special: special tokens to read out of the text ("all" or a set); the others stay text.
            disallowed_special: special tokens that must not occur ("all": every one that is not allowed).

        Raises:
            PromptError: a disallowed token, or a path of more UTF-8 bytes than there are image tokens.
        """
        if not isinstance(text, str):
            raise PromptError(f"text: got {type(text).__name__}, expected str")
        text = normalize_text(text)
        allowed = self._special_set(allowed_special, "allowed_special")
        if disallowed_special:
            disallowed = self._special_set(disallowed_special, "disallowed_special") - allowed
            self._refuse(text, disallowed)
        matches = [match for match in _SPECIAL.finditer(text) if match.group() in allowed] if allowed else []
        ids: list[int] = []
        done = 0  # the text before is encoded
        for match, following in zip(matches, [*matches[1:], None]):
            if match.start() < done:
                continue  # the end tag of an image that is already encoded
            tag = match.group()
            end = following if following is not None and following.group() == s.IMG_END else None
            if tag == s.IMG_START and end is None:
                continue  # not closed: text
            ids += self._encode_ordinary(text[done : match.start()])
            if tag == s.IMG_START and end is not None:
                ids += self.image_block(text[match.end() : end.start()])
                done = end.end()
            else:
                ids.append(self.special_tokens[tag])
                done = match.end()
        return ids + self._encode_ordinary(text[done:])

    def _encode_ordinary(self, text: str) -> list[int]:
        encode = self._vocabulary.encoding.encode_ordinary
        if len(text) <= _LONGEST_WHITESPACE:
            return encode(text)
        ids: list[int] = []
        done = 0
        for run in _WHITESPACE.finditer(text):
            for cut in range(run.start() + _LONGEST_WHITESPACE, run.end(), _LONGEST_WHITESPACE):
                ids += encode(text[done:cut])
                done = cut
        return ids + encode(text[done:])

    def _special_set(self, value: str | Collection[str], name: str) -> frozenset[str]:
        if value == "all":
            return _ALL_SPECIAL
        if isinstance(value, (str, bytes)) or not isinstance(value, Collection):
            raise ConfigurationError(f"{name}: got {shown(value)}, expected 'all' or a set of special tokens")
        for token in value:
            if not isinstance(token, str) or token not in _ALL_SPECIAL:
                raise ConfigurationError(f"{name}: got {shown(token)}, which is no special token of Qwen-VL")
        return frozenset(value)

    def _refuse(self, text: str, disallowed: frozenset[str]) -> None:
        for match in _SPECIAL.finditer(text):
            if match.group() in disallowed:
                raise PromptError(
                    f"text: got the special token {match.group()!r} at position {match.start()}, which is disallowed "
                    "here; leave it out, or pass it in allowed_special"
                )

    def image_block(self, path: str | None = None) -> list[int]:
        """The ids of an image placeholder; see :meth:`.PlaceholderFormat.encode`.

        Raises:
            PromptError: the path has more bytes than there are image tokens.
        """
        return self.placeholder.encode(normalize_text(path) if path else "")

    def tokenize(
        self,
        text: str,
        allowed_special: str | Collection[str] = "all",
        disallowed_special: str | Collection[str] = (),
    ) -> list[bytes | str]:
        """As :meth:`encode`, but tokens: bytes for text and path bytes' ids, str for special tokens."""
        return [self._token(token_id) for token_id in self.encode(text, allowed_special, disallowed_special)]

    # ------------------------------------------------------------------ ids to text

    def decode(
        self,
        token_ids: Any,
        skip_special_tokens: bool = False,
        errors: str | None = None,
        keep_image_special: bool = False,
    ) -> str:
        """Text of one id or of a row of ids (list, array or tensor).

        A broken image placeholder is decoded token by token.

        Args:
            token_ids: the ids.
            skip_special_tokens: leave out every special token; of an image its path is left.
            errors: policy for bytes that are not UTF-8; the tokenizer's own when None.
            keep_image_special: with it, keep the tags of references, boxes and quadrangles.

        Raises:
            KeyError: an id beyond the vocabulary.
        """
        ids = _as_ids(token_ids)
        pieces = self._pieces(ids) if self.img_start_id in ids else ids
        data = b"".join(self.piece_bytes(piece, skip_special_tokens, keep_image_special) for piece in pieces)
        return data.decode("utf-8", errors=self.errors if errors is None else errors)

    def batch_decode(self, sequences: Iterable[Any], **options: Any) -> list[str]:
        """:meth:`decode` of every row."""
        return [self.decode(row, **options) for row in sequences]

    def piece_bytes(self, piece: Piece, skip_special_tokens: bool = False, keep_image_special: bool = False) -> bytes:
        """The bytes of one id or image placeholder under a policy for special tokens (see :meth:`decode`)."""
        if isinstance(piece, ImagePlaceholder):
            text = piece.path if skip_special_tokens else f"{s.IMG_START}{piece.path}{s.IMG_END}"
            return text.encode("utf-8")
        if skip_special_tokens and piece >= self.eod_id and not (keep_image_special and piece in self.grounding_ids):
            return b""
        return self.token_bytes(piece)

    def placeholder_reader(self) -> PlaceholderReader:
        """A fresh reader of image placeholders in ids."""
        return PlaceholderReader(self.placeholder)

    def image_paths(self, ids: Sequence[int]) -> list[str]:
        """The path in each image placeholder of a row of ids, in order; empty where there are pads only."""
        return [piece.path for piece in self._pieces(_as_ids(ids)) if isinstance(piece, ImagePlaceholder)]

    def _pieces(self, ids: Sequence[int]) -> list[Piece]:
        return split_ids(ids, self.placeholder_reader())

    def truncate(self, ids: Sequence[int], max_length: int) -> list[int]:
        """The first ``max_length`` ids, or fewer where the cut would fall into an image."""
        if len(ids) <= max_length:
            return list(ids)
        return list(ids[: cut_outside_placeholders(self._pieces(ids), max_length)])


def _as_ids(token_ids: Any) -> list[int]:
    if hasattr(token_ids, "tolist"):
        token_ids = token_ids.tolist()
    if isinstance(token_ids, int):
        return [token_ids]
    return [int(token_id) for token_id in token_ids]
