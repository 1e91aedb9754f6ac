"""The web page in a browser, over the fake engine: asking, images, regions, settings."""

from __future__ import annotations

import json

from PIL import Image

from paddlemix.models.qwen_vl import grounding
from tests.serving.harness import MODEL, wait_for
from tests.serving.page_driver import BUS, HOSTILE, SLOW, TWO, prompt

# ---------------------------------------------------------------- asking


def test_one_click_on_the_first_visit_shows_what_it_does(server, page):
    server.engine.answer = TWO
    assert "Ask about an image" in page.text("#welcome") and len(page.all(".example")) == 3
    assert "44 everyday objects" not in page.text("#welcome")  # this is another model
    page.click(".example")
    page.settle()
    assert "What does the sign say?" in prompt(server) and len(server.engine.seen[-1].images) == 1
    assert page.text(".answer .text") == "the bus and a cup."
    assert len(page.all(".answer .box")) == 3 and page.text(".tag:last-child") == "a cup"
    assert page.js("document.querySelector('.line').getAttribute('x')") == "178"
    assert "tokens/s" in page.text(".timings") and "prompt tokens cached" in page.text(".timings")
    assert page.text("#conversations .open") == "What does the sign say?" and not page.all("#welcome:not([hidden])")


def test_boxes_come_while_the_answer_is_written_and_it_can_be_stopped_and_continued(server, page, photo):
    server.engine.answer, server.engine.step_seconds = TWO + " word" * 100, SLOW
    page.choose(photo)
    page.ask("Where?", wait=False)
    page.wait("document.querySelectorAll('.answer[aria-busy=true] .box').length === 2")
    page.click("#stop")
    page.settle()
    assert page.text(".notes") == "Stopped"
    wait_for(lambda: server.engine.aborted)
    kept = page.text(".answer .text")
    server.engine.answer, server.engine.step_seconds = " The end.", 0.0
    page.click(page.named("Continue"))
    page.settle()
    assert "the bus" in prompt(server) and prompt(server).count("<box>") >= 2
    assert page.text(".answer .text") == f"{kept} The end."
    server.engine.answer, server.engine.step_seconds = "word " * 100, SLOW
    page.ask("More", wait=False)
    page.wait("document.querySelector('.answer[aria-busy=true] .text')?.textContent.includes('word')")
    page.type("\ue00c")  # Escape
    page.settle()
    assert page.text(".notes") == "Stopped"


def test_answer_again_edit_copy_and_clear(server, page):
    server.engine.answer = f"It is {BUS}."
    page.ask("First")
    page.ask("Second")
    assert "First" in prompt(server) and "Second" in prompt(server)
    page.click(".answer " + page.named("Copy"))
    page.wait("document.querySelector('.tool.done')")
    assert page.clipboard() == "It is the bus."
    server.engine.answer = "Another."
    page.click(page.named("Answer again"))
    page.settle()
    assert page.text(".answer .text") == "Another." and len(page.all(".turn")) == 4
    page.js("document.querySelector('.question button[aria-label=Edit]').click()")
    page.wait("document.activeElement.closest('.editor')")
    page.type(" and last\n")
    page.settle()
    assert len(page.all(".turn")) == 2 and page.text(".bubble") == "First and last"
    assert "First and last" in prompt(server) and "Second" not in prompt(server)
    page.click("#clear")
    page.click("#confirm-yes")
    page.wait("!document.querySelector('.turn')")
    page.wait("!document.querySelector('#conversations li')")


def test_lines_and_input_methods(server, page):
    area = page.one("#question")
    area.send_keys("one", "\ue008\n\ue000", "two")
    page.js("document.getElementById('question').dispatchEvent(new KeyboardEvent('keydown', "
            "{key: 'Enter', isComposing: true, bubbles: true, cancelable: true}))")  # fmt: skip
    assert server.engine.seen == [] and area.get_attribute("value") == "one\ntwo"
    area.send_keys("\n")
    page.settle()
    assert "one\ntwo" in prompt(server)


def test_answers_and_names_of_others_are_text(server, page, tmp_path):
    name = "<img src=x onerror=window.hacked=1>.png"
    Image.new("RGB", (30, 20)).save(tmp_path / name)
    server.engine.answer = HOSTILE
    page.choose(tmp_path / name)
    page.ask("<b>bold</b><ref>x</ref>")
    assert page.text(".bubble") == "<b>bold</b><ref>x</ref>"
    assert page.text(".answer .text") == grounding.strip(HOSTILE)
    assert page.text(".tag") == "<b>bold</b>"
    page.click(".pictures .shown")
    assert page.text("#viewer-title").startswith(name)
    page.click("#viewer [data-close]")
    refused = "document.body.innerHTML = '<b>x</b>'"
    assert page.run(f"try {{ {refused}; return false }} catch {{ return true }}")
    assert page.js("window.hacked ?? null") is None and page.js("document.querySelectorAll('.text img, b').length") == 0
    page.browser.get_log("browser")  # which tells of the assignment above


# ---------------------------------------------------------------- images and regions


def test_images_come_by_file_paste_drop_and_camera(server, page, photo, tmp_path):
    Image.new("RGB", (3000, 1500), "blue").save(tmp_path / "large.jpg")
    (tmp_path / "none.txt").write_text("no image")
    page.choose(photo, tmp_path / "large.jpg", tmp_path / "none.txt")
    page.wait("document.querySelectorAll('.thumb').length === 2 && !document.getElementById('tray-note').hidden")
    assert "none.txt cannot be read as an image." in page.text("#tray-note")
    assert "large.jpg 3000 × 1500 → 1344 × 672" in page.text("#tray-note")
    file = """
        const canvas = document.createElement("canvas");
        const blob = await new Promise((resolve) => canvas.toBlob(resolve));
        const transfer = new DataTransfer();
        transfer.items.add(new File([blob], a[0], {type: "image/png"}));
    """
    page.run(
        file + "document.dispatchEvent(new ClipboardEvent('paste', {clipboardData: transfer, bubbles: true}))", "p"
    )
    page.wait("document.querySelectorAll('.thumb').length === 3")
    for kind in ("dragenter", "dragover", "drop"):
        page.run(file + "document.body.dispatchEvent(new DragEvent(a[1], "
                 "{dataTransfer: transfer, bubbles: true, cancelable: true}))", "d", kind)  # fmt: skip
        assert bool(page.all("#drop:not([hidden])")) == (kind != "drop")
    page.wait("document.querySelectorAll('.thumb').length === 4")
    page.click("#camera")
    page.wait("!document.getElementById('camera-take').disabled")
    page.click("#camera-take")
    page.wait("document.querySelectorAll('.thumb').length === 5")
    assert page.js("document.getElementById('camera-video').srcObject") is None
    page.click('.thumb button[aria-label="Remove d"]')
    page.wait("document.querySelectorAll('.thumb').length === 4")
    page.ask("What is in these?")
    assert len(server.engine.seen[-1].images) == 4 and prompt(server).count("Picture ") == 4
    assert len(page.all(".question .shown")) == 4 and page.all(".thumb") == []


def test_a_phrase_and_its_box_light_up_together(server, page, photo):
    server.engine.answer = TWO
    page.choose(photo)
    page.ask("Where?")
    lit = "[...document.querySelectorAll('.lit')].map(e => e.dataset.phrase + e.classList[0]).join()"
    page.actions().move_to_element(page.all(".phrase")[1]).perform()
    assert page.js(lit) == "1phrase,1box,1tag" and page.all(".lighting")
    page.actions().move_to_element(page.all(".box")[0]).perform()
    page.wait(f"{lit} === '0phrase,0box,0box,0tag,0tag'")
    page.actions().move_to_element(page.one("#question")).perform()
    page.wait("!document.querySelector('.lit')")
    page.js("document.querySelectorAll('.phrase')[1].focus()")
    page.type("\n")
    assert page.js("document.querySelectorAll('.phrase')[1].getAttribute('aria-pressed')") == "true"
    page.one("#question").click()
    assert page.js(lit) == "1phrase,1box,1tag"  # kept
    assert page.js("document.querySelectorAll('.box')[2].getAttribute('aria-label')") == "a cup: 500, 100, 700, 300"


def test_a_region_is_drawn_and_asked_about(server, page, photo):
    page.choose(photo)
    page.click(".thumb .shown")
    stage = page.wait("document.querySelector('#stage .picture')")
    width, height = stage.size["width"], stage.size["height"]
    actions = page.actions().move_to_element_with_offset(stage, round(-0.3 * width), round(-0.25 * height))
    actions.click_and_hold().move_by_offset(round(0.5 * width), round(0.5 * height)).release().perform()
    page.one("#region-name").send_keys("the bus\n")
    assert page.one("#question").get_attribute("value") == ""
    assert "the bus" in page.text(".region-chip")
    page.ask("What is it?")
    region = grounding.parse(prompt(server))
    assert len(region) == 1 and region[0].label == "the bus"
    assert all(abs(a - b) < 15 for a, b in zip(region[0].corners, (200, 250, 700, 750)))
    assert "the bus" in page.text(".question .region-chip") and prompt(server).count("</box>What is it?") == 1
    # by keyboard, on the image of the conversation, which is then one of two
    page.choose(photo)
    page.wait("document.querySelector('.thumb')")
    page.click(".question .shown")
    page.type("\n", "\ue014")  # a box; right
    page.actions().key_down("\ue008").send_keys("\ue015").key_up("\ue008").perform()  # Shift and down: higher
    page.type("\n")  # to the button
    page.wait("document.activeElement.id === 'region-use'")
    page.type("\n")
    page.ask("And this?")
    assert "Picture 1: <box>(370,350),(670,670)</box>And this?" in prompt(server)
    assert "Image 1" in page.text(".region-chip")


def test_boxes_are_shown_on_the_image_that_is_chosen(server, page, photo, tmp_path):
    Image.new("RGB", (50, 90)).save(tmp_path / "second.png")
    server.engine.answer = BUS
    page.choose(photo, tmp_path / "second.png")
    page.ask("Where?")
    shown = "document.querySelector('.picture img')?.naturalWidth"
    page.wait(f"{shown} === 50")  # the newest
    page.click(page.named("Show the boxes on image 1"))
    page.wait(f"{shown} === 200")
    assert len(page.all(".box")) == 1 and len(page.all(".which [aria-pressed=true]")) == 1
    page.open()
    page.wait(f"{shown} === 200")


def test_boxes_as_json_and_the_drawn_image(server, page, photo, tmp_path):
    server.engine.answer = TWO
    page.choose(photo)
    page.ask("Where?")
    page.click(page.named("Copy boxes as JSON"))
    page.wait("document.querySelector('.tool.done')")
    boxes = [{"label": box.label, "box": list(box.corners)} for box in grounding.parse(TWO)]
    assert json.loads(page.clipboard()) == boxes
    page.click(page.named("Download the image with its boxes"))
    drawn = Image.open(page.downloaded("boxes*.png")).convert("RGB")
    assert drawn.size == (200, 100) and drawn.getpixel((199, 99)) == (200, 30, 30)
    assert drawn.getpixel((100, 28)) != (200, 30, 30)


# ---------------------------------------------------------------- settings, languages, small screens


def test_settings_reach_the_engine_and_stay(server, page):
    page.click("#settings")
    values = {"system": "Be brief.", "temperature": "0.25", "length": "7", "seed": "42", "lookup": "3"}
    for name, value in values.items():
        page.one(f"#set-{name}").send_keys(value)
    page.click("#set-timings")
    assert page.text("#set-model") == MODEL
    page.click("#settings-form .primary")
    page.ask("Hello")
    sampling = server.engine.seen[-1].sampling
    assert (sampling.temperature, sampling.max_tokens, sampling.seed) == (0.25, 7, 42)
    assert sampling.prompt_lookup_num_tokens == 3 and "Be brief." in prompt(server)
    assert page.text(".timings") == ""
    page.open()
    page.click("#settings")
    assert {name: page.one(f"#set-{name}").get_attribute("value") for name in values} == values
    page.click("#settings-reset")
    page.click("#settings-form .primary")
    page.ask("Hello")
    assert server.engine.seen[-1].sampling.max_tokens == 256 and "Be brief." not in prompt(server)


def test_a_wrong_setting_is_told_by_the_server_in_its_words(server, page):
    page.js("localStorage.setItem('paddlemix.settings', JSON.stringify({temperature: 9, theme: 7, timings: 'x'}))")
    page.open()
    page.ask("Hello")
    assert page.text(".notes.problem").startswith("temperature: ")


def test_chinese_by_the_browser_and_by_the_switch_and_themes(server, page):
    page.tell("Emulation.setUserAgentOverride", userAgent="x", acceptLanguage="zh-CN,zh")
    page.open()
    assert page.js("document.documentElement.lang") == "zh-CN" and "就图片提问" in page.text("#welcome")
    assert page.text(".example") == "牌子上写着什么？"
    page.tell("Emulation.setUserAgentOverride", userAgent="", acceptLanguage="en")
    page.open()
    server.engine.answer, server.engine.step_seconds = "word " * 10, SLOW
    page.ask("你好", wait=False)
    page.click("#language")  # while the answer is written
    page.settle()
    server.engine.step_seconds = 0.0
    assert page.one("#question").get_attribute("placeholder") == "就图片提问……" and page.all(page.named("重新回答"))
    page.open()
    assert page.js("document.documentElement.lang") == "zh-CN" and "个 token" in page.text(".timings")
    page.click("#language")
    assert "tokens" in page.text(".timings")
    shade = "getComputedStyle(document.body).backgroundColor"
    seen = set()
    for theme in ("light", "dark", "auto"):
        page.click("#theme")
        assert page.one("#theme").get_attribute("title").endswith({"auto": "as the system"}.get(theme, theme))
        seen.add(page.js(shade))
    assert len(seen) == 2


def test_a_small_screen_keyboard_and_names(server, page, photo):
    server.engine.answer = TWO
    page.resize(360, 740)
    page.open()
    page.choose(photo)
    page.ask("A question of some length, so that it takes more than one line of a small screen")
    for selector in ("html", "#scroll"):
        assert page.js(f"(({{scrollWidth: a, clientWidth: b}}) => a <= b)(document.querySelector('{selector}'))")
    assert not page.all(".sidebar.open") and page.js("document.getElementById('sidebar').inert")
    page.click("#menu")
    assert page.all(".sidebar.open") and page.one("#menu").get_attribute("aria-expanded") == "true"
    page.one("#new").send_keys("\ue00c")
    assert not page.all(".sidebar.open") and page.js("document.activeElement.id") == "menu"
    nameless = """[...document.querySelectorAll('button, input:not([hidden]), select, textarea, [role=button]')].filter(
        (e) => !(e.ariaLabel || e.labels?.length || e.textContent.trim())).map((e) => e.outerHTML)"""
    assert page.js(nameless) == []
    assert page.js("[...document.images].filter((image) => image.getAttribute('alt') === null).length") == 0
    page.js("document.querySelector('.skip').focus()")
    page.type("\n")
    page.wait("document.activeElement.id === 'question'")
