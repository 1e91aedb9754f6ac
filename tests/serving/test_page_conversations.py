"""The web page in a browser, over the fake engine: conversations and their files, servers that come and go."""

from __future__ import annotations

import itertools
import json
import threading
from pathlib import Path

import pytest

from paddlemix.models.qwen_vl import grounding
from paddlemix.models.qwen_vl.messages import normalize_messages
from paddlemix.zoo import DEFAULT_MODEL_DIR
from tests.serving.harness import Running, wait_for
from tests.serving.page_driver import BUS, HOSTILE, SLOW, TWO, Page, preloaded, prompt

# ---------------------------------------------------------------- conversations


def test_conversations_stay_in_the_browser(server, page, photo):
    page.choose(photo)
    page.ask("First talk")
    page.click("#new")
    page.wait("!document.querySelector('.turn')")
    page.ask("Second talk")
    page.open()  # the tab goes on with what it showed
    assert page.text(".bubble") == "Second talk"
    page.all("#conversations .open")[1].click()
    page.wait("document.querySelector('.bubble')?.textContent === 'First talk'")
    assert len(page.all(".pictures img")) == 1
    page.ask("And?")
    assert len(server.engine.seen[-1].images) == 1 and "First talk" in prompt(server)
    page.actions().move_to_element(page.all("#conversations li")[1]).perform()
    page.click(page.named("Delete “Second talk”"))
    page.click("#confirm-yes")
    page.wait("document.querySelectorAll('#conversations li').length === 1")
    assert page.text(".bubble") == "And?"


def exported(server: Running, page: Page, photo: Path) -> Path:
    """The file of a conversation of two turns, with an image and a region."""
    server.engine.answer = TWO
    page.choose(photo)
    page.click(".thumb .shown")
    page.type("\n", "\n", "\n")  # a region in the middle
    page.ask("Where?")
    page.ask("And now?")
    page.click("#export")
    return page.downloaded("*.json")


@pytest.mark.slow
def test_the_terminal_loads_what_the_page_exports(server, page, photo, processor):
    from paddlemix import ChatSession, QWenLMHeadModel

    file = exported(server, page, photo)
    session = ChatSession(QWenLMHeadModel.from_pretrained(DEFAULT_MODEL_DIR), processor)
    session.load(file)
    assert [part["type"] for part in session.messages[1]["content"]] == ["image", "box", "text"]
    session.save(file)
    page.click("#new")
    page.one("#import-file").send_keys(str(file))
    page.wait("document.querySelectorAll('.answer').length === 2")
    assert len(page.all(".answer .box")) == 6


def test_an_exported_conversation_is_imported_as_it_was(server, page, photo, tmp_path):
    file = exported(server, page, photo)
    asked = prompt(server)
    saved = json.loads(file.read_text(encoding="utf-8"))
    messages = normalize_messages(saved["messages"])
    assert saved["format"] == "paddlemix chat 1"
    assert [message["role"] for message in messages] == ["system", "user", "assistant", "user", "assistant"]
    assert [part["type"] for part in messages[1]["content"]] == ["image", "box", "text"]
    assert messages[2]["content"] == [{"type": "text", "text": TWO}]
    page.click("#clear")
    page.click("#confirm-yes")
    page.wait("!document.querySelector('.turn')")
    page.one("#import-file").send_keys(str(file))
    page.wait("document.querySelectorAll('.answer').length === 2")
    assert len(page.all(".answer .box")) == 6 and page.text(".region-chip").startswith("Region")
    page.click(page.named("Answer again"))
    page.settle()
    assert prompt(server) == asked
    for name, text in {
        "a.json": "{",
        "b.json": "[]",
        "c<b>.json": file.read_text().replace("data:image/png", "file:///x"),
    }.items():
        (tmp_path / name).write_text(text)
        page.one("#import-file").send_keys(str(tmp_path / name))
        page.wait("document.getElementById('storage-note').textContent.startsWith(arguments[0])", f"{name} was not")
    assert len(page.all(".answer")) == 2


def test_requests_have_no_more_than_a_server_takes(page):
    sent = page.run("""
        const {requestMessages} = await import('/page/conversation.js');
        const image = (n) => ({url: `data:${n}`}), box = [1, 2, 3, 4];
        const turn = (images, text, answer, regions = []) => (
            {question: {images, regions, text}, answer: {text: answer}});
        const turns = [
            turn([image(1), image(2)], 'first', 'one'),
            turn([image(3)], 'lost', ''),  // without an answer: its image goes with the next question
            turn(Array.from({length: 14}, (_, n) => image(n + 4)), 'many', 'two'),
            turn([], 'last', '', [{picture: 3, label: 'it', box}, {picture: 1, label: null, box}]),
        ];
        return requestMessages({system: null, turns}, 3);
    """)
    assert sent["leftOut"] == 1 and [message["role"] for message in sent["messages"]] == ["user", "assistant", "user"]
    many, _, last = (message["content"] for message in sent["messages"])
    assert [part["image_url"]["url"] for part in many[:-1]] == [f"data:{n}" for n in range(3, 18)]
    box = {"type": "box", "box": [1, 2, 3, 4]}
    assert last == [
        {"type": "text", "text": "Picture 1: "}, {**box, "label": "it"}, {**box, "label": None},
        {"type": "text", "text": "last"},
    ]  # fmt: skip


def test_files_of_others_are_refused_with_a_reason(page):
    parts = [
        None, 1, "x", [], {}, {"type": "image"}, {"type": "image", "image": "/etc/passwd"}, {"type": "image_url"},
        {"type": "image_url", "image_url": {"url": "http://x.example/y.png"}}, {"type": "image_url", "image_url": 5},
        {"type": "image", "image": "data:image/png;base64,AAAA"}, {"type": "box"}, {"type": "box", "box": [1, 2, 3]},
        {"type": "box", "box": [5, 2, 3, 4]}, {"type": "box", "box": [0, 0, 1, 1001]}, {"type": "text", "text": 3},
    ]  # fmt: skip
    system, answer = {"role": "system", "content": ""}, {"role": "assistant", "content": "a"}
    talks: list = [[system, {"role": "user", "content": [part]}, answer] for part in parts]
    talks += [[system, {"role": "user", "content": part}, answer] for part in (None, 1, {}, [[]])]
    talks += [
        [],
        [system, answer],
        [answer],
        [system, {"role": "user", "content": "q"}],
        [None],
        [[]],
        {},
        "x",
        None,
        7,
    ]
    talks += [
        [
            system,
            {"role": "user", "content": "q"},
            {"role": "assistant", "content": [{"type": "box", "box": [1, 2, 3, 4]}]},
        ]
    ]
    files = ["", "{", "null", "[]", "1", '"x"', '{"format": "paddlemix chat 2", "messages": []}', "[" * 5000]
    files += [json.dumps({"format": "paddlemix chat 1", "messages": talk}) for talk in talks]
    reasons = page.run(
        "const {fromFile} = await import('/page/conversation.js'), {measure} = await import('/page/images.js');"
        "const {t} = await import('/page/i18n.js');"
        "return Promise.all(a[0].map((text) => fromFile(text, measure).then(() => 'read', "
        "(problem) => problem.reason ? t(problem.reason, problem.values) : `${problem}`)))",
        files,
    )
    assert dict(zip(files, reasons))[json.dumps({"format": "paddlemix chat 1", "messages": talks[2]})] == "read"
    assert [file for file, reason in zip(files, reasons) if reason == "read"] == files[10:11]
    assert {reason for reason in reasons if "Error" in reason} == set()


def test_a_reload_in_the_middle_of_an_answer_keeps_what_was_there(server, page):
    server.engine.answer, server.engine.step_seconds = "word " * 200, SLOW
    page.ask("Tell me", wait=False)
    page.wait("document.querySelector('.answer .text')?.textContent.length > 20")
    page.run("await new Promise((resolve) => setTimeout(resolve, 700))")
    page.open()
    assert page.text(".notes").startswith("Interrupted") and "word word" in page.text(".answer .text")
    server.idle()
    server.engine.answer, server.engine.step_seconds = "All of it.", 0.0
    page.click(page.named("Answer again"))
    page.settle()
    assert page.text(".answer .text") == "All of it." and page.text(".notes") == ""


def test_an_image_is_written_once_however_long_an_answer_grows(server, page_of, photo):
    page = page_of(server.url)
    counting = """window.puts = {}; const put = IDBObjectStore.prototype.put;
        IDBObjectStore.prototype.put = function (...a) {
            puts[this.name] = (puts[this.name] ?? 0) + 1; return put.apply(this, a) }"""
    with preloaded(page, counting):
        page.open()
        server.engine.answer, server.engine.step_seconds = "word " * 200, SLOW
        page.choose(photo)
        page.ask("Tell me", wait=False)
        page.wait("puts.conversations > 3")
        page.click("#stop")
        page.settle()
        assert page.js("puts.images") == 1
    count = "const open = indexedDB.open('paddlemix'); await new Promise((done) => (open.onsuccess = done));"
    count += "const all = open.result.transaction('images').objectStore('images').count();"
    count += "await new Promise((done) => (all.onsuccess = done)); open.result.close(); return all.result"
    assert page.run(count) == 1
    page.click("#clear")
    page.click("#confirm-yes")
    page.wait("!document.querySelector('#conversations li')")
    assert page.run(count) == 0


def test_a_conversation_that_is_deleted_during_an_answer_stays_so(server, page):
    server.engine.answer, server.engine.step_seconds = "word " * 200, SLOW
    page.ask("Tell me", wait=False)
    page.wait("document.querySelector('#conversations li')")
    page.click("#clear")
    page.click("#confirm-yes")
    page.wait("!document.querySelector('.turn') && !document.getElementById('send').hidden")
    page.open()
    assert page.all("#conversations li") == [] and page.all(".turn") == []


def test_without_storage_it_works_and_says_so(server, page_of):
    page = page_of(server.url)
    with preloaded(page, "Object.defineProperty(window, 'indexedDB', {get() { throw new Error('none') }})"):
        page.open()
        assert "keeps no data" in page.text("#storage-note")
        page.ask("Hello")
        page.click("#new")
        page.wait("!document.querySelector('.turn')")
        page.click("#conversations .open")
        page.wait("document.querySelector('.turn')")
    full = "IDBObjectStore.prototype.put = () => { throw new DOMException('full', 'QuotaExceededError') }"
    with preloaded(page, full):
        page.open()
        page.ask("Hello")
        assert "no room left" in page.text("#storage-note")


def test_tags_are_read_as_the_program_reads_them(page):
    places = "(1,2),(3,4) (30,40),(1,2) (1.5,2.5),(3,1200) (1,2) x (1,2),(3,4),(5,6),(7,8) （１,2）（3,4）".split(" ")
    answers = [TWO, HOSTILE, "", "plain", "<ref> </ref><box>(1,2),(3,4)</box>", f"<ref>a < b</ref>{BUS}"]
    answers += [
        f"<ref>a</ref>{between}<{kind}>{place}{end}{rest}"
        for between, kind, place in itertools.product(("", ", ", " x "), ("box", "quad"), (*places, ""))
        for end, rest in itertools.product((f"</{kind}>", "", "<", "</bo"), ("", " b"))
    ]
    tags = ("<ref>", "</ref>", "<box>", "</box>", "<quad>", "</quad>")
    answers += [f"{a}u{b} v {c}" for a, b, c in itertools.product(tags, repeat=3)]
    read = page.run(
        "const {parse} = await import('/page/grounding.js');"
        "return a[0].map((text) => { const {pieces, boxes} = parse(text);"
        "return [pieces.map((piece) => piece.text).join(''), boxes.map(({label, box}) => [label, ...box])]; })",
        answers,
    )
    for answer, (text, boxes) in zip(answers, read):
        assert boxes == [[box.label, *box.corners] for box in grounding.parse(answer)], answer
        assert text == grounding.strip(answer), answer


# ---------------------------------------------------------------- servers


def test_a_server_that_is_restarted(start, page_of):
    with start() as first:
        page = page_of(first.url).open()
        first.engine.answer, first.engine.step_seconds = "word " * 500, SLOW
        page.ask("Hello", wait=False)
        page.wait("document.querySelector('.answer .text')?.textContent.length > 5")
        first.uvicorn.should_exit = first.uvicorn.force_exit = True
        page.settle()
    assert page.text(".notes.problem")
    page.click(page.named("Answer again"))
    page.settle()
    assert page.text(".notes.problem") == "The server cannot be reached, or the connection was lost."
    with start(port=int(page.url.rpartition(":")[2])) as second:
        second.engine.answer = "Here again."
        page.click(page.named("Answer again"))
        page.settle()
        assert page.text(".answer .text") == "Here again." and page.text(".notes") == ""


def test_questions_wait_while_the_model_is_loaded(start, page_of, server):
    loaded = threading.Event()

    def load() -> object:
        loaded.wait()
        return server.engine

    server.engine.answer = "Ready now."
    try:
        with start(load=load) as loading:
            page = page_of(loading.url).open("loading")
            page.ask("Hello", wait=False)
            page.wait("document.querySelector('.notes')?.textContent.includes('being loaded')")
            loaded.set()
            page.settle()
            assert page.text(".answer .text") == "Ready now." and page.text(".notes") == ""
    finally:
        loaded.set()


def test_a_key_is_asked_for_and_kept_for_the_tab_alone(start, page_of):
    with start(api_keys=("right",)) as server:
        page = page_of(server.url).open("key")
        page.wait("document.getElementById('key-dialog').open")
        page.one("#key").send_keys("wrong\n")
        page.wait("document.getElementById('key-problem').textContent === 'The API key was refused.'")
        page.one("#key").send_keys("right\n")
        page.wait("document.getElementById('status').dataset.state === 'ready'")
        page.ask("Hello")
        assert page.text(".answer .text") == "A red bus."
        assert page.js("sessionStorage.getItem('paddlemix.key')") == "right"
        assert "right" not in page.js("JSON.stringify(localStorage)")
        # a key that is no longer taken is asked for where it is missed
        page.js("sessionStorage.setItem('paddlemix.key', 'old')")
        page.one("#question").send_keys("Again\n")
        page.wait("document.getElementById('key-dialog').open")
        page.one("#key").send_keys("right\n")
        page.wait("[...document.querySelectorAll('.answer .text')].map((e) => e.textContent)[1] === 'A red bus.'")
        page.settle()
        assert page.text(".notes") == ""


def test_errors_are_told_and_the_conversation_goes_on(server, page):
    server.engine.fail = True
    page.ask("Hello")
    assert page.text(".notes.problem").startswith("the server failed to answer")
    server.engine.answer = "word " * 300
    page.ask("Long?")
    assert page.text(".notes") == "Cut off at the greatest length" and page.all(page.named("Continue"))
    server.engine.answer = "Good."
    page.ask("And now?")
    assert page.text(".answer .text") == "Good."
    taken = [server.server.admission.take() for _ in range(64)]
    page.ask("Busy?")
    for place in taken:
        place.release()
    assert page.text(".notes.problem").startswith("The server is busy")
    wait_for(lambda: server.server.admission.taken == 0)
