"""What an adapter is made of: rank, scaling, dropout, and the layers that it changes."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..errors import ConfigurationError
from ..utils.display import NAME_LIMIT, shorten

MAX_RANK = 1 << 20
MAX_ALPHA = 1e30  # beyond it no sum is finite


@dataclass(frozen=True)
class LoRAConfig:
    """Settings of a LoRA adapter (Hu et al., 2021), by default those of the original's fine-tuning.

    Attributes:
        r: the rank, inner width of the two matrices.
        alpha: their product is multiplied with ``alpha / r``.
        dropout: probability with which an input of the adapter is dropped in training.
        targets: names of linear layers, or ends of names after a dot as in ``peft``; ``*``, ``?`` and ``[…]`` stand for
            parts of a name. None: those of the model's family, which its original adapts.
        modules_to_save: layers, named in the same way, whose own weights are trained and saved whole.
        use_rslora: multiply with ``alpha / sqrt(r)`` instead (Kalajdzievski, 2023).

    Raises:
        ConfigurationError: a value that cannot work.
    """

    r: int = 64
    alpha: float = 16
    dropout: float = 0.05
    targets: tuple[str, ...] | None = None
    modules_to_save: tuple[str, ...] = ()
    use_rslora: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.r, int) or isinstance(self.r, bool) or not 1 <= self.r <= MAX_RANK:
            raise ConfigurationError(f"lora_r: got {_shown(self.r)}, expected a whole number from 1 to {MAX_RANK}")
        if not _is_number(self.alpha) or not 0 < self.alpha <= MAX_ALPHA:
            raise ConfigurationError(
                f"lora_alpha: got {_shown(self.alpha)}, expected a number above 0, at most {MAX_ALPHA:g}"
            )
        if not _is_number(self.dropout) or not 0 <= self.dropout < 1:
            raise ConfigurationError(f"lora_dropout: got {_shown(self.dropout)}, expected a number from 0 to below 1")
        for name in ("targets", "modules_to_save"):
            value = getattr(self, name)
            if name == "targets" and value is None:
                continue
            if isinstance(value, str) or not all(isinstance(pattern, str) and pattern for pattern in value):
                raise ConfigurationError(f"{name}: got {_shown(value)}, expected a list of names of layers")
            object.__setattr__(self, name, tuple(value))

    @property
    def scaling(self) -> float:
        """What the product of the two matrices is multiplied with."""
        return self.alpha / (math.sqrt(self.r) if self.use_rslora else self.r)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _shown(value: object) -> str:
    return shorten(repr(value), NAME_LIMIT)
