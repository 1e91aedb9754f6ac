"""The command ``paddlemix serve``: its options as settings."""

from __future__ import annotations

import pytest

from paddlemix.cli.commands.serve import parser
from paddlemix.cli.server_options import server_settings
from paddlemix.errors import ConfigurationError
from paddlemix.serving.settings import Limits, ServerSettings


def settings(*arguments: str, **environment: str) -> ServerSettings:
    return server_settings(parser("paddlemix serve").parse_args(arguments), environment)


def test_without_options_it_is_this_machine_alone():
    usual = settings()
    assert (usual.host, usual.port, usual.api_keys) == ("127.0.0.1", 8000, ())
    assert usual.model_name == "paddlemix/qwen-vl-scenes" and usual.limits == Limits()
    assert settings("--model_name_or_path", "paddlemix/qwen-vl-scenes") == usual
    assert not usual.image_policy.allow_urls and not usual.image_policy.allow_paths


def test_options_become_settings(tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("# ours\none\n\ntwo\n")
    told = settings(
        "--host", "0.0.0.0", "--port", "1", "--api_key_file", str(keys), "--max_queue", "3", "--max_body_mib", "2",
        "--allowed_media_domain", "Images.example", "--model_name_or_path", "a/Qwen-VL", "--allowed_host", "BOX",
        PADDLEMIX_API_KEY="three",
    )  # fmt: skip
    assert told.api_keys == ("three", "one", "two") and told.model_name == "Qwen-VL"
    assert told.limits.max_queue == 3 and told.limits.max_body_bytes == 2 << 20
    assert told.allowed_media_domains == ("images.example",) and told.allowed_hosts == ("box",)
    assert told.image_policy.allow_urls and told.image_policy.max_redirects == 0
    assert not told.image_policy.allow_private_addresses
    assert "three" not in repr(told)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--host", "0.0.0.0"], "there is no API key"),
        (["--port", "70000"], "port: got 70000"),
        (["--ssl_certfile", "x"], "ssl_keyfile"),
        (["--api_key_file", "/nowhere/keys"], "/nowhere/keys"),
        (["--drain_seconds", "0"], "drain_seconds"),
        (["--request_seconds", "-1"], "request_seconds"),
    ],
)
def test_what_cannot_be_is_told_before_anything_is_loaded(arguments, message):
    with pytest.raises(ConfigurationError, match=message):
        settings(*arguments)
    with pytest.raises(ConfigurationError, match="api keys"):
        settings(PADDLEMIX_API_KEY="a key")


def test_another_address_without_a_key_must_be_meant():
    assert settings("--host", "0.0.0.0", "--allow_no_key").api_keys == ()
    assert settings("--host", "::1").is_loopback and settings("--host", "localhost").is_loopback
