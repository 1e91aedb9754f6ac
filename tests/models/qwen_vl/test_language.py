import numpy as np
import paddle
import pytest

from paddlemix.models.qwen_vl.language import attention_mask, logn_inputs, rotary_base, rotary_inputs
from tests.golden_model import FINAL_HIDDEN, HIDDEN, compare, golden_arrays, golden_config, golden_model, prompt


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


def test_hidden_states_with_a_picture_equal_the_original():
    states, final = hidden_states("one_image")
    arrays = golden_arrays("language")
    for name, state, tolerance in zip(
        ("emb", "h0", "h1", "h2", "lnf"), [*states, final], [HIDDEN, HIDDEN, HIDDEN, HIDDEN, FINAL_HIDDEN]
    ):
        expected = arrays[f"one_image.hidden.{name}.slice"]
        np.testing.assert_allclose(state[::5, ::3], expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("alpha", [1.0, 3.0, 7.0])
def test_ntk_stretches_the_rotary_base(alpha):
    config = golden_config()
    assert rotary_base(config, alpha) == pytest.approx(10000 * alpha ** (64 / 62))


def test_published_geometry_has_the_published_bases():
    class Published:
        rotary_emb_base = 10000
        kv_channels = 128

    for alpha, base in ((1, 10000), (3, 30527.74), (7, 72195.86), (15, 156588.32)):
        assert rotary_base(Published, alpha) == pytest.approx(base, abs=0.01)


def test_rotary_positions_may_start_anywhere():
    config = golden_config()
    whole = rotary_inputs(np.arange(10)[None], config, 1.0)
    part = rotary_inputs(np.arange(6, 10)[None], config, 1.0)
    for all_positions, last_positions in zip(whole, part):
        np.testing.assert_array_equal(all_positions[:, :, 6:].numpy(), last_positions.numpy())


def test_logn_scales_only_queries_beyond_the_trained_length():
    config = golden_config()  # seq_length 128
    assert logn_inputs(np.arange(128)[None], config) is None
    factors = logn_inputs(np.arange(126, 131)[None], config).numpy().reshape(-1)
    expected = [1, 1, np.log(129) / np.log(128), np.log(130) / np.log(128), np.log(131) / np.log(128)]
    np.testing.assert_allclose(factors, expected, rtol=1e-6)


def visible(*arguments):
    return attention_mask(*arguments, paddle.float32).numpy()[:, 0] == 0


def test_mask_is_causal_and_hides_unused_room():
    np.testing.assert_array_equal(visible(2, 3, 8, None)[0], np.arange(8)[None] <= np.array([[3], [4]]))


def test_mask_hides_padding_and_shows_new_tokens():
    padding = paddle.to_tensor([[0, 0, 1], [1, 1, 1]])
    np.testing.assert_array_equal(visible(1, 3, 5, padding)[:, 0], [[0, 0, 1, 1, 0], [1, 1, 1, 1, 0]])


def test_mask_can_separate_samples_in_one_row():
    block = np.zeros((1, 4, 4), bool)
    block[:, :2, :2] = block[:, 2:, 2:] = True
    expected = [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 1]]
    np.testing.assert_array_equal(visible(4, 0, 4, paddle.to_tensor(block))[0], expected)


def test_a_row_without_anything_visible_stays_finite():
    model = golden_model()
    with paddle.no_grad():
        logits = model(paddle.to_tensor([[1, 2, 3]]), attention_mask=paddle.to_tensor([[0, 0, 1]])).logits
    assert np.isfinite(logits.numpy()).all()
