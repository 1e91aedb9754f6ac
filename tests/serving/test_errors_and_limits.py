"""What is refused, in which shape, and that the engine goes on: bad bodies, bad images, limits, keys, Host."""

from __future__ import annotations

import base64
import json

import pytest

from tests.serving.harness import MODEL, data_url, events, image_part, wait_for

USER = [{"role": "user", "content": "Hi"}]
NESTED: dict = {}
for _ in range(17):
    NESTED = {"properties": {"a": NESTED}}


def refused(response, param, status=400, code=None):
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["param"] == param, error
    assert "\n" not in error["message"] and "Traceback" not in error["message"]
    assert code is None or error["code"] == code
    return error["message"]


BAD_FIELDS = [
    ({"temperature": 2.1}, "temperature"), ({"temperature": "1"}, "temperature"), ({"top_p": -0.1}, "top_p"),
    ({"top_k": -2}, "top_k"), ({"max_tokens": 0}, "max_tokens"), ({"max_tokens": True}, "max_tokens"),
    ({"n": 0}, "n"), ({"n": 5}, "n"), ({"n": 10**30}, "n"), ({"seed": 1.5}, "seed"), ({"stop": ["a"] * 5}, "stop"),
    ({"stop": "a" * 65}, "stop"), ({"stop": ""}, "stop"), ({"stop": [3]}, "stop[0]"),
    ({"stop_token_ids": [1600]}, "stop_token_ids"), ({"stop_token_ids": [-1]}, "stop_token_ids[0]"),
    ({"logit_bias": {"x": 1}}, "logit_bias"), ({"logit_bias": {"99999": 1}}, "logit_bias"),
    ({"logit_bias": {"1": 101}}, "logit_bias"), ({"logit_bias": {str(i): 1 for i in range(301)}}, "logit_bias"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"), ({"top_logprobs": 2}, "top_logprobs"),
    ({"stream": "yes"}, "stream"), ({"cache_salt": "a b"}, "cache_salt"), ({"cache_salt": "x" * 65}, "cache_salt"),
    ({"audio": {}}, "audio"), ({"modalities": ["text", "audio"]}, "modalities"), ({"store": True}, "store"),
    ({"chat_template": "x"}, "chat_template"), ({"prompt_embeds": "x"}, "prompt_embeds"),
    ({"mm_processor_kwargs": {"a": 1}}, "mm_processor_kwargs"), ({"use_beam_search": True}, "use_beam_search"),
    ({"response_format": {"type": "yaml"}}, "response_format.type"),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
    ({"response_format": {"type": "json_schema", "json_schema": {"schema": NESTED}}}, "response_format.json_schema"),
    ({"response_format": {"type": "json_schema", "json_schema": {"schema": {"x": "y" * 70000}}}},
     "response_format.json_schema"),
    ({"structured_outputs": {}}, "structured_outputs"),
    ({"structured_outputs": {"regex": "a"}, "response_format": {"type": "json_object"}}, "structured_outputs"),
    ({"tools": [{"type": "magic"}]}, "tools[0].type"), ({"tools": [{"type": "function"}]}, "tools[0].function"),
    ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name"),
    ({"tools": [{"type": "function", "function": {"name": "f"}}] * 65}, "tools"),
    ({"tools": [{"type": "function", "function": {"name": "f"}}] * 2}, "tools"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"tool_choice": {"type": "function", "function": {"name": "g"}}}, "tool_choice"),
    ({"continue_final_message": True}, "continue_final_message"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "param"), BAD_FIELDS, ids=lambda value: str(value)[:40])
def test_a_field_that_cannot_be_is_named(server, fields, param):
    refused(server.chat(**fields), param)
    assert not server.engine.seen


BAD_MESSAGES = [
    ([], "messages"), ("Hi", "messages"), (["Hi"], "messages[0]"), ([{"role": "user"}], "messages[0].content"),
    ([{"role": "king", "content": "x"}], "messages[0].role"), ([{"content": "x"}], "messages[0].role"),
    ([*USER, {"role": "system", "content": "x"}], "messages[1].role"), ([{"role": "user", "content": []}],
     "messages[0].content"), ([{"role": "user", "content": 3}], "messages[0].content"),
    ([{"role": "user", "content": [{"type": "video"}]}], "messages[0].content[0].type"),
    ([{"role": "user", "content": [{"type": "text", "text": 3}]}], "messages[0].content[0].text"),
    ([{"role": "assistant", "content": "x"}], "messages"), ([{"role": "tool", "content": "x"}], "messages[0].role"),
    ([{"role": "system", "content": [image_part()]}, *USER], "messages[0].content[0]"),
    ([{"role": "user", "content": [{"type": "box", "box": [5, 0, 1, 9]}]}], "messages[0].content[0]"),
    ([{"role": "user", "content": [{"type": "box", "box": [0, 0, 1, 1001]}]}], "messages[0].content[0]"),
    (USER * 201, "messages"), ([{"role": "user", "content": [image_part()] * 17}], "messages"),
    ([*USER, {"role": "assistant", "tool_calls": [{"function": {"name": "f"}}]}], "messages[1].tool_calls[0].function"),
]  # fmt: skip


@pytest.mark.parametrize(("messages", "param"), BAD_MESSAGES, ids=lambda value: str(value)[:40])
def test_a_message_that_cannot_be_is_named(server, messages, param):
    refused(server.chat(messages=messages), param)
    assert not server.engine.seen


def _png(size):
    return base64.b64decode(data_url(size=size).partition(",")[2])


BOMB = bytearray(_png((4, 4)))
BOMB[16:24] = (30000).to_bytes(4, "big") * 2
BAD_IMAGES = {
    "empty": "data:image/png;base64,", "truncated": data_url()[:-40], "no_base64": "data:image/png,abc",
    "text": "data:image/png;base64," + base64.b64encode(b"hello world").decode(),
    "text_url": "data:text/html;base64,PGI+", "bomb": "data:image/png;base64," + base64.b64encode(BOMB).decode(),
    "file": "file:///etc/passwd", "path": "/etc/passwd", "relative": "demo.png", "ftp": "ftp://example.com/a.png",
    "http": "http://127.0.0.1:1/a.png", "https": "https://example.com/a.png",
    "svg": "data:image/svg+xml;base64,PHN2Zy8+",
    "tiff": data_url(kind="TIFF"), "nothing": "", "number": 3,
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_IMAGES)
def test_a_bad_image_is_a_400_that_names_its_place(server, name):
    content = [image_part(), {"type": "image_url", "image_url": {"url": BAD_IMAGES[name]}}, "What?"]
    response = server.chat(content)
    assert response.status_code == 400 and "0x" not in response.text
    assert response.json()["error"]["param"].startswith("messages[0].content[1]")
    assert not server.engine.seen


def test_bare_base64_gets_a_hint(server):
    message = refused(server.chat([image_part(data_url().partition(",")[2]), "?"]), "messages[0].content[0].image_url")
    assert "prefix it with data:image/png;base64," in message


@pytest.mark.parametrize("size", [(1, 1), (2, 1), (1, 3000), (3000, 1)])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "BMP"])
def test_images_of_every_form_reach_the_engine(server, size, kind):
    url = data_url(size=size, kind=kind)
    assert server.chat([image_part(url), {"type": "input_image", "image_url": url}, "?"]).status_code == 200
    first, second = server.engine.seen[-1].images
    ids, tokenizer = server.engine.seen[-1].prompt_ids, server.engine.tokenizer
    assert first.key == second.key and first.start < second.start and first.pixels.shape == (3, 168, 168)
    assert ids[first.start - 1] == tokenizer.img_start_id
    assert ids[first.start + tokenizer.image_slots] == tokenizer.img_end_id


def test_images_are_fetched_from_the_allowed_hosts_only(start):
    with start(allowed_media_domains=("images.example", ".trusted.example")) as server:
        for host in ("example.com", "images.example.evil.com", "trusted.example.com", "127.0.0.1", "[::1]", "[", ""):
            response = server.chat([image_part(f"http://{host}/a.png"), "?"])
            assert "fetched from some hosts only" in refused(response, "messages[0].content[0].image_url")
        response = server.chat([image_part("http://a.trusted.example:99999/a.png"), "?"])
        refused(response, "messages[0].content[0]", code="invalid_image")


def test_a_prompt_beyond_the_window_is_refused_with_both_numbers(server):
    message = refused(server.chat("word " * 3000), "messages", code="context_length_exceeded")
    assert "2048" in message and not server.engine.seen
    assert server.chat("Hi", max_tokens=100000).status_code == 200  # cut by the engine to what the window leaves


BAD_BODIES = [
    b"", b"{", b"[]", b"null", b'"x"', b"\xff\xfe", b'{"messages": NaN}', b"[" * 100000, b'{"a":' * 100000,
    b'{"seed": ' + b"9" * 10000 + b"}", b'{"messages": [], "prompt": 1e308, "tokens": "\\ud800"}',
]  # fmt: skip


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/tokenize", "/detokenize"])
@pytest.mark.parametrize("body", BAD_BODIES, ids=lambda body: repr(body[:20]))
def test_a_bad_body_is_a_400(server, path, body):
    response = server.http.post(path, content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == 400 and set(response.json()) == {"error"}


def test_methods_types_and_paths_that_are_not_there(server):
    refused(server.http.get("/v1/chat/completions"), None, 405)
    refused(server.http.post("/v1/chat/completions", content=b"a=b"), None, 415)
    refused(server.http.get("/nowhere"), None, 404)
    refused(server.post("/v1/chat/completions", model="gpt-4", messages=USER), "model", 404, "model_not_found")
    for model in ({}, {"model": None}):
        response = server.http.post("/v1/chat/completions", json={**model, "messages": USER})
        refused(response, "model")
    refused(server.http.get("/v1/models/gpt-4"), "model", 404, "model_not_found")


def test_a_body_too_large_is_refused_by_its_length_and_by_its_bytes(start):
    with start(limits={"max_body_bytes": 2000}) as server:
        big = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": "x" * 4000}]}).encode()
        headers = {"Content-Type": "application/json"}
        refused(server.http.post("/v1/chat/completions", content=big, headers=headers), None, 413)
        parts = (big[start : start + 500] for start in range(0, len(big), 500))
        refused(server.http.post("/v1/chat/completions", content=parts, headers=headers), None, 413)
        assert server.chat().status_code == 200
        server.idle()


def test_a_full_queue_answers_before_it_reads(start):
    with start(limits={"max_queue": 1}) as server:
        server.engine.paused = True
        with server.http.stream(
            "POST", "/v1/chat/completions", json={"model": MODEL, "stream": True, "messages": USER}
        ):
            response = server.http.post("/v1/chat/completions", content=b"{", headers={"Content-Type": "x/y"})
            refused(response, None, 429, "queue_full")
            assert response.headers["retry-after"] == "1"
            assert server.http.get("/health").status_code == 200  # not of the queue
        wait_for(lambda: server.server.admission.taken == 0)
        server.engine.paused = False
        assert server.chat().status_code == 200


def test_keys_open_everything_but_health(start):
    with start(api_keys=("one-key", "two-key")) as server:
        for headers in (
            {"Authorization": "Bearer one-key"},
            {"Authorization": "bearer two-key"},
            {"x-api-key": "two-key"},
        ):
            assert server.http.get("/v1/models", headers={"Authorization": "", **headers}).status_code == 200
        for path in ("/v1/models", "/metrics", "/version", "/openapi.json", "/nowhere", "/health/x"):
            for value in ("", "Bearer wrong", "one-key", "Basic one-key", "Bearer é"):
                response = server.http.get(path, headers={"Authorization": value.encode()})
                refused(response, None, 401, "invalid_api_key")
                assert "one-key" not in response.text
        assert server.http.get("/health", headers={"Authorization": ""}).status_code == 200
        assert server.http.get("/health/ready", headers={"Authorization": ""}).status_code == 200


def test_cached_prefixes_are_apart_for_each_key_and_salt(start):
    with start(api_keys=("one-key", "two-key")) as server:
        for key, salt in (("one-key", None), ("two-key", None), ("one-key", None), ("one-key", "s")):
            server.http.post(
                "/v1/chat/completions",
                json={"model": MODEL, "messages": USER, "cache_salt": salt},
                headers={"Authorization": f"Bearer {key}"},
            )
        first, second, third, salted = (request.salt for request in server.engine.seen)
        assert first == third and len({first, second, salted}) == 3 and b"one-key" not in first


def test_a_name_that_leads_here_from_elsewhere_is_refused(start):
    with start(allowed_hosts=("gpu-box",)) as server:
        for host, status in (("localhost:1", 200), ("127.0.0.1", 200), ("[::1]:80", 200), ("gpu-box:8000", 200),
                             ("evil.example", 403), ("localhost.evil.example", 403), ("", 403)):  # fmt: skip
            assert server.http.get("/health", headers={"Host": host}).status_code == status


def test_other_origins_are_let_in_by_name_only(start, server):
    origin = {"Origin": "https://app.example"}
    assert "access-control-allow-origin" not in server.http.get("/health", headers=origin).headers
    with start(allowed_origins=("https://app.example",), api_keys=("k",)) as other:
        headers = {**origin, "Access-Control-Request-Method": "POST"}
        del other.http.headers["Authorization"]  # browsers ask without it
        response = other.http.options("/v1/chat/completions", headers=headers)
        assert response.status_code == 200
        assert response.headers["access-control-allow-origin"] == "https://app.example"
        refusal = other.http.post("/v1/chat/completions", headers=origin)
        assert refusal.status_code == 401
        assert refusal.headers["access-control-allow-origin"] == "https://app.example", "the page may read it"
        assert other.http.post("/v1/chat/completions", headers={"Origin": "https://evil.example"}).status_code == 401
        assert (
            other.http.options(
                "/v1/chat/completions", headers={**headers, "Origin": "https://evil.example"}
            ).status_code
            == 400
        )


def test_a_failed_step_is_a_500_without_details_and_the_server_goes_on(server):
    server.engine.fail = True
    response = server.chat()
    refused(response, None, 500, "server_error")
    assert "secret" not in response.text
    assert server.chat().status_code == 200
    server.engine.fail = True
    *_, error, done = events(server.chat(stream=True))
    assert error["error"]["code"] == "server_error" and done == "[DONE]"


def test_what_the_engine_refuses_is_a_400(server):
    server.engine.refuse = "json_schema: no such type"
    assert "no such type" in refused(server.chat(), None)


def test_a_request_that_takes_too_long_ends(start):
    with start(limits={"request_seconds": 0.1}) as server:
        server.engine.paused = True
        refused(server.chat(), None, 504, "timeout")
        assert events(server.chat(stream=True))[-2]["error"]["code"] == "timeout"


def test_request_ids_are_taken_over_where_they_are_harmless(server):
    assert server.http.get("/version", headers={"X-Request-ID": "abc-1.2"}).headers["x-request-id"] == "abc-1.2"
    for bad in ("a b", "x" * 65, "<script>"):
        assert server.http.get("/version", headers={"X-Request-ID": bad}).headers["x-request-id"] != bad


def test_two_requests_of_one_id_do_not_meet(server):
    server.engine.step_seconds = 0.005
    for _ in range(2):
        assert server.http.post(
            "/v1/chat/completions", json={"model": MODEL, "messages": USER}, headers={"X-Request-ID": "same"}
        ).status_code == 200  # fmt: skip
    assert len({request.id for request in server.engine.seen}) == 2
