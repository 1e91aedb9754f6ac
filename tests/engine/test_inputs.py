import numpy as np
import pytest

from paddlemix.engine.inputs import id_array, left_padding
from paddlemix.engine.options import GenerationOptions
from paddlemix.errors import PromptError

EOD = 290
STOP_IS_PAD = GenerationOptions(eos_token_id=(EOD,), pad_token_id=EOD)
STOP_IS_OTHER = GenerationOptions(eos_token_id=(291,), pad_token_id=EOD)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([1, 2], r"\[batch, length\]"),
        ([[1], [1, 2]], "unequal length"),
        ([[]], r"\[batch, length\]"),
        ([[0.5]], "integers"),
        ([[512]], "0 to 511"),
        ([[-1]], "0 to 511"),
    ],
)
def test_ids_are_checked(ids, message):
    with pytest.raises(PromptError, match=message):
        id_array(ids, vocab_size=512)


def test_padding_is_taken_from_the_mask():
    mask = left_padding(np.array([[EOD, 1, 2], [3, 4, 5]]), [[0, 1, 1], [1, 1, 1]], STOP_IS_PAD)
    np.testing.assert_array_equal(mask, [[False, True, True], [True, True, True]])


def test_a_mask_without_zeros_is_none():
    assert left_padding(np.array([[1, 2]]), [[1, 1]], STOP_IS_PAD) is None


def test_padding_is_derived_where_it_cannot_be_mistaken():
    ids = np.array([[EOD, EOD, 1, EOD, 2], [1, 2, 3, 4, 5]])
    np.testing.assert_array_equal(left_padding(ids, None, STOP_IS_OTHER)[0], [False, False, True, True, True])
    assert left_padding(ids[1:].repeat(2, 0), None, STOP_IS_PAD) is None
    assert left_padding(ids[:1], None, STOP_IS_PAD) is None  # one row needs no padding


def test_a_mask_is_demanded_where_padding_may_be_a_stop_token():
    with pytest.raises(PromptError, match="attention_mask: needed, because 290"):
        left_padding(np.array([[EOD, 1], [1, 2]]), None, STOP_IS_PAD)


@pytest.mark.parametrize(
    ("mask", "message"), [([[1, 1, 0]], "zeros behind ones"), ([[1, 1]], "shape"), ([[0, 0, 0]], "nothing but padding")]
)
def test_unusable_masks_are_refused(mask, message):
    with pytest.raises(PromptError, match=message):
        left_padding(np.array([[1, 2, 3]]), mask, STOP_IS_PAD)
