"""Low-bit weights: which formats, layers that compute with them, loading into them, and GPTQ.

``plan``         which format each part of a model gets, and how much memory that takes
``choice``       the formats of the model that is made from a checkpoint
``layers``       the layers that stand in for the float ones
``tiles``        the packed arrays: shapes, quantizing and reading back
``loading``      filling a quantized model from float, GPTQ, bitsandbytes and our own checkpoints
``gptq_format``  linear layers as AutoGPTQ stores them
``bnb_format``   linear layers as bitsandbytes stores them in nf4
``memory``       whether a model fits, asked beforehand
``gptq``         calibration: rounding that keeps the outputs of each layer, not its weights
``export``       a calibrated model in the published format
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..utils.lazy import lazy_exports

if TYPE_CHECKING:
    from .export import save_gptq as save_gptq
    from .gptq import calibrate as calibrate
    from .layers import QuantizedLinear as QuantizedLinear
    from .plan import QuantizationPlan as QuantizationPlan

_HOME = {
    "QuantizationPlan": "plan",
    "QuantizedLinear": "layers",
    "calibrate": "gptq",
    "save_gptq": "export",
}
__all__ = sorted(_HOME)
__getattr__, __dir__ = lazy_exports(__name__, _HOME)
