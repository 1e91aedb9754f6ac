"""The fields of the bodies that clients send, with types and ranges; the API's description is made from these.

``null`` is the same as absent. Unknown fields are ignored; those that would change the answer and are not supported are
refused in :mod:`.bodies`. No ``from __future__ import annotations``: pydantic evaluates the types.
"""

from typing import Annotated, Any, Literal, Optional, Union

from pydantic import BaseModel, ConfigDict, Field

MAX_TOKEN_ID = (1 << 31) - 1
MAX_TOKENS = 1 << 24
MAX_SEED = (1 << 63) - 1

TokenID = Annotated[int, Field(ge=0, le=MAX_TOKEN_ID)]
StopString = Annotated[str, Field(min_length=1, max_length=64)]
Stop = Union[StopString, Annotated[list[StopString], Field(max_length=4)]]
TokenIDs = Annotated[list[TokenID], Field(max_length=1 << 20)]


class Body(BaseModel):
    """A body; values are not converted (``"5"`` is no number)."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)


class StreamOptions(Body):
    """What a stream has beside its text."""

    include_usage: Optional[bool] = None


class StructuredOutputs(Body):
    """What the answer must look like; one of these."""

    json_: Optional[Any] = Field(None, alias="json", description="a JSON schema")
    regex: Optional[Annotated[str, Field(min_length=1, max_length=4096)]] = None
    choice: Optional[Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1, max_length=256)]] = None


class SamplingFields(Body):
    """Fields that chat and plain completions share."""

    model: str
    temperature: Optional[float] = Field(None, ge=0, le=2)
    top_p: Optional[float] = Field(None, ge=0, le=1)
    top_k: Optional[int] = Field(None, ge=-1, le=MAX_TOKEN_ID)
    min_p: Optional[float] = Field(None, ge=0, le=1)
    repetition_penalty: Optional[float] = Field(None, ge=0.01, le=100)
    presence_penalty: Optional[float] = Field(None, ge=-2, le=2)
    frequency_penalty: Optional[float] = Field(None, ge=-2, le=2)
    logit_bias: Optional[Annotated[dict[str, Annotated[float, Field(ge=-100, le=100)]], Field(max_length=300)]] = None
    max_tokens: Optional[int] = Field(None, ge=1, le=MAX_TOKENS)
    min_tokens: Optional[int] = Field(None, ge=0, le=MAX_TOKENS)
    seed: Optional[int] = Field(None, ge=-MAX_SEED, le=MAX_SEED)
    stop: Optional[Stop] = None
    stop_token_ids: Optional[Annotated[list[TokenID], Field(max_length=128)]] = None
    ignore_eos: Optional[bool] = None
    n: Optional[int] = Field(None, ge=1, le=128)
    stream: Optional[bool] = None
    stream_options: Optional[StreamOptions] = None
    structured_outputs: Optional[StructuredOutputs] = None
    prompt_lookup_num_tokens: Optional[int] = Field(None, ge=0, le=7)
    cache_salt: Optional[Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]] = None
    user: Optional[str] = None


class ResponseFormat(Body):
    """``text``, ``json_object``, ``json_schema``, or ``grounding``: references and boxes alone."""

    type: Literal["text", "json_object", "json_schema", "grounding"]
    json_schema: Optional[dict[str, Any]] = None


class ChatBody(SamplingFields):
    """``/v1/chat/completions``."""

    messages: Annotated[list[dict[str, Any]], Field(min_length=1)]
    max_completion_tokens: Optional[int] = Field(None, ge=1, le=MAX_TOKENS)
    logprobs: Optional[bool] = None
    top_logprobs: Optional[int] = Field(None, ge=0, le=20)
    response_format: Optional[ResponseFormat] = None
    tools: Optional[list[dict[str, Any]]] = None
    tool_choice: Optional[Union[Literal["none", "auto", "required"], dict[str, Any]]] = None
    functions: Optional[list[dict[str, Any]]] = None
    function_call: Optional[Union[Literal["none", "auto"], dict[str, Any]]] = None
    parallel_tool_calls: Optional[bool] = None
    add_generation_prompt: Optional[bool] = None
    continue_final_message: Optional[bool] = None
    truncation: Optional[Literal["auto", "disabled"]] = Field(
        None, description="auto: leave out the oldest turns beyond what the model is shown in a chat"
    )
    draw_boxes: Optional[bool] = Field(None, description="add the newest image with the answer's boxes drawn in")


class CompletionBody(SamplingFields):
    """``/v1/completions``: text goes on as it stands; the raw format of base models."""

    prompt: Union[
        str,
        Annotated[list[str], Field(min_length=1)],
        Annotated[list[TokenID], Field(min_length=1)],
        Annotated[list[TokenIDs], Field(min_length=1)],
    ]
    logprobs: Optional[int] = Field(None, ge=0, le=20)
    echo: Optional[bool] = None
    best_of: Optional[int] = Field(None, ge=1, le=128)
    images: Optional[list[str]] = Field(None, description="put before the prompt, as in the raw format")
    image_labels: Optional[bool] = Field(
        None, description="write `Picture 1: ` and a line end around each image (true)"
    )


class TokenizeBody(Body):
    """``/tokenize``: a text, or messages with their images."""

    model: Optional[str] = None
    prompt: Optional[str] = None
    messages: Optional[Annotated[list[dict[str, Any]], Field(min_length=1)]] = None
    add_generation_prompt: Optional[bool] = None
    return_token_strs: Optional[bool] = None


class DetokenizeBody(Body):
    """``/detokenize``."""

    model: Optional[str] = None
    tokens: TokenIDs


class ResponsesBody(Body):
    """``/v1/responses``, without a memory: nothing is stored, nothing is referred to."""

    model: str
    input: Union[str, Annotated[list[dict[str, Any]], Field(min_length=1)]]
    instructions: Optional[str] = None
    temperature: Optional[float] = Field(None, ge=0, le=2)
    top_p: Optional[float] = Field(None, ge=0, le=1)
    presence_penalty: Optional[float] = Field(None, ge=-2, le=2)
    frequency_penalty: Optional[float] = Field(None, ge=-2, le=2)
    max_output_tokens: Optional[int] = Field(None, ge=1, le=MAX_TOKENS)
    top_logprobs: Optional[int] = Field(None, ge=0, le=20)
    text: Optional[dict[str, Any]] = None
    tools: Optional[list[dict[str, Any]]] = None
    tool_choice: Optional[Union[Literal["none", "auto", "required"], dict[str, Any]]] = None
    parallel_tool_calls: Optional[bool] = None
    stream: Optional[bool] = None
    store: Optional[bool] = None
    metadata: Optional[dict[str, Any]] = None
    user: Optional[str] = None


class MessagesBody(Body):
    """``/v1/messages``, as Anthropic's clients send it."""

    model: str
    messages: Annotated[list[dict[str, Any]], Field(min_length=1)]
    system: Optional[Union[str, list[dict[str, Any]]]] = None
    max_tokens: int = Field(ge=1, le=MAX_TOKENS)
    temperature: Optional[float] = Field(None, ge=0, le=1)
    top_p: Optional[float] = Field(None, ge=0, le=1)
    top_k: Optional[int] = Field(None, ge=0, le=MAX_TOKEN_ID)
    stop_sequences: Optional[Annotated[list[StopString], Field(max_length=4)]] = None
    stream: Optional[bool] = None
    tools: Optional[list[dict[str, Any]]] = None
    tool_choice: Optional[dict[str, Any]] = None
    metadata: Optional[dict[str, Any]] = None


class CountTokensBody(Body):
    """``/v1/messages/count_tokens``."""

    model: Optional[str] = None
    messages: Annotated[list[dict[str, Any]], Field(min_length=1)]
    system: Optional[Union[str, list[dict[str, Any]]]] = None
    tools: Optional[list[dict[str, Any]]] = None
    tool_choice: Optional[dict[str, Any]] = None
