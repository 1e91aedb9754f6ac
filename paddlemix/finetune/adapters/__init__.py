"""LoRA adapters: one way for float and quantised models, in the files of Hugging Face's ``peft``.

``lora``       the layer: a frozen linear layer plus a trained product of two narrow matrices
``injection``  which layers get one, and which are trained whole beside them
``peft``       what ``peft`` and PaddleNLP call settings and tensors
``files``      reading, saving, loading, and converting between their layouts
``merging``    the adapter added to the weights: in a model, or from directory to directory
"""

from __future__ import annotations

from ...lazy import lazy_exports

_HOME = {
    "LoRAConfig": "config",
    "LoRALinear": "lora",
    "convert_adapter": "files",
    "inject": "injection",
    "load_adapter": "files",
    "merge": "merging",
    "merge_adapter": "merging",
    "save_adapter": "files",
}
__all__ = sorted(_HOME)
__getattr__, __dir__ = lazy_exports(__name__, _HOME)
