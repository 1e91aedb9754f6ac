"""A complete model directory, small enough to be made in a second, whose answer is known.

Each token of the answer leads to the next one whatever came before, so no token may occur twice in it.
"""

from __future__ import annotations

from pathlib import Path

from paddlemix.zoo import DEFAULT_MODEL_DIR

N_QUERIES = 4
ANSWER = "<ref>bus</ref><box>10,23)654 987</box>"
"""An odd way to write a box, but one that no token stands twice in."""
ANSWER_BOX = {"label": "bus", "x1": 10, "y1": 23, "x2": 654, "y2": 987}


def write_tiny_model(
    directory: Path, chat_format: str = "chatml", answer: str = ANSWER, num_image_tokens: int = N_QUERIES
) -> Path:
    """Save a two-layer Qwen-VL with the small bundled vocabulary that answers ``answer``; returns ``directory``.

    The answer follows on a line end, with which a prompt in ChatML ends, or on a question mark.
    """
    import paddle
    from paddlenlp.generation import GenerationConfig

    from paddlemix.models.qwen_vl.configuration import QWenVLConfig
    from paddlemix.models.qwen_vl.image_processing import QwenVLImageProcessor
    from paddlemix.models.qwen_vl.modeling import QWenLMHeadModel
    from paddlemix.models.qwen_vl.processing import QwenVLProcessor
    from paddlemix.models.qwen_vl.tokenization import QWenVLTokenizer

    tokenizer = QWenVLTokenizer(DEFAULT_MODEL_DIR / "qwen.tiktoken", image_slots=num_image_tokens, model_max_length=512)
    config = QWenVLConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        kv_channels=64,
        intermediate_size=256,
        max_position_embeddings=512,
        seq_length=512,
        visual={
            "image_size": 56,
            "patch_size": 14,
            "width": 64,
            "layers": 1,
            "heads": 2,
            "mlp_ratio": 2.0,
            "output_dim": 128,
            "image_start_id": tokenizer.img_start_id,
            "n_queries": num_image_tokens,
            "num_positions": 16,
        },
    )
    paddle.seed(7)
    model = QWenLMHeadModel(config)
    model.eval()
    ids = tokenizer.encode(answer) + [tokenizer.im_end_id if chat_format == "chatml" else tokenizer.eod_id]
    assert len(set(ids)) == len(ids), "a token stands twice in the answer"
    starts = [tokenizer.encode(text, allowed_special=())[-1] for text in ("\n", "?")]
    _lead(model, [(start, ids[0]) for start in starts] + list(zip(ids, ids[1:])))
    model.generation_config = GenerationConfig(
        chat_format=chat_format,
        max_window_size=384,
        max_new_tokens=48,
        do_sample=False,
        eos_token_id=tokenizer.eod_id,
        pad_token_id=tokenizer.eod_id,
    )
    model.save_pretrained(directory)
    QwenVLProcessor(tokenizer, QwenVLImageProcessor(image_size=56)).save_pretrained(directory)
    return directory


def _lead(model: object, steps: list[tuple[int, int]]) -> None:
    """Make each first token of ``steps`` lead to the second: layers add nothing, the head looks for embeddings."""
    import numpy as np

    for layer in model.transformer.h:
        for projection in (layer.attn.c_proj, layer.mlp.c_proj):
            projection.weight.set_value(np.zeros(projection.weight.shape, "float32"))
    embeddings = np.random.default_rng(7).standard_normal(model.transformer.wte.weight.shape).astype("float32")
    head = np.zeros(model.lm_head.weight.shape, "float32")
    for token, following in steps:
        head[:, following] += embeddings[token]
    model.transformer.wte.weight.set_value(embeddings)
    model.lm_head.weight.set_value(head)
