"""Chunked fused linear cross-entropy: the logits of the language-model head are never all in memory.

At 2048 positions and 151,936 entries of the vocabulary the logits are 1.2 GB in float32, and their gradient as much
again. Here a chunk of positions goes through head, softmax and gradient before the next one begins: the gradient of the
summed loss with respect to the logits, ``softmax - one-hot``, needs nothing that comes later, so both products with it
are done at once, in the forward pass, and the backward pass only multiplies by the gradient of the loss. There are as
many matrix products as without chunks. Ignored positions take part in none of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import paddle
import paddle.nn as nn
import paddle.nn.functional as F
from paddle.autograd import PyLayer

from ..errors import OperatorError
from ..models.qwen_vl.layers import Linear, VocabularyShares, activation_checkpoint
from ..models.qwen_vl.vocabulary import IGNORE_INDEX

#: Logits of one chunk where no chunk size is given: 128 MiB in float32. Products of so few rows of the published width
#: are some 8 % slower than of all rows at once.
LOGITS_PER_CHUNK = 1 << 25


def linear_cross_entropy(
    hidden: paddle.Tensor,
    weight: paddle.Tensor,
    labels: paddle.Tensor,
    *,
    chunk_size: int | None = None,
    ignore_index: int = IGNORE_INDEX,
    shares: VocabularyShares | None = None,
) -> paddle.Tensor:
    """The cross-entropy of ``hidden @ weight``, summed over all labeled positions.

    Gradients are computed for ``hidden`` and ``weight``, each unless its ``stop_gradient`` is set. Under ``auto_cast``
    the products are computed in its dtype. The softmax is float32, or float64 for float64 inputs.

    Args:
        hidden: ``[positions, width]``.
        weight: ``[width, vocabulary]``, of the dtype of ``hidden``.
        labels: int64 ``[positions]``.
        chunk_size: positions per chunk; by default as many as have ``LOGITS_PER_CHUNK`` logits.
        ignore_index: the label of ignored positions.
        shares: the vocabulary where ``weight`` has some of its tokens and other processes the others.

    Returns:
        A scalar in the softmax's dtype; 0 without any labeled position.

    Raises:
        OperatorError: shapes do not fit, or a label is not in the vocabulary.
    """
    if hidden.ndim != 2 or weight.ndim != 2 or hidden.shape[1] != weight.shape[0]:
        raise OperatorError(
            f"linear_cross_entropy: hidden has shape {hidden.shape} and weight {weight.shape}, expected "
            "[positions, width] and [width, vocabulary]"
        )
    shares = shares or VocabularyShares()
    vocabulary = sum(shares.widths) or weight.shape[1]
    rows, targets = _labeled(labels, hidden.shape[0], vocabulary, ignore_index)
    if paddle.amp.is_autocast_enabled():
        dtype = paddle.amp.get_autocast_dtype()
        hidden, weight = hidden.astype(dtype), weight.astype(dtype)
    hidden_wanted, weight_wanted = (
        paddle.is_grad_enabled() and not tensor.stop_gradient for tensor in (hidden, weight)
    )
    chunk_size = chunk_size or default_chunk_size(weight.shape[1])
    work = _Work(rows, targets, chunk_size, hidden_wanted, weight_wanted, shares)
    with paddle.amp.auto_cast(enable=False):
        return _LinearCrossEntropy.apply(hidden, weight, work)


def head_cross_entropy(
    hidden: paddle.Tensor,
    head: nn.Layer,
    vocabulary: int,
    labels: paddle.Tensor,
    *,
    chunk_size: int | None = None,
    ignore_index: int = IGNORE_INDEX,
    shares: VocabularyShares | None = None,
) -> paddle.Tensor:
    """:func:`linear_cross_entropy` with any layer that maps ``[n, width]`` to ``[n, vocabulary]``.

    A layer that is more than a product with its weight (quantized, with an adapter, wrapped) is called chunk by
    chunk, and once more in the backward pass.

    Args:
        hidden: ``[positions, width]``.
        head: the layer.
        vocabulary: number of its outputs.
        labels: int64 ``[positions]``.
        chunk_size: as there.
        ignore_index: as there.
        shares: as there.

    Returns:
        As there.
    """
    if _is_plain(head):
        return linear_cross_entropy(
            hidden, head.weight, labels, chunk_size=chunk_size, ignore_index=ignore_index, shares=shares
        )
    shares = shares or VocabularyShares()
    rows, targets = _labeled(labels, hidden.shape[0], vocabulary, ignore_index)
    if not len(rows):
        return (head(hidden[:1]) * 0).sum().astype("float32")
    size = chunk_size or default_chunk_size(vocabulary)

    def chunk_loss(part: paddle.Tensor, part_targets: paddle.Tensor) -> paddle.Tensor:
        return F.cross_entropy(_wide(shares.logits(head, part)), part_targets, reduction="sum")

    losses = []
    for start in range(0, len(rows), size):
        part = paddle.gather(hidden, rows[start : start + size])
        losses.append(activation_checkpoint(chunk_loss, head, part, targets[start : start + size]))
    return paddle.add_n(losses)


def default_chunk_size(vocabulary: int) -> int:
    """Positions per chunk: at least one, with at most ``LOGITS_PER_CHUNK`` logits."""
    return max(1, LOGITS_PER_CHUNK // vocabulary)


@dataclass(frozen=True)
class _Work:
    """The arguments that are not differentiated.

    Attributes:
        rows: int64 ``[n]``, the labeled positions.
        targets: int64 ``[n]``, their labels.
        chunk_size: positions per chunk.
        hidden_wanted: whether ``hidden`` needs a gradient.
        weight_wanted: whether the weight does.
        shares: the vocabulary, of which the weight has a part.
    """

    rows: paddle.Tensor
    targets: paddle.Tensor
    chunk_size: int
    hidden_wanted: bool
    weight_wanted: bool
    shares: VocabularyShares


class _LinearCrossEntropy(PyLayer):
    @staticmethod
    def forward(ctx: Any, hidden: paddle.Tensor, weight: paddle.Tensor, work: _Work) -> paddle.Tensor:
        loss, *ctx.grads = _loss_and_gradients(hidden, weight, work)
        ctx.inputs = hidden.detach(), weight.detach(), work
        return loss

    @staticmethod
    def backward(ctx: Any, *grad_outputs: paddle.Tensor) -> Any:
        (grad,) = grad_outputs
        # They are scaled in place, and nobody else is to hold them: gone after the first pass.
        grads, ctx.grads = ctx.grads, None
        if grads is None:  # a further pass over a graph that was retained
            with paddle.no_grad(), paddle.amp.auto_cast(enable=False):
                _, *grads = _loss_and_gradients(*ctx.inputs)
        # Paddle refuses a gradient for an input that wants none, such as a frozen weight.
        return tuple(None if own is None else own.multiply_(grad.astype(own.dtype)) for own in grads)


def _loss_and_gradients(
    hidden: paddle.Tensor, weight: paddle.Tensor, work: _Work
) -> tuple[paddle.Tensor, paddle.Tensor | None, paddle.Tensor | None]:
    """The summed loss, and its gradients of ``hidden`` and ``weight`` where they are wanted."""
    total = paddle.zeros([], dtype=_wide_dtype(hidden))
    hidden_parts = []
    weight_grad = paddle.zeros_like(weight) if work.weight_wanted else None
    for start in range(0, len(work.rows), work.chunk_size):
        chunk = slice(start, start + work.chunk_size)
        loss, hidden_part = _chunk(
            paddle.gather(hidden, work.rows[chunk]), weight, work.targets[chunk], work, weight_grad
        )
        total = total + loss
        if hidden_part is not None:
            hidden_parts.append(hidden_part)
    return total, _spread(hidden_parts, work.rows, hidden) if work.hidden_wanted else None, weight_grad


def _chunk(
    hidden: paddle.Tensor,
    weight: paddle.Tensor,
    targets: paddle.Tensor,
    work: _Work,
    weight_grad: paddle.Tensor | None,
) -> tuple[paddle.Tensor, paddle.Tensor | None]:
    """Loss and gradient of ``hidden`` of one chunk; the weight's gradient is added to ``weight_grad``.

    All that has as many elements as the logits is gone when this returns.
    """
    logits = paddle.matmul(hidden, weight)
    if work.shares.group.size > 1:
        loss, grad = work.shares.softmax_gradient(_wide(logits), targets)
    else:
        loss, grad = _softmax_gradient(logits, targets)
    grad = grad.astype(hidden.dtype)
    if weight_grad is not None:
        weight_grad.addmm_(hidden.t(), grad)
    if not work.hidden_wanted:
        return loss, None
    return loss, work.shares.group.add_up(paddle.matmul(grad, weight, transpose_y=True))


def _softmax_gradient(logits: paddle.Tensor, targets: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor]:
    """The summed cross entropy, and its gradient ``softmax - one-hot`` in place of the logits (in a wider dtype)."""
    logits = _wide(logits)
    target_indices = paddle.stack([paddle.arange(len(targets), dtype="int64"), targets], axis=1)
    target_logits = paddle.gather_nd(logits, target_indices)
    largest = logits.max(axis=1)
    weights = F.softmax_(logits, axis=1)
    # Not from the target's own probability, whose logarithm is cut off where it is tiny; the largest never is.
    loss = (largest - weights.max(axis=1).log() - target_logits).sum()
    return loss, weights.index_put_((target_indices[:, 0], targets), paddle.gather_nd(weights, target_indices) - 1)


def _spread(parts: list[paddle.Tensor], rows: paddle.Tensor, like: paddle.Tensor) -> paddle.Tensor:
    """The chunks' gradients at their rows, zeros elsewhere."""
    if not parts:
        return paddle.zeros_like(like)
    joined = paddle.concat(parts)
    return joined if len(rows) == len(like) else paddle.scatter(paddle.zeros_like(like), rows, joined)


def _labeled(
    labels: paddle.Tensor, positions: int, vocabulary: int, ignore_index: int
) -> tuple[paddle.Tensor, paddle.Tensor]:
    """Rows that have a label, and their labels: int64 ``[n]`` each."""
    if labels.shape != [positions]:
        raise OperatorError(f"linear_cross_entropy: labels has shape {labels.shape}, expected [{positions}]")
    rows = paddle.nonzero(labels != ignore_index).flatten()
    targets = paddle.gather(labels, rows)
    if len(rows) and not 0 <= int(targets.min()) <= int(targets.max()) < vocabulary:
        raise OperatorError(
            f"linear_cross_entropy: labels from {int(targets.min())} to {int(targets.max())}, expected 0 to "
            f"{vocabulary - 1}, or {ignore_index} for positions that do not count"
        )
    return rows, targets


def _is_plain(head: nn.Layer) -> bool:
    # Parameters of which other processes keep a part are there only while the layer is called.
    wrapped = "forward" in vars(head) or head._forward_pre_hooks or head._forward_post_hooks
    return type(head) in (nn.Linear, Linear) and head.bias is None and not wrapped


def _wide_dtype(x: paddle.Tensor) -> paddle.dtype:
    return x.dtype if x.dtype == paddle.float64 else paddle.float32


def _wide(x: paddle.Tensor) -> paddle.Tensor:
    return x.astype(_wide_dtype(x))
