"""Batches: rows, padding, images; and that packing changes nothing but the shape of a batch."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from paddlemix.data.collation import PADDING_SEGMENT, Collator, ExampleBatch, collate_ids
from paddlemix.data.encoding import encode
from paddlemix.data.records import read_records
from paddlemix.models.qwen_vl.vocabulary import IGNORE_INDEX
from tests.data.building import talk, write_image, write_json
from tests.random_model import random_model

pytestmark = pytest.mark.usefixtures("any_backend")

TALKS = (
    talk("Picture 1: <img>red.png</img>\nin?", "the <ref>bus</ref><box>(1,2),(3,4)</box>", "and?", "12"),
    talk("no image", "the the"),
    talk("Picture 1: <img>blue.png</img>\nPicture 2: <img>red.png</img>\nboth?", "in"),
    talk("a", "b " * 9),
)


@pytest.fixture
def examples(tmp_path, processor):
    for color in ("red", "blue"):
        write_image(tmp_path / f"{color}.png", color)
    return [encode(record, processor.tokenizer) for record in read_records(write_json(tmp_path / "d.json", TALKS))]


def batch_of(rows, targets=1.0):
    return ExampleBatch(tuple(map(tuple, rows)), tuple(range(sum(map(len, rows)))), targets)


def test_single_examples_are_padded_on_the_right_and_need_no_mask(examples, processor):
    batch = Collator.of(processor)(batch_of([[example] for example in examples], 7.5))
    assert sorted(batch) == ["images", "input_ids", "labels", "record_ids", "target_count"]
    longest = max(map(len, examples))
    for row, example in enumerate(examples):
        padding = longest - len(example)
        assert batch["input_ids"][row].tolist() == [*example.input_ids, *[processor.tokenizer.eod_id] * padding]
        assert batch["labels"][row].tolist() == [IGNORE_INDEX, *example.labels[1:], *[IGNORE_INDEX] * padding]
    assert batch["target_count"].tolist() == [7.5] and batch["record_ids"].tolist() == [0, 1, 2, 3]
    assert {batch[name].dtype.name for name in ("input_ids", "labels", "record_ids")} == {"int64"}


def test_images_come_in_the_order_of_their_slots_each_opened_once(examples, processor, monkeypatch):
    collator = Collator.of(processor)
    opened = []
    prepare = processor.image_processor.__class__.__call__
    monkeypatch.setattr(
        processor.image_processor.__class__,
        "__call__",
        lambda self, source, policy=None: opened.append(source) or prepare(self, source, policy),
    )
    images = collator(batch_of([examples[:2], [examples[2]]]))["images"]
    red, blue = examples[0].images[0], examples[2].images[0]
    assert opened == [red, blue]
    expected = [prepare(processor.image_processor, source)[0] for source in (red, blue, red)]
    np.testing.assert_array_equal(images, np.stack(expected))
    assert images.dtype == np.float32


def test_a_batch_without_images_has_no_images(examples, processor):
    assert "images" not in Collator.of(processor)(batch_of([[examples[1]]]))


def test_examples_that_share_a_row_start_at_position_0_and_do_not_see_each_other(examples):
    arrays = collate_ids([examples[:2], [examples[3]]], pad_id=0)
    first, second, other = (len(examples[index]) for index in (0, 1, 3))
    segments, positions = arrays["attention_mask"], arrays["position_ids"]
    assert segments[0].tolist() == [1] * first + [2] * second
    assert segments[1].tolist() == [1] * other + [PADDING_SEGMENT] * (first + second - other)
    assert positions[0].tolist() == [*range(first), *range(second)]
    assert arrays["labels"][0, [0, first]].tolist() == [IGNORE_INDEX] * 2


def test_no_rows_are_one_padding_id():
    arrays = collate_ids([], pad_id=9)
    assert arrays["input_ids"].tolist() == [[9]] and arrays["labels"].tolist() == [[IGNORE_INDEX]]
    assert sorted(arrays) == ["input_ids", "labels"]


def _mask_of(segments):
    return segments[:, :, None] == segments[:, None, :]


def loss_and_gradients(model, collator, batches, targets):
    """Sum over the batches of (mean loss of a batch x its targets) / all targets, and its gradients."""
    model.clear_gradients()
    total = 0.0
    for rows in batches:
        arrays = collator(batch_of(rows))
        inputs = {name: paddle.to_tensor(array) for name, array in arrays.items()}
        for name in ("target_count", "record_ids"):
            del inputs[name]
        if "attention_mask" in inputs:
            inputs["attention_mask"] = _mask_of(inputs["attention_mask"])
        counted = int((arrays["labels"][:, 1:] != IGNORE_INDEX).sum())
        loss = model(**inputs).loss * (counted / targets)
        loss.backward()
        total += float(loss)
    return total, {name: p.grad.numpy() for name, p in model.named_parameters() if p.grad is not None}


def test_a_packed_batch_has_the_loss_and_gradients_of_its_examples(examples, tmp_path, processor):
    model, _ = random_model(tmp_path)
    model.train()
    collator = Collator.of(processor)
    targets = sum(example.targets for example in examples)
    alone = loss_and_gradients(model, collator, [[[example]] for example in examples], targets)
    arrangements = {
        "one row": [[examples]],
        "two rows": [[examples[:2], examples[2:]]],
        "padded, unpacked": [[[example] for example in examples]],
    }
    for name, batches in arrangements.items():
        loss, gradients = loss_and_gradients(model, collator, batches, targets)
        assert loss == pytest.approx(alone[0], rel=1e-5), name
        assert set(gradients) == set(alone[1])
        for parameter, expected in alone[1].items():
            scale = np.abs(expected).max() + 1e-6
            np.testing.assert_allclose(
                gradients[parameter], expected, rtol=0, atol=2e-4 * scale, err_msg=f"{name}: {parameter}"
            )


def test_the_loss_would_tell_if_examples_saw_each_other(examples, tmp_path, processor):
    model, _ = random_model(tmp_path)
    model.train()
    arrays = Collator.of(processor)(batch_of([examples]))
    names = ("input_ids", "labels", "images", "position_ids", "attention_mask")
    inputs = {name: paddle.to_tensor(arrays[name]) for name in names}
    inputs["attention_mask"] = _mask_of(inputs["attention_mask"])
    right = float(model(**inputs).loss)
    del inputs["attention_mask"]
    assert abs(float(model(**inputs).loss) - right) > 0.01
