"""Fine-tuning on user conversations: configuration, training, evaluation, monitoring."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..utils.lazy import lazy_exports

if TYPE_CHECKING:
    from ..adapters.config import LoRAConfig as LoRAConfig
    from ..adapters.files import load_adapter as load_adapter
    from ..adapters.files import save_adapter as save_adapter
    from ..adapters.merging import merge_adapter as merge_adapter
    from .configuration import FinetuneConfig as FinetuneConfig
    from .freezing import freeze as freeze
    from .run import FinetuneResult as FinetuneResult
    from .run import finetune as finetune

_HOME = {
    "FinetuneConfig": "configuration",
    "FinetuneResult": "run",
    "LoRAConfig": "paddlemix.adapters.config",
    "finetune": "run",
    "freeze": "freezing",
    "load_adapter": "paddlemix.adapters.files",
    "merge_adapter": "paddlemix.adapters.merging",
    "save_adapter": "paddlemix.adapters.files",
}
__all__ = sorted(_HOME)
__getattr__, __dir__ = lazy_exports(__name__, _HOME)
