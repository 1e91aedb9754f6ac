"""An HTTP server on this machine, laid out like the public stores of models, that can misbehave on request."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Callable
from urllib.parse import parse_qs, unquote, urlsplit


@dataclass
class Store:
    """What the server has: path (with query, unquoted) -> content. ``requests``: (path, Range header) as they came."""

    address: str = ""
    content: dict[str, bytes] = field(default_factory=dict)
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    #: path -> after how many bytes the next answers break off, one entry for each answer
    breaks: dict[str, list[int]] = field(default_factory=dict)
    #: path -> what answers there, with the request's handler, instead of content
    answers: dict[str, Callable[[BaseHTTPRequestHandler], Any]] = field(default_factory=dict)
    #: Authorization headers as they came
    tokens: list[str | None] = field(default_factory=list)
    ranges: bool = True
    etags: bool = True

    def fetched(self) -> list[str]:
        """Names of the model files that were asked for."""
        paths = [path for path, _ in self.requests if "/api/models/" not in path and "/repo/files" not in path]
        return [parse_qs(urlsplit(path).query).get("FilePath", [path.rsplit("/", 1)[-1]])[0] for path in paths]

    def add_huggingface(self, model: str, files: dict[str, bytes], **changes: Any) -> None:
        """Large files (.bin, .safetensors) with a sha256, others with git's id, as that store states them."""
        entries = []
        for name, data in files.items():
            entry: dict[str, Any] = {"rfilename": name, "size": len(data)}
            if name.endswith((".bin", ".safetensors")):
                entry["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
            else:
                entry["blobId"] = hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()
            entries.append(entry)
            self.content[f"/{model}/resolve/abc123/{name}"] = data
        self.set_listing(model, {"id": model, "sha": "abc123", "siblings": entries, **changes})

    def set_listing(self, model: str, listing: Any) -> None:
        """What the Hugging Face store says about a model: bytes, or anything for JSON."""
        content = listing if isinstance(listing, bytes) else json.dumps(listing).encode()
        self.content[f"/api/models/{model}?blobs=true"] = content

    def add_modelscope(self, model: str, files: dict[str, bytes]) -> None:
        root = f"/api/v1/models/{model}/repo"
        entries: list[dict[str, Any]] = [{"Path": "assets", "Type": "tree", "Size": 0}]
        for name, data in files.items():
            sha256 = hashlib.sha256(data).hexdigest()
            entries.append({"Path": name, "Type": "blob", "Size": len(data), "Sha256": sha256})
            self.content[f"{root}?Revision=master&FilePath={name}"] = data
        listing = {"Code": 200, "Data": {"Files": entries}}
        self.content[f"{root}/files?Revision=master&Recursive=true"] = json.dumps(listing).encode()

    def add_paddle(self, model: str, files: dict[str, bytes]) -> None:
        for name, data in files.items():
            self.content[f"/community/{model}/{name}"] = data


def answer(body: bytes, status: int = 200, **headers: str) -> Callable[[BaseHTTPRequestHandler], None]:
    """An answer with these headers (``Content_Length=``) and no others."""

    def send(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body)

    return send


def endless(
    piece: bytes, pause: float = 0.0, *, begin: bytes | None = None, status: int = 200, **headers: str
) -> Callable[[BaseHTTPRequestHandler], None]:
    """An answer that goes on until the client leaves (or for a minute, so that no test can hang on it).

    begin: bytes to begin with, instead of a status and headers.
    """

    def send(handler: BaseHTTPRequestHandler) -> None:
        if begin is None:
            answer(b"", status, **headers)(handler)
        else:
            handler.wfile.write(begin)
        end = time.monotonic() + 60
        while time.monotonic() < end:
            handler.wfile.write(piece)
            time.sleep(pause)

    return send


@contextmanager
def serve() -> Iterator[Store]:
    """A running server and what it has; stopped at the end."""
    store = Store()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path, wanted = unquote(self.path), self.headers.get("Range")
            store.requests.append((path, wanted))
            store.tokens.append(self.headers.get("Authorization"))
            if path in store.answers:
                self.close_connection = True
                with suppress(OSError):  # the client may have had enough
                    store.answers[path](self)
                return
            data = store.content.get(path)
            if data is None:
                self.send_error(404)
                return
            etag = f'"{hashlib.md5(data).hexdigest()}"'
            start = 0
            if wanted and store.ranges and self.headers.get("If-Range", etag) == etag:
                start = int(wanted[len("bytes=") : -1])
                if start >= len(data):
                    self.send_error(416)
                    return
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
            else:
                self.send_response(200)
            if store.etags:
                self.send_header("ETag", etag)
            self.send_header("Content-Length", str(len(data) - start))
            self.end_headers()
            breaks = store.breaks.get(path)
            if breaks:
                self.wfile.write(data[start : start + breaks.pop(0)])
                self.close_connection = True
            else:
                self.wfile.write(data[start:])

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    store.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield store
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
