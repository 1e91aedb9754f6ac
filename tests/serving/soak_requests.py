"""What the soak asks: requests of every kind, good and bad, by clients that stay, read slowly, or leave."""

from __future__ import annotations

import base64
import json
import random
import socket
import time
from collections.abc import Callable

from tests.serving.harness import MODEL, Running, data_url, image_part

MAX_BODY_BYTES = 1 << 20
LEFT = 0
"""Instead of a status: the client left before there was one."""

Ask = Callable[[Running, random.Random], int]
_HEAD = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
_JSON = {"Content-Type": "application/json"}


def question(rng: random.Random) -> str:
    """One of some thousand texts, so that prefixes are shared, and evicted."""
    return f"Where is the {rng.choice(['dog', 'cup', 'bus'])}? {rng.randrange(1000)}"


def limits(rng: random.Random) -> dict:
    """A short answer, sampled or not."""
    return {"max_tokens": rng.randrange(1, 12), "temperature": rng.choice([0, 1])}


def image(rng: random.Random) -> dict:
    """One of very many images."""
    color, size = tuple(rng.randrange(256) for _ in range(3)), (rng.randrange(8, 64), rng.randrange(8, 64))
    return image_part(data_url(color, size))


def plain(server: Running, rng: random.Random) -> int:
    response = server.chat(question(rng), **limits(rng))
    if response.status_code == 200:
        assert response.json()["choices"][0]["finish_reason"] in ("stop", "length")
    return response.status_code


def streamed(server: Running, rng: random.Random) -> int:
    return _whole(server.chat(question(rng), stream=True, n=rng.choice([1, 1, 3]), **limits(rng)).text)


def with_image(server: Running, rng: random.Random) -> int:
    return server.chat([image(rng), question(rng)], **limits(rng)).status_code


def formed(server: Running, rng: random.Random) -> int:
    return server.chat(question(rng), structured_outputs={"choice": ["yes", "no"]}).status_code


def broken_image(server: Running, rng: random.Random) -> int:
    data = bytearray(base64.b64decode(data_url().partition(",")[2]))
    if rng.random() < 0.5:
        del data[rng.randrange(60) :]
    else:
        data[rng.randrange(8)] ^= 1 << rng.randrange(8)
    url = f"data:image/png;base64,{base64.b64encode(bytes(data)).decode()}"
    return server.chat([image_part(url), question(rng)]).status_code


def bad_field(server: Running, rng: random.Random) -> int:
    return server.chat(question(rng), **rng.choice([{"temperature": -1}, {"n": 99}, {"top_logprobs": 3}])).status_code


def bad_json(server: Running, rng: random.Random) -> int:
    body = rng.choice([b"[" * 1000, b"{", b"\xff", b'{"messages": NaN}'])
    return server.http.post("/v1/chat/completions", content=body, headers=_JSON).status_code


def oversized(server: Running, rng: random.Random) -> int:
    """Larger than it may be, by its length or only by its bytes."""
    size = MAX_BODY_BYTES + 1 + rng.randrange(1 << 16)
    if rng.random() < 0.5:
        with _connected(server) as connection:
            connection.sendall(f"{_HEAD}Content-Length: {size}\r\n\r\n{{".encode())
            return int(connection.recv(1 << 16).split()[1])
    body = (b" " * (1 << 16) for _ in range(0, size, 1 << 16))
    return server.http.post("/v1/chat/completions", content=body, headers=_JSON).status_code


def slow_reader(server: Running, rng: random.Random) -> int:
    """Read a stream in small pieces with pauses, up to its end."""
    received = b""
    with _connected(server, buffer=2048) as connection:
        _send(connection, {"stream": True, "max_tokens": 40, "ignore_eos": True}, question(rng))
        while not received.endswith(b"0\r\n\r\n"):
            piece = connection.recv(rng.choice([100, 1000]))
            if not piece:
                break
            received += piece
            time.sleep(rng.random() * 0.01)
    return _whole(received.decode())


def leaves(server: Running, rng: random.Random) -> int:
    """Close the connection at any time: while the image is encoded, the prompt computed, the answer written."""
    content = [image(rng), question(rng)] if rng.random() < 0.5 else question(rng)
    with _connected(server) as connection:
        _send(connection, {"stream": rng.random() < 0.5, "ignore_eos": True, "max_tokens": 200}, content)
        time.sleep(rng.random() ** 2 * 0.3)
    return LEFT


def leaves_after_some(server: Running, rng: random.Random) -> int:
    """Close the connection once something of a stream has come."""
    with _connected(server) as connection:
        _send(connection, {"stream": True, "ignore_eos": True, "max_tokens": 200}, question(rng))
        for _ in range(rng.randrange(1, 5)):
            connection.recv(500)
    return LEFT


def leaves_half_a_body(server: Running, rng: random.Random) -> int:
    """Close the connection before the request is whole."""
    with _connected(server) as connection:
        head = f"{_HEAD}Content-Length: 1000\r\n\r\n"
        connection.sendall((head + "{")[: rng.randrange(1, len(head) + 1)].encode())
    return LEFT


KINDS: dict[Ask, set[int]] = {
    plain: {200}, streamed: {200}, with_image: {200}, formed: {200}, slow_reader: {200}, broken_image: {400},
    bad_field: {400}, bad_json: {400}, oversized: {413}, leaves: {LEFT}, leaves_after_some: {LEFT},
    leaves_half_a_body: {LEFT},
}  # fmt: skip
"""What may be asked, and the statuses that it must have where no step fails."""


def _whole(text: str) -> int:
    """The status of a stream, which must have come to its end; 500 where an error was its last event."""
    assert "data: [DONE]" in text, text[-200:]
    return 500 if '"error"' in text else 200


def _connected(server: Running, buffer: int | None = None) -> socket.socket:
    connection = socket.socket()
    if buffer is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    connection.settimeout(120)
    connection.connect(("127.0.0.1", int(server.url.rpartition(":")[2])))
    return connection


def _send(connection: socket.socket, fields: dict, content: object) -> None:
    body = {"model": MODEL, "messages": [{"role": "user", "content": content}], **fields}
    data = json.dumps(body).encode()
    connection.sendall(f"{_HEAD}Content-Length: {len(data)}\r\n\r\n".encode() + data)
