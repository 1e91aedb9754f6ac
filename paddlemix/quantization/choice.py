"""The formats of the model that is made from a checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from ..checkpoint.readers import Checkpoint
from ..errors import CheckpointError
from ..utils.files import QUANTIZE_CONFIG_FILE, read_json_object
from .bnb_format import read_bnb_layers
from .gptq_format import read_layers
from .plan import BNB_METHOD, GPTQ_METHOD, INT4, METHOD, NF4, QuantizationPlan, plan_for, quant_method

logger = logging.getLogger(__name__)


def plan_of(
    checkpoint: Checkpoint, section: Mapping[str, Any] | None, quantization: str | None, vision_quantization: str | None
) -> QuantizationPlan | None:
    """The formats that a model from ``checkpoint`` gets; see :func:`.plan.plan_for`.

    Raises:
        ConfigurationError: options that do not fit the checkpoint.
        CheckpointError: ``quantization_config`` and the files disagree.
    """
    stored = METHOD if checkpoint.packed else GPTQ_METHOD if checkpoint.gptq_layers() else None
    stored = BNB_METHOD if checkpoint.bnb_layers() else stored
    if section is None and stored == GPTQ_METHOD:  # AutoGPTQ itself leaves config.json as it is
        section = read_json_object(checkpoint.folder / QUANTIZE_CONFIG_FILE)
    said = quant_method(section)
    if stored != said:
        raise CheckpointError(
            f"{checkpoint.path}: config.json has quantization_config.quant_method={said!r}, the weights are "
            + (f"stored as {stored!r} has them" if stored else "not quantized")
            + "; the two files do not belong together"
        )
    embedding = checkpoint.our_names().get(checkpoint.table.embedding)
    is_half = embedding is not None and checkpoint.dtype(embedding) == "float16"
    exact = all(layer.fits_tiles() for layer in read_layers(checkpoint).values())
    for name, layer in read_bnb_layers(checkpoint).items():
        found = checkpoint.table.find_rule(name)
        exact = exact and (layer.fits_tiles() or found is None or found[0].part != "blocks")
    plan = plan_for(
        section,
        quantization,
        vision_quantization,
        sixteen_bit="float16" if is_half else "bfloat16",
        exact=exact,
    )
    if plan is not None and stored == GPTQ_METHOD and quantization == INT4 and plan.blocks != INT4:
        logger.warning("quantization int4: this kind of GPTQ does not fit it; decoder layers are in %s.", plan.blocks)
    if plan is not None and stored == BNB_METHOD and quantization in (None, NF4) and plan.blocks != NF4:
        logger.warning(
            "the nf4 of bitsandbytes in this checkpoint does not fit ours (no double quantization, or inputs that are "
            "no multiple of 64); decoder layers are in %s.",
            plan.blocks,
        )
    return plan
