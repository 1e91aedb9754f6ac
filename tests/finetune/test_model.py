"""The loss and the gradients of a fine-tuning step: the original's, whatever saves memory on the way."""

from functools import lru_cache

import numpy as np
import paddle
import pytest
from PIL import Image

from paddlemix import ops
from paddlemix.adapters import LoRAConfig, inject
from paddlemix.adapters.lora import LoRALinear
from paddlemix.data.collation import PADDING_SEGMENT
from paddlemix.errors import PromptError
from paddlemix.finetune.model import FinetuneModel, packed_sequences
from paddlemix.models.qwen_vl import attention_metadata, causal_lm, vision
from tests.golden_model import golden_arrays, images_of, new_golden_model
from tests.models.qwen_vl.test_training_gradients import stored, thinned, torch_layout
from tests.random_model import random_model

CASES = ("train_a", "train_b")  # with an image in one of two rows; text only
ADAPTER = LoRAConfig(r=3, alpha=6, dropout=0.3, targets=("c_attn", "attn.c_proj", "w1", "w2"))
VISUAL_ADAPTER = LoRAConfig(r=3, alpha=6, dropout=0.3, targets=("visual.*.in_proj", "visual.*.c_fc", "lm_head"))


def step(training_model, batch):
    """Loss and gradients by name, of the trained parameters; zeros for visual ones that no image reached."""
    training_model.train()
    paddle.seed(3)
    loss = training_model(**batch)["loss"]
    loss.backward()
    trained = {name: p for name, p in training_model.model.named_parameters() if not p.stop_gradient}
    unreached = {name for name, p in trained.items() if p.grad is None}
    assert batch.get("images") is None or not unreached
    assert all(".visual." in name for name in unreached)
    gradients = {name: np.zeros(p.shape) if p.grad is None else p.grad.numpy() for name, p in trained.items()}
    training_model.clear_gradients()
    return float(loss), gradients


def assert_equal(actual, expected, tolerance):
    assert actual.keys() == expected.keys()
    for name, gradient in expected.items():
        np.testing.assert_allclose(actual[name], gradient, rtol=0, atol=tolerance, err_msg=name)


# ------------------------------------------------------------------------------------- the original's numbers


@lru_cache(maxsize=8)
def golden_step(backend, case, recompute, chunk_size):
    arrays = golden_arrays("train")
    ids = arrays[f"{case}.input_ids"].astype(np.int64)
    batch = {
        "input_ids": paddle.to_tensor(ids),  # padded on the right, so without a mask
        "labels": paddle.to_tensor(arrays[f"{case}.labels"].astype(np.int64)),
        "images": images_of(ids),
    }
    model = new_golden_model()
    loss, gradients = step(FinetuneModel(model, chunk_size, recompute), batch)
    return loss, torch_layout(model, gradients)


@pytest.mark.usefixtures("any_backend")
@pytest.mark.parametrize("recompute, chunk_size", [(False, None), (True, 5)])
@pytest.mark.parametrize("case", CASES)
def test_loss_and_gradients_equal_the_original(case, recompute, chunk_size):
    arrays = golden_arrays("train")
    loss, gradients = golden_step(ops.mode(), case, recompute, chunk_size)
    assert loss == pytest.approx(float(arrays[f"{case}.losses"][0]), abs=1e-4)
    assert len(stored(case, "grad")) >= 10
    for name in stored(case, "grad"):
        scale = np.abs(gradients[name]).max()
        expected = arrays[f"{case}.grad.{name}"]
        np.testing.assert_allclose(thinned(gradients[name], name), expected, rtol=0, atol=1e-4 * scale, err_msg=name)


# ------------------------------------------------------------------------------------------------ a small model


@pytest.fixture
def make(tmp_path):
    """A function that makes the same small model of random weights, trained in full or with an adapter."""

    def make_model(adapter=None, **overrides):
        model, processor = random_model(tmp_path, **overrides)
        if adapter is not None:
            inject(model, adapter)
            for name, parameter in model.named_parameters():
                if "lora_" in name:  # B would be zero, and the gradient of A with it
                    generator = np.random.default_rng(len(name))
                    parameter.set_value(generator.standard_normal(parameter.shape).astype("float32") * 0.2)
        return model, processor

    return make_model


def row_of(processor, text, image=None):
    """Ids and labels of one conversation; everything but the first token is a target."""
    content = [{"type": "text", "text": text}]
    if image is not None:
        content.insert(0, {"type": "image", "image": image})
    encoded = processor([{"role": "user", "content": content}], return_tensors=None)
    ids = list(np.asarray(encoded["input_ids"]).reshape(-1))
    return ids, [-100] + ids[1:], encoded.get("images")


def batch_of(rows):
    """Rows padded on the right."""
    length = max(len(ids) for ids, _, _ in rows)
    pil_images = [images for _, _, images in rows if images is not None]
    batch = {
        "input_ids": np.array([ids + [0] * (length - len(ids)) for ids, _, _ in rows]),
        "labels": np.array([labels + [-100] * (length - len(labels)) for _, labels, _ in rows]),
    }
    if pil_images:
        batch["images"] = np.concatenate(pil_images)
    return {name: paddle.to_tensor(array) for name, array in batch.items()}


def noise(seed):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (28, 28, 3), dtype=np.uint8))


def two_rows(processor):
    return batch_of([row_of(processor, "what is it", noise(1)), row_of(processor, "no image here")])


def test_the_loss_is_that_of_the_model_itself(make):
    model, processor = make()
    batch = two_rows(processor)
    model.train()
    expected = model(**batch).loss
    expected.backward()
    gradients = {name: p.grad.numpy() for name, p in model.named_parameters() if not p.stop_gradient}
    model.clear_gradients()
    loss, actual = step(FinetuneModel(model), batch)
    assert loss == pytest.approx(float(expected), rel=1e-6)
    assert_equal(actual, gradients, 1e-5)


def test_losses_of_parts_with_a_common_count_add_up_to_the_mean_over_all_targets(make):
    """So data-parallel processes and accumulated micro-batches of unequal length weigh every target alike."""
    model, processor = make()
    rows = [row_of(processor, "a much longer text than the other", noise(1)), row_of(processor, "short")]
    whole, gradients = step(FinetuneModel(model), batch_of(rows))
    targets = sum(label != -100 for _, labels, _ in rows for label in labels)
    count = paddle.to_tensor([targets / len(rows)], dtype="float32")
    parts = [step(FinetuneModel(model), {**batch_of([row]), "target_count": count}) for row in rows]
    assert np.mean([loss for loss, _ in parts]) == pytest.approx(whole, rel=1e-5)
    assert_equal({name: np.mean([g[name] for _, g in parts], axis=0) for name in gradients}, gradients, 1e-5)


def test_text_alone_does_not_run_the_vision_part(make):
    model, processor = make()
    batch = batch_of([row_of(processor, "text")])
    model.visual.register_forward_pre_hook(lambda *_: pytest.fail("the vision part ran"))
    _, gradients = step(FinetuneModel(model), batch)
    assert not any(gradient.any() for name, gradient in gradients.items() if ".visual." in name)
    assert all(gradient.any() for name, gradient in gradients.items() if name.endswith("c_attn.weight"))


@pytest.mark.parametrize("given", ["segments", "mask"])
def test_a_packed_row_has_the_loss_and_gradients_of_its_conversations(make, given):
    model, processor = make()
    rows = [row_of(processor, "the first", noise(1)), row_of(processor, "and the second one", noise(2))]
    loss, gradients = step(FinetuneModel(model), batch_of(rows))
    segments = np.array([[number + 1 for number, (ids, _, _) in enumerate(rows) for _ in ids]])
    packed = {
        "input_ids": np.array([[token for ids, _, _ in rows for token in ids]]),
        "labels": np.array([[label for _, labels, _ in rows for label in labels]]),
        "position_ids": np.array([[position for ids, _, _ in rows for position in range(len(ids))]]),
        "attention_mask": segments if given == "segments" else segments[:, :, None] == segments[:, None],
        "images": np.concatenate([images for _, _, images in rows]),
    }
    actual, packed_gradients = step(FinetuneModel(model), {n: paddle.to_tensor(a) for n, a in packed.items()})
    assert actual == pytest.approx(loss, rel=1e-5)
    assert_equal(packed_gradients, gradients, 1e-5)


@pytest.mark.parametrize("padded_scores", [0, 40, 1 << 17], ids=["a group each", "some groups", "one group"])
def test_several_packed_rows_with_padding_equal_their_conversations(make, monkeypatch, padded_scores):
    monkeypatch.setattr(attention_metadata, "PADDED_SCORES", padded_scores)
    model, processor = make(ADAPTER)
    texts = [["one", "and two"], ["three is the longest of them", "four", "five"]]
    rows = [[row_of(processor, text) for text in row] for row in texts]
    model.train()
    for layer in model.sublayers():
        if isinstance(layer, LoRALinear):
            layer.dropout = 0.0
    loss, gradients = step(FinetuneModel(model), batch_of([row for packed in rows for row in packed]))
    joined = [
        ([t for ids, _, _ in row for t in ids], [t for _, labels, _ in row for t in labels], None) for row in rows
    ]
    batch = batch_of(joined)
    shape = batch["input_ids"].shape
    positions, segments = np.zeros(shape, np.int64), np.full(shape, PADDING_SEGMENT)
    for number, row in enumerate(rows):
        lengths = [len(ids) for ids, _, _ in row]
        positions[number, : sum(lengths)] = np.concatenate([np.arange(length) for length in lengths])
        segments[number, : sum(lengths)] = np.repeat(np.arange(len(row)) + 1, lengths)
    batch["position_ids"], batch["attention_mask"] = paddle.to_tensor(positions), paddle.to_tensor(segments)
    actual, packed_gradients = step(FinetuneModel(model, recompute=True), batch)
    assert actual == pytest.approx(loss, rel=1e-5)
    assert_equal(packed_gradients, gradients, 1e-5)


@pytest.mark.parametrize("segments", [[[0, 0, 1, 1, 2]], [[1, 2, 1, 2, 2]], [[1, -1, 2]]])
def test_segments_that_are_shared_or_scattered_are_refused(segments):
    with pytest.raises(PromptError, match=r"attention_mask: got segments .* in row 0, expected"):
        packed_sequences(np.array(segments))


def test_segments_in_a_row_are_packed_sequences():
    assert packed_sequences(np.array([[3, 3, 5], [1, -1, -1]])) == [(0, 0, 2), (0, 2, 3), (1, 0, 1), (1, 1, 3)]


def test_a_process_that_has_nothing_left_to_do_computes_zeros_for_all(make):
    model, _ = make()
    batch = {"input_ids": paddle.zeros([1, 1], "int64"), "labels": paddle.full([1, 1], -100, "int64")}
    loss, gradients = step(FinetuneModel(model), batch)
    assert loss == 0 and gradients and not any(gradient.any() for gradient in gradients.values())


def test_a_mask_of_another_shape_is_refused(make):
    model, processor = make()
    batch = batch_of([row_of(processor, "text")])
    batch["attention_mask"] = paddle.ones([1, 3], dtype="int64")
    with pytest.raises(PromptError, match=r"attention_mask: got int64 \[1, 3\], expected int64 segments"):
        FinetuneModel(model)(**batch)


# ------------------------------------------------------------------------------------------------ recomputation


@pytest.mark.usefixtures("any_backend")
@pytest.mark.parametrize("adapter", [None, ADAPTER, VISUAL_ADAPTER], ids=["full", "adapter", "visual adapter"])
def test_recomputation_changes_neither_loss_nor_gradients(make, adapter):
    """With dropout everywhere: the same random numbers are drawn again."""
    steps = []
    for recompute in (False, True):
        model, processor = make(adapter, emb_dropout_prob=0.2, attn_dropout_prob=0.2)
        steps.append(step(FinetuneModel(model, 7, recompute), two_rows(processor)))
    (loss, gradients), (recomputed_loss, recomputed) = steps
    assert recomputed_loss == pytest.approx(loss, rel=1e-6)
    assert_equal(recomputed, gradients, 1e-5)
    assert gradients and all(np.abs(gradient).max() > 1e-6 for gradient in gradients.values() if gradient.size > 1)


def test_recomputation_is_for_decoder_vit_and_resampler_and_for_training_only(make, monkeypatch):
    model, processor = make(ADAPTER)
    for parameter in model.visual.parameters():
        parameter.stop_gradient = False
    layers = []
    for module in (causal_lm, vision):
        plain = module.activation_checkpoint
        monkeypatch.setattr(
            module,
            "activation_checkpoint",
            lambda f, layer, *x, plain=plain: (layers.append(layer), plain(f, layer, *x))[1],
        )
    training_model, batch = FinetuneModel(model, recompute=True), two_rows(processor)
    step(training_model, batch)
    expected = [*model.visual.transformer.resblocks, model.visual.attn_pool, *model.transformer.h]
    assert [id(layer) for layer in layers] == [id(layer) for layer in expected]
    layers.clear()
    training_model.eval()
    training_model(**batch)
    assert layers == []
    step(FinetuneModel(model), batch)
    assert layers == []


@pytest.mark.filterwarnings("error")
def test_a_frozen_embedding_is_no_reason_to_warn(make, caplog):
    """Paddle takes a layer whose input wants no gradient for one that has none."""
    model, processor = make(ADAPTER)
    with caplog.at_level("WARNING"):
        _, gradients = step(FinetuneModel(model, recompute=True), two_rows(processor))
    assert gradients and not caplog.records


# ------------------------------------------------------------------------------------------------ same parameters


@pytest.mark.parametrize("adapter", [None, VISUAL_ADAPTER], ids=["full", "visual adapter"])
@pytest.mark.parametrize("recompute", [False, True])
def test_text_alone_reaches_what_an_image_does_but_the_visual_part(make, adapter, recompute):
    model, processor = make(adapter)
    training_model = FinetuneModel(model, recompute=recompute)
    _, with_image = step(training_model, two_rows(processor))
    _, without = step(training_model, batch_of([row_of(processor, "no image at all")]))
    reached = [{name for name, gradient in part.items() if gradient.any()} for part in (with_image, without)]
    visual = {name for name in reached[0] if ".visual." in name}
    assert visual and reached[1] == reached[0] - visual


def test_a_batch_without_targets_gives_zeros_to_the_same_parameters(make):
    model, processor = make()
    batch = two_rows(processor)
    batch["labels"] = paddle.full_like(batch["labels"], -100)
    loss, gradients = step(FinetuneModel(model), batch)
    assert loss == 0 and not any(gradient.any() for gradient in gradients.values())


def test_evaluation_without_gradients_has_the_same_loss_and_no_dropout(make):
    model, processor = make(ADAPTER, emb_dropout_prob=0.5, attn_dropout_prob=0.5)
    training_model, batch = FinetuneModel(model, recompute=True), two_rows(processor)
    training_model.eval()
    with paddle.no_grad():
        first, second = (float(training_model(**batch)["loss"]) for _ in range(2))
        expected = float(model(**batch).loss)
    assert first == second == pytest.approx(expected, rel=1e-5)
