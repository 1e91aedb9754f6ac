import json

import pytest

from paddlemix.errors import CheckpointError, ConfigurationError
from paddlemix.models.qwen_vl.configuration import QWenVLConfig, QWenVLVisionConfig

PUBLISHED = {
    "_name_or_path": "./", "architectures": ["QWenLMHeadModel"], "attn_dropout_prob": 0.0,
    "auto_map": {"AutoConfig": "configuration_qwen.QWenConfig"}, "bf16": False, "emb_dropout_prob": 0.0, "fp16": False,
    "fp32": False, "hidden_size": 4096, "initializer_range": 0.02, "intermediate_size": 22016, "kv_channels": 128,
    "layer_norm_epsilon": 1e-06, "max_position_embeddings": 8192, "model_type": "qwen", "no_bias": True,
    "num_attention_heads": 32, "num_hidden_layers": 32, "onnx_safe": None, "rotary_emb_base": 10000, "rotary_pct": 1.0,
    "scale_attn_weights": True, "seq_length": 2048, "tie_word_embeddings": False, "tokenizer_type": "QWenTokenizer",
    "torch_dtype": "bfloat16", "transformers_version": "4.31.0", "use_cache": True, "use_dynamic_ntk": True,
    "use_flash_attn": False, "use_logn_attn": True,
    "visual": {
        "heads": 16, "image_size": 448, "image_start_id": 151857, "layers": 48, "mlp_ratio": 4.9231, "output_dim": 4096,
        "patch_size": 14, "width": 1664,
    },
    "vocab_size": 151936,
}  # fmt: skip
SMALL_VISUAL = {"output_dim": 128, "width": 64, "heads": 2, "image_start_id": 300}
SMALL = {"hidden_size": 128, "kv_channels": 64, "num_attention_heads": 2, "vocab_size": 512, "visual": SMALL_VISUAL}


def test_the_published_file_is_read_as_it_is():
    config = QWenVLConfig(**PUBLISHED)
    for name in ("hidden_size", "intermediate_size", "seq_length", "use_dynamic_ntk", "use_logn_attn", "vocab_size"):
        assert getattr(config, name) == PUBLISHED[name]
    assert config.visual.mlp_width == 8192
    assert config.visual.resampler_heads == 32
    assert (config.visual.image_end_id, config.visual.image_pad_id, config.visual.n_queries) == (151858, 151859, 256)


def test_defaults_are_the_published_values():
    config = QWenVLConfig()
    published = QWenVLConfig(**PUBLISHED)
    assert config.visual.to_dict() == published.visual.to_dict()
    for name in ("num_hidden_layers", "kv_channels", "rotary_emb_base", "layer_norm_epsilon"):
        assert getattr(config, name) == getattr(published, name)


def test_saved_and_read_again_is_the_same(tmp_path):
    config = QWenVLConfig(**SMALL, seq_length=77, use_logn_attn=False)
    config.save_pretrained(str(tmp_path))
    again = QWenVLConfig.from_pretrained(tmp_path)
    assert again.to_dict() == config.to_dict()
    assert (again.seq_length, again.use_logn_attn, again.visual.width) == (77, False, 64)
    assert json.loads((tmp_path / "config.json").read_text())["visual"]["width"] == 64


def test_single_fields_can_be_overridden(tmp_path):
    QWenVLConfig(**SMALL).save_pretrained(str(tmp_path))
    assert QWenVLConfig.from_pretrained(tmp_path, seq_length=5).seq_length == 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_sise": 1}, "hidden_sise"),
        ({"rotary_pct": 0.5}, "rotary_pct"),
        ({"no_bias": False}, "no_bias"),
        ({"tie_word_embeddings": True}, "tie_word_embeddings"),
        ({"kv_channels": 32}, "kv_channels"),
        ({"intermediate_size": 33}, "intermediate_size"),
        ({"vocab_size": 302}, "image_start_id"),
        ({"num_hidden_layers": 0}, "num_hidden_layers"),
        ({"bf16": True, "fp16": True}, "bf16, fp16"),
        ({"visual": {**SMALL_VISUAL, "n_queries": 200}}, "visual.n_queries"),
        ({"visual": {**SMALL_VISUAL, "image_size": 450}}, "visual.image_size"),
        ({"visual": {**SMALL_VISUAL, "width": 63}}, "visual.width"),
        ({"visual": {**SMALL_VISUAL, "output_dim": 256}}, "visual.output_dim"),
        ({"visual": {**SMALL_VISUAL, "patches": 3}}, "patches"),
        ({"visual": {**SMALL_VISUAL, "mlp_ratio": 0}}, "visual.mlp_ratio"),
        ({"visual": {**SMALL_VISUAL, "image_start_id": -3}}, "visual.image_start_id"),
        ({"visual": [448]}, "visual: expected a dict"),
        ({"max_position_embeddings": 0}, "max_position_embeddings"),
        ({"layer_norm_epsilon": -1e-6}, "layer_norm_epsilon"),
        ({"rotary_emb_base": "10000"}, "rotary_emb_base"),
        ({"attn_dropout_prob": 1.5}, "attn_dropout_prob"),
        ({"use_dynamic_ntk": "yes"}, "use_dynamic_ntk"),
        ({"quantization_config": {"quant_method": "awq"}}, "'awq' .*expected one of gptq, bitsandbytes, paddlemix"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 3}}, "quantization_config.bits: got 3, only 4"),
        ({"quantization_config": {"quant_method": "paddlemix", "version": 2}}, "quantization_config.version: got 2"),
        ({"quantization_config": "int4"}, "quantization_config: expected a dict"),
        ({"output_attentions": True}, "output_attentions"),
        ({"tensor_parallel_degree": 2}, "tensor_parallel_degree"),
        ({"num_beams": 4}, "num_beams: .*generation_config.json"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers: expected an integer from 1 to 1024, got 1000000000"),
        ({"layer_norm_epsilon": float("nan")}, "layer_norm_epsilon: expected a number from 0 to 1, got nan"),
        ({"rotary_emb_base": 10**320}, "rotary_emb_base: expected a number from 1 to 1e"),
        ({"visual": {**SMALL_VISUAL, "n_queries": 10**10}}, "visual.n_queries: expected an integer from 1 to 16384"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling: got .*rotary_emb_base=10000"),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 5}}, "rope_parameters"),
        ({"rope_theta": 5}, "rope_theta"),
        ({"use_cache_quantization": True}, "use_cache_quantization: .*kv_cache_dtype"),
        ({"hidden_sise": 1}, "did you mean hidden_size"),
    ],
)
def test_what_cannot_work_is_refused_by_name(change, message):
    with pytest.raises(ConfigurationError, match=message):
        QWenVLConfig(**{**SMALL, **change})


def test_fields_of_the_base_class_may_stand_there_with_their_neutral_values():
    config = QWenVLConfig(**SMALL, num_beams=1, tensor_parallel_degree=-1, pruned_heads={}, eos_token_id=7)
    assert config.eos_token_id == 7
    assert QWenVLConfig(**config.to_dict()).to_dict() == config.to_dict()


def test_a_missing_or_broken_file_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"config\.json: missing"):
        QWenVLConfig.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="cannot be read as JSON"):
        QWenVLConfig.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(CheckpointError, match="got list, expected a JSON object"):
        QWenVLConfig.from_pretrained(tmp_path)


def test_vision_defaults_divide_evenly():
    config = QWenVLVisionConfig()
    assert config.width // config.heads == 104
    assert (config.image_size // config.patch_size) ** 2 == 1024


def test_the_dtype_of_the_cache_is_not_saved(tmp_path):
    QWenVLConfig(kv_cache_dtype="bfloat16").save_pretrained(tmp_path)
    assert QWenVLConfig.from_pretrained(tmp_path).kv_cache_dtype is None
