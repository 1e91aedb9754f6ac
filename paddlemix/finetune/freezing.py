"""Which parameters are trained, said by presets and globs over their names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import paddle.nn as nn

from ..checkpoint.layouts import WeightTable
from ..errors import ConfigurationError
from ..utils import parameter_names as naming


def freeze(model: nn.Layer, patterns: Sequence[str]) -> list[str]:
    """Freeze the parameters of ``model`` that ``patterns`` say and make all others trainable.

    A pattern is one of the model's ``freeze_presets``, a glob over names or their ends after a dot ("ln_1.*",
    "*visual*"), or ``!`` and a glob for what stays trainable. They are followed in order: later ones overrule earlier
    ones. Constants of the architecture are never trained.

    Args:
        model: with ``freeze_presets`` and ``weight_table`` as ``QWenLMHeadModel`` has them.
        patterns: what is frozen.

    Returns:
        The names of the frozen parameters.

    Raises:
        ConfigurationError: a pattern that matches nothing, or nothing left to train.
    """
    parameters = dict(model.named_parameters())
    frozen = frozen_names(list(parameters), patterns, model.freeze_presets, model.weight_table)
    for name, parameter in parameters.items():
        parameter.stop_gradient = name in frozen
    return [name for name in parameters if name in frozen]


def frozen_names(
    names: Sequence[str], patterns: Sequence[str], presets: Mapping[str, Sequence[str]], table: WeightTable
) -> set[str]:
    """Those of a model's parameters that ``patterns`` freeze; see :func:`freeze`."""
    frozen: set[str] = set()
    for pattern in patterns:
        if pattern in presets:
            frozen.update(name for glob in presets[pattern] for name in _matching(names, glob, presets))
        elif pattern.startswith("!"):
            frozen.difference_update(_matching(names, pattern[1:], presets))
        else:
            frozen.update(_matching(names, pattern, presets))
    frozen.update(name for name in names if table.is_constant(name))
    if len(frozen) == len(names):
        raise ConfigurationError(f"freeze: {', '.join(patterns)} leaves nothing to train; leave some of them out")
    return frozen


def _matching(names: Sequence[str], glob: str, presets: Iterable[str]) -> list[str]:
    found = [name for name in names if naming.matches(name, glob)]
    if not found:
        near = ", ".join([*naming.similar(glob, presets, 1, cutoff=0.6), *naming.similar(glob, names)])
        raise ConfigurationError(
            f"freeze: {glob!r} matches no parameter of the model and is no preset; near it: {near}"
        )
    return found
