"""Checkpoints: what they are called and how they are laid out, reading, writing, converting and finding them.

``layouts``  one table of names, shapes and transposes: Hugging Face, ours, PaddleMIX
``readers``  lazy and safe: torch ``.bin``, safetensors, ``.pdparams``; no torch and no Paddle needed
``writer``   sharded safetensors, written aside and renamed, with an index and a sha256 manifest
``target``   which folders may be written to, and results that are whole or not there
``convert``  from one layout to another, shard by shard, safe to interrupt
``loading``  a checkpoint into the parameters of a Paddle model, and back
``hub``      a model's name to a folder: local, bundled, cached (``hf_cache``) or downloaded (``fetching``, ``stores``,
             ``download``, ``transport``)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..utils.lazy import lazy_exports

if TYPE_CHECKING:
    from .convert import convert_checkpoint as convert_checkpoint
    from .hub import resolve as resolve
    from .loading import load_into as load_into
    from .loading import save_model as save_model
    from .readers import open_checkpoint as open_checkpoint

_HOME = {
    "open_checkpoint": "readers",
    "load_into": "loading",
    "save_model": "loading",
    "convert_checkpoint": "convert",
    "resolve": "hub",
}
__all__ = sorted(_HOME)
__getattr__, __dir__ = lazy_exports(__name__, _HOME)
