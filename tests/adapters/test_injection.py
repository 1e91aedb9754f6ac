from __future__ import annotations

import numpy as np
import paddle
import pytest

from paddlemix.adapters import LoRAConfig, LoRALinear, inject, injection
from paddlemix.errors import AdapterError, ConfigurationError, NotEnoughMemoryError
from paddlemix.models.qwen_vl.modeling import QWenLMHeadModel
from paddlemix.quantization.layers import QuantizedLinear
from tests.adapters.building import disturb, image_ids, images, tiny_model

QUANTIZATIONS = (None, "bf16", "int8", "int4", "nf4")


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    tiny_model().save_pretrained(folder)
    return folder


@pytest.fixture(params=QUANTIZATIONS)
def model(request, directory):
    return QWenLMHeadModel.from_pretrained(directory, quantization=request.param)


def logits(model) -> np.ndarray:
    with paddle.no_grad():
        return model(image_ids(), images=images()).logits.numpy()


def trainable(model) -> set[str]:
    return {name for name, parameter in model.named_parameters() if not parameter.stop_gradient}


def test_the_published_targets_are_the_four_linear_layers_of_each_decoder_block(model):
    names = inject(model, LoRAConfig())
    layers = ("attn.c_attn", "attn.c_proj", "mlp.w1", "mlp.w2")
    assert set(names) == {f"transformer.h.{n}.{layer}" for n in range(2) for layer in layers}
    assert trainable(model) == {f"{name}.lora_{part}" for name in names for part in "AB"}
    layer = model.transformer.h[0].attn.c_attn
    assert (layer.lora_A.shape, layer.lora_B.shape, layer.scaling) == ([16, 64], [64, 48], 0.25)


def test_a_new_adapter_changes_nothing_and_a_trained_one_does(model, any_backend):
    before = logits(model)
    inject(model, LoRAConfig(r=4, targets=("c_attn", "c_proj", "w1", "c_fc", "in_proj", "out_proj", "kv_proj")))
    np.testing.assert_array_equal(logits(model), before)
    disturb(model)
    assert np.abs(logits(model) - before).max() > 0.01


def test_targets_are_ends_of_names_after_a_dot_or_globs(directory):
    def chosen(*targets: str) -> list[str]:
        model = QWenLMHeadModel.from_pretrained(directory)
        return inject(model, LoRAConfig(r=2, targets=targets))

    assert chosen("attn.c_proj") == [f"transformer.h.{n}.attn.c_proj" for n in range(2)]
    assert len(chosen("c_proj")) == 6  # of attention and feed-forward layers, and of the ViT
    assert chosen("transformer.h.1.mlp.w2") == ["transformer.h.1.mlp.w2"]
    assert chosen("h.0.mlp.w?") == ["transformer.h.0.mlp.w1", "transformer.h.0.mlp.w2"]
    assert chosen("lm_head") == ["lm_head"]
    visual = "transformer.visual.transformer.resblocks"
    assert set(chosen("visual.*.in_proj")) == {f"{visual}.0.attn.in_proj", f"{visual}.1.attn.in_proj"}


def test_the_same_layers_are_found_in_float_and_quantized_models(directory):
    found = {
        tuple(
            inject(
                QWenLMHeadModel.from_pretrained(directory, quantization=quantization),
                LoRAConfig(r=2, targets=("*",)),
            )
        )
        for quantization in QUANTIZATIONS
    }
    (names,) = found
    assert "transformer.visual.attn_pool.attn.out_proj" in names
    assert not any("in_proj." in name or name.endswith("visual.proj") for name in names)


def test_only_the_adapters_get_gradients_and_all_of_them_do(model, any_backend):
    names = inject(model, LoRAConfig(r=2, targets=("*",)))
    disturb(model)
    model.train()
    ids = image_ids()
    model(ids, images=images(), labels=ids).loss.backward()
    with_gradient = {
        name: np.abs(parameter.grad.numpy()).max()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }
    assert set(with_gradient) == {f"{name}.lora_{part}" for name in names for part in "AB"}
    assert all(with_gradient.values())


def test_gradients_are_the_same_under_recomputation(model):
    names = inject(model, LoRAConfig(r=2, dropout=0, targets=("c_attn", "w1", "c_fc")))
    disturb(model)
    model.train()
    ids, found = image_ids(), []
    for recompute in (False, True):
        model.transformer.enable_recompute = model.visual.transformer.enable_recompute = recompute
        model(ids, images=images(), labels=ids).loss.backward()
        found.append({name: p.grad.numpy() for name, p in model.named_parameters() if p.grad is not None})
        model.clear_gradients()
    plain, recomputed = found
    assert set(recomputed) == {f"{name}.lora_{part}" for name in names for part in "AB"}
    for name, gradient in plain.items():
        np.testing.assert_allclose(recomputed[name], gradient, rtol=1e-5, atol=1e-7)
        assert np.abs(gradient).max() > 0


def test_steps_with_a_cache_agree_with_the_whole_sequence(model, any_backend):
    inject(model, LoRAConfig(r=2, targets=("c_attn", "attn.c_proj", "w1", "w2", "mlp.c_proj")))
    disturb(model)
    following = paddle.to_tensor([[9, 2, 4], [3, 11, 1]])
    with paddle.no_grad():
        step = model(image_ids(), images=images(), use_cache=True)
        steps = [step.logits]
        for token in following.split(3, axis=1):
            step = model(token, past_key_values=step.past_key_values)
            steps.append(step.logits)
        whole = model(paddle.concat([image_ids(), following], axis=1), images=images(), use_cache=False).logits
    whole = whole.numpy()
    np.testing.assert_allclose(paddle.concat(steps, axis=1).numpy(), whole, atol=2e-2 * np.abs(whole).max())


def test_dropout_acts_in_training_only(directory):
    model = QWenLMHeadModel.from_pretrained(directory)
    inject(model, LoRAConfig(r=4, dropout=0.5))
    disturb(model)
    np.testing.assert_array_equal(logits(model), logits(model))
    model.train()
    assert np.abs(logits(model) - logits(model)).max() > 0


def test_adapters_may_be_wider_than_the_activations(directory):
    model = QWenLMHeadModel.from_pretrained(directory)
    inject(model, LoRAConfig(r=4), dtype="float64")
    disturb(model)
    assert model.transformer.h[0].attn.c_attn.lora_A.dtype == paddle.float64
    assert logits(model).dtype == np.float32


def test_modules_to_save_are_trained_whole(model):
    before = logits(model)
    inject(model, LoRAConfig(r=2, targets=("w1",), modules_to_save=("wte", "lm_head")))
    assert {"transformer.wte.weight", "lm_head.weight"} < trainable(model)
    assert not isinstance(model.lm_head, QuantizedLinear)
    np.testing.assert_allclose(logits(model), before, atol=2e-2 * np.abs(before).max())
    model.train()
    ids = image_ids()
    model(ids, images=images(), labels=ids).loss.backward()
    assert model.lm_head.weight.grad is not None and model.transformer.wte.weight.grad is not None


def test_the_resamplers_position_table_is_not_trained_with_it(directory):
    model = QWenLMHeadModel.from_pretrained(directory)
    inject(model, LoRAConfig(r=2, targets=(), modules_to_save=("attn_pool",)))
    names = trainable(model)
    assert "transformer.visual.attn_pool.query" in names and "transformer.visual.attn_pool.pos_embed" not in names


def test_a_target_that_matches_nothing_names_near_ones(model):
    with pytest.raises(AdapterError, match=r"lora_targets: 'c_atn' matches no linear layer.*c_attn"):
        inject(model, LoRAConfig(targets=("w1", "c_atn")))
    with pytest.raises(AdapterError, match="modules_to_save: 'wet' matches no layer.*wte"):
        inject(model, LoRAConfig(modules_to_save=("wet",)))
    for name in ("conv1", "wte", "visual.proj"):  # no linear layers in the original
        with pytest.raises(AdapterError, match=f"lora_targets: '{name}'"):
            inject(model, LoRAConfig(targets=(name,)))
    assert not any(isinstance(layer, LoRALinear) for layer in model.sublayers())


def test_a_second_adapter_is_refused(model):
    inject(model, LoRAConfig(r=2))
    with pytest.raises(AdapterError, match="has an adapter already"):
        inject(model, LoRAConfig(r=2))


def test_a_layer_is_not_both_adapted_and_trained_whole(model):
    with pytest.raises(AdapterError, match="'lm_head' is trained whole"):
        inject(model, LoRAConfig(targets=("lm_head",), modules_to_save=("lm_head",)))


def test_layers_around_quantized_ones_cannot_be_trained_whole(directory):
    model = QWenLMHeadModel.from_pretrained(directory, quantization="int8")
    with pytest.raises(AdapterError, match="'transformer.visual.attn_pool' holds quantized layers"):
        inject(model, LoRAConfig(modules_to_save=("attn_pool",)))


def test_a_model_with_an_adapter_is_not_saved_as_a_whole(directory, tmp_path):
    model = QWenLMHeadModel.from_pretrained(directory)
    inject(model, LoRAConfig(r=2))
    with pytest.raises(AdapterError, match="save_adapter"):
        model.save_pretrained(tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "settings",
    [{"r": 0}, {"r": True}, {"alpha": 0}, {"alpha": float("nan")}, {"dropout": 1.0}, {"targets": "c_attn"}],
)
def test_settings_that_cannot_work_are_refused(settings):
    with pytest.raises(ConfigurationError, match=f"lora_{next(iter(settings))}|targets"):
        LoRAConfig(**settings)


def test_an_adapter_larger_than_the_memory_is_refused_before_anything_is_made(directory, monkeypatch):
    model = QWenLMHeadModel.from_pretrained(directory)
    monkeypatch.setattr(injection, "available_memory", lambda: 10**9)
    with pytest.raises(
        NotEnoughMemoryError, match="lora_r: got 300000; .* optimizer.s state need 1.4 GB of memory, 1.0 GB are"
    ):
        inject(model, LoRAConfig(r=300_000, targets=("c_attn", "w1", "w2")))
    assert injection.attached(model) is None and not any(isinstance(layer, LoRALinear) for layer in model.sublayers())
    with pytest.raises(ConfigurationError, match="lora_r: got 10000000, expected a whole number from 1 to 1048576"):
        LoRAConfig(r=10_000_000)
