from __future__ import annotations

import numpy as np
import pytest

from paddlemix.checkpoint import chunks


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "PIECE", 16)
    monkeypatch.setattr(chunks, "TILE_ROWS", 3)


@pytest.mark.parametrize("shape", [(), (1,), (40,), (5, 7), (7, 5), (40, 1), (1, 40), (3, 4, 5), (0, 4), (4, 0)])
def test_pieces_make_up_the_whole_in_order(shape: tuple[int, ...]) -> None:
    array = np.arange(int(np.prod(shape))).reshape(shape)
    pieces = list(chunks.pieces(array))
    assert all(piece.flags.c_contiguous for piece in pieces)
    np.testing.assert_array_equal(np.concatenate([piece.reshape(-1) for piece in pieces]), array.reshape(-1))


@pytest.mark.parametrize("shape", [(5, 7), (7, 5), (40, 1), (1, 40), (0, 4), (4, 0)])
def test_transposed_pieces_make_up_the_transpose(shape: tuple[int, int]) -> None:
    array = np.arange(int(np.prod(shape))).reshape(shape)
    pieces = [piece.reshape(-1) for piece in chunks.pieces(array, transpose=True)]
    np.testing.assert_array_equal(np.concatenate([*pieces, []]), array.T.reshape(-1))


def test_pieces_are_small() -> None:
    array = np.zeros((100, 5))
    assert max(piece.size for piece in chunks.pieces(array)) <= 16
    assert max(piece.size for piece in chunks.pieces(array.T.copy(), transpose=True)) <= 100


def test_conversion_goes_with_the_pieces() -> None:
    source = np.arange(35, dtype=np.float32).reshape(5, 7)
    pieces = list(chunks.converted(source, True, "float32", "float16"))
    assert {piece.dtype for piece in pieces} == {np.dtype(np.float16)}
    np.testing.assert_array_equal(np.concatenate([piece.reshape(-1) for piece in pieces]), source.T.reshape(-1))
