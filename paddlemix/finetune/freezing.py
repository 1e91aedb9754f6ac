"""Which parameters are trained, said by presets and globs over their names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import paddle.nn as nn

from ..errors import ConfigurationError
from ..utils import parameter_names as naming

_VIT = (
    "transformer.visual.conv1.*",
    "transformer.visual.positional_embedding",
    "transformer.visual.ln_pre.*",
    "transformer.visual.transformer.*",
)
_AFTER_RESAMPLER = ("transformer.visual.ln_post.*", "transformer.visual.proj")

PRESETS: Mapping[str, tuple[str, ...]] = {
    # everything visual before the resampler
    "freeze_vit": _VIT,
    # what the original's option of this name and PaddleMIX freeze: the norm and the projection behind the resampler too
    "fix_vit": (*_VIT, *_AFTER_RESAMPLER),
    "freeze_resampler": ("transformer.visual.attn_pool.*", *_AFTER_RESAMPLER),
    "freeze_llm": ("transformer.wte.*", "transformer.h.*", "transformer.ln_f.*", "lm_head.*"),
}
"""Name -> globs of the parameters that it freezes."""

#: A constant of the architecture that checkpoints carry along.
CONSTANT = "transformer.visual.attn_pool.pos_embed"


def freeze(model: nn.Layer, patterns: Sequence[str]) -> list[str]:
    """Freeze the parameters of ``model`` that ``patterns`` say and make all others trainable.

    A pattern is one of :data:`PRESETS`, a glob over names or their ends after a dot ("transformer.h.0.*", "ln_1.*",
    "*visual*"), or ``!`` and a glob for what stays trainable. They are followed in order: later ones overrule earlier
    ones. The resampler's position table is never trained.

    Returns:
        The names of the frozen parameters.

    Raises:
        ConfigurationError: a pattern that matches nothing, or nothing left to train.
    """
    parameters = dict(model.named_parameters())
    frozen = frozen_names(list(parameters), patterns)
    for name, parameter in parameters.items():
        parameter.stop_gradient = name in frozen
    return [name for name in parameters if name in frozen]


def frozen_names(names: Sequence[str], patterns: Sequence[str]) -> set[str]:
    """Those of a model's parameters that ``patterns`` freeze; see :func:`freeze`."""
    frozen: set[str] = set()
    for pattern in patterns:
        if pattern in PRESETS:
            frozen.update(name for glob in PRESETS[pattern] for name in _matching(names, glob))
        elif pattern.startswith("!"):
            frozen.difference_update(_matching(names, pattern[1:]))
        else:
            frozen.update(_matching(names, pattern))
    frozen.update(name for name in names if name == CONSTANT)
    if len(frozen) == len(names):
        raise ConfigurationError(f"freeze: {', '.join(patterns)} leaves nothing to train; leave some of them out")
    return frozen


def _matching(names: Sequence[str], glob: str) -> list[str]:
    found = [name for name in names if naming.matches(name, glob)]
    if not found:
        near = ", ".join([*naming.similar(glob, PRESETS, 1, cutoff=0.6), *naming.similar(glob, names)])
        raise ConfigurationError(
            f"freeze: {glob!r} matches no parameter of the model and is no preset; near it: {near}"
        )
    return found
