import numpy as np
import paddle
import pytest

from paddlemix.errors import PromptError
from paddlemix.models.qwen_vl.causal_lm import next_token_loss
from paddlemix.models.qwen_vl.modeling import QWenLMHeadModel
from tests.golden_model import (
    LANGUAGE_CASES,
    LOGITS,
    compare,
    golden_arrays,
    golden_config,
    golden_model,
    new_golden_model,
    prompt,
)

pytestmark = pytest.mark.usefixtures("any_backend")

IMG, END, PAD = 300, 301, 302


@pytest.mark.parametrize("case", LANGUAGE_CASES)
def test_logits_equal_the_original(case):
    inputs = prompt(case)
    with paddle.no_grad():
        logits = golden_model()(**inputs).logits.numpy()
    arrays = golden_arrays("language")
    if f"{case}.last_logits" in arrays:
        compare(logits[:, -1], f"{case}.last_logits", LOGITS)
    elif f"{case}.last6_logits" in arrays:
        compare(logits[:, -6:], f"{case}.last6_logits", LOGITS)
    elif inputs["attention_mask"] is not None:
        compare(logits[inputs["attention_mask"].numpy().astype(bool)], f"{case}.logits_packed", LOGITS)
    else:
        compare(logits[0], f"{case}.logits", LOGITS)


@pytest.mark.parametrize(
    ("variant", "case", "overrides"),
    [
        ("one_image_seq2048", "one_image", {"seq_length": 2048}),
        ("long_a3_no_ntk", "long_a3", {"use_dynamic_ntk": False}),
        ("long_a3_no_logn", "long_a3", {"use_logn_attn": False}),
        ("long_a3_no_ntk_no_logn", "long_a3", {"use_dynamic_ntk": False, "use_logn_attn": False}),
    ],
)
def test_configured_variants_equal_the_original(variant, case, overrides):
    with paddle.no_grad():
        logits = new_golden_model(**overrides)(**prompt(case), logits_to_keep=24).logits[0].numpy()
    compare(logits, f"variant.{variant}.last24_logits", LOGITS)


def test_features_may_be_given_instead_of_images():
    inputs = prompt("two_images")
    with paddle.no_grad():
        features = golden_model().visual(inputs["images"])
        encoded = golden_model()(inputs["input_ids"], image_features=features, logits_to_keep=3).logits
        plain = golden_model()(**inputs, logits_to_keep=3).logits
    np.testing.assert_array_equal(encoded.numpy(), plain.numpy())


def test_embeddings_may_be_given_instead_of_ids():
    inputs = prompt("one_image")
    with paddle.no_grad():
        embeddings = golden_model().transformer.embed(inputs["input_ids"], inputs["images"])
        given = golden_model()(inputs_embeds=embeddings, logits_to_keep=3).logits
        plain = golden_model()(**inputs, logits_to_keep=3).logits
    np.testing.assert_array_equal(given.numpy(), plain.numpy())


def test_what_stands_in_the_placeholders_does_not_matter():
    inputs = prompt("one_image")
    ids = inputs["input_ids"].clone()
    start = int(np.flatnonzero(ids[0].numpy() == IMG)[0])
    ids[0, start + 1 : start + 257] = PAD
    with paddle.no_grad():
        blank = golden_model()(ids, inputs["images"], logits_to_keep=5).logits
        named = golden_model()(**inputs, logits_to_keep=5).logits
    np.testing.assert_array_equal(blank.numpy(), named.numpy())


def test_images_go_to_their_spans_in_order():
    inputs = prompt("two_images")
    swapped = paddle.flip(inputs["images"], axis=[0])
    with paddle.no_grad():
        logits = golden_model()(**inputs, logits_to_keep=1).logits
        other = golden_model()(inputs["input_ids"], swapped, logits_to_keep=1).logits
    assert float((logits - other).abs().max()) > 0.1


def test_only_the_logits_asked_for_are_computed():
    with paddle.no_grad():
        logits = golden_model()(prompt("text_short")["input_ids"], logits_to_keep=2).logits
    assert logits.shape == [1, 2, 512]


@pytest.mark.parametrize("use_cache", [True, False])
def test_the_configuration_decides_whether_evaluation_starts_a_cache(use_cache):
    model, inputs = new_golden_model(use_cache=use_cache), prompt("text_short")
    with paddle.no_grad():
        assert (model(**inputs).past_key_values is not None) == use_cache
        assert model(**inputs, labels=inputs["input_ids"]).past_key_values is None
        assert model(**inputs, use_cache=not use_cache).past_key_values is None or not use_cache


def test_gradients_of_logits_are_those_of_the_loss_in_evaluation_too():
    """A cache, through which none pass, is not started where they are wanted."""
    model, inputs = new_golden_model(), prompt("text_short")
    weight = model.transformer.h[0].attn.c_attn.weight
    gradients = []
    for loss in (
        lambda: model(**inputs, labels=inputs["input_ids"]).loss,
        lambda: next_token_loss(model(**inputs).logits, inputs["input_ids"]),
    ):
        loss().backward()
        gradients.append(weight.grad.numpy())
        model.clear_gradients()
    assert np.abs(gradients[0]).max() > 0
    np.testing.assert_array_equal(*gradients)


def test_recomputation_leaves_a_cache_that_is_asked_for_as_it_is():
    model, inputs = new_golden_model(), prompt("text_short")
    model.train()
    caches = []
    for enabled in (False, True):
        model.transformer.enable_recompute = enabled
        caches.append(model(**inputs, use_cache=True).past_key_values.keys[-1].numpy())
    assert caches[0].any()
    np.testing.assert_array_equal(*caches)


@pytest.mark.parametrize("count", [1, 3])
def test_as_many_images_as_spans_are_expected(count):
    inputs = prompt("two_images")
    with pytest.raises(PromptError, match=f"got {count} for 2 <img>"):
        golden_model()(inputs["input_ids"], paddle.zeros([count, 3, 56, 56]))


def test_spans_without_any_image_are_refused_and_a_lone_tag_is_not():
    with pytest.raises(PromptError, match="images: missing for 2 <img> placeholder"):
        golden_model()(prompt("two_images")["input_ids"])
    golden_model()(paddle.to_tensor([[IMG, *[5] * 300]]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "exactly one"),
        ({"input_ids": "ids", "inputs_embeds": "ids"}, "exactly one"),
        ({"inputs_embeds": "ids", "images": "ids"}, "embed"),
        ({"input_ids": "ids", "labels": "ids", "logits_to_keep": 1}, "logits_to_keep"),
        ({"input_ids": "ids", "images": "ids", "image_features": "ids"}, "not both"),
    ],
)
def test_contradictory_arguments_are_refused(arguments, message):
    ids = paddle.to_tensor([[1, 2]])
    with pytest.raises(PromptError, match=message):
        golden_model()(**{name: ids if value == "ids" else value for name, value in arguments.items()})


def test_loss_looks_one_position_ahead_and_skips_ignored_labels():
    logits = np.random.default_rng(0).normal(size=(2, 4, 6)).astype(np.float32)
    labels = np.array([[0, 1, -100, 3], [5, -100, -100, 2]])
    log_probs = logits - np.log(np.exp(logits.astype(np.float64)).sum(-1, keepdims=True))
    expected = -np.mean([log_probs[0, 0, 1], log_probs[0, 2, 3], log_probs[1, 2, 2]])
    assert float(next_token_loss(paddle.to_tensor(logits), paddle.to_tensor(labels))) == pytest.approx(
        expected, abs=1e-5
    )


def test_initial_weights_are_small_and_the_position_table_is_fixed():
    paddle.seed(0)
    model = QWenLMHeadModel(golden_config())
    assert float(model.lm_head.weight.std()) == pytest.approx(0.02, rel=0.1)
    assert float(model.transformer.h[0].attn.c_attn.bias.abs().max()) == 0
    assert float(model.transformer.ln_f.weight.min()) == 1
    table = model.visual.attn_pool.pos_embed
    assert table.stop_gradient and float(table.abs().max()) == 1
