"""Operators of the model, one file each: signature, shapes, a plain-Paddle implementation, and the choice of a kernel.

``PADDLEMIX_OPS`` chooses between plain Paddle and the fused kernels, see ``backend``; ``python -m paddlemix.ops`` tells
what is chosen here.
"""

from . import _import_paddle  # noqa: F401
from .attention import attention, merge_heads, split_heads
from .attention_decode import DECODE_MAX_QUERIES, attention_decode
from .attention_masks import AttentionPass
from .attention_prefill import attention_interleaved, attention_prefill
from .backend import (
    INSTRUCTION_SETS,
    default_threads,
    limit_instruction_set,
    mode,
    set_matmul_precision,
    set_mode,
    set_threads,
    using,
)
from .gelu_bias import gelu_bias
from .layer_norm import layer_norm
from .linear_nf4 import linear_nf4
from .linear_w4 import linear_w4
from .linear_w8 import linear_w8
from .linear_w16 import linear_w16
from .rms_norm import rms_norm
from .rotary_qkv import rotary_qkv, rotary_qkv_cache, rotary_tables
from .swiglu import swiglu

__all__ = [
    "AttentionPass",
    "DECODE_MAX_QUERIES",
    "INSTRUCTION_SETS",
    "attention",
    "attention_decode",
    "attention_interleaved",
    "attention_prefill",
    "default_threads",
    "gelu_bias",
    "layer_norm",
    "limit_instruction_set",
    "linear_nf4",
    "linear_w16",
    "linear_w4",
    "linear_w8",
    "merge_heads",
    "mode",
    "rms_norm",
    "rotary_qkv",
    "rotary_qkv_cache",
    "rotary_tables",
    "set_matmul_precision",
    "set_mode",
    "set_threads",
    "split_heads",
    "swiglu",
    "using",
]
