from __future__ import annotations

import time

import pytest

from paddlemix.checkpoint import transport
from paddlemix.checkpoint.transport import RefusedAnswerError, UnreachableError, get
from tests.checkpoint.store_server import Store, answer, endless


def body(url: str, total: float | None = None, **headers: str) -> bytes:
    with get(url, headers, idle=10, total=total) as found:
        return b"".join(iter(found.read, b""))


def test_body_and_status_arrive(store: Store) -> None:
    store.content["/x"] = b"hello" * 1000
    assert body(store.address + "/x") == b"hello" * 1000
    with get(store.address + "/absent", {}, idle=10) as found:
        assert found.status == 404


def test_redirects_are_followed_and_the_token_stays_with_its_host(store: Store) -> None:
    store.content["/there"] = b"here"
    other = store.address.replace("127.0.0.1", "localhost")
    store.answers["/same"] = answer(b"", 302, Location="/there", Content_Length="0")
    store.answers["/other"] = answer(b"", 307, Location=other + "/there", Content_Length="0")
    assert body(store.address + "/same", Authorization="Bearer x") == b"here"
    assert body(store.address + "/other", Authorization="Bearer x") == b"here"
    assert store.tokens == ["Bearer x", "Bearer x", "Bearer x", None]


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1:9/x", "gopher://x", "data:,x"])
def test_redirects_to_anything_but_http_are_refused(store: Store, target: str) -> None:
    store.answers["/x"] = answer(b"", 302, Location=target, Content_Length="0")
    with pytest.raises(RefusedAnswerError, match=r"/x: redirects to .*expected http"):
        body(store.address + "/x")


@pytest.mark.parametrize(
    "target", ["http://[", "http://[::1", "http://127.0.0.1:99999/", "http://a b/\x80", "http://:x/"]
)
def test_redirects_to_no_address_are_one_line(store: Store, target: str) -> None:
    store.answers["/x"] = answer(b"", 302, Location=target, Content_Length="0")
    with pytest.raises(UnreachableError) as caught:
        body(store.address + "/x")
    assert str(caught.value).startswith(store.address + "/x: ")
    assert len(str(caught.value)) < 500 and "\n" not in str(caught.value)


def test_redirects_in_a_circle_end(store: Store) -> None:
    store.answers["/x"] = answer(b"", 302, Location="/x", Content_Length="0")
    with pytest.raises(RefusedAnswerError, match="more than 5 redirects"):
        body(store.address + "/x")


def test_the_body_of_a_redirect_is_not_read(store: Store) -> None:
    store.content["/there"] = b"here"
    store.answers["/x"] = endless(b"x" * 100_000, status=302, Location="/there")
    assert body(store.address + "/x") == b"here"


@pytest.mark.parametrize("sent", [b"-5\r\nabc", b"-0x5\r\nabc", b"zz\r\nabc", b"5\r\nab", b"", b"9" * 100_000])
def test_chunks_that_are_none_are_one_line(store: Store, sent: bytes) -> None:
    store.answers["/x"] = answer(sent, Transfer_Encoding="chunked")
    with pytest.raises(UnreachableError, match=r"/x: (sent a chunk of negative size|broke off)"):
        body(store.address + "/x")


def test_what_drips_is_given_up_at_the_end_of_its_time(store: Store) -> None:
    store.answers["/x"] = endless(b" ", 0.02)
    with pytest.raises(RefusedAnswerError, match=r"/x: no complete answer within 0.3 s"):
        body(store.address + "/x", total=0.3)


def test_headers_that_drip_are_given_up_too(store: Store) -> None:
    store.answers["/x"] = endless(b"a", 0.02, begin=b"HTTP/1.1 200 OK\r\nX-Y: ")
    with pytest.raises(RefusedAnswerError, match=r"/x: no complete answer within 0.3 s"):
        body(store.address + "/x", total=0.3)


def test_too_slow_a_body_is_given_up_after_one_window(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "WINDOW_SECONDS", 0.3)
    store.answers["/x"] = endless(b" ", 0.02)
    with pytest.raises(RefusedAnswerError, match=r"/x: only \d+ bytes came in 0 s"):
        body(store.address + "/x")


def test_a_body_that_is_fast_enough_takes_as_many_windows_as_it_needs(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "WINDOW_SECONDS", 0.05)
    monkeypatch.setattr(transport, "WINDOW_BYTES", 1)
    pieces = iter([b"abc"] * 10)

    def slowly(handler) -> None:
        answer(b"", Content_Length="30")(handler)
        for piece in pieces:
            time.sleep(0.02)
            handler.wfile.write(piece)

    store.answers["/x"] = slowly
    assert body(store.address + "/x") == b"abc" * 10


@pytest.mark.parametrize("url", ["http://[", "x", "file:///etc/passwd", "http://127.0.0.1:99999/x", "http:///x"])
def test_what_is_no_address_is_one_line(url: str) -> None:
    with pytest.raises(UnreachableError):
        body(url)


def test_user_names_and_passwords_are_not_shown() -> None:
    assert transport.shown("https://user:secret@host/path\x1b[2J") == "https://host/path\\x1b[2J"
    assert len(transport.shown("https://host/" + "x" * 10_000)) == 200
