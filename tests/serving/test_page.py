"""The web page without a browser: routes, headers, and files that fit each other and the program."""

from __future__ import annotations

import re

from paddlemix.models.qwen_vl.chat_template import DEFAULT_SYSTEM
from paddlemix.models.qwen_vl.grounding import PALETTE
from paddlemix.serving.routes_page import HEADERS, PAGE
from paddlemix.zoo import DEFAULT_MODEL, DEMO_IMAGE

FILES = {path.name: path.read_text(encoding="utf-8") for path in sorted(PAGE.iterdir())}
SCRIPTS = {name: text for name, text in FILES.items() if name.endswith(".js")}


def test_the_page_needs_no_key_and_loads_nothing_of_others(start):
    with start(api_keys=("secret",)) as server:
        server.http.headers.pop("Authorization")
        for path in ["/", *(f"/page/{name}" for name in FILES), "/page/demo.png"]:
            response = server.http.get(path)
            assert response.status_code == 200, path
            assert {name: response.headers[name] for name in HEADERS} == HEADERS
            policy = response.headers["content-security-policy"]
            assert "default-src 'none'" in policy and "unsafe" not in policy and "frame-ancestors 'none'" in policy
            assert response.headers["x-content-type-options"] == "nosniff"
            assert response.headers["referrer-policy"] == "no-referrer"
        assert server.http.get("/").headers["content-type"].startswith("text/html")
        assert server.http.get("/page/main.js").headers["content-type"].startswith("text/javascript")
        assert server.http.get("/page/demo.png").content == DEMO_IMAGE.read_bytes()
        for path in ("/v1/models", "/metrics", "/pages", "/page"):
            assert server.http.get(path).status_code == 401, path


def test_nothing_but_the_page_can_be_had_under_it(server):
    for path in ("/page/", "/page/no.js", "/page/../app.py", "/page/%2e%2e/app.py", "/page/..%2fapp.py"):
        assert server.http.get(path).status_code == 404, path
    assert server.http.post("/page/main.js").status_code == 405
    assert server.http.head("/").status_code == 200
    assert server.http.get("/", headers={"Host": "elsewhere.example"}).status_code == 403
    assert not any(path.startswith("/page") for path in server.http.get("/openapi.json").json()["paths"])


def test_the_browser_asks_whether_a_file_has_changed(server):
    tag = server.http.get("/page/main.js").headers["etag"]
    assert server.http.get("/page/main.js", headers={"If-None-Match": tag}).status_code == 304


def test_files_are_short_and_name_no_address():
    for name, text in FILES.items():
        assert len(text.splitlines()) < 300, name
        assert name not in SCRIPTS or name == "texts.js" or max(map(len, text.splitlines())) <= 120, name
        assert set(re.findall(r"https?://[^\s\"'`]+|[\"'`(]//\w[^\s\"'`]*", text)) <= {"http://www.w3.org/2000/svg"}, (
            name
        )


def test_nothing_parses_html():
    banned = re.compile(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|\beval\b|new Function|srcdoc"
    )
    assert {name: banned.findall(text) for name, text in SCRIPTS.items() if banned.search(text)} == {}
    assert " style=" not in FILES["index.html"] and not re.search(r"<[^>]* on\w+=", FILES["index.html"])


def test_modules_and_elements_that_are_named_exist():
    for name, text in SCRIPTS.items():
        assert set(re.findall(r'from "\./([\w.]+)"', text)) <= set(SCRIPTS), name
        for exported, module in re.findall(r'import \{([^}]*)\} from "\./([\w.]+)"', text):
            for symbol in filter(None, map(str.strip, exported.split(","))):
                assert re.search(rf"^export .*\b{symbol}\b", SCRIPTS[module], re.MULTILINE), f"{name}: {symbol}"
    ids = re.findall(r'\bid="([\w-]+)"', FILES["index.html"])
    assert len(ids) == len(set(ids))
    named = {found for text in SCRIPTS.values() for found in re.findall(r'byId\("([\w-]+)"\)', text)}
    assert named <= set(ids)
    icons = {found for text in SCRIPTS.values() for found in re.findall(r'\bicon(?:Button)?\("([\w-]+)"', text)}
    icons |= set(re.findall(r'href="#icon-([\w-]+)"', FILES["index.html"]))
    assert {f"icon-{name}" for name in icons} <= set(ids)


def test_every_text_is_there_in_both_languages_and_used():
    english, chinese = FILES["texts.js"].split("\n  zh: {")
    texts = {
        language: dict(re.findall(r'^    "([\w.]+)": "(.*)",$', part, re.MULTILINE))
        for language, part in (("en", english), ("zh", chinese))
    }
    assert set(texts["en"]) == set(texts["zh"]) and len(texts["en"]) > 80
    for key, text in texts["en"].items():
        values = re.findall(r"\{\w+\}", text)
        assert sorted(values) == sorted(re.findall(r"\{\w+\}", texts["zh"][key])), key
    used = set(re.findall(r'data-t(?:-label|-placeholder)?="([\w.]+)"', FILES["index.html"]))
    rest = "".join(text for name, text in SCRIPTS.items() if name != "texts.js")
    used |= set(re.findall(r'"([a-z]+(?:\.\w+)*)"', rest)) & set(texts["en"])
    begun = re.findall(r"t\(`([\w.]+\.)\$\{", rest)  # such as t(`theme.${theme}`)
    assert used <= set(texts["en"])
    assert [key for key in texts["en"] if key not in used and not key.startswith(tuple(begun))] == []


def test_what_the_program_says_elsewhere_is_said_alike():
    assert f'"{DEFAULT_MODEL}"' in FILES["welcome.js"] and f'"page/{DEMO_IMAGE.name}"' in FILES["welcome.js"]
    assert f'"{DEFAULT_SYSTEM}"' in FILES["conversation.js"]
    colors = re.findall(r'"#([0-9a-f]{6})"', FILES["grounding.js"])
    assert [tuple(bytes.fromhex(color)) for color in colors] == list(PALETTE)
