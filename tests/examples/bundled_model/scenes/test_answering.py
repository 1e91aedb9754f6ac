from __future__ import annotations

import pytest

from examples.bundled_model.scenes import evaluate
from examples.bundled_model.scenes.answering import answer_function, messages
from examples.bundled_model.scenes.evaluate import Prompt
from examples.bundled_model.scenes.scene import generate_scene
from paddlemix import zoo

SIZE = 56


@pytest.fixture(scope="module")
def model_and_processor():
    import paddle

    from paddlemix.models.qwen_vl.configuration import QWenVLConfig
    from paddlemix.models.qwen_vl.image_processing import QwenVLImageProcessor
    from paddlemix.models.qwen_vl.modeling import QWenLMHeadModel
    from paddlemix.models.qwen_vl.processing import QwenVLProcessor
    from paddlemix.models.qwen_vl.tokenization import QWenVLTokenizer

    tokenizer = QWenVLTokenizer.from_pretrained(zoo.DEFAULT_MODEL_DIR, image_slots=4)
    visual = {
        "image_size": SIZE,
        "patch_size": 14,
        "width": 32,
        "layers": 1,
        "heads": 2,
        "mlp_ratio": 2.0,
        "output_dim": 64,
        "image_start_id": tokenizer.img_start_id,
        "n_queries": 4,
    }
    config = QWenVLConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=64,
        num_hidden_layers=1,
        num_attention_heads=1,
        kv_channels=64,
        intermediate_size=128,
        max_position_embeddings=512,
        seq_length=512,
        visual=visual,
    )
    paddle.seed(3)
    model = QWenLMHeadModel(config)
    model.eval()
    return model, QwenVLProcessor(tokenizer, QwenVLImageProcessor(image_size=SIZE))


def test_a_batch_is_answered_as_its_questions_one_by_one(model_and_processor):
    answer = answer_function(*model_and_processor, max_new_tokens=5)
    images = [generate_scene(seed, size=SIZE).pil() for seed in range(2**39, 2**39 + 4)]
    prompts = [
        Prompt((images[0],), "What is this?"),
        Prompt((images[1],), "框出图中公交车的位置"),
        Prompt((images[2],), "Where is it?", (("What colour is the dog?", "The dog is red."),)),
        Prompt((images[2], images[3]), "Which picture shows a dog?"),
    ]
    together = answer(prompts)
    assert together == [answer([prompt])[0] for prompt in prompts]
    assert any(together)


def test_a_prompt_is_rendered_as_training_writes_it(model_and_processor):
    """Images first and numbered, then the turns; the boxes of earlier answers are tags again."""
    _, processor = model_and_processor
    image = generate_scene(1, size=SIZE).pil()
    turn = ("Where is the dog?", "<ref>dog</ref><box>(1,2),(3,4)</box>")
    ids = processor.render(messages(Prompt((image, image), "What colour is it?", (turn,)))).input_ids
    text = processor.tokenizer.decode(ids, skip_special_tokens=False)
    first = text.index("Picture 1: ")
    assert first < text.index("Picture 2: ") < text.index("Where is the dog?") < text.index("<ref>dog</ref><box>(1,2)")
    assert text.endswith("<|im_start|>user\nWhat colour is it?<|im_end|>\n<|im_start|>assistant\n")
    assert processor.tokenizer.box_start_id in ids


def test_a_model_can_be_evaluated(model_and_processor):
    answer = answer_function(*model_and_processor, max_new_tokens=3)
    results = evaluate.evaluate(answer, count=2, size=SIZE, only=evaluate.TASKS[4:6])
    assert [(result.task, result.language) for result in results] == [
        ("count", "en"), ("count", "zh"), ("color", "en"), ("color", "zh"),
    ]  # fmt: skip
