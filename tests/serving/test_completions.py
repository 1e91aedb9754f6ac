"""``/v1/completions``, ``/tokenize``, ``/detokenize``, ``/v1/models`` and the description of the API."""

from __future__ import annotations

from tests.serving.harness import MODEL, data_url, events, image_part


def complete(server, **body):
    response = server.post("/v1/completions", model=MODEL, **body)
    assert response.status_code == 200, response.text
    return response.json()


def test_a_text_goes_on_as_it_stands(server):
    answer = complete(server, prompt="Hello <|im_end|>")
    assert answer["object"] == "text_completion" and answer["id"].startswith("cmpl-")
    assert answer["choices"] == [{"index": 0, "text": "A red bus.", "logprobs": None, "finish_reason": "stop"}]
    tokenizer = server.engine.tokenizer
    ids = server.engine.seen[-1].prompt_ids
    assert tokenizer.im_end_id not in ids and tokenizer.decode(ids) == "Hello <|im_end|>"
    assert answer["usage"]["prompt_tokens"] == len(ids)


def test_prompts_may_be_ids_and_several(server):
    ids = server.engine.tokenizer.encode("Hi")
    complete(server, prompt=ids)
    assert list(server.engine.seen[-1].prompt_ids) == ids
    answer = complete(server, prompt=["a", "bb"], n=2, temperature=1)
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
    first, *_, last = server.engine.seen[-4:]
    assert answer["usage"]["prompt_tokens"] == len(first.prompt_ids) + len(last.prompt_ids)
    assert complete(server, prompt=[ids, ids])["choices"][1]["text"] == "A red bus."


def test_ids_of_images_and_beyond_the_vocabulary_are_refused(server):
    tokenizer = server.engine.tokenizer
    for ids in ([tokenizer.img_start_id], [tokenizer.img_pad_id], [tokenizer.vocab_size], [1 << 40], [-1], []):
        assert server.post("/v1/completions", prompt=ids).status_code == 400
    for prompt in ("", [""], ["a"] * 5, [["a"]], None, 3, {}):
        assert server.post("/v1/completions", prompt=prompt).status_code == 400
    for field in ("suffix", "best_of"):
        assert server.post("/v1/completions", prompt="a", **{field: "x" if field == "suffix" else 2}).status_code == 400
    assert not server.engine.seen


def test_echo_and_log_probabilities(server):
    assert complete(server, prompt="Go: ", echo=True)["choices"][0]["text"] == "Go: A red bus."
    streamed = events(server.post("/v1/completions", prompt="Go: ", echo=True, stream=True))
    assert "".join(chunk["choices"][0]["text"] for chunk in streamed[:-1]) == "Go: A red bus."
    told = complete(server, prompt="x", logprobs=2)["choices"][0]["logprobs"]
    assert "".join(told["tokens"]) == "A red bus." and len(told["top_logprobs"][0]) == 2
    assert told["text_offset"][0] == 0 and told["text_offset"] == sorted(told["text_offset"])
    assert len({len(values) for values in told.values()}) == 1
    assert server.post("/v1/completions", prompt="x", echo=True, logprobs=1).status_code == 400


def test_a_stream_ends_with_usage_and_done(server):
    body = {"prompt": "x", "stream": True, "stream_options": {"include_usage": True}}
    *chunks, last, done = events(server.post("/v1/completions", **body))
    assert done == "[DONE]" and last["choices"] == [] and last["usage"]["completion_tokens"] > 0
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == "A red bus."
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


def test_images_come_before_the_text_in_the_raw_format(server):
    complete(server, prompt="Generate the caption:", images=[data_url()])
    request = server.engine.seen[-1]
    tokenizer = server.engine.tokenizer
    assert len(request.images) == 1 and request.prompt_ids[request.images[0].start - 1] == tokenizer.img_start_id
    assert tokenizer.im_start_id not in request.prompt_ids
    labeled = len(request.prompt_ids)
    complete(server, prompt="Generate the caption:", images=[data_url()], image_labels=False)
    bare = server.engine.seen[-1].prompt_ids
    assert bare[0] == tokenizer.img_start_id and len(bare) < labeled
    response = server.post("/v1/completions", prompt="x", images=["/etc/passwd"])
    assert response.json()["error"]["param"] == "images[0].image_url"


def test_tokenize_counts_what_chat_counts(server):
    messages = [{"role": "user", "content": [image_part(), "Where?"]}]
    counted = server.post("/tokenize", messages=messages).json()
    assert counted["count"] == server.chat(messages=messages).json()["usage"]["prompt_tokens"]
    assert tuple(counted["tokens"]) == server.engine.seen[-1].prompt_ids
    text = "你好, <|im_end|>"
    told = server.post("/tokenize", prompt=text, return_token_strs=True).json()
    assert server.post("/detokenize", tokens=told["tokens"]).json() == {"prompt": text}
    assert len(told["token_strs"]) == told["count"]
    assert server.post("/tokenize").status_code == 400
    assert server.post("/detokenize", tokens=[99999]).json()["error"]["param"] == "tokens"


def test_models_and_version(server):
    (model,) = server.http.get("/v1/models").json()["data"]
    assert model["id"] == MODEL and model["max_model_len"] == 2048
    assert server.http.get(f"/v1/models/{MODEL}").json() == model
    assert set(server.http.get("/version").json()) == {"version"}


def test_the_api_is_described_without_scripts_from_elsewhere(server):
    description = server.http.get("/openapi.json").json()
    assert {"/v1/chat/completions", "/v1/completions", "/v1/models", "/health", "/tokenize"} <= set(
        description["paths"]
    )
    post = description["paths"]["/v1/chat/completions"]["post"]
    assert {"400", "401", "413", "429", "500", "503"} <= set(post["responses"]) and "422" not in post["responses"]
    assert "messages" in post["requestBody"]["content"]["application/json"]["schema"]["required"]
    assert server.http.get("/docs").status_code == server.http.get("/redoc").status_code == 404
