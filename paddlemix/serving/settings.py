"""What a server is told when it starts."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field

from ..errors import ConfigurationError
from ..media import ImagePolicy

MIB = 1 << 20


@dataclass(frozen=True)
class Limits:
    """Bounds on one request and on the server, all checked before a model works.

    Attributes:
        max_body_bytes: of a request.
        max_queue: requests that wait or run; more are answered with 429.
        max_messages, max_images, max_tools: of one conversation.
        max_image_bytes, max_image_pixels: of each image, encoded and decoded.
        max_json_depth: of a body.
        max_schema_bytes, max_schema_depth: of a JSON schema for an answer.
        max_answers: ``n``, times the number of prompts.
        request_seconds: from the arrival of a request to the end of its answer.
        send_seconds: that a client may take to read what was sent before its request is aborted.
    """

    max_body_bytes: int = 48 * MIB
    max_queue: int = 64
    max_messages: int = 200
    max_images: int = 16
    max_tools: int = 64
    max_image_bytes: int = 20 * MIB
    max_image_pixels: int = 32_000_000
    max_json_depth: int = 64
    max_schema_bytes: int = 64 << 10
    max_schema_depth: int = 32
    max_answers: int = 4
    request_seconds: float = 600.0
    send_seconds: float = 30.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value <= 0:
                raise ConfigurationError(f"{name}: got {value}, expected a number above 0")


@dataclass(frozen=True)
class ServerSettings:
    """How a server behaves.

    Attributes:
        model_name: what clients call the model.
        host, port: where it listens; port 0 takes a free one.
        api_keys: any of these opens everything but ``/health``; none: no key is asked for.
        allow_no_key: listen on an address that others reach although there is no key.
        allowed_hosts: further names that a ``Host`` header may have; ``*`` for all.
        allowed_origins: origins whose web pages may call the server.
        allowed_media_domains: hosts from which images given as http(s) URLs are fetched.
        allow_private_media: fetch from these also where their addresses are private.
        trusted_tags: read ``<ref>``, ``<box>`` and ``<quad>`` out of the users' texts.
        drain_seconds: that running requests have to finish when the server is stopped.
        ping_seconds: of silence after which a stream gets a comment.
        stall_seconds: without a finished step while there is work, after which the server is not ready; four times as
            long, and it is not live.
        limits: see :class:`Limits`.
    """

    model_name: str
    host: str = "127.0.0.1"
    port: int = 8000
    api_keys: tuple[str, ...] = field(default=(), repr=False)
    allow_no_key: bool = False
    allowed_hosts: tuple[str, ...] = ()
    allowed_origins: tuple[str, ...] = ()
    allowed_media_domains: tuple[str, ...] = ()
    allow_private_media: bool = False
    trusted_tags: bool = False
    drain_seconds: float = 30.0
    ping_seconds: float = 10.0
    stall_seconds: float = 60.0
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        for name in ("drain_seconds", "ping_seconds", "stall_seconds"):
            if getattr(self, name) <= 0:
                raise ConfigurationError(f"{name}: got {getattr(self, name)}, expected seconds above 0")
        if any(not key or not key.isascii() or not key.isprintable() or " " in key for key in self.api_keys):
            raise ConfigurationError("api keys: one is empty or has spaces, controls or letters beyond ASCII")
        if not self.is_loopback and not self.api_keys and not self.allow_no_key:
            raise ConfigurationError(
                f"host: {self.host!r} may be reached from elsewhere, and there is no API key; set one "
                "(--api_key_file, PADDLEMIX_API_KEY) or say --allow_no_key"
            )

    @property
    def is_loopback(self) -> bool:
        """Whether only programs of this machine reach the server."""
        return is_loopback(self.host)

    @property
    def image_policy(self) -> ImagePolicy:
        """What images of a request may be: data that it carries, and URLs of the allowed hosts.

        Redirects are not followed: they would lead past the list of hosts.
        """
        policy = ImagePolicy.server().replace(
            max_bytes=self.limits.max_image_bytes, max_pixels=self.limits.max_image_pixels
        )
        if not self.allowed_media_domains:
            return policy
        return policy.replace(allow_urls=True, max_redirects=0, allow_private_addresses=self.allow_private_media)


def is_loopback(host: str) -> bool:
    """Whether a host name or address means this machine alone."""
    name = host.strip("[]").lower()
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
