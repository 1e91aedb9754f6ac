"""Fetching images from a local server that misbehaves in every way a stranger's server can."""

from __future__ import annotations

import contextlib
import io
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from PIL import Image

from paddlemix.errors import FetchError
from paddlemix.media import ImagePolicy, fetch, load_image
from paddlemix.media.fetch import is_public, shorten

LOCAL = ImagePolicy(allow_urls=True, allow_private_addresses=True, timeout=1.0, max_bytes=4096)
PUBLIC = ImagePolicy(allow_urls=True, timeout=1.0)


def png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (12, 9), "teal").save(buffer, "PNG")
    return buffer.getvalue()


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        stop = self.server.stop
        path = self.path.split("?")[0]
        self.server.seen.append((self.path, dict(self.headers)))
        if path == "/hang":
            stop.wait(5)
        elif path == "/drip":
            self.reply(200, {"Content-Length": "1000"})
            self.drip(b"x")
        elif path == "/drip-header":
            self.wfile.write(b"HTTP/1.0 200 OK\r\nX: ")
            self.drip(b"y")
        elif path == "/missing":
            self.reply(404, {}, b"gone")
        elif path == "/page":
            self.reply(200, {"Content-Type": "image/png"}, b"<html>hello</html>")
        elif path == "/declared-large":
            self.reply(200, {"Content-Length": "99999999"})
        elif path == "/endless":
            self.reply(200, {})
            with contextlib.suppress(OSError):
                while not stop.is_set():
                    self.wfile.write(b"z" * 1024)
        elif path == "/short":
            self.reply(200, {"Content-Length": "500"}, png()[:60])
        elif path == "/gzip":
            self.reply(200, {"Content-Encoding": "gzip"}, png())
        elif path == "/no-target":
            self.reply(302, {})
        elif path.startswith("/hop/"):
            left = int(path[5:])
            self.reply(302, {"Location": f"/hop/{left - 1}" if left else "/image.png"})
        elif path == "/to-raw-utf8":
            self.wfile.write("HTTP/1.0 302 Found\r\nLocation: /公交车.png\r\n\r\n".encode())
        elif path.startswith("/chunk/"):
            self.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + path[7:].encode() + b"\r\n")
            self.wfile.write(b"z" * 4096)
            if path.endswith("/-1"):
                with contextlib.suppress(OSError):
                    while not stop.is_set():
                        self.wfile.write(b"z" * 65536)
        elif path == "/to-open-bracket":
            self.reply(302, {"Location": "http://["})
        elif path == "/to":
            self.reply(302, {"Location": self.path.split("?", 1)[1]})
        else:
            self.reply(200, {"Content-Type": "image/png"}, png())

    def reply(self, status: int, headers: dict, body: bytes = b""):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def drip(self, byte: bytes):
        with contextlib.suppress(OSError):
            while not self.server.stop.wait(0.05):
                self.wfile.write(byte)

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.stop = threading.Event()
    server.seen = []
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    yield server
    server.stop.set()
    server.shutdown()
    server.server_close()
    thread.join(5)


@pytest.fixture
def base(server):
    server.seen.clear()
    return f"http://127.0.0.1:{server.server_port}"


def test_an_image_is_fetched_and_decoded(base, server):
    image = load_image(base + "/公交 车.png?sig=a%2Bb".replace(" ", "%20"), LOCAL)
    assert image.size == (12, 9)
    path, headers = server.seen[0]
    assert path == "/%E5%85%AC%E4%BA%A4%20%E8%BD%A6.png?sig=a%2Bb"
    assert headers["Host"] == base[7:] and headers["Accept-Encoding"] == "identity"


@pytest.mark.parametrize(
    "path, problem",
    [
        ("/hang", "no complete answer within 0.3 s"),
        ("/drip", "no complete answer within 0.3 s"),
        ("/drip-header", "no complete answer within 0.3 s"),
        ("/missing", "answered 404"),
        ("/page", "not an image"),
        ("/declared-large", "limit of 4096 bytes"),
        ("/endless", "limit of 4096 bytes"),
        ("/short", "early|Incomplete"),
        ("/gzip", "content encoding"),
        ("/no-target", "names no target"),
        ("/hop/9", "more than 3 redirects"),
        ("/to?ftp://127.0.0.1/", "scheme 'ftp'"),
        ("/to?file:///etc/passwd", "scheme 'file'"),
        ("/to-open-bracket", "Invalid IPv6 URL"),
        ("/chunk/-5", "ValueError|IncompleteRead"),
        ("/chunk/zz", "IncompleteRead"),
        ("/chunk/-1", "longer than any"),
    ],
)
def test_bad_answers_are_fetch_errors_of_one_line(base, path, problem):
    with pytest.raises(FetchError, match=problem) as error:
        load_image(base + path, LOCAL.replace(timeout=0.3))
    assert "\n" not in str(error.value)


def test_redirects_are_followed_up_to_the_limit(base):
    assert load_image(base + "/hop/2", LOCAL).size == (12, 9)
    with pytest.raises(FetchError, match="more than 2 redirects"):
        fetch(base + "/hop/2", LOCAL.replace(max_redirects=2))


def test_a_redirect_may_be_written_in_raw_utf8(base, server):
    assert load_image(base + "/to-raw-utf8", LOCAL).size == (12, 9)
    assert server.seen[-1][0] == "/%E5%85%AC%E4%BA%A4%E8%BD%A6.png"


def test_a_refused_connection_is_a_fetch_error():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    with pytest.raises(FetchError, match="ConnectionRefusedError"):
        fetch(f"http://127.0.0.1:{port}/", LOCAL)


def test_private_addresses_are_refused_before_any_connection(base, server):
    with pytest.raises(FetchError, match="private or reserved"):
        load_image(base + "/image.png", PUBLIC)
    assert server.seen == []


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/",
        "http://localhost/",
        "http://2130706433/",
        "http://0x7f000001/",
        "http://0177.0.0.1/",
        "http://127.1/",
        "http://0.0.0.0/",
        "http://10.1.2.3/",
        "http://169.254.169.254/latest/meta-data",
        "http://100.64.0.1/",
        "http://224.0.0.1/",
        "http://[::1]/",
        "http://[::]/",
        "http://[::ffff:127.0.0.1]/",
        "http://[::ffff:a00:1]/",
        "http://[fe80::1]/",
        "http://[fd00::1]/",
        "http://[fec0::1]/",
        "http://[2002:7f00:1::]/",
        "http://[64:ff9b::7f00:1]/",
        "https://192.168.0.1/",
    ],
)
def test_every_spelling_of_an_inner_address_is_refused(url):
    with pytest.raises(FetchError, match="private or reserved|no address"):
        fetch(url, PUBLIC)


@pytest.mark.parametrize(
    "url, problem",
    [
        ("http://user:secret@example.com/", "user names and passwords"),
        ("http://public.example@127.0.0.1/", "user names and passwords"),
        ("http:///a.png", "no host"),
        ("http://example.com:99999/", "malformed"),
        ("http://[::1/", "malformed"),
        ("http://exa mple.com/", "control characters"),
        ("http://example.com/\r\nHost: inner", "control characters"),
        ("gopher://example.com/", "scheme"),
    ],
)
def test_malformed_addresses_are_refused_before_resolving(url, problem):
    def resolve(host, port):
        raise AssertionError(f"{host} was resolved")

    with pytest.raises(FetchError, match=problem) as error:
        fetch(url, PUBLIC, resolve)
    assert "secret" not in str(error.value) and "\n" not in str(error.value)


def test_one_private_address_among_public_ones_is_enough_to_refuse():
    with pytest.raises(FetchError, match="private or reserved"):
        fetch("http://mixed.example/", PUBLIC, lambda host, port: ["93.184.216.34", "127.0.0.1"])


def test_each_redirect_target_is_resolved_and_checked(base, server):
    asked = []

    def resolve(host, port):
        asked.append(host)
        return ["127.0.0.1"] if host == "127.0.0.1" else []

    with pytest.raises(FetchError, match="no address"):
        fetch(base + "/to?http://inner.example/", LOCAL, resolve)
    assert asked == ["127.0.0.1", "inner.example"]


def test_a_redirect_from_a_public_host_to_a_private_one_is_refused(base, server, monkeypatch):
    """The public host's address is stood in for by the local server, so that its redirect can be watched."""
    connect = socket.create_connection

    def to_local(address, timeout=None):
        assert address[0] == "93.184.216.34"
        return connect(("127.0.0.1", server.server_port), timeout=timeout)

    monkeypatch.setattr(socket, "create_connection", to_local)
    addresses = {"public.example": ["93.184.216.34"], "127.0.0.1": ["127.0.0.1"]}
    with pytest.raises(FetchError, match="'127.0.0.1' has a private or reserved address"):
        fetch(f"http://public.example/to?{base}/image.png", PUBLIC, lambda host, port: addresses[host])
    assert [path for path, _ in server.seen] == [f"/to?{base}/image.png"]


def test_the_checked_address_is_the_one_connected_to(monkeypatch):
    """A name that answers publicly first and privately afterwards is asked only once."""
    answers = [["93.184.216.34"], ["127.0.0.1"]]
    connected = []

    def connect(address, timeout=None):
        connected.append(address)
        raise ConnectionRefusedError("stub")

    monkeypatch.setattr(socket, "create_connection", connect)
    with pytest.raises(FetchError, match="stub"):
        fetch("http://rebinding.example/", PUBLIC, lambda host, port: answers.pop(0))
    assert connected == [("93.184.216.34", 80)] and len(answers) == 1


def test_the_next_address_is_tried_when_one_does_not_answer(base, server, monkeypatch):
    connect = socket.create_connection

    def only_the_second(address, timeout=None):
        if address[0] == "::1":
            raise ConnectionRefusedError
        return connect(address, timeout=timeout)

    monkeypatch.setattr(socket, "create_connection", only_the_second)
    assert fetch(base + "/image.png", LOCAL, lambda host, port: ["::1", "127.0.0.1"]) == png()


def test_a_name_server_that_hangs_counts_against_the_deadline(monkeypatch):
    release = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: release.wait(5) and [])
    try:
        with pytest.raises(FetchError, match="no complete answer within 0.2 s"):
            fetch("http://slow.example/", PUBLIC.replace(timeout=0.2))
    finally:
        release.set()


def test_https_checks_the_certificate_against_the_name(base):
    with pytest.raises(FetchError, match="SSL"):
        fetch(base.replace("http:", "https:") + "/image.png", LOCAL)


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_public_addresses_are_public(address):
    assert is_public(address)


def test_messages_show_addresses_without_secrets_and_not_too_long():
    assert shorten("https://example.com/a.png?sig=secret#x") == "https://example.com/a.png"
    assert len(shorten("http://example.com/" + "a" * 500)) == 100


def test_messages_show_urls_without_what_a_terminal_would_obey():
    assert shorten("http://x/\x9b2J\u202e") == "http://x/\\x9b2J\\u202e"
