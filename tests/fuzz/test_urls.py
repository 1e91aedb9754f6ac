"""URLs of any spelling, and servers that answer with anything: an image, or a FetchError within the time and bytes."""

from __future__ import annotations

import gzip
import io
import ipaddress
import socketserver
import threading
from collections.abc import Callable, Iterator
from random import Random

import pytest
from PIL import Image

from paddlemix.media import ImagePolicy, fetch, load_image
from paddlemix.media.fetch import is_public
from tests.fuzz.checking import attempt, peak_memory
from tests.fuzz.counts import FACTOR, record

PUBLIC = ImagePolicy.scripts().replace(timeout=0.5)
LOCAL = PUBLIC.replace(allow_private_addresses=True, timeout=5.0, max_bytes=256 << 10)
IMPATIENT = LOCAL.replace(timeout=0.3)


def png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (20, 20)).save(buffer, "PNG")
    return buffer.getvalue()


PNG = png()


def ok(body: bytes, *headers: bytes) -> bytes:
    return b"\r\n".join([b"HTTP/1.1 200 OK", *headers, b"", body])


def moved(location: bytes) -> bytes:
    return b"HTTP/1.1 302 F\r\nLocation: " + location + b"\r\n\r\n"


CHUNKED = b"Transfer-Encoding: chunked"
ANSWERS: dict[str, bytes] = {
    "good": ok(PNG, b"Content-Length: %d" % len(PNG)), "without length": ok(PNG),
    "chunked": ok(b"%x\r\n%s\r\n0\r\n\r\n" % (len(PNG), PNG), CHUNKED),
    **{f"length {v!r}": ok(PNG, b"Content-Length: " + v) for v in (b"9999", b"10", b"-5", b"9" * 20, b"abc", b"")},
    "two lengths": ok(PNG, b"Content-Length: %d" % len(PNG), b"Content-Length: 5"),
    "length and chunks": ok(b"0\r\n\r\n", b"Content-Length: 5", CHUNKED),
    **{f"chunk {v!r}": ok(v + b"\r\nabc\r\n", CHUNKED) for v in (b"zz", b"f" * 16, b"-5", b"", b"3;" + b"x" * 70_000)},
    "trailers": ok(b"0\r\n" + b"X-A: b\r\n" * 20_000, CHUNKED),
    "gzip bomb": ok(gzip.compress(bytes(5 << 20), mtime=0), b"Content-Encoding: gzip"),
    "two encodings": ok(PNG, b"Content-Encoding: identity, gzip"), "brotli": ok(PNG, b"Content-Encoding: br"),
    "empty": b"", "garbage": b"\0\xff" * 1000, "HTTP/0.9": PNG, "HTML": ok(b"<html>", b"Content-Type: text/html"),
    "long status": b"HTTP/1.1 200 " + b"A" * 100_000 + b"\r\n\r\n",
    **{f"status {v!r}": b"HTTP/1.1 " + v + b" X\r\n\r\n" for v in (b"abc", b"99999", b"000", b"101", b"204", b"304")},
    "endless continues": b"HTTP/1.1 100 Continue\r\n\r\n" * 20_000, "part": b"HTTP/1.1 206 P\r\n\r\n" + PNG,
    "many headers": b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 5000 + b"\r\n" + PNG,
    "long header": ok(PNG, b"X: " + b"A" * 1_000_000), "null in a header": ok(PNG, b"X: a\0b"),
    "body beyond the limit": ok(bytes(1 << 20)), "redirect without target": b"HTTP/1.1 302 F\r\n\r\n",
    **{
        f"redirect to {v[:30]!r}": moved(v)
        for v in (
            b"", b" ", b"/", b"//evil/", b"http://127.0.0.1:1/", b"http://169.254.169.254/", b"file:///etc/passwd",
            b"ftp://x/", b"gopher://x/", b"data:image/png;base64,AAAA", b"javascript:x", b"http://u:p@x/",
            b"http://[::1]/", b"http://[", b"http://a b/", b"\xff\xfe", b"h\xc3\xa9", b"http://" + b"a" * 70_000 + b"/",
            b"?x", b"#y", b"http://x:99999/", b"http://x:-1/", b"http://x:abc/", b"http://xn--/", b"http://%00/",
            b"\\\\x", b"http:///x",
        )
    },
}  # fmt: skip
#: a beginning, and what comes after it without an end, one piece each hundredth of a second
ENDLESS: dict[str, tuple[bytes, bytes]] = {
    "body": (ok(b""), bytes(65_536)),
    "body after an image": (ok(PNG), bytes(65_536)),
    "slow body": (ok(PNG[:9], b"Content-Length: 500"), b"x"),
    "headers": (b"HTTP/1.1 200 OK\r\n", b"X: y\r\n" * 50),
    "slow header": (b"HTTP/1.1 200 OK\r\nX: ", b"y"),
    "chunk's extension": (ok(b"5;", CHUNKED), b"a" * 65_536),
    "body of an error": (b"HTTP/1.1 500 E\r\n\r\n", bytes(65_536)),
    "body of a redirect": (b"HTTP/1.1 302 F\r\nLocation: /x\r\n\r\n", bytes(65_536)),
    "silence": (b"", b""),
}


class Server(socketserver.ThreadingTCPServer):
    """Answers a request for ``/name`` with ``answers[name]()``: pieces of bytes, as they come."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: dict[str, Callable[[], Iterator[bytes]]] = {}
        self.stopped = threading.Event()

    def url(self, name: str, pieces: Callable[[], Iterator[bytes]]) -> str:
        key = str(len(self.answers))
        self.answers[key] = pieces
        return f"http://127.0.0.1:{self.server_address[1]}/{key}"

    def endless(self, beginning: bytes, piece: bytes) -> Iterator[bytes]:
        yield beginning
        while not self.stopped.wait(0.01):
            yield piece


class Handler(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        try:
            name = self.rfile.readline().split(b" ")[1].strip(b"/").decode()
            while self.rfile.readline() not in (b"\r\n", b""):
                pass
            for piece in self.server.answers.get(name, lambda: iter([b""]))():
                self.wfile.write(piece)
        except (OSError, IndexError, ValueError):  # the client has left, or sends something else
            pass


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        yield running
        running.stopped.set()
        running.shutdown()


def test_answers_of_any_kind(server: Server) -> None:
    taken = set()
    for name, content in ANSWERS.items():
        url = server.url(name, lambda content=content: iter([content]))
        if attempt(f"answer {name}", lambda url=url: load_image(url, LOCAL)) == "ok":
            taken.add(name)
    assert {"good", "without length", "chunked"} <= taken <= {"good", "without length", "chunked", *ANSWERS}
    record("answers of servers", len(ANSWERS))


def test_damaged_answers(server: Server) -> None:
    rng, cases = Random(1), 60 * FACTOR
    kinds = [content for content in ANSWERS.values() if len(content) < 5000]
    for n in range(cases):
        content = bytearray(rng.choice(kinds))
        for _ in range(rng.randrange(1, 4)):
            if content:
                at = rng.randrange(min(200, len(content)))
                content[at : at + rng.randrange(3)] = rng.randbytes(rng.randrange(3))
        url = server.url(f"damaged {n}", lambda content=bytes(content): iter([content]))
        attempt(f"answer {bytes(content)[:300]!r}", lambda url=url: load_image(url, IMPATIENT))
    record("damaged answers of servers", cases)


@pytest.mark.parametrize("name", ENDLESS)
def test_answers_without_an_end_take_no_more_than_the_limits(server: Server, name: str) -> None:
    url = server.url(name, lambda: server.endless(*ENDLESS[name]))
    outcomes = []
    peak = peak_memory(lambda: outcomes.append(attempt(name, lambda: load_image(url, IMPATIENT))))
    assert outcomes == ["FetchError"] and peak < 8 << 20
    record("endless answers of servers", 1)


HOSTS = (
    "127.0.0.1 localhost 127.1 0 0.0.0.0 0x7f000001 2130706433 017700000001 127.0.0.1. 10.0.0.1 172.16.0.1 192.168.1.1 "
    "169.254.169.254 100.64.0.1 198.18.0.1 192.0.2.1 203.0.113.5 224.0.0.1 255.255.255.255 240.0.0.1 192.0.0.8 [::1] "
    "[::] [::ffff:127.0.0.1] [::ffff:7f00:1] [::127.0.0.1] [fe80::1] [fc00::1] [fd00::1] [ff02::1] [2002:7f00:1::] "
    "[64:ff9b::7f00:1] [64:ff9b:1::7f00:1] [2001:db8::1] [2001:0:0:0::1] [100::1] [fec0::1] [5f00::1] [3fff::1] "
    "[2001:10::1] [::ffff:0:7f00:1] [fe80::1%25lo] [fe80::1%lo] 127.0.0.1%00.example.com ①②⑦.0.0.1 １２７.0.0.1 1.1 "
    "0177.0.0.1 127.000.000.001 %31%32%37.0.0.1"
).split()


def test_no_spelling_leads_to_an_address_that_is_not_public() -> None:
    for host in HOSTS:
        for scheme in ("http", "https"):
            url = f"{scheme}://{host}:9/x"
            assert attempt(url, lambda url=url: fetch(url, PUBLIC)) != "ok"
    rng, cases = Random(2), 1000 * FACTOR
    for _ in range(cases):
        inner = rng.choice((0x7F000001, 0x0A000001, 0xA9FEA9FE, 0xC0A80001, 0xAC100001, 0x64400001)) + rng.randrange(99)
        prefix = rng.choice((0, 0xFFFF << 32, 0x64FF9B << 96, 0xFE80 << 112, 0xFC00 << 112, 0xFF02 << 112))
        text = str(ipaddress.ip_address((prefix | inner) if rng.random() < 0.7 else inner))
        assert not is_public(text), text
    record("spellings of inner addresses", 2 * len(HOSTS) + cases)


PARTS = (
    *("http", "https", "HTTP", ":", "/", "//", "@", "[", "]", "%", "%00", "%0a", "\r\n", "\t", " ", "#", "?", "a", "."),
    *("127.0.0.1", "localhost", "..", "\\", "é", "．", "。", "∕", "℀", "ß", "xn--", "-", "_", ":80", ":0", ":65536"),
    *(":-1", "\ud800", "\U0001f600", "&", "=", "a" * 300, "\x7f", "\0", "::1", "0"),
)


def test_urls_of_any_spelling() -> None:
    rng, cases = Random(3), 1500 * FACTOR

    def resolve(host: str, port: int) -> list[str]:
        host.encode("idna")  # as the system's resolver does
        return rng.choice((["127.0.0.1"], ["93.184.216.34", "10.0.0.1"], [], ["::1"]))

    for _ in range(cases):
        beginning = rng.choice(("http://", "https://", "http:", "HTTPS://", ""))
        url = beginning + "".join(rng.choice(PARTS) for _ in range(rng.randrange(1, 8)))
        assert attempt(f"URL {url!r}", lambda url=url: fetch(url, PUBLIC, resolve)) == "FetchError"
    record("spellings of URLs", cases)
