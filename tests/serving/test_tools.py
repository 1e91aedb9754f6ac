"""Function calls: what the model is told, what is read out of its answer, plain and streamed."""

from __future__ import annotations

import json

import pytest

from paddlemix.serving.tools import CallReader, Tool, ToolCall, find_call, forced_call_grammar
from tests.serving.harness import events

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
CALL = 'Thought: I need it.\nAction: get_weather\nAction Input: {"city": "Rome"}\nObservation: sunny'
QUESTION = [{"role": "user", "content": "How is Rome?"}]


def prompt(server):
    return server.engine.tokenizer.decode(server.engine.seen[-1].prompt_ids)


def call_of(message):
    (call,) = message["tool_calls"]
    assert call["type"] == "function" and call["id"].startswith("call_")
    return call["function"]["name"], json.loads(call["function"]["arguments"])


def test_the_model_is_told_and_its_call_is_read(server):
    server.engine.answer = CALL
    choice = server.chat(messages=QUESTION, tools=[WEATHER]).json()["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert call_of(choice["message"]) == ("get_weather", {"city": "Rome"})
    assert choice["message"]["content"] == "Thought: I need it."
    text = prompt(server)
    assert "get_weather: Call this tool" in text and "should be one of [get_weather]" in text
    assert "Begin!\n\nQuestion: How is Rome?<|im_end|>" in text
    assert server.engine.seen[-1].sampling.stop_strings == ("Observation:",)


def test_a_streamed_call_is_that_of_a_plain_answer(server):
    server.engine.answer = CALL
    chunks = [c["choices"][0] for c in events(server.chat(messages=QUESTION, tools=[WEATHER], stream=True))[:-1]]
    calls = [c["delta"] for c in chunks if "tool_calls" in c["delta"]]
    assert len(calls) == 1 and call_of(calls[0]) == ("get_weather", {"city": "Rome"})
    assert calls[0]["tool_calls"][0]["index"] == 0 and chunks[-1]["finish_reason"] == "tool_calls"
    assert "".join(c["delta"].get("content", "") for c in chunks) == "Thought: I need it."


def test_a_response_streams_its_call(server):
    server.engine.answer = CALL
    tool = {"type": "function", **WEATHER["function"]}
    stream = events(server.post("/v1/responses", input="How is Rome?", tools=[tool], stream=True))
    (done,) = [event for event in stream if event["type"] == "response.function_call_arguments.done"]
    assert done["name"] == "get_weather" and json.loads(done["arguments"]) == {"city": "Rome"}
    assert stream[-1]["type"] == "response.completed"
    assert [item["type"] for item in stream[-1]["response"]["output"]] == ["message", "function_call"]


@pytest.mark.parametrize("streamed", [False, True])
def test_a_final_answer_comes_without_the_thoughts(server, streamed):
    server.engine.answer = "Thought: I now know the final answer.\nFinal Answer: It is sunny."
    response = server.chat(messages=QUESTION, tools=[WEATHER], stream=streamed)
    if streamed:
        deltas = [chunk["choices"][0]["delta"] for chunk in events(response)[:-1]]
        assert sum("content" in delta for delta in deltas) > 2
        content = "".join(delta.get("content", "") for delta in deltas)
    else:
        content = response.json()["choices"][0]["message"]["content"]
    assert content == "It is sunny."


def test_results_of_calls_go_back_as_observations(server):
    call = {"id": "c", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Rome"}'}}
    messages = [
        {"role": "system", "content": "Be brief."},
        *QUESTION,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "sunny"},
    ]  # fmt: skip
    assert server.chat(messages=messages, tools=[WEATHER]).status_code == 200
    text = prompt(server)
    assert "user\nBe brief.\n\nAnswer the following questions" in text
    assert text.endswith(
        "assistant\nThought: I can use get_weather.\nAction: get_weather\nAction Input: "
        '{"city": "Rome"}\nObservation: sunny\nThought:'
    )


def test_a_call_cut_off_is_none(server):
    server.engine.answer = CALL
    choice = server.chat(messages=QUESTION, tools=[WEATHER], max_tokens=40).json()["choices"][0]
    assert choice["finish_reason"] == "length" and "tool_calls" not in choice["message"]
    assert "Action:" in choice["message"]["content"]


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "get_weather"}}])
def test_a_forced_call_has_a_grammar(server, choice):
    server.engine.answer = 'Action: get_weather\nAction Input: {"city":"Rome"}'
    answer = server.chat(messages=QUESTION, tools=[WEATHER], tool_choice=choice).json()["choices"][0]
    assert call_of(answer["message"]) == ("get_weather", {"city": "Rome"}) and answer["message"]["content"] is None
    assert answer["finish_reason"] == "tool_calls"
    request = server.engine.seen[-1]
    assert request.grammar.kind == "lark" and "get_weather" in request.grammar.source
    assert request.sampling.stop_strings == ()
    llguidance = pytest.importorskip("llguidance")
    assert not llguidance.LLMatcher.validate_grammar(llguidance.LLMatcher.grammar_from_lark(request.grammar.source))


def test_no_choice_is_no_tools(server):
    server.chat(messages=QUESTION, tools=[WEATHER], tool_choice="none")
    assert "get_weather" not in prompt(server)


def test_the_older_form_is_answered_in_it(server):
    server.engine.answer = CALL
    choice = server.chat(messages=QUESTION, functions=[WEATHER["function"]]).json()["choices"][0]
    assert choice["finish_reason"] == "function_call"
    assert choice["message"]["function_call"]["name"] == "get_weather"


def test_a_call_of_an_unknown_function_is_text(server):
    server.engine.answer = "Action: rm\nAction Input: {}"
    choice = server.chat(messages=QUESTION, tools=[WEATHER]).json()["choices"][0]
    assert choice["finish_reason"] == "stop" and choice["message"]["content"] == server.engine.answer


TEXTS = [CALL, "Hello\nAct now", "Thought: a\nFinal Answer: b\nAction: get_weather\nAction Input: {}", "Th",
         "A\nAction", "Final Answer: x", "", "x\n\nAction: f\n", "Action: get_weather\nAction Input: 1"]  # fmt: skip


@pytest.mark.parametrize("text", TEXTS)
def test_a_call_is_read_alike_however_the_text_is_cut(text):
    def read(pieces):
        reader = CallReader([Tool("get_weather")])
        shown = "".join(reader.push(piece) for piece in pieces)
        rest, call = reader.finish()
        return shown + rest, call

    whole = read([text])
    assert read(list(text)) == whole
    for cut in range(len(text)):
        assert read([text[:cut], text[cut:]]) == whole


def test_the_last_call_of_a_text_counts():
    assert find_call("Action: a\nAction Input: 1\nObservation: 2\nAction: b\nAction Input: 3\n")[0] == ToolCall(
        "b", "3"
    )
    assert find_call("nothing") == (None, 7)


def test_a_forced_call_comes_to_its_end():
    schema = {
        "type": "object",
        "properties": {
            "a": {"type": "string"},
            "b": {"enum": ["x"]},
            "c": {"type": "array", "items": {"type": "string"}},
        },
    }
    source = forced_call_grammar([Tool("f", "", schema)], max_tokens=200).source
    bounded = json.loads(source.splitlines()[-1].partition("%json ")[2])
    assert bounded["properties"]["a"]["maxLength"] == bounded["properties"]["c"]["items"]["maxLength"] == 50
    assert bounded["additionalProperties"] is False and "maxLength" not in bounded["properties"]["b"]
    assert "maxLength" not in json.dumps(schema)
