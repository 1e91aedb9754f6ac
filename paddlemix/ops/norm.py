"""What the norms share: the choice of the kernel, the residual addition before it, and the checks of plain Paddle."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import paddle

from . import backend
from .checks import check_features, check_floating, check_like, check_optional, check_tensors, last_axis


def normalize(
    operator: str,
    x: paddle.Tensor,
    parameters: Mapping[str, paddle.Tensor],
    epsilon: float,
    residual: paddle.Tensor | None,
    reference: Callable[..., paddle.Tensor],
) -> tuple[paddle.Tensor, paddle.Tensor]:
    """Return the norm of ``s = x + residual`` over the last axis, and ``s``.

    Args:
        operator: ``"rms_norm"`` or ``"layer_norm"``.
        x: ``[..., width]``.
        parameters: by name, in the order in which the operator takes them; ``[width]``, of the dtype of ``x``.
        epsilon: added to the mean square.
        residual: like ``x``; without one, ``s`` is ``x`` itself.
        reference: the norm in plain Paddle: ``(s, *parameters, epsilon)``.

    Raises:
        OperatorError: shapes or dtypes do not fit.
    """
    if backend.use_kernel(operator, x):
        if residual is None:
            return backend.run(f"paddlemix_{operator}", x, *parameters.values(), epsilon)[0], x
        outputs = backend.run(f"paddlemix_add_{operator}", x, residual, *parameters.values(), epsilon)
        return outputs[0], outputs[1]
    check_tensors(operator, x=x, **parameters)
    check_optional(operator, residual=residual)
    check_floating(operator, "x", x)
    check_features(operator, x, last_axis(operator, "x", x), **parameters)
    check_like(operator, x, residual=residual)
    total = x if residual is None else x + residual
    return reference(total, *parameters.values(), epsilon), total
