"""Everything that is answered with an error, and the shapes in which clients expect it."""

from __future__ import annotations

from typing import Any

from ..engine.request import FinishReason, Output
from ..errors import ConfigurationError, ImageError, PaddleMixError, PromptError
from ..utils.display import escape_controls, shorten

_MESSAGE_LIMIT = 500
_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    413: "invalid_request_error",
    415: "invalid_request_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "service_unavailable_error",
    504: "timeout_error",
}
_ANTHROPIC_TYPES = {413: "request_too_large", 500: "api_error", 503: "overloaded_error"}


class APIError(PaddleMixError):
    """An answer with an error.

    Args:
        status: of HTTP.
        message: one line for whoever wrote the client.
        param: the field that is wrong, as ``messages[0].content[1]``.
        code: a word that programs compare.
        retry_after: seconds after which it makes sense to try again.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(shorten(escape_controls(message), _MESSAGE_LIMIT))
        self.status = status
        self.param = param
        self.code = code
        self.headers = dict(headers or {})
        if retry_after is not None:
            self.headers["Retry-After"] = str(retry_after)

    def openai(self) -> dict[str, Any]:
        """The body that OpenAI's clients read."""
        kind = _TYPES.get(self.status, "invalid_request_error")
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}

    def anthropic(self, request_id: str) -> dict[str, Any]:
        """The body that Anthropic's clients read."""
        kind = _ANTHROPIC_TYPES.get(self.status, _TYPES.get(self.status, "invalid_request_error"))
        message = str(self) if self.param is None or str(self).startswith(self.param) else f"{self.param}: {self}"
        return {"type": "error", "error": {"type": kind, "message": message}, "request_id": request_id}

    def body(self, path: str, request_id: str) -> dict[str, Any]:
        """The body that clients of a path read."""
        return self.anthropic(request_id) if path.startswith("/v1/messages") else self.openai()


def bad_request(param: str | None, message: str, code: str | None = None) -> APIError:
    """A 400 about one field; the message begins with its name."""
    return APIError(400, message if param is None else f"{param}: {message}", param=param, code=code)


def server_error() -> APIError:
    """A 500 that tells nothing but that the log knows more."""
    return APIError(500, "the server failed to answer; its log has why", code="server_error")


def from_error(error: Exception, param: str | None = None) -> APIError:
    """What a client is told of an exception: of those raised on purpose about its request the message, else nothing."""
    if isinstance(error, APIError):
        return error
    if isinstance(error, (ConfigurationError, ImageError, PromptError)):
        return APIError(400, str(error), param=param)
    return server_error()


def output_error(output: Output) -> APIError | None:
    """The error with which an engine's output ends a request; ``None`` where it ends well or not yet."""
    reason = output.finish_reason
    if reason is FinishReason.ERROR:
        return from_error(output.error) if output.error is not None else server_error()
    if reason is FinishReason.ABORT:
        return APIError(503, "the server is being stopped", code="stopping", retry_after=10)
    if reason is FinishReason.DEADLINE:
        return APIError(504, "the request took longer than the server allows; ask for fewer tokens", code="timeout")
    return None
