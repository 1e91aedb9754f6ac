"""Clients that others wrote: OpenAI's and Anthropic's own, against every endpoint they know."""

from __future__ import annotations

import asyncio
import json

import pytest

from tests.serving.harness import MODEL, data_url, image_part

TOOL = {
    "name": "get_weather", "description": "Weather of a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}  # fmt: skip
CALL = 'Thought: I need it.\nAction: get_weather\nAction Input: {"city": "Rome"}'
QUESTION = [{"role": "user", "content": "How is Rome?"}]


@pytest.fixture
def openai(server):
    return pytest.importorskip("openai").OpenAI(base_url=f"{server.url}/v1", api_key="x", max_retries=0)


@pytest.fixture
def anthropic(server):
    return pytest.importorskip("anthropic").Anthropic(base_url=server.url, api_key="x", max_retries=0)


def test_openai_chat(openai, server):
    content = [image_part(), {"type": "text", "text": "Where?"}]
    answer = openai.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": content}])
    assert answer.choices[0].message.content == "A red bus." and answer.usage.prompt_tokens_details.cached_tokens == 4
    stream = openai.chat.completions.create(
        model=MODEL, messages=QUESTION, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "A red bus."
    assert chunks[-1].usage.total_tokens > 0
    with openai.chat.completions.stream(model=MODEL, messages=QUESTION) as helper:
        assert helper.get_final_completion().choices[0].message.content == "A red bus."
    assert [model.id for model in openai.models.list()] == [MODEL]
    assert openai.completions.create(model=MODEL, prompt="x").choices[0].text == "A red bus."


def test_openai_tools_and_errors(openai, server):
    import openai as package

    server.engine.answer = CALL
    answer = openai.chat.completions.create(
        model=MODEL, messages=QUESTION, tools=[{"type": "function", "function": TOOL}]
    )
    (call,) = answer.choices[0].message.tool_calls
    assert json.loads(call.function.arguments) == {"city": "Rome"}
    with pytest.raises(package.NotFoundError) as missing:
        openai.chat.completions.create(model="nope", messages=QUESTION)
    assert missing.value.code == "model_not_found" and missing.value.param == "model"
    with pytest.raises(package.BadRequestError):
        openai.chat.completions.create(model=MODEL, messages=QUESTION, temperature=9)
    server.engine.fail = True
    with pytest.raises(package.APIError, match="the server failed"):
        list(openai.chat.completions.create(model=MODEL, messages=QUESTION, stream=True))


def test_openai_many_at_once(openai, server):
    import openai as package

    async def ask_all():
        async with package.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="x") as client:
            asked = [client.chat.completions.create(model=MODEL, messages=QUESTION) for _ in range(20)]
            return await asyncio.gather(*asked)

    assert {answer.choices[0].message.content for answer in asyncio.run(ask_all())} == {"A red bus."}


def test_openai_responses(openai, server):
    answer = openai.responses.create(model=MODEL, input="Hi", instructions="Be brief.", max_output_tokens=100)
    assert answer.output_text == "A red bus." and answer.status == "completed" and answer.usage.output_tokens > 0
    assert "Be brief." in server.engine.tokenizer.decode(server.engine.seen[-1].prompt_ids)
    short = openai.responses.create(model=MODEL, input="Hi", max_output_tokens=1)
    assert short.status == "incomplete" and short.incomplete_details.reason == "max_output_tokens"
    image = {"type": "input_image", "image_url": data_url(), "detail": "auto"}
    content = [{"type": "input_text", "text": "Where?"}, image]
    events = list(openai.responses.create(model=MODEL, input=[{"role": "user", "content": content}], stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[0].type == "response.created" and events[-1].type == "response.completed"
    assert "".join(e.delta for e in events if e.type == "response.output_text.delta") == "A red bus."
    assert events[-1].response.output_text == "A red bus." and len(server.engine.seen[-1].images) == 1
    server.engine.answer = CALL
    answer = openai.responses.create(model=MODEL, input="x", tools=[{"type": "function", **TOOL}])
    call = answer.output[-1]
    assert call.type == "function_call" and json.loads(call.arguments) == {"city": "Rome"}
    again = [*QUESTION, call.model_dump(exclude_none=True),
             {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}]  # fmt: skip
    openai.responses.create(model=MODEL, input=again, tools=[{"type": "function", **TOOL}])
    text = server.engine.tokenizer.decode(server.engine.seen[-1].prompt_ids)
    assert text.endswith("Observation: sunny\nThought:")


def test_responses_remember_nothing(server):
    for field, value in (("store", True), ("previous_response_id", "resp_1"), ("background", True)):
        response = server.post("/v1/responses", input="x", **{field: value})
        assert response.status_code == 400 and response.json()["error"]["param"] == field
    response = server.post("/v1/responses", input=[{"role": "user", "content": [{"type": "input_file"}]}])
    assert response.json()["error"]["param"] == "input[0].content[0].type"


def test_anthropic_messages(anthropic, server):
    source = {"type": "base64", "media_type": "image/png", "data": data_url().partition(",")[2]}
    content = [{"type": "image", "source": source}, {"type": "text", "text": "Where?"}]
    asked = {
        "model": MODEL,
        "max_tokens": 50,
        "system": "Be brief.",
        "messages": [{"role": "user", "content": content}],
    }
    answer = anthropic.messages.create(**asked)
    assert answer.content[0].text == "A red bus." and answer.stop_reason == "end_turn"
    assert answer.usage.cache_read_input_tokens == 4 and len(server.engine.seen[-1].images) == 1
    counted = anthropic.messages.count_tokens(model=MODEL, system="Be brief.", messages=asked["messages"])
    assert counted.input_tokens == answer.usage.input_tokens + 4
    with anthropic.messages.stream(**asked) as stream:
        assert "".join(stream.text_stream) == "A red bus."
        assert stream.get_final_message().stop_reason == "end_turn"
    stopped = anthropic.messages.create(**asked, stop_sequences=["bus"])
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", "bus")
    assert anthropic.messages.create(**{**asked, "max_tokens": 1}).stop_reason == "max_tokens"


def test_anthropic_tools_and_errors(anthropic, server):
    import anthropic as package

    server.engine.answer = CALL
    tool = {"name": TOOL["name"], "description": TOOL["description"], "input_schema": TOOL["parameters"]}
    asked = {"model": MODEL, "max_tokens": 200, "tools": [tool]}
    answer = anthropic.messages.create(messages=QUESTION, **asked)
    assert answer.stop_reason == "tool_use" and answer.content[-1].input == {"city": "Rome"}
    with anthropic.messages.stream(messages=QUESTION, **asked) as stream:
        assert stream.get_final_message().content[-1].input == {"city": "Rome"}
    result = {"type": "tool_result", "tool_use_id": answer.content[-1].id, "content": "sunny"}
    history = [{"role": "assistant", "content": [block.model_dump() for block in answer.content]}]
    anthropic.messages.create(messages=[*QUESTION, *history, {"role": "user", "content": [result]}], **asked)
    text = server.engine.tokenizer.decode(server.engine.seen[-1].prompt_ids)
    assert text.endswith("Observation: sunny\nThought:")
    with pytest.raises(package.NotFoundError) as missing:
        anthropic.messages.create(model="nope", max_tokens=1, messages=QUESTION)
    assert missing.value.body["type"] == "error" and missing.value.body["error"]["type"] == "not_found_error"
    with pytest.raises(package.BadRequestError):
        anthropic.messages.create(model=MODEL, max_tokens=0, messages=QUESTION)
