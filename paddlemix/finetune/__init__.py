"""Fine-tuning on conversations of one's own: records, adapters, the trainer, evaluation."""

from __future__ import annotations

from ..utils.lazy import lazy_exports

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
