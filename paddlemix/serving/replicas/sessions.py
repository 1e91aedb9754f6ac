"""Which replica a conversation belongs to: the one that has its beginning in its prefix cache."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ...utils.json_text import JSONError, parse_json

SESSION_HEADER = "x-session-id"
"""Requests with the same value go to the same replica, whatever they say."""

MAX_PROMPT_CHARACTERS = 1024
"""Of a prompt of ``/v1/completions``, so that what goes on from it later stays with it."""


@dataclass(frozen=True)
class Target:
    """Where a request wants to go.

    Attributes:
        model: the name in its body, if there is one.
        session: requests that share it share a replica; empty: any replica will do.
    """

    model: str | None = None
    session: str = ""


def read_target(body: bytes, header: str | None, salt: bytes) -> Target:
    """The target of a request.

    Args:
        body: of the request; one that is not JSON has no target, and a replica will say what is wrong with it.
        header: the value of ``X-Session-ID``, if there is one.
        salt: of the API key; sessions of different keys have nothing in common.
    """
    try:
        fields = parse_json(body.decode("utf-8-sig"))
    except (UnicodeDecodeError, JSONError):
        fields = None
    if not isinstance(fields, dict):
        fields = {}
    name = fields.get("model")
    beginning = header if header is not None else _beginning(fields)
    return Target(name if isinstance(name, str) else None, _session(beginning, salt))


def _beginning(fields: Mapping[str, Any]) -> Any:
    """What stays the same through all turns of a conversation: the first message of the user, images included."""
    for name in ("messages", "input"):
        turns = fields.get(name)
        if isinstance(turns, str):
            return turns
        if isinstance(turns, list):
            return next((turn for turn in turns if isinstance(turn, dict) and turn.get("role") == "user"), None)
    prompt = fields.get("prompt")
    if isinstance(prompt, (str, list)):
        return [fields.get("images"), prompt[:MAX_PROMPT_CHARACTERS]]
    return None


def _session(beginning: Any, salt: bytes) -> str:
    if beginning is None:
        return ""
    text = json.dumps(beginning, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(salt + b"\0" + text.encode()).hexdigest()


def ranked(session: str, replicas: Iterable[str]) -> list[str]:
    """Names of replicas, the one of a session first, then those that take it over should that one be full or gone.

    Rendezvous hashing: each replica is scored by a hash of session and name. When one comes or goes, only the sessions
    that are its move.
    """
    return sorted(replicas, key=lambda name: hashlib.sha256(f"{session}|{name}".encode()).digest())
