import numpy as np
import paddle
import pytest

from paddlemix.models.qwen_vl.vision import bicubic_matrix, resize_positions, sine_positions
from tests.golden_model import golden_arrays, golden_model

pytestmark = pytest.mark.usefixtures("any_backend")


def test_position_tables_are_resized_as_by_the_original():
    visual = golden_model().visual
    arrays = golden_arrays("vision")
    for table, name, columns in (
        (visual.positional_embedding, "vision.pos_embed_interp.slice", 2),
        (visual.attn_pool.pos_embed, "vision.resampler_pos_interp.slice", 4),
    ):
        resized = resize_positions(table, 1024).numpy()
        np.testing.assert_allclose(resized[::8, ::columns], arrays[name], rtol=0, atol=2e-6)


def test_a_table_of_the_right_size_is_left_alone():
    table = paddle.rand([16, 3])
    assert resize_positions(table, 16) is table


def test_gradients_pass_through_resizing():
    table = paddle.rand([16, 3])
    table.stop_gradient = False
    resize_positions(table, 64).sum().backward()
    # Each weight of the larger table is shared out among the smaller one's entries.
    assert abs(float(table.grad.sum()) - 64 * 3) < 1e-3


@pytest.mark.parametrize(("source", "target"), [(16, 32), (16, 12), (4, 9), (3, 3)])
def test_interpolation_keeps_constants(source, target):
    np.testing.assert_allclose(bicubic_matrix(source, target).sum(axis=1), 1.0, rtol=0, atol=1e-6)


def test_interpolation_to_the_same_size_is_the_identity():
    np.testing.assert_allclose(bicubic_matrix(5, 5), np.eye(5), rtol=0, atol=1e-7)


def test_sine_positions_put_the_column_first():
    table = sine_positions(16, 3).reshape(3, 3, 16)  # row, column, width
    np.testing.assert_array_equal(table[0, :, :8], table[2, :, :8])
    np.testing.assert_array_equal(table[:, 0, 8:], table[:, 2, 8:])
    np.testing.assert_allclose(table[0, 2, :4], np.sin(2 / 10000 ** (np.arange(4) / 4)), rtol=1e-5)
    np.testing.assert_allclose(table[2, 0, 12:], np.cos(2 / 10000 ** (np.arange(4) / 4)), rtol=1e-5)
