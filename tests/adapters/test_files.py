"""The files in ``tests/fixtures/peft_adapter`` come from PyTorch and peft; its ``make.py`` says how."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import paddle
import pytest
from paddlenlp.peft.lora.lora_config import LoRAConfig as PaddleNLPConfig
from paddlenlp.peft.lora.lora_layers import LoRALinear as PaddleNLPLinear
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from paddlemix.adapters import LoRAConfig, convert_adapter, inject, load_adapter, merge, save_adapter, stored
from paddlemix.adapters.injection import attached
from paddlemix.checkpoint import layouts
from paddlemix.errors import AdapterError, CheckpointError, TargetError
from paddlemix.models.qwen_vl.modeling import QWenLMHeadModel
from paddlemix.models.qwen_vl.weights import ADAPTER_TARGETS, WEIGHTS
from tests.adapters.building import disturb, image_ids, images, tiny_model
from tests.checkpoint.building import name_in

read_adapter = partial(stored.read_adapter, table=WEIGHTS)

PEFT = Path(__file__).resolve().parents[1] / "fixtures" / "peft_adapter"


def logits(model) -> np.ndarray:
    with paddle.no_grad():
        return model(image_ids(), images=images()).logits.numpy()


def golden(name: str) -> dict[str, dict[str, np.ndarray]]:
    """Layer -> x, y and merged weight, from PyTorch."""
    result: dict[str, dict[str, np.ndarray]] = {}
    for key, values in load_file(PEFT / f"{name}.safetensors").items():
        layer, _, part = key.partition("/")
        result.setdefault(layer, {})[part] = values
    return result


@pytest.mark.parametrize("name", ["chat", "base"])
def test_layers_with_an_adapter_of_peft_give_what_they_give_in_pytorch(name):
    model = tiny_model()
    names = load_adapter(model, PEFT / name)
    expected = golden(name)
    assert set(names) == set(expected) and len(names) > 7
    layers = dict(model.named_sublayers())
    for layer, arrays in expected.items():
        got = layers[layer](paddle.to_tensor(arrays["x"])).numpy()
        np.testing.assert_allclose(got, arrays["y"], rtol=1e-5, atol=1e-6, err_msg=layer)


@pytest.mark.parametrize("name", ["chat", "base"])
def test_merging_gives_the_weights_of_peft(name):
    model = tiny_model()
    load_adapter(model, PEFT / name)
    merge(model)
    parameters = dict(model.named_parameters())
    for layer, arrays in golden(name).items():
        merged = parameters[f"{layer}.weight"].numpy().T
        np.testing.assert_allclose(merged, arrays["merged"], rtol=1e-5, atol=1e-6, err_msg=layer)


def test_both_file_formats_of_peft_hold_the_same(tmp_path):
    shutil.copy(PEFT / "chat" / "adapter_config.json", tmp_path)
    shutil.copy(PEFT / "chat" / "adapter_model.bin", tmp_path)
    one, other = tiny_model(), tiny_model()
    load_adapter(one, PEFT / "chat")
    load_adapter(other, tmp_path)
    np.testing.assert_array_equal(logits(one), logits(other))


@pytest.mark.parametrize("name", ["chat", "base"])
def test_what_peft_wrote_is_written_again_bit_by_bit(name, tmp_path):
    model = tiny_model()
    load_adapter(model, PEFT / name)
    save_adapter(model, tmp_path, base_name="Qwen/Qwen-VL")
    theirs, ours = (load_file(folder / "adapter_model.safetensors") for folder in (PEFT / name, tmp_path))
    assert set(ours) == set(theirs)
    for key in theirs:
        np.testing.assert_array_equal(ours[key], theirs[key], err_msg=key)
    old, new = (json.loads((folder / "adapter_config.json").read_text()) for folder in (PEFT / name, tmp_path))
    assert new["base_model_name_or_path"] == "Qwen/Qwen-VL" and new["task_type"] == "CAUSAL_LM"
    assert set(new) <= set(old), "a field that peft does not know"
    for field in ("peft_type", "r", "lora_alpha", "lora_dropout", "bias", "fan_in_fan_out", "init_lora_weights"):
        assert new[field] == old[field]
    assert new.get("use_rslora", False) == old["use_rslora"]
    assert sorted(new["target_modules"]) == sorted(old["target_modules"])
    saved = {"chat": None, "base": ["lm_head", "transformer.wte"]}
    assert new["modules_to_save"] == saved[name]


@pytest.mark.parametrize("quantization", [None, "int8", "int4"])
def test_an_adapter_is_the_same_after_saving_and_loading(quantization, tmp_path):
    tiny_model().save_pretrained(tmp_path / "base")
    one, other = (QWenLMHeadModel.from_pretrained(tmp_path / "base", quantization=quantization) for _ in range(2))
    config = LoRAConfig(r=3, alpha=5, targets=("*.mlp.c_*", "c_attn"), modules_to_save=("lm_head", "ln_post"))
    inject(one, config)
    disturb(one)
    one.visual.ln_post.bias.set_value(paddle.full([16], 0.5))
    save_adapter(one, tmp_path / "adapter")
    load_adapter(other, tmp_path / "adapter")
    np.testing.assert_array_equal(logits(one), logits(other))
    assert all(parameter.stop_gradient for parameter in other.parameters())
    # peft knows no globs
    targets = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["target_modules"]
    assert targets == sorted(attached(one).layers)


def test_a_loaded_adapter_can_be_trained_further_with_its_settings(tmp_path):
    one, other = tiny_model(), tiny_model()
    inject(one, LoRAConfig(r=2, dropout=0.25, modules_to_save=("wte",)))
    save_adapter(one, tmp_path)
    load_adapter(other, tmp_path, trainable=True)
    names = [{n for n, p in model.named_parameters() if not p.stop_gradient} for model in (one, other)]
    assert names[0] == names[1]
    expected = LoRAConfig(r=2, dropout=0.25, targets=ADAPTER_TARGETS, modules_to_save=("transformer.wte",))
    assert attached(other).config == expected
    assert other.transformer.h[0].attn.c_attn.dropout == 0.25


def test_values_of_the_same_adapter_are_loaded_into_it(tmp_path):
    one, other = tiny_model(), tiny_model()
    for model in (one, other):
        inject(model, LoRAConfig(r=2, modules_to_save=("wte",)))
    disturb(one)
    save_adapter(one, tmp_path)
    load_adapter(other, tmp_path, trainable=True)
    np.testing.assert_array_equal(logits(one), logits(other))
    third = tiny_model()
    inject(third, LoRAConfig(r=2, targets=("w1",), modules_to_save=("wte",)))
    with pytest.raises(AdapterError, match="is not of the adapter in the model"):
        load_adapter(third, tmp_path)


# ---------------------------------------------------------------------------------------------------- refusals


def changed(folder: Path, **settings: object) -> Path:
    """A copy of peft's adapter with other settings; ``None`` takes one out."""
    shutil.copytree(PEFT / "chat", folder)
    (folder / "adapter_model.bin").unlink()
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))
    return folder


@pytest.mark.parametrize(
    "settings",
    [
        {"use_dora": True},
        {"rank_pattern": {"c_attn": 8}},
        {"alpha_pattern": {"c_attn": 8}},
        {"bias": "all"},
        {"lora_bias": True},
        {"fan_in_fan_out": True},
        {"peft_type": "IA3"},
        {"init_lora_weights": "pissa_niter_4"},
        {"some_later_invention": {"on": 1}},
    ],
)
def test_kinds_of_adapters_that_compute_something_else_are_refused(settings, tmp_path):
    with pytest.raises(AdapterError, match=f"{next(iter(settings))}: got .*only .* is supported"):
        read_adapter(changed(tmp_path / "adapter", **settings))


@pytest.mark.parametrize(
    "settings",
    [
        {"lorap_lr_ratio": 16.0, "lorap_emb_lr": 1e-06, "lora_dtype": "fp32"},  # ms-swift in 2024
        {"loraplus_lr_ratio": 4.0, "loraplus_lr_embedding": 1e-6},
        {"rank_pattern": {"c_attn": 4, "w1": 4}, "alpha_pattern": {"c_attn": 8}, "lora_alpha": 8},
        {"loftq_config": {"loftq_bits": 4}, "corda_config": {"seed": 1}, "eva_config": {"rho": 2}},
        {"runtime_config": {"ephemeral_gpu_offload": True}, "megatron_core": "megatron.core", "qalora_group_size": 32},
        {"enable_lora": None, "merge_weights": True, "swift_type": "LORA", "use_merged_linear": False},  # of 2023
        {"some_later_invention": None, "another": {}, "a_third": False, "_of_a_tool": {"version": 3}},
    ],
)
def test_settings_without_effect_on_answers_are_passed_over(settings, tmp_path):
    one, other = tiny_model(), tiny_model()
    load_adapter(one, changed(tmp_path / "plain", lora_alpha=settings.get("lora_alpha", 6)))
    load_adapter(other, changed(tmp_path / "adapter", **{"lora_alpha": 6, **settings}))
    np.testing.assert_array_equal(logits(one), logits(other))


@pytest.mark.parametrize(
    "settings, reason",
    [
        ({"init_lora_weights": "pissa"}, "changes the base model's weights"),
        ({"use_dora": True}, "scales the sums"),
        ({"rank_pattern": {"c_attn": 8}}, "layers of different ranks"),
        ({"layer_replication": [[0, 2], [1, 3]]}, "repeats layers"),
        ({"a\x1b[2J" + "b" * 500: {"on": ["c"] * 500}}, "is not known"),
    ],
)
def test_why_an_adapter_is_refused_is_said_in_a_readable_line(settings, reason, tmp_path):
    with pytest.raises(AdapterError, match=reason) as caught:
        read_adapter(changed(tmp_path / "adapter", **settings))
    text = str(caught.value).replace(str(tmp_path), "")
    assert len(text) < 320 and text.isprintable()


@pytest.mark.parametrize("alpha", [10**320, 1e308, -1, 0, "16", True])
def test_scales_that_no_sum_survives_are_refused(alpha, tmp_path):
    with pytest.raises(AdapterError, match="lora_alpha: got .*expected a number above 0") as caught:
        read_adapter(changed(tmp_path / "adapter", lora_alpha=alpha))
    assert len(str(caught.value).replace(str(tmp_path), "")) < 200


@pytest.mark.parametrize("kind", ["int32", "int8", "bool"])
def test_integers_are_no_adapter(kind, tmp_path):
    def change(tensors):
        tensors[KEY] = tensors[KEY].astype(kind)

    folder = with_tensors(tmp_path / "adapter", change)
    for use in (read_adapter, lambda adapter: convert_adapter(adapter, tmp_path / "out")):
        with pytest.raises(AdapterError, match=f"c_attn' holds {kind} values, expected floating-point"):
            use(folder)


def test_settings_and_tensors_must_agree(tmp_path):
    with pytest.raises(AdapterError, match="has rank 4, the settings say 8"):
        read_adapter(changed(tmp_path / "rank", r=8))
    with pytest.raises(AdapterError, match="lora_r: got 0"):
        read_adapter(changed(tmp_path / "zero", r=0))


def with_tensors(folder: Path, change) -> Path:
    path = changed(folder) / "adapter_model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    return folder


KEY = "base_model.model.transformer.h.0.attn.c_attn.lora_A.weight"


def test_unknown_and_single_tensors_are_listed(tmp_path):
    def change(tensors):
        del tensors[KEY]
        tensors["base_model.model.transformer.wte.lora_embedding_A"] = np.zeros((4, 24), np.float32)

    with pytest.raises(AdapterError, match="lora_embedding_A' is not understood.*c_attn' has lora_B without"):
        read_adapter(with_tensors(tmp_path / "adapter", change))


def test_an_adapter_with_nan_is_refused(tmp_path):
    folder = with_tensors(tmp_path / "adapter", lambda tensors: tensors[KEY].fill(np.nan))
    with pytest.raises(AdapterError, match="c_attn.lora_A' holds NaN"):
        load_adapter(tiny_model(), folder)


def test_an_adapter_for_another_geometry_is_refused_before_the_model_changes(tmp_path):
    def change(tensors):
        tensors[KEY] = np.zeros((4, 8), np.float32)
        for part in "AB":
            tensors[KEY.replace("h.0", "h.7").replace("lora_A", f"lora_{part}")] = np.zeros((4, 4), np.float32)

    folder, model = with_tensors(tmp_path / "adapter", change), tiny_model()
    with pytest.raises(AdapterError, match=r"h.0.attn.c_attn' is for 8 inputs.*h.7.attn.c_attn' is no linear layer"):
        load_adapter(model, folder)
    assert attached(model) is None


def test_an_adapter_for_another_base_is_refused(tmp_path):
    model, other = tiny_model(), tiny_model()
    inject(model, LoRAConfig(r=2))
    save_adapter(model, tmp_path, base_name="that-one")
    other.transformer.h[1].ln_2.weight.set_value(other.transformer.h[1].ln_2.weight * 1.1)
    with pytest.raises(AdapterError, match=r"another base model \(that-one\)"):
        load_adapter(other, tmp_path)


def test_layout_and_quantization_of_the_base_do_not_matter(tmp_path):
    model = tiny_model()
    model.save_pretrained(tmp_path / "half", dtype="bfloat16")
    inject(model, LoRAConfig(r=2))
    save_adapter(model, tmp_path / "adapter")
    for quantization in (None, "int4", "bf16"):
        half = QWenLMHeadModel.from_pretrained(tmp_path / "half", quantization=quantization)
        assert len(load_adapter(half, tmp_path / "adapter")) == 8


def test_folders_without_an_adapter_are_told(tmp_path):
    with pytest.raises(AdapterError, match="is no directory"):
        read_adapter(tmp_path / "nowhere")
    with pytest.raises(AdapterError, match="expected adapter_config.json"):
        read_adapter(tmp_path)
    (tmp_path / "adapter_config.json").write_text((PEFT / "chat" / "adapter_config.json").read_text())
    with pytest.raises(AdapterError, match="expected adapter_model.safetensors or adapter_model.bin"):
        read_adapter(tmp_path)
    (tmp_path / "adapter_model.safetensors").write_bytes(b"\x10" * 30)
    with pytest.raises(CheckpointError):
        read_adapter(tmp_path)


def test_a_pickle_that_runs_code_is_not_run(tmp_path):
    import pickle

    class Evil:
        def __reduce__(self):
            return print, ("run",)

    (tmp_path / "lora_config.json").write_text("{}")
    (tmp_path / "lora_model_state.pdparams").write_bytes(pickle.dumps({"a": Evil()}, protocol=4))
    with pytest.raises(CheckpointError, match="print"):
        read_adapter(tmp_path)


# ---------------------------------------------------------------------------------------------------- converting


def paddlenlp_adapter(folder: Path) -> dict[str, PaddleNLPLinear]:
    """An adapter on c_attn and w1 as PaddleNLP saves it for PaddleMIX's model; returns its layers by our names."""
    model = tiny_model()
    layers, state = {}, {}
    for path, layer in model.named_sublayers():
        if path.startswith("transformer.h.") and path.endswith(("c_attn", "w1")):
            adapted = PaddleNLPLinear(*layer.weight.shape, r=2, lora_alpha=6, rslora=True)
            adapted.weight.set_value(layer.weight)
            adapted.bias.set_value(layer.bias if layer.bias is not None else paddle.zeros_like(adapted.bias))
            adapted.lora_B.set_value(paddle.randn(adapted.lora_B.shape))
            layers[path] = adapted
            theirs = name_in(layouts.PADDLEMIX, f"{path}.weight")[: -len(".weight")]
            state.update({f"{theirs}.lora_A": adapted.lora_A, f"{theirs}.lora_B": adapted.lora_B})
    state["transformer.llm.wte.weight"] = model.transformer.wte.weight + 1
    folder.mkdir()
    paddle.save(state, str(folder / "lora_model_state.pdparams"))
    config = PaddleNLPConfig(r=2, lora_alpha=6, rslora=True, target_modules=[".*attn.c_attn.*", ".*mlp.w1.*"])
    config.save_pretrained(str(folder))
    return layers


def test_an_adapter_of_paddlenlp_gives_what_its_own_layers_give(tmp_path):
    theirs, model = paddlenlp_adapter(tmp_path / "adapter"), tiny_model()
    assert set(load_adapter(model, tmp_path / "adapter")) == set(theirs)
    layers, x = dict(model.named_sublayers()), paddle.randn([5, 16])
    for name, layer in theirs.items():
        layer.eval()
        np.testing.assert_allclose(layers[name](x).numpy(), layer(x).numpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(
        model.transformer.wte.weight.numpy(), (tiny_model().transformer.wte.weight + 1).numpy()
    )


def test_an_adapter_of_paddlenlp_becomes_one_of_peft(tmp_path):
    paddlenlp_adapter(tmp_path / "theirs")
    convert_adapter(tmp_path / "theirs", tmp_path / "ours")
    one, other = tiny_model(), tiny_model()
    load_adapter(one, tmp_path / "theirs")
    load_adapter(other, tmp_path / "ours")
    np.testing.assert_array_equal(logits(one), logits(other))
    settings = json.loads((tmp_path / "ours" / "adapter_config.json").read_text())
    assert settings["use_rslora"] is True and settings["target_modules"] == sorted(attached(one).layers)


def test_merged_weights_of_paddlenlp_and_its_other_kinds_are_refused(tmp_path):
    paddlenlp_adapter(tmp_path / "adapter")
    path = tmp_path / "adapter" / "lora_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "pissa": True}))
    with pytest.raises(AdapterError, match="pissa: got True"):
        read_adapter(tmp_path / "adapter")


def test_converting_changes_the_format_and_notes_the_base(tmp_path):
    tiny_model().save_pretrained(tmp_path / "base")
    convert_adapter(PEFT / "base", tmp_path / "half", dtype="float16", base=tmp_path / "base")
    tensors = load_file(tmp_path / "half" / "adapter_model.safetensors")
    assert {str(values.dtype) for values in tensors.values()} == {"float16"}
    assert read_adapter(tmp_path / "half").base is not None
    one, other = tiny_model(), tiny_model()
    load_adapter(one, PEFT / "base")
    load_adapter(other, tmp_path / "half")
    np.testing.assert_allclose(logits(one), logits(other), rtol=1e-2, atol=1e-2)


def test_converting_keeps_the_targets_as_they_were_given(tmp_path):
    convert_adapter(PEFT / "chat", tmp_path / "out")
    settings = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert sorted(settings["target_modules"]) == ["attn.c_proj", "c_attn", "w1", "w2"]


def test_converting_refuses_its_own_folder_and_values_that_do_not_fit(tmp_path):
    folder = with_tensors(tmp_path / "adapter", lambda tensors: tensors[KEY].fill(1e30))
    with pytest.raises(AdapterError, match="is the folder of the source"):
        convert_adapter(folder, folder)
    with pytest.raises(AdapterError, match="too large for float16"):
        convert_adapter(folder, tmp_path / "out", dtype="float16")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("held", ["finetune.json", "config.json"])
def test_converting_does_not_write_into_a_training_or_a_model(tmp_path, held):
    (tmp_path / held).write_text("{}")
    with pytest.raises(AdapterError, match=f"{held}.; name another folder"):
        convert_adapter(PEFT / "chat", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [held]


def test_an_earlier_conversion_is_replaced_only_when_asked(tmp_path):
    convert_adapter(PEFT / "chat", tmp_path / "out")
    with pytest.raises(TargetError, match="holds a finished result"):
        convert_adapter(PEFT / "base", tmp_path / "out")
    convert_adapter(PEFT / "base", tmp_path / "out", overwrite=True)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "adapter_config.json", "adapter_model.safetensors",
    ]  # fmt: skip
    shutil.copytree(PEFT / "chat", tmp_path / "theirs")
    with pytest.raises(TargetError, match="did not write .adapter_config.json"):
        convert_adapter(PEFT / "base", tmp_path / "theirs", overwrite=True)


def test_an_adapter_is_not_saved_over_another(tmp_path):
    model = tiny_model()
    inject(model, LoRAConfig(r=2))
    save_adapter(model, tmp_path / "out")
    with pytest.raises(TargetError, match="holds a finished result"):
        save_adapter(model, tmp_path / "out")
    save_adapter(model, tmp_path / "out", overwrite=True)
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "adapter_model.safetensors.tmp").symlink_to(tmp_path / "victim")
    with pytest.raises(TargetError, match="did not write"):
        save_adapter(model, tmp_path / "foreign", overwrite=True)
    assert not (tmp_path / "victim").exists()


def test_a_base_that_does_not_fit_its_configuration_is_told(tmp_path):
    tiny_model().save_pretrained(tmp_path / "base")
    path = tmp_path / "base" / "model.safetensors"
    with safe_open(path, "numpy") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    tensors["transformer.h.0.ln_1.weight"] = np.ones(7, np.float32)
    tensors["transformer.h.1.ln_2.weight"] = np.ones(16, np.int32)
    save_file(tensors, path, metadata)
    with pytest.raises(CheckpointError, match=r"ln_2.weight' holds int32 .*ln_1.weight' has shape \(7,\)"):
        convert_adapter(PEFT / "base", tmp_path / "out", base=tmp_path / "base")


def test_whole_layers_that_the_settings_name_but_the_file_lacks_are_told(tmp_path, caplog):
    folder = changed(tmp_path / "adapter", modules_to_save=["wte", "lm_head"])
    assert len(load_adapter(tiny_model(), folder)) == 8
    assert "no weights of 'wte'" in caplog.text
