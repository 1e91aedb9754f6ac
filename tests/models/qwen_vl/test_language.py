import numpy as np
import paddle
import pytest

from tests.golden_model import FINAL_HIDDEN, HIDDEN, LOGITS, compare, golden_arrays, golden_model, prompt

pytestmark = pytest.mark.usefixtures("any_backend")


def hidden_states(case):
    model, inputs = golden_model(), prompt(case)
    with paddle.no_grad():
        embeddings = model.transformer.embed(inputs["input_ids"], inputs["images"])
        final, states = model.transformer(embeddings, output_hidden_states=True)
    return [state[0].numpy() for state in states], final[0].numpy()


def test_hidden_states_of_text_equal_the_original():
    states, final = hidden_states("long_a3")
    for name, state in zip(("emb", "h0", "h1", "h2"), states):
        compare(state, f"long_a3.hidden.{name}", HIDDEN)
    compare(final, "long_a3.hidden.lnf", FINAL_HIDDEN)


def test_hidden_states_with_an_image_equal_the_original():
    states, final = hidden_states("one_image")
    arrays = golden_arrays("language")
    for name, state, tolerance in zip(
        ("emb", "h0", "h1", "h2", "lnf"), [*states, final], [HIDDEN, HIDDEN, HIDDEN, HIDDEN, FINAL_HIDDEN]
    ):
        expected = arrays[f"one_image.hidden.{name}.slice"]
        np.testing.assert_allclose(state[::5, ::3], expected, rtol=0, atol=tolerance)


def test_a_mask_with_a_hole_may_be_longer_than_what_is_fed_of_the_prompt():
    model, ids = golden_model(), paddle.to_tensor([[1, 2, 3, 4, 5, 6]])
    mask = paddle.to_tensor([[1, 0, 1, 1, 0, 1]])
    with paddle.no_grad():
        whole = model(ids, attention_mask=mask).logits[0, :3].numpy()
        part = model(ids[:, :3], attention_mask=mask).logits[0].numpy()
    np.testing.assert_allclose(part, whole, rtol=0, atol=LOGITS)


def test_a_row_without_anything_visible_stays_finite():
    model = golden_model()
    with paddle.no_grad():
        logits = model(paddle.to_tensor([[1, 2, 3]]), attention_mask=paddle.to_tensor([[0, 0, 1]])).logits
    assert np.isfinite(logits.numpy()).all()
