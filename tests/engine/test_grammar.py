import json
import re

import numpy as np
import pytest

from paddlemix.engine.engine import Engine, EngineConfig
from paddlemix.engine.grammar import MAX_SOURCE
from paddlemix.engine.request import FinishReason, Grammar, Request, SamplingParams
from paddlemix.errors import ConfigurationError, PromptError
from paddlemix.models.qwen_vl.grounding import parse
from paddlemix.models.qwen_vl.runner import QWenVLRunner, grammar_compiler
from tests.engine.engines import engine_of, run, text
from tests.random_model import random_model

SCHEMA = {
    "type": "object",
    "properties": {
        "label": {"type": "string", "maxLength": 4},
        "count": {"type": "integer", "minimum": 0, "maximum": 9},
    },
    "required": ["label", "count"],
    "additionalProperties": False,
}  # fmt: skip


@pytest.fixture(scope="module")
def speaking(tmp_path_factory):
    pytest.importorskip("llguidance")
    model, processor = random_model(tmp_path_factory.mktemp("grammar"))
    return model, processor, grammar_compiler(model, processor.tokenizer)


def answer(speaking, grammar, seed=0, **sampling):
    model, processor, compiler = speaking
    runner = QWenVLRunner(model, processor.tokenizer.vocab_size)
    engine = Engine(runner, processor.tokenizer, EngineConfig(cache_bytes=1 << 24), compiler)
    params = SamplingParams(
        max_tokens=300, temperature=1.0, seed=seed, stop_token_ids=(processor.tokenizer.im_end_id,), **sampling
    )
    outputs = run(engine, Request("a", (1, 2, 3), sampling=params, grammar=grammar))["a"]
    assert outputs[-1].error is None
    assert outputs[-1].finish_reason is FinishReason.STOP
    return text(outputs)


def test_answers_are_json_of_the_schema(speaking):
    for seed in range(2):
        answered = json.loads(answer(speaking, Grammar("json_schema", json.dumps(SCHEMA)), seed))
        assert set(answered) == {"label", "count"} and len(answered["label"]) <= 4 and 0 <= answered["count"] <= 9


def test_answers_match_a_regular_expression(speaking):
    assert re.fullmatch("[a-c]{3}-[0-9]{2}", answer(speaking, Grammar("regex", "[a-c]{3}-[0-9]{2}")))


def test_answers_are_one_of_the_choices(speaking):
    choices = ["yes", "no", 'a "quoted" one', "在左边"]
    assert {answer(speaking, Grammar("choice", json.dumps(choices)), seed) for seed in range(3)} <= set(choices)


def test_answers_of_boxes_hold_nothing_else(speaking):
    bias = dict.fromkeys(speaking[1].tokenizer.encode("cat"), 8.0)
    closing = {speaking[1].tokenizer.ref_end_id: 8.0, speaking[1].tokenizer.im_end_id: 8.0}
    answered = answer(speaking, Grammar("grounding"), logit_bias={**bias, **closing})
    boxes = parse(answered)
    assert boxes and re.fullmatch(r"(<ref>[^<>]+</ref>(<box>\(\d+,\d+\),\(\d+,\d+\)</box>)+)+", answered)
    assert all(0 <= side <= 999 for box in boxes for side in (box.x1, box.y1, box.x2, box.y2))


def test_proposals_are_held_to_the_grammar_too(speaking):
    grammar = Grammar("regex", "(ab){20}")
    assert answer(speaking, grammar, prompt_lookup_num_tokens=7) == "ab" * 20


@pytest.mark.parametrize(
    "grammar, message",
    [
        (Grammar("json_schema", '{"type": "wrong"}'), "grammar: "),
        (Grammar("json_schema", "{"), "grammar: "),
        (Grammar("regex", "("), "grammar: "),
        (Grammar("choice", "[]"), "non-empty texts"),
        (Grammar("choice", "{"), "grammar: "),
        (Grammar("lark", "start: missing"), "grammar: "),
        (Grammar("other"), "unknown kind 'other'"),
        (Grammar("regex", "a" * (MAX_SOURCE + 1)), "at most 65536"),
    ],
)
def test_what_cannot_be_compiled_is_refused_in_one_line(speaking, grammar, message):
    with pytest.raises(PromptError, match=message) as caught:
        speaking[2].check(grammar)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


def test_compiled_grammars_are_bounded(speaking):
    compiler = speaking[2]
    for i in range(70):
        compiler.check(Grammar("regex", f"a{{{i + 1}}}"))
    assert len(compiler._kept) == 64


def test_a_matcher_says_what_may_come(speaking):
    _, processor, compiler = speaking
    matcher = compiler.matcher(Grammar("regex", "ab"))
    allowed = np.flatnonzero(matcher.allowed())
    assert {processor.tokenizer.decode([i]) for i in allowed} <= {"a", "ab"}


def test_json_has_no_space_that_a_model_could_go_on_with(speaking):
    _, processor, compiler = speaking
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    for grammar in (Grammar("json_schema", json.dumps(schema)), Grammar("json_object")):
        matcher = compiler.matcher(grammar)
        for token in processor.tokenizer.encode("{"):
            assert not matcher.push(token)
        texts = [processor.tokenizer.decode([i]) for i in np.flatnonzero(matcher.allowed())]
        assert texts and not any(text[:1].isspace() for text in texts)


def test_an_engine_without_a_compiler_refuses_grammars(tmp_path):
    engine = engine_of(*random_model(tmp_path))
    with pytest.raises(ConfigurationError, match="without a compiler"):
        engine.add(Request("a", (1,), grammar=Grammar("grounding")))
