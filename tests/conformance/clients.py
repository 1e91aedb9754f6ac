"""OpenAI's, Anthropic's and LangChain's clients against a server: ``python clients.py URL MODEL``."""

from __future__ import annotations

import json
import sys

from anthropic import Anthropic
from langchain_openai import ChatOpenAI
from openai import NotFoundError, OpenAI
from published_specs import CHAT_IMAGE, CHAT_TOOL, FORMAT, HI, MESSAGES_IMAGE, RESPONSES_IMAGE


def check_openai(url: str, model: str) -> None:
    """Chat, its stream, form, calls, errors, and the newer API."""
    client = OpenAI(base_url=f"{url}/v1", api_key="x", max_retries=0)
    assert [item.id for item in client.models.list()] == [model]
    answer = client.chat.completions.create(model=model, messages=CHAT_IMAGE)
    assert answer.choices[0].message.content and answer.usage.prompt_tokens > 0
    stream = client.chat.completions.create(
        model=model, messages=HI, stream=True, stream_options={"include_usage": True}
    )
    *chunks, last = stream
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) and last.usage.completion_tokens > 0
    formed = client.chat.completions.create(model=model, messages=HI, response_format=FORMAT)
    assert json.loads(formed.choices[0].message.content)["n"] in (1, 2)
    call = client.chat.completions.create(model=model, messages=HI, **CHAT_TOOL).choices[0].message.tool_calls[0]
    assert call.function.name == "count"
    try:
        client.chat.completions.create(model="another", messages=HI)
    except NotFoundError as error:
        assert error.code == "model_not_found"
    else:
        raise AssertionError("a model that is not there was found")
    assert client.responses.create(model=model, input=RESPONSES_IMAGE).output_text
    with client.responses.stream(model=model, input="Hi") as response:
        assert [event.type for event in response][-1] == "response.completed"


def check_anthropic(url: str, model: str) -> None:
    """A message, its stream, a count."""
    client = Anthropic(base_url=url, api_key="x", max_retries=0)
    assert client.messages.create(model=model, max_tokens=24, messages=MESSAGES_IMAGE).content[0].text
    with client.messages.stream(model=model, max_tokens=24, messages=HI) as stream:
        assert "".join(stream.text_stream)
    assert client.messages.count_tokens(model=model, messages=HI).input_tokens > 0


def check_langchain(url: str, model: str) -> None:
    """An answer, a stream, a call."""
    chat = ChatOpenAI(model=model, base_url=f"{url}/v1", api_key="x", max_retries=0)
    assert chat.invoke("Hi").content
    assert chat.invoke([("user", CHAT_IMAGE[0]["content"])]).content
    assert "".join(chunk.content for chunk in chat.stream("Hi"))
    tool = CHAT_TOOL["tools"][0]
    assert chat.bind_tools([tool], tool_choice="required").invoke("Hi").tool_calls[0]["name"] == "count"


if __name__ == "__main__":
    for check in (check_openai, check_anthropic, check_langchain):
        check(*sys.argv[1:])
        print(check.__name__.removeprefix("check_"))
