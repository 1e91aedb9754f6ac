"""Whatever a server sends, a listing or an answer is read, or refused in one line of a documented type."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paddlemix.checkpoint import stores, transport
from paddlemix.checkpoint.download import RemoteFile
from tests.checkpoint.store_server import Store, serve
from tests.fuzz.checking import attempt
from tests.fuzz.counts import FACTOR, record

SEED = {
    "sha": "abc123",
    "siblings": [
        {"rfilename": "config.json", "size": 2, "blobId": "0" * 40},
        {"rfilename": "model.safetensors", "size": 9, "lfs": {"sha256": "0" * 64, "size": 9}},
        {"rfilename": "a/b.json"},
    ],
    "Data": {"Files": [{"Path": "config.json", "Type": "blob", "Size": 2, "Sha256": "0" * 64}, {"Type": "tree"}]},
}
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.just(10**400),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(["../x", "\ud800", "a\0b", "x" * 5000, "config.json", "\x1b[2J.json", "C:x", "/etc/passwd"]),
)
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3))


def places(value: Any, path: tuple = ()) -> Iterator[tuple]:
    """Where in a JSON value something stands."""
    yield path
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield from places(child, (*path, key))


def changed(path: tuple, value: Any) -> Any:
    """The seed with another value in one place."""
    if not path:
        return value
    whole = json.loads(json.dumps(SEED))
    parent = whole
    for key in path[:-1]:
        parent = parent[key]
    parent[path[-1]] = value
    return whole


def test_any_listing_is_read_or_refused() -> None:
    cases = 60 * FACTOR

    def use(path: tuple, value: Any, store: str) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(stores, "fetch_json", lambda *_: changed(path, value))
            files = stores.list_files(store, "a/b")
        assert all(isinstance(file, RemoteFile) and "/" not in file.name and len(file.name) < 200 for file in files)
        assert all(file.size is None or 0 <= file.size <= stores.MAX_FILE_BYTES for file in files)

    @given(path=st.sampled_from(list(places(SEED))), value=VALUES, store=st.sampled_from(["huggingface", "modelscope"]))
    @settings(max_examples=cases)
    def every(path: tuple, value: Any, store: str) -> None:
        attempt(f"listing of {store}", lambda: use(path, value, store))

    every()
    record("listings of stores", cases)


@pytest.fixture(scope="module")
def server() -> Iterator[Store]:
    with serve() as running:
        yield running


def test_any_answer_is_read_or_refused(server: Store) -> None:
    cases = 60 * FACTOR

    def use(raw: bytes) -> None:
        server.answers["/x"] = lambda handler: handler.wfile.write(raw)
        server.content["/x"] = b""
        with transport.get(server.address + "/x", {}, idle=5, total=5) as answer:
            received = b"".join(iter(answer.read, b""))
        assert len(received) <= len(raw)

    @given(
        status=st.sampled_from([b"HTTP/1.1 200 OK", b"HTTP/1.1 302 x", b"HTTP/1.0 206 x", b"HTTP/9 9", b"", b"\xff"]),
        headers=st.lists(
            st.sampled_from(
                [
                    b"Content-Length: 3", b"Content-Length: -1", b"Content-Length: 99999999999999999999",
                    b"Content-Length:", b"Transfer-Encoding: chunked", b"Location: http://[", b"Location: /x",
                    b"Location: \xff\xfe", b"\x00",
                    b"Content-Encoding: gzip", b"Content-Range: bytes 5-1/*", b"X: " + b"x" * 70_000, b"no header",
                ]
            ),
            max_size=3,
        ),
        body=st.one_of(
            st.binary(max_size=50),
            st.sampled_from([b"-5\r\nabc", b"3\r\nabc\r\n0\r\n\r\n", b"ffffffffffffffffffff\r\nabc", b"3;x\r\nab"]),
        ),
    )  # fmt: skip
    @settings(max_examples=cases)
    def every(status: bytes, headers: list[bytes], body: bytes) -> None:
        raw = b"\r\n".join([status, *headers, b"", body])
        attempt(f"answer {raw[:200]!r}", lambda: use(raw))

    every()
    record("answers of stores", cases)
