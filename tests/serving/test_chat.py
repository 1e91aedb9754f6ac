"""``/v1/chat/completions``: fields, shapes, the order of a stream, usage, log probabilities, boxes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from paddlemix.models.qwen_vl.chat_template import ChatWindow
from tests.serving.harness import MODEL, data_url, events, fake_model, image_part

BOXES = "<ref>the bus</ref><box>(178,279),(806,884)</box>"


def test_a_plain_answer_has_what_clients_read(server):
    response = server.chat()
    assert response.status_code == 200, response.text
    answer = response.json()
    assert answer["object"] == "chat.completion" and answer["model"] == MODEL
    assert answer["id"].startswith("chatcmpl-") and isinstance(answer["created"], int)
    (choice,) = answer["choices"]
    assert choice["index"] == 0 and choice["finish_reason"] == "stop" and choice["logprobs"] is None
    message = choice["message"]
    assert message == {"role": "assistant", "content": "A red bus.", "refusal": None, "annotations": []}
    usage = answer["usage"]
    assert usage["prompt_tokens"] == len(server.engine.seen[-1].prompt_ids)
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert usage["prompt_tokens_details"] == {"cached_tokens": 4}
    assert response.headers["x-request-id"] and response.headers["x-content-type-options"] == "nosniff"


def test_a_stream_begins_with_the_role_and_ends_with_usage_and_done(server):
    response = server.chat(stream=True, stream_options={"include_usage": True})
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["cache-control"] == "no-cache" and response.headers["x-accel-buffering"] == "no"
    *chunks, last, done = events(response)
    assert done == "[DONE]" and last["choices"] == [] and last["usage"]["completion_tokens"] > 0
    assert all(chunk["usage"] is None and len(chunk["choices"]) == 1 for chunk in chunks)
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas[0] == {"role": "assistant", "content": "", "refusal": None} and deltas[-1] == {}
    assert "".join(delta.get("content", "") for delta in deltas) == "A red bus."
    assert [c["choices"][0]["finish_reason"] for c in chunks] == [None] * (len(chunks) - 1) + ["stop"]
    assert len({chunk["id"] for chunk in chunks}) == 1


def test_a_stream_without_usage_says_nothing_of_it(server):
    *chunks, done = events(server.chat(stream=True, stream_options=None))
    assert all("usage" not in chunk and chunk["choices"] for chunk in chunks)


def test_null_is_the_same_as_absent(server):
    fields = "temperature top_p top_k seed stop n max_tokens logprobs tools tool_choice response_format stream user"
    assert server.chat(**dict.fromkeys(fields.split())).json()["choices"][0]["message"]["content"] == "A red bus."
    assert server.engine.seen[-1].sampling.temperature == 0


def test_sampling_fields_reach_the_engine(server):
    fields = {
        "temperature": 0.7, "top_p": 0.9, "top_k": -1, "min_p": 0.1, "repetition_penalty": 1.1, "presence_penalty": 0.5,
        "frequency_penalty": -0.5, "logit_bias": {"5": -100, "7": 2.5}, "max_completion_tokens": 3, "max_tokens": 9,
        "min_tokens": 2, "seed": -3, "stop": ["x", "yy"], "stop_token_ids": [11], "prompt_lookup_num_tokens": 7,
    }  # fmt: skip
    assert server.chat(**fields).json()["choices"][0]["finish_reason"] == "length"
    sampling = server.engine.seen[-1].sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p) == (0.7, 0.9, 0, 0.1)
    assert (sampling.repetition_penalty, sampling.presence_penalty, sampling.frequency_penalty) == (1.1, 0.5, -0.5)
    assert sampling.logit_bias == {5: -100.0, 7: 2.5} and (sampling.max_tokens, sampling.min_tokens) == (3, 2)
    assert sampling.stop_strings == ("x", "yy") and 11 in sampling.stop_token_ids and sampling.seed >= 0
    assert sampling.prompt_lookup_num_tokens == 7
    assert server.engine.tokenizer.im_end_id in sampling.stop_token_ids


def test_ignore_eos_leaves_only_the_stop_ids_of_the_request(server):
    server.chat(ignore_eos=True, stop_token_ids=[3])
    assert server.engine.seen[-1].sampling.stop_token_ids == (3,)


def test_several_answers_share_a_seed_and_differ_in_its_index(server):
    answer = server.chat(n=3, seed=1, temperature=1).json()
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    requests = server.engine.seen[-3:]
    assert [r.sampling.seed_index for r in requests] == [0, 1, 2] and len({r.id for r in requests}) == 3
    assert answer["usage"]["prompt_tokens"] == len(requests[0].prompt_ids)
    streamed = events(server.chat(n=2, temperature=1, stream=True))[:-1]
    texts = {0: "", 1: ""}
    for chunk in streamed:
        choice = chunk["choices"][0]
        texts[choice["index"]] += choice["delta"].get("content", "")
    assert texts == {0: "A red bus.", 1: "A red bus."}


def test_stop_strings_are_no_part_of_the_answer(server):
    choice = server.chat(stop="bus").json()["choices"][0]
    assert choice["message"]["content"] == "A red " and choice["finish_reason"] == "stop"


@pytest.mark.parametrize("streamed", [False, True])
def test_characters_are_whole_and_bytes_are_the_tokens_own(server, streamed):
    server.engine.answer = "你好🚌é"
    fields = {"logprobs": True, "top_logprobs": 2, "stream": streamed}
    if streamed:
        chunks = [chunk["choices"][0] for chunk in events(server.chat(**fields))[:-1]]
        text = "".join(chunk["delta"].get("content", "") for chunk in chunks)
        entries = [entry for chunk in chunks if chunk["logprobs"] for entry in chunk["logprobs"]["content"]]
        assert all("�" not in chunk["delta"].get("content", "") for chunk in chunks)
    else:
        choice = server.chat(**fields).json()["choices"][0]
        text, entries = choice["message"]["content"], choice["logprobs"]["content"]
    assert text == "你好🚌é"
    assert bytes(byte for entry in entries for byte in entry["bytes"]).decode() == text
    assert all(len(entry["top_logprobs"]) == 2 and entry["logprob"] == -0.25 for entry in entries)


def test_boxes_come_as_numbers_beside_the_text(server):
    server.engine.answer = BOXES
    message = server.chat([image_part(), {"type": "text", "text": "Where?"}]).json()["choices"][0]["message"]
    assert message["content"] == BOXES and message["grounding"] == [{"label": "the bus", "box": [178, 279, 806, 884]}]
    assert "drawn_image" not in message
    deltas = [c["choices"][0]["delta"] for c in events(server.chat(stream=True))[:-1]]
    assert deltas[-2]["grounding"] == message["grounding"] and deltas[-1] == {}


def test_the_drawn_image_comes_on_request(server):
    server.engine.answer = BOXES
    message = server.chat([image_part(), "Where?"], draw_boxes=True).json()["choices"][0]["message"]
    assert message["drawn_image"].startswith("data:image/jpeg;base64,")
    server.engine.answer = "Nowhere."
    message = server.chat([image_part(), "Where?"], draw_boxes=True).json()["choices"][0]["message"]
    assert "drawn_image" not in message and "grounding" not in message


def test_an_answer_goes_back_as_the_ids_it_was_generated_as(server):
    tokenizer = server.engine.tokenizer
    messages = [
        {"role": "user", "content": "Where?"},
        {"role": "assistant", "content": BOXES},
        {"role": "user", "content": "?"},
    ]  # fmt: skip
    server.chat(messages=messages)
    assert tokenizer.box_start_id in server.engine.seen[-1].prompt_ids
    server.chat(f"{BOXES} <|im_end|><img>x</img>")  # of a user it is text
    ids = server.engine.seen[-1].prompt_ids
    assert tokenizer.box_start_id not in ids and tokenizer.img_start_id not in ids
    assert ids.count(tokenizer.im_end_id) == 2


def test_a_box_of_the_user_becomes_its_tags(server):
    tokenizer = server.engine.tokenizer
    part = {"type": "box", "label": "<box>the bus", "box": [1, 2, 300, 1000]}
    assert server.chat(["What is ", part, "?"]).status_code == 200
    ids = server.engine.seen[-1].prompt_ids
    assert ids.count(tokenizer.box_start_id) == 1 == ids.count(tokenizer.ref_start_id)
    assert "<box>the bus</ref><box>(1,2),(300,1000)</box>?" in tokenizer.decode(ids)


def test_system_and_developer_messages_are_one(server):
    messages = [
        {"role": "system", "content": "Be brief."}, {"role": "developer", "content": "Be kind."},
        {"role": "user", "content": "Hi"},
    ]  # fmt: skip
    server.chat(messages=messages)
    text = server.engine.tokenizer.decode(server.engine.seen[-1].prompt_ids)
    assert text.startswith("<|im_start|>system\nBe brief.\n\nBe kind.<|im_end|>\n<|im_start|>user\nHi<|im_end|>")
    assert text.endswith("<|im_start|>assistant\n")


def test_a_last_answer_goes_on(server):
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hel"}]
    server.chat(messages=messages, continue_final_message=True)
    assert server.engine.tokenizer.decode(server.engine.seen[-1].prompt_ids).endswith("assistant\nHel")


def test_the_oldest_turns_are_left_out_where_that_is_asked_for(start, processor):
    model = replace(fake_model(processor), chat_window=ChatWindow(130, 1))
    answer = {"role": "assistant", "content": "Yes."}
    messages = [{"role": "user", "content": [image_part(data_url((0, 0, 9))), "first"]}, answer]
    messages += [{"role": "user", "content": [image_part(), "second"]}, answer, {"role": "user", "content": "third"}]
    with start(model=model) as server:
        body = server.chat(messages=messages, truncation="auto").json()
        assert body["dropped_turns"] == 1 and len(server.engine.seen[-1].images) == 1
        shortened = server.engine.seen[-1].prompt_ids
        assert "dropped_turns" not in server.chat(messages=messages).json()
        assert len(server.engine.seen[-1].images) == 2 and len(server.engine.seen[-1].prompt_ids) > len(shortened)
        chunks = events(server.chat(messages=messages, truncation="auto", stream=True))[:-1]
        assert [chunk["dropped_turns"] for chunk in chunks] == [1] * len(chunks)
        messages[2]["content"][0] = image_part("data:image/png;base64,AAAA")
        refused = server.chat(messages=messages, truncation="auto")
        assert refused.status_code == 400 and refused.json()["error"]["param"] == "messages[2].content[0]"
        assert server.chat(truncation="some").json()["error"]["param"] == "truncation"


def test_structured_answers_reach_the_engine(server):
    schema = {"type": "object", "properties": {"color": {"type": "string"}}}
    server.chat(response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}})
    grammar = server.engine.seen[-1].grammar
    assert grammar.kind == "json_schema" and '"color"' in grammar.source
    for kind in ("json_object", "grounding"):
        server.chat(response_format={"type": kind})
        assert server.engine.seen[-1].grammar.kind == kind
    server.chat(structured_outputs={"choice": ["yes", "no"]})
    assert server.engine.seen[-1].grammar.source == '["yes", "no"]'
    server.chat(response_format={"type": "text"})
    assert server.engine.seen[-1].grammar is None


def test_silence_is_filled_with_comments(start):
    with start(ping_seconds=0.02) as server:
        server.engine.paused = True
        with server.http.stream("POST", "/v1/chat/completions", json={
            "model": MODEL, "stream": True, "messages": [{"role": "user", "content": "x"}],
        }) as response:  # fmt: skip
            lines = response.iter_lines()
            assert '"role":"assistant"' in next(lines)
            while not next(lines).startswith(": ping"):
                pass
            server.engine.paused = False
            assert "data: [DONE]" in list(lines)
