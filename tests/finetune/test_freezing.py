from __future__ import annotations

import pytest

from paddlemix.errors import ConfigurationError
from paddlemix.finetune import freeze
from paddlemix.models.qwen_vl.weights import FREEZE_PRESETS
from tests.adapters.building import image_ids, images, tiny_model

VISUAL = "transformer.visual."
TABLE = f"{VISUAL}attn_pool.pos_embed"


@pytest.fixture
def model():
    return tiny_model()


def trainable(model) -> set[str]:
    return {name for name, parameter in model.named_parameters() if not parameter.stop_gradient}


def visual_parts(names: set[str]) -> set[str]:
    return {name[len(VISUAL) :].split(".")[0] for name in names if name.startswith(VISUAL)}


def test_nothing_is_frozen_but_the_position_table_where_nothing_is_said(model):
    assert freeze(model, []) == [TABLE]


def test_freeze_vit_leaves_the_resampler_and_what_follows_it(model):
    frozen = freeze(model, ["freeze_vit"])
    assert visual_parts(trainable(model)) == {"attn_pool", "ln_post", "proj"}
    assert visual_parts(set(frozen) - {TABLE}) == {"conv1", "positional_embedding", "ln_pre", "transformer"}
    assert not any(not name.startswith(VISUAL) for name in frozen)


def test_fix_vit_is_the_originals(model):
    freeze(model, ["fix_vit"])
    found = trainable(model)
    assert visual_parts(found) == {"attn_pool"}
    model.freeze_vit()
    assert trainable(model) == found


def test_the_vit_is_trained_while_the_language_model_is_frozen(model):
    freeze(model, ["freeze_llm"])
    found = trainable(model)
    assert all(name.startswith(VISUAL) for name in found) and f"{VISUAL}conv1.weight" in found


def test_presets_divide_the_model(model):
    names = [name for name, _ in model.named_parameters()]
    parts = [set(freeze(model, [preset])) - {TABLE} for preset in ("freeze_vit", "freeze_resampler", "freeze_llm")]
    assert sorted(name for part in parts for name in part) == sorted(set(names) - {TABLE})


def test_later_patterns_overrule_earlier_ones(model):
    freeze(model, ["*visual*", "!*visual.attn_pool*", "attn_pool.query"])
    assert visual_parts(trainable(model)) == {"attn_pool"}
    assert f"{VISUAL}attn_pool.query" not in trainable(model)


def test_the_position_table_is_never_trained(model):
    freeze(model, ["freeze_llm", "!*.pos_embed"])
    assert TABLE not in trainable(model)


def test_parameters_that_were_frozen_before_are_trainable_again(model):
    freeze(model, ["freeze_llm"])
    freeze(model, ["freeze_vit"])
    assert "lm_head.weight" in trainable(model)


@pytest.mark.parametrize("preset", FREEZE_PRESETS)
def test_just_the_trainable_parameters_get_gradients(model, preset):
    freeze(model, [preset])
    model.train()
    ids = image_ids()
    model(ids, images=images(), labels=ids).loss.backward()
    assert {name for name, parameter in model.named_parameters() if parameter.grad is not None} == trainable(model)


@pytest.mark.parametrize(
    "pattern, near", [("freeze_vitt", "freeze_vit"), ("*.c_atn.*", "c_attn"), ("!lm_haed.*", "lm_head")]
)
def test_a_pattern_that_matches_nothing_names_near_ones(model, pattern, near):
    before = trainable(model)
    with pytest.raises(ConfigurationError, match=f"matches no parameter.*near it: .*{near}"):
        freeze(model, ["freeze_llm", pattern])
    assert trainable(model) == before


def test_something_must_be_left_to_train(model):
    with pytest.raises(ConfigurationError, match="leaves nothing to train"):
        freeze(model, ["*"])
