"""Operators of the model, one file each: signature, shapes and a plain-Paddle implementation."""

from .attention import attention, merge_heads, split_heads
from .rms_norm import rms_norm
from .rotary import apply_rotary, rotary_tables
from .swiglu import swiglu

__all__ = ["apply_rotary", "attention", "merge_heads", "rms_norm", "rotary_tables", "split_heads", "swiglu"]
