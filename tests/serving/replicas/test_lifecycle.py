"""Before Ray is started: the port, and files that are read again."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue

import pytest

from paddlemix.cli.scale_out import plan
from paddlemix.errors import ConfigurationError
from paddlemix.serving.replicas import lifecycle


def test_a_port_that_is_taken_is_told_before_ray_is_started():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = str(listener.getsockname()[1])
        with pytest.raises(ConfigurationError, match=f"cannot listen on 127.0.0.1:{port}"):
            lifecycle.serve_replicas(lambda: plan({}, ["--port", port], {}), print)
    assert lifecycle._port(plan({}, ["--port", port], {})) == int(port)
    assert lifecycle._port(plan({}, ["--port", "0"], {})) > 0
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", int(port)))
        listener.listen()
        joined = plan({"ray_address": "auto"}, ["--port", port], {})
        assert lifecycle._port(joined) == int(port), "what was deployed there before listens on it"
    with pytest.raises(ConfigurationError, match="port: got 0"):
        lifecycle._port(plan({"ray_address": "auto", "port": 0}, [], {}))


def test_the_folder_goes_although_something_still_writes_into_it():
    stop = threading.Event()

    def write(folder: Path) -> None:
        while not stop.is_set():
            with contextlib.suppress(OSError):
                (folder / "log").write_text("x")

    with lifecycle._folder() as name:
        folder = Path(name)
        assert folder.stat().st_mode & 0o077 == 0
        writer = threading.Thread(target=write, args=(folder,))
        writer.start()
        threading.Timer(0.3, stop.set).start()
    writer.join()
    assert not folder.exists()


def test_a_file_that_cannot_work_changes_nothing(caplog):
    def read() -> None:
        raise ConfigurationError("modls: no option")

    events: SimpleQueue = SimpleQueue()
    with caplog.at_level(logging.ERROR):
        lifecycle._deploy_again(read, events)
    assert events.empty() and "not deployed: modls: no option" in caplog.text


def test_addresses_are_those_at_which_it_is_reached():
    said: list[str] = []
    told = plan({"host": "0.0.0.0", "allow_no_key": True}, ["--replicas", "2"], {})
    assert lifecycle._say_addresses(told, 8000, said.append) == "http://127.0.0.1:8000/"
    assert "with 2 replicas on http://0.0.0.0:8000/v1" in said[0]
    secure = replace(told, certfile="x", keyfile="y")
    assert lifecycle._say_addresses(secure, 1, said.append) == "https://127.0.0.1:1/"
