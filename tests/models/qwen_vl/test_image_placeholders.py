import numpy as np
import pytest

from paddlemix.errors import PromptError
from paddlemix.models.qwen_vl.image_placeholders import image_slots
from tests.golden_model import golden_config

IMG, END, PAD = 300, 301, 302


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([IMG, *[PAD] * 256, 5], "1 <img> but 0 </img>"),
        ([IMG, *[PAD] * 255, END], "256 placeholders"),
        ([END, *[PAD] * 256, IMG], "256 placeholders"),
    ],
)
def test_a_cut_span_is_refused(row, message):
    with pytest.raises(PromptError, match=message):
        image_slots(np.array([row]), golden_config().visual)


def test_a_span_must_end_in_its_own_row():
    ids = np.array([[5] * 200 + [IMG] + [PAD] * 99, [PAD] * 157 + [END] + [5] * 142])
    with pytest.raises(PromptError, match="256 placeholders"):
        image_slots(ids, golden_config().visual)


def test_slots_are_counted_over_the_rows():
    row = [7, IMG, *[PAD] * 256, END]
    slots = image_slots(np.array([row, row]), golden_config().visual)
    assert slots.shape == (2, 256)
    assert slots[:, 0].tolist() == [2, 2 + len(row)]
