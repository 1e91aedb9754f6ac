"""A split model over gloo computes what the whole one does, whatever its weights are stored as."""

import numpy as np
import paddle
import pytest

from paddlemix.errors import ConfigurationError
from paddlemix.models.qwen_vl.modeling import QWenLMHeadModel
from paddlemix.ops import backend
from paddlemix.parallel.group import SINGLE, TensorParallelGroup
from paddlemix.parallel.processes import init_process
from paddlemix.zoo import DEFAULT_MODEL_DIR
from tests.processes import run_processes

FORMATS = (None, "bf16", "int8", "int4")


def load(directory=DEFAULT_MODEL_DIR, quantization=None, group=SINGLE):
    return QWenLMHeadModel.from_directory(directory, quantization=quantization, group=group)


@paddle.no_grad()
def outputs(model):
    """Image features and logits."""
    rng = np.random.default_rng(0)
    side = model.config.visual.image_size
    images = paddle.to_tensor(rng.standard_normal((1, 3, side, side)).astype("float32"))
    ids = paddle.to_tensor(rng.integers(0, 1500, (2, 24)))
    return model.visual(images).numpy(), model(ids).logits.numpy()


def in_this_process(models):
    """What one of several processes computes: name of each model -> its outputs and its number of parameters."""
    init_process("cpu")
    found = {}
    for name, options in models.items():
        model = load(**options, group=TensorParallelGroup.of_all())
        found[name] = (*outputs(model), sum(parameter.size for parameter in model.parameters()))
    return found


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """The bundled model in all formats, of float weights and of tiles."""
    folder = tmp_path_factory.mktemp("packed")
    models = {str(quantization): {"quantization": quantization} for quantization in FORMATS}
    for quantization in ("int4", "int8"):
        load(quantization=quantization).save_pretrained(folder / quantization)
        models[f"{quantization} tiles"] = {"directory": folder / quantization}
    return models


@pytest.fixture(scope="module")
def whole(models):
    """The outputs of the whole models."""
    with backend.using("reference"):  # the kernels round activations to 8 bits, which amplifies 1e-7
        return {name: outputs(load(**options)) for name, options in models.items()}


@pytest.mark.parametrize("processes", [2, 3])
def test_outputs_are_those_of_the_whole_model(models, whole, processes):
    with backend.using("reference"):
        outcomes = run_processes(processes, in_this_process, models)
    for rank, found in enumerate(outcomes):
        for name, (features, logits, _) in found.items():
            for expected, values in zip(whole[name], (features, logits)):
                error = np.abs(values - expected).max() / np.abs(expected).max()
                assert error < 2e-6, (rank, name, error)


def test_with_kernels_each_process_has_its_part(fused):
    model = load()
    count = sum(parameter.size for parameter in model.parameters())
    for outcome in run_processes(2, in_this_process, {"float": {}}):
        features, logits, own = outcome["float"]
        assert own < 0.6 * count
        for expected, values in zip(outputs(model), (features, logits)):
            assert np.abs(values - expected).max() / np.abs(expected).max() < 2e-6


def test_more_processes_than_heads_are_refused():
    with pytest.raises(ConfigurationError, match="tensor_parallel: got 4 processes for 3 attention heads"):
        load(group=TensorParallelGroup(0, 4))
