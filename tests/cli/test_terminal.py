"""The chat in the terminal, without a terminal."""

from __future__ import annotations

import builtins
import io
import json
import os

import pytest
from PIL import Image

from paddlemix.cli.terminal import COMMANDS, TerminalChat, script_lines
from paddlemix.errors import ConfigurationError, ImageError, OutputError, PromptError
from paddlemix.inference import load_model
from tests.tiny_model import ANSWER


@pytest.fixture(scope="module")
def loaded(tiny_model_dir):
    return load_model(tiny_model_dir)


@pytest.fixture
def chat(loaded, tmp_path):
    return TerminalChat(loaded.new_session(), tmp_path / "drawn", out=io.StringIO())


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "a image.png"
    Image.new("RGB", (64, 48), "white").save(path)
    return path


def written(chat) -> str:
    return chat._out.getvalue()


def turns(chat) -> int:
    return len(chat._session.messages) // 2


def test_a_message_is_answered_and_its_boxes_are_drawn(chat, image, tmp_path):
    chat.run_script([f"/image {image}", "where is the bus?", "and again?"])
    assert written(chat).count(ANSWER) == 2
    assert "image of 64x48 pixels" in written(chat)
    for name in ("chat.jpg", "chat-2.jpg"):
        assert f"image: {tmp_path / 'drawn' / name}\n" in written(chat)
        assert Image.open(tmp_path / "drawn" / name).size == (64, 48)
    assert [part["type"] for part in chat._session.messages[3]["content"]] == ["text"], "the image went along once"


def test_without_an_image_nothing_is_drawn(chat, tmp_path):
    assert chat.handle("where?")
    assert ANSWER in written(chat) and "image:" not in written(chat)
    assert not (tmp_path / "drawn").exists()


def test_a_script_shows_its_lines_skips_empty_ones_and_ends_with_quit(chat):
    chat.run_script(["", "  hello \n", "/quit", "not any more"])
    assert written(chat) == f"> hello\n{ANSWER}\n> /quit\n"


def test_a_script_ends_with_its_first_error(chat):
    with pytest.raises(ImageError, match="missing.png"):
        chat.run_script(["/image missing.png", "hello"])
    assert turns(chat) == 0


def test_two_slashes_begin_a_message(chat):
    chat.handle("//image is what?")
    assert chat._session.messages[1]["content"] == [{"type": "text", "text": "/image is what?"}]


def test_reset_forgets_the_conversation_and_waiting_images(chat, image):
    chat.run_script(["hello", f"/image '{image}'", "/reset", "hello"])
    assert turns(chat) == 1
    assert [part["type"] for part in chat._session.messages[1]["content"]] == ["text"]


def test_a_conversation_is_saved_and_gone_on_with(chat, loaded, image, tmp_path):
    file = tmp_path / "talk.json"
    chat.run_script([f"/image {image}", "hello", f"/save {file}"])
    other = TerminalChat(loaded.new_session(), tmp_path / "drawn", out=io.StringIO())
    other.run_script([f"/load {file}", "where?"])
    assert turns(other) == 2
    assert "image: " in written(other), "the image came with the file"


def test_an_older_file_is_replaced_only_on_demand(chat, tmp_path):
    file = tmp_path / "talk.json"
    chat.run_script(["hello", f"/save {file}"])
    first = file.read_bytes()
    chat.handle("again")
    with pytest.raises(PromptError, match="talk.json' is there already; /save! .*talk.json replaces it"):
        chat.handle(f"/save {file}")
    assert file.read_bytes() == first
    chat.handle(f"/save! {file}")
    assert len(file.read_bytes()) > len(first)


@pytest.mark.parametrize("image", ["/etc/hostname", "http://127.0.0.1:9/x.png", "file:///etc/hostname", 5])
def test_files_that_a_foreign_conversation_names_are_opened_only_on_demand(chat, tmp_path, image):
    question = {"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": "what?"}]}
    messages = [{"role": "system", "content": "s"}, question, {"role": "assistant", "content": "a"}]
    file = tmp_path / "foreign.json"
    file.write_text(json.dumps({"format": "paddlemix chat 1", "messages": messages}))
    chat.handle("hello")
    with pytest.raises(PromptError, match=r"names 1 image\(s\) to be read from elsewhere.*/load! in the chat"):
        chat.handle(f"/load {file}")
    with pytest.raises(ImageError):  # it was opened, and is no image
        chat.handle(f"/load! {file}")
    assert turns(chat) == 1


def test_an_image_that_a_trusted_conversation_names_is_shown(chat, image, tmp_path):
    question = {"role": "user", "content": [{"type": "image", "image": str(image)}]}
    messages = [{"role": "system", "content": "s"}, question, {"role": "assistant", "content": "a"}]
    file = tmp_path / "trusted.json"
    file.write_text(json.dumps({"format": "paddlemix chat 1", "messages": messages}))
    chat.run_script([f"/load! {file}", "where?"])
    assert "image: " in written(chat)


def test_a_deeply_nested_conversation_is_one_error(chat, tmp_path):
    file = tmp_path / "deep.json"
    file.write_text('{"format": "paddlemix chat 1", "messages": ' + "[" * 100_000 + "]" * 100_000 + "}")
    chat.handle("hello")
    with pytest.raises(PromptError, match="deep.json"):
        chat.handle(f"/load {file}")
    assert turns(chat) == 1


def test_an_image_that_cannot_be_saved_is_a_note(loaded, image, tmp_path):
    (tmp_path / "taken").write_text("a file")
    chat = TerminalChat(loaded.new_session(), tmp_path / "taken", out=io.StringIO())
    chat.run_script([f"/image {image}", "where?", "and again?"])
    assert written(chat).count(ANSWER) == 2
    assert written(chat).count("note: the drawn image is missing: ") == chat.lost_images == 2


def test_an_answer_that_was_cut_off_is_named(loaded, tmp_path):
    chat = TerminalChat(loaded.new_session(), generation={"max_new_tokens": 2}, out=io.StringIO())
    chat.handle("hello")
    assert "note: the answer was cut off after 2 tokens; --max_new_tokens N allows more" in written(chat)


def test_control_characters_of_answers_names_and_errors_are_shown_escaped(chat, monkeypatch, tmp_path):
    reply = chat._session.ask("hello")

    class Stream:
        def wait(self):
            return reply

        def __iter__(self):
            return iter(["a\n\x1b", "]0;title\x07 \u202e\r"])

        def close(self):
            pass

    monkeypatch.setattr(chat._session, "stream", lambda *arguments, **options: Stream())
    lines = iter(["hello", "/load \x1b[2J", f"/save {tmp_path}/\x9bx", "/quit"])
    monkeypatch.setattr(builtins, "input", lambda prompt: next(lines))
    chat.run_interactive()
    assert "a\n\\x1b]0;title\\x07 \\u202e\\x0d\n" in written(chat)
    assert "\\x1b[2J cannot be read" in written(chat) and "\\x9bx\n" in written(chat)
    assert not set(written(chat)) & set("\x1b\x07\x9b\r\u202e")


def test_an_unexpected_error_is_one_line_and_the_conversation_lives_on(chat, monkeypatch):
    def fail(*arguments):
        raise RecursionError("maximum recursion depth exceeded\nin comparison")

    lines = iter(["hello", "/save x.json", "again", "/quit"])
    monkeypatch.setattr(builtins, "input", lambda prompt: next(lines))
    monkeypatch.setattr(chat._session, "save", fail)
    chat.run_interactive()
    line = "error: maximum recursion depth exceeded in comparison (an unexpected RecursionError; the chat goes on)\n"
    assert line in written(chat)
    assert turns(chat) == 2


def test_an_output_that_cannot_be_written_ends_the_chat(chat, monkeypatch):
    def refuse(text):
        raise OSError("no space")

    monkeypatch.setattr(builtins, "input", lambda prompt: "hello")
    monkeypatch.setattr(chat._out, "write", refuse)
    with pytest.raises(OutputError, match="no space"):
        chat.run_interactive()


def test_help_lists_every_command(chat):
    chat.handle("/help")
    for usage in COMMANDS:
        assert usage in written(chat)


@pytest.mark.parametrize(
    ("line", "error", "message"),
    [
        ("/imge x.png", PromptError, "/imge: unknown command, expected one of /image, /reset"),
        ("/image", PromptError, "expected '/image PATH_OR_URL'"),
        ("/quit now", PromptError, "/quit: got 'now' after it"),
        ("/load nothing.json", PromptError, "nothing.json"),
        ("/save /no/such/folder/talk.json", ConfigurationError, "cannot be written"),
        ("word " * 2000, PromptError, "ids"),
    ],
)
def test_a_wrong_line_is_refused_and_changes_nothing(chat, line, error, message):
    chat.handle("hello")
    with pytest.raises(error, match=message):
        chat.handle(line)
    assert turns(chat) == 1


def test_too_many_images_are_refused(chat, image):
    chat._images = [Image.new("RGB", (8, 8))] * 33
    with pytest.raises(PromptError, match="33 images, expected at most 32"):
        chat.handle("hello")


def test_an_answer_that_is_interrupted_leaves_the_chat_going(chat, monkeypatch):
    lines = iter(["stop me", "hello"])

    def type_line(prompt):
        try:
            return next(lines)
        except StopIteration:
            raise EOFError from None

    write, interrupts = chat._write, iter([KeyboardInterrupt])

    def interrupted_once(text):
        write(text)
        for interrupt in interrupts:
            raise interrupt

    monkeypatch.setattr(builtins, "input", type_line)
    monkeypatch.setattr(chat, "_write", interrupted_once)
    chat.run_interactive()
    assert "(stopped" in written(chat)
    assert written(chat).endswith(f"{ANSWER}\n\n")
    assert turns(chat) == 1


def test_errors_and_ctrl_c_at_the_prompt_do_not_end_an_interactive_chat(chat, monkeypatch):
    events = iter(["/nonsense", KeyboardInterrupt, "hello", "/quit"])

    def type_line(prompt):
        event = next(events)
        if isinstance(event, str):
            return event
        raise event

    monkeypatch.setattr(builtins, "input", type_line)
    chat.run_interactive()
    assert "error: /nonsense: unknown command" in written(chat)
    assert "/quit or Ctrl-D leaves" in written(chat)
    assert ANSWER in written(chat)


def test_a_base_model_is_refused(tiny_base_model_dir):
    with pytest.raises(ConfigurationError, match="base model, which knows no chat"):
        TerminalChat.load(tiny_base_model_dir)


def test_a_seed_makes_a_chat_repeatable(tiny_model_dir, tmp_path):
    def answers(seed):
        options = {"do_sample": True, "temperature": 50.0, "max_new_tokens": 8, "output_dir": tmp_path}
        chat = TerminalChat.load(tiny_model_dir, seed=seed, **options)
        chat._out = io.StringIO()
        chat.run_script(["one", "two"])
        return written(chat)

    assert answers(1) == answers(1) != answers(2)


def test_a_script_is_read_from_a_file_or_refused(tmp_path):
    script = tmp_path / "lines.txt"
    script.write_text("你好\n/quit\n", encoding="utf-8")
    assert list(script_lines(script)) == ["你好", "/quit"]
    with pytest.raises(ConfigurationError, match="cannot be read"):
        script_lines(tmp_path / "missing.txt")
    script.write_bytes(b"ok \xff")
    with pytest.raises(ConfigurationError, match=r"not UTF-8 text \(byte 3 of the file\)"):
        script_lines(script)


def test_piped_lines_are_read_one_by_one(monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("你好\n".encode() + b"bad \xff")))
    lines = script_lines(None)
    assert next(lines) == "你好\n"
    with pytest.raises(ConfigurationError, match="line 2 of the input is not UTF-8"):
        next(lines)


def test_a_byte_order_mark_before_the_first_command_is_passed_over(tmp_path, monkeypatch):
    data = b"\xef\xbb\xbf/reset\r\n\xef\xbb\xbfhello\r\n"
    (tmp_path / "lines.txt").write_bytes(data)
    assert list(script_lines(tmp_path / "lines.txt")) == ["/reset", "\ufeffhello"]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))
    assert list(script_lines(None)) == ["/reset\r\n", "\ufeffhello\r\n"]


def test_nobody_at_all_gives_an_empty_script(monkeypatch):
    monkeypatch.setattr("sys.stdin", None)
    assert list(script_lines(None)) == []


def test_the_working_directory_stays_clean(chat):
    before = sorted(os.listdir("."))
    chat.handle("hello")
    assert sorted(os.listdir(".")) == before


def test_images_are_counted_before_any_is_opened(chat):
    with pytest.raises(PromptError, match="33 images, expected at most 32"):
        chat._session.ask("what?", ["missing.png"] * 33)
    assert turns(chat) == 0


@pytest.mark.parametrize("spelling", [r"~/a\ image.png", "'~/a image.png'", "file://{}/a%20image.png"])
def test_an_image_may_be_named_as_a_terminal_or_a_browser_does(chat, image, tmp_path, monkeypatch, spelling):
    monkeypatch.setenv("HOME", str(tmp_path))
    chat.handle(f"/image {spelling.replace('{}', str(tmp_path))}")
    assert "image of 64x48 pixels" in written(chat)
