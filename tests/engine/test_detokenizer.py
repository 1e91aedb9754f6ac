"""Incremental decoding and stop strings."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from paddlemix.engine.detokenizer import IncrementalDecoder, StopStringMatcher
from paddlemix.errors import ConfigurationError
from paddlemix.models.qwen_vl.tokenization import QWenVLTokenizer
from tests.tiny_vocabulary import N_RANKS, write_rank_file

VOCAB_SIZE = N_RANKS + 217
IMG, IMG_END, IMG_PAD = VOCAB_SIZE - 3, VOCAB_SIZE - 2, VOCAB_SIZE - 1


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> QWenVLTokenizer:
    return QWenVLTokenizer(write_rank_file(tmp_path_factory.mktemp("vocab") / "tiny.tiktoken"), image_slots=6)


def stream(decoder: IncrementalDecoder, ids: list[int]) -> list[str]:
    return [decoder.push(token_id) for token_id in ids] + [decoder.finish()]


# any ids; and ids in which image blocks, whole and broken, are frequent
block_ids = st.sampled_from([IMG, IMG, IMG_END, IMG_PAD, IMG_PAD, ord("a"), 0xE4, 0xBD, 0xA0, 260])
any_ids = st.lists(st.integers(0, VOCAB_SIZE - 1), max_size=40) | st.lists(block_ids, max_size=40)


@given(any_ids, st.booleans(), st.booleans(), st.sampled_from(["replace", "ignore"]))
@example([IMG, ord("a"), IMG_PAD, IMG_END], False, False, "replace")
@example([IMG, *[ord("a")] * 7, IMG_END], False, False, "replace")
@example([IMG, IMG, ord("a"), IMG_END, 3], True, True, "ignore")
def test_the_pieces_together_are_the_whole_decoding(tiny, ids, skip, keep, errors):
    options = {"skip_special_tokens": skip, "keep_image_special": keep, "errors": errors}
    assert "".join(stream(IncrementalDecoder(tiny, **options), ids)) == tiny.decode(ids, **options)


@given(st.text(st.characters(exclude_characters="\ufffd", exclude_categories=["Cs"]), max_size=30))
def test_no_piece_holds_half_a_character(tiny, text):
    pieces = stream(IncrementalDecoder(tiny), tiny.encode(text, allowed_special=()))
    assert "\ufffd" not in "".join(pieces)
    assert pieces[-1] == ""


def test_a_character_comes_out_with_its_last_byte(tiny):
    ids = [tiny.convert_tokens_to_ids(bytes([byte])) for byte in "好".encode()]
    assert stream(IncrementalDecoder(tiny), ids) == ["", "", "好", ""]


def test_half_a_character_at_the_end_is_replaced_or_left_out_as_asked(tiny):
    first = tiny.convert_tokens_to_ids(b"\xe5")
    assert stream(IncrementalDecoder(tiny), [first]) == ["", "\ufffd"]
    assert stream(IncrementalDecoder(tiny, errors="ignore"), [first]) == ["", ""]


def test_control_tokens_are_left_out_and_tags_kept_by_default(tiny):
    ids = tiny.encode("<ref>in</ref><box>(1,2)</box><quad></quad><|im_end|><|endoftext|>")
    assert "".join(stream(IncrementalDecoder(tiny), ids)) == "<ref>in</ref><box>(1,2)</box><quad></quad>"
    assert "".join(stream(IncrementalDecoder(tiny, keep_image_special=False), ids)) == "in(1,2)"
    assert "".join(stream(IncrementalDecoder(tiny, skip_special_tokens=False), ids)) == tiny.decode(ids)


def test_an_unclosed_image_holds_back_no_more_than_its_slots(tiny):
    decoder = IncrementalDecoder(tiny, skip_special_tokens=False)
    pieces = [decoder.push(token_id) for token_id in [IMG] + [tiny.convert_tokens_to_ids(b"a")] * 9]
    assert "".join(pieces).startswith("<img>a")


def test_an_id_beyond_the_vocabulary_is_an_error_unless_special_tokens_are_left_out(tiny):
    assert IncrementalDecoder(tiny).push(VOCAB_SIZE) == ""
    with pytest.raises(KeyError):
        IncrementalDecoder(tiny, skip_special_tokens=False).push(VOCAB_SIZE)


def test_work_per_token_does_not_grow(tiny):
    decoded = []

    class Counting(QWenVLTokenizer):
        def token_bytes(self, token_id):
            decoded.append(token_id)
            return super().token_bytes(token_id)

    decoder = IncrementalDecoder(Counting(tiny.vocab_file))
    for _ in range(500):
        decoder.push(5)
    assert len(decoded) == 500


def test_a_stop_string_across_tokens_never_comes_out(tiny):
    decoder = IncrementalDecoder(tiny, stop_strings=["Human:", "\n\n"])
    pieces = stream(decoder, tiny.encode("in Hum Human: more"))
    assert "".join(pieces) == "in Hum "
    assert decoder.stopped_by == "Human:"
    assert not any("Human" in piece or piece.endswith(("H", "Hu", "Huma")) for piece in pieces)


def test_text_that_only_begins_a_stop_string_comes_out_at_the_end(tiny):
    decoder = IncrementalDecoder(tiny, stop_strings=["Human:"])
    assert "".join(stream(decoder, tiny.encode("in Huma"))) == "in Huma"
    assert decoder.stopped_by is None


def cut_at_first_stop(text: str, stops: list[str]) -> tuple[str, str | None]:
    """The definition, one character at a time: the first end counts, of equal ends the longer string."""
    for end in range(len(text) + 1):
        ending = [stop for stop in stops if text[:end].endswith(stop)]
        if ending:
            longest = max(ending, key=len)
            return text[: end - len(longest)], longest
    return text, None


short = st.text("ab", max_size=4)


@given(st.lists(short, max_size=12), st.lists(short.filter(bool), max_size=3))
@example(["aab", "b"], ["abb", "b"])
@example(["a", "b"], ["ab", "b"])
def test_where_the_text_ends_does_not_depend_on_how_it_is_split(chunks, stops):
    matcher = StopStringMatcher(stops)
    emitted = "".join([matcher.push(chunk) for chunk in chunks] + [matcher.finish()])
    assert (emitted, matcher.matched) == cut_at_first_stop("".join(chunks), stops)


@pytest.mark.parametrize("stops", ["Human:", [""], [5]])
def test_stop_strings_that_are_none_are_refused(stops):
    with pytest.raises(ConfigurationError, match="stop_strings"):
        StopStringMatcher(stops)
