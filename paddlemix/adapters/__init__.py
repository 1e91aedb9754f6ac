"""LoRA adapters: one way for float and quantized models, in the files of Hugging Face's ``peft``.

``lora``       the layer: a frozen linear layer plus a trained product of two narrow matrices
``injection``  which layers get one, and which are trained whole beside them; and adding it to the weights
``files``      loading into models and saving from them
``peft``       what ``peft`` and PaddleNLP call settings and tensors
``stored``     adapters on disk: reading, checking, converting
``merging``    a model with its adapter added, from directory to directory
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..utils.lazy import lazy_exports

if TYPE_CHECKING:
    from .config import LoRAConfig as LoRAConfig
    from .files import load_adapter as load_adapter
    from .files import save_adapter as save_adapter
    from .injection import inject as inject
    from .injection import merge as merge
    from .lora import LoRALinear as LoRALinear
    from .merging import merge_adapter as merge_adapter
    from .stored import convert_adapter as convert_adapter

_HOME = {
    "LoRAConfig": "config",
    "LoRALinear": "lora",
    "convert_adapter": "stored",
    "inject": "injection",
    "load_adapter": "files",
    "merge": "injection",
    "merge_adapter": "merging",
    "save_adapter": "files",
}
__all__ = sorted(_HOME)
__getattr__, __dir__ = lazy_exports(__name__, _HOME)
