"""Requests to a server with OpenAI's protocol: retried, bounded in time, failures as one line."""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import EvaluationError
from ..media.loading import load_image
from ..media.policy import ImagePolicy
from ..media.sources import check_bytes, read_file
from ..utils.dependencies import require
from ..utils.display import one_line, shorten

_PASSED_ON = {b"\xff\xd8\xff": "image/jpeg", b"\x89PNG": "image/png"}
_RETRIED = (408, 409, 425, 429, 500, 502, 503, 504)
_LONGEST_WAIT = 60.0


@dataclass(frozen=True)
class ClientOptions:
    """How a server is reached.

    Attributes:
        url: such as ``http://127.0.0.1:8000/v1``.
        key: bearer token; None sends none.
        timeout: seconds for one request.
        retries: further attempts after the first, each after twice the wait of the one before.
        first_wait: seconds before the second attempt.
    """

    url: str
    key: str | None = field(default=None, repr=False)
    timeout: float = 300.0
    retries: int = 4
    first_wait: float = 1.0

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise EvaluationError(f"server: got {self.url!r}, expected an address such as http://127.0.0.1:8000/v1")


class OpenAIClient:
    """Posts to a server; for any number of threads.

    Raises:
        MissingDependencyError: httpx is not installed.
    """

    def __init__(self, options: ClientOptions) -> None:
        self._options = options
        self._httpx = require("httpx", "asking a server")
        headers = {} if options.key is None else {"Authorization": f"Bearer {options.key}"}
        self._client = self._httpx.Client(
            base_url=options.url, headers=headers, timeout=options.timeout, follow_redirects=False
        )

    def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """The JSON object that the server answers.

        Raises:
            EvaluationError: it refuses the request, does not answer in time, or fails at every attempt.
        """
        wait = self._options.first_wait
        for attempt in range(self._options.retries + 1):
            if attempt:
                time.sleep(min(wait, _LONGEST_WAIT))
                wait *= 2
            try:
                reply = self._client.post(path, json=body)
            except self._httpx.HTTPError as error:
                trouble = f"no answer ({one_line(error)})"
                continue
            if reply.status_code == 200:
                return _object(reply)
            trouble = f"status {reply.status_code} ({shorten(' '.join(reply.text.split()), 200)})"
            if reply.status_code not in _RETRIED:
                raise EvaluationError(f"server: {trouble}")
            wait = max(wait, _seconds(reply.headers.get("retry-after")))
        raise EvaluationError(f"server: {trouble}, {self._options.retries + 1} times")

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


def image_url(path: str) -> str:
    """An image file as a data URL; other formats than JPEG and PNG are sent as PNG.

    Raises:
        ImageError: it cannot be read.
    """
    policy = ImagePolicy()
    name = f"image file {path}"
    data = read_file(path, name, policy.max_bytes + 1)
    check_bytes(len(data), name, policy)
    for start, kind in _PASSED_ON.items():
        if data.startswith(start):
            return f"data:{kind};base64,{base64.b64encode(data).decode()}"
    buffer = io.BytesIO()
    load_image(data, policy).convert("RGB").save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _object(reply: Any) -> dict[str, Any]:
    try:
        value = reply.json()
    except ValueError as error:
        raise EvaluationError("server: its reply is no JSON; is it a server with OpenAI's protocol?") from error
    if not isinstance(value, dict):
        raise EvaluationError("server: its reply is no JSON object; is it a server with OpenAI's protocol?")
    return value


def _seconds(text: str | None) -> float:
    return float(text) if text is not None and text.isdecimal() else 0.0
