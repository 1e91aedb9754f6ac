"""Records of any content are read, or told as bad ones, in printable lines of bounded length; nothing else is done."""

from __future__ import annotations

import json
import random

import pytest
from PIL import Image

from paddlemix.data.boxes import BOX_FORMATS, BoxOptions
from paddlemix.data.checks import check_files
from paddlemix.data.encoding import encode
from paddlemix.data.formats.placeholders import foreign_placeholders
from paddlemix.data.records import read_record_file
from paddlemix.errors import ConfigurationError
from paddlemix.media import ImagePolicy
from paddlemix.models.qwen_vl.processing import QwenVLImageProcessor, QwenVLProcessor
from paddlemix.models.qwen_vl.tokenization import QWenVLTokenizer
from paddlemix.utils.display import escape_controls
from tests.fuzz import counts
from tests.fuzz.checking import attempt
from tests.fuzz.counts import FACTOR
from tests.tiny_vocabulary import write_rank_file

FILES = 120 * FACTOR
MOST_CHARACTERS = 1500  # of a line

WORDS = [
    "<ref>", "</ref>", "<box>", "</box>", "<quad>", "<img>", "</img>", "<img>ok.png</img>", "<img>/etc/passwd</img>",
    "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|extra_3|>", "<imgpad>", "<box>(1,2),(3,4)</box>",
    "<box>(999,999),(1000,1)</box>", "<box>(0.1,1e999),(-3,4)</box>", "[0.1, 0.2, 0.3, 0.4]", "[1, 2, 3, 1000]",
    "<image>", "<image>\n", "<bbox>", "<ref-object>", "<video>", "<|image_pad|>", "<ImageHere>", "[IMG]", "<image_1>",
    "Picture 1: ", "a b", "公", "\n", "\x1b[31m", "\ud800", "\u202e", "x" * 40, "(1,2)", "\0", " ", "[" * 30,
]  # fmt: skip
PLAIN = ["a b", "the bus ", "公", "<box>(1,2),(3,4)</box>", "[0.1, 0.2, 0.3, 0.4]", "\n", "<ref>a</ref>"]
ODD = [
    None,
    5,
    -1,
    0.5,
    True,
    "",
    "x",
    "\x1b[2J",
    [],
    {},
    [5],
    [None],
    [{}],
    [[]],
    [["q", "r"]],
    {"a": 1},
    [{"from": 5}],
    "[[[",
]
SOURCES = [
    "ok.png",
    "no.png",
    "data:image/png;base64,AAAA",
    "file:///etc/passwd",
    "/dev/zero",
    "",
    "\0",
    "a\nb",
    7,
    None,
]
ROLES = ["user", "assistant", "human", "gpt", "system", "tool", "observation", [], None]


def text(rng):
    return "".join(rng.choice(WORDS if rng.random() < 0.15 else PLAIN) for _ in range(rng.randrange(1, 6)))


def odd(rng, value):
    """The value, now and then another."""
    return rng.choice(ODD) if rng.random() < 0.04 else value


def turns(rng, role, content, speakers):
    def speaker(index):
        return speakers[index % 2] if rng.random() < 0.9 else rng.choice(ROLES)

    return [
        odd(rng, {role: speaker(index), content: odd(rng, text(rng))})
        for index in range(rng.choice([1, 2, 2, 2, 2, 4]))
    ]


def parts(rng):
    return [
        {"type": "text", "text": text(rng)} if rng.random() < 0.6 else {"type": "image", "image": rng.choice(SOURCES)}
        for _ in range(rng.randrange(3))
    ]


def images(rng):
    return odd(rng, [odd(rng, rng.choice(SOURCES)) for _ in range(rng.randrange(3))])


def numbers(rng):
    values = [rng.choice([0, 0.5, 1, 5, 20, 999, 1000, 1001, -1, 1e300]) for _ in range(rng.choice([4, 4, 4, 2, 0]))]
    return odd(rng, values)


def objects(rng):
    count = rng.randrange(3)
    kinds = ["real", "norm1", "norm1000", "norm_1000", "x", None]
    new = {
        "ref": odd(rng, [odd(rng, "a dog") for _ in range(count)]),
        "bbox": odd(rng, [numbers(rng) for _ in range(count)]),
        "bbox_type": odd(rng, rng.choice(kinds)),
    }
    old = [
        odd(rng, {"caption": odd(rng, "x"), "bbox": numbers(rng), "bbox_type": rng.choice(kinds), "image": odd(rng, 0)})
        for _ in range(count)
    ]
    chosen = rng.choice([new, old, json.dumps(old)])
    return odd(rng, chosen)


def record(rng):
    """A record of any of the forms, nearly right."""
    form = rng.randrange(7)
    if form == 0:
        result = {"id": rng.choice(["a", 5]), "conversations": turns(rng, "from", "value", ("user", "assistant"))}
    elif form == 1:
        result = {"messages": turns(rng, "role", "content", ("user", "assistant"))}
        for turn in result["messages"]:
            if isinstance(turn, dict) and rng.random() < 0.5:
                turn["content"] = parts(rng)
    elif form == 2:
        result = {"image": images(rng), "conversations": turns(rng, "from", "value", ("human", "gpt"))}
    elif form == 3:
        result = {"query": text(rng), "response": odd(rng, text(rng)), "history": odd(rng, [[text(rng), text(rng)]])}
        result |= {"images": images(rng), "objects": objects(rng)}
    elif form == 4:
        result = {"messages": turns(rng, "role", "content", ("user", "assistant")), "images": images(rng)}
        result["objects"] = objects(rng)
    elif form == 5:
        result = {"instruction": odd(rng, text(rng)), "input": odd(rng, ""), "output": text(rng), "images": images(rng)}
    else:
        result = {"conversations": turns(rng, "from", "value", ("human", "gpt")), "system": odd(rng, text(rng))}
        result["images"] = images(rng)
    if rng.random() < 0.15:
        name = rng.choice(["conversations", "messages", "id", "x", "\x1b[2J", "", "tools", "videos", "label", "a\nb"])
        result[name] = rng.choice(ODD)
    return result


def fitted(rng, result):
    """The record, mostly with the one image that its first question then has."""
    name = "images" if "images" in result else "image"
    if name not in result or rng.random() < 0.3:
        return result
    result[name] = ["ok.png"]
    result.pop("objects", None)
    turns = result.get("conversations", result.get("messages"))
    if turns is None:
        result["query" if "query" in result else "instruction"] = "<image>" + text(rng)
    elif isinstance(turns, list) and turns and isinstance(turns[0], dict):
        turns[0]["value" if "conversations" in result else "content"] = "<image>" + text(rng)
    return result


def damaged(content, rng):
    data = bytearray(content)
    for _ in range(rng.randrange(1, 4)):
        place = rng.randrange(len(data))
        action = rng.randrange(3)
        if action == 0:
            data[place] = rng.choice(b'{}[]",:\\\n\0\xff9-')
        elif action == 1:
            del data[place : place + rng.randrange(1, 6)]
        else:
            data[place:place] = rng.choice([b"[", b"{", b'"', b",", b"NaN", b"1e999", b"\xef\xbb\xbf", b"\\ud800"])
        if not data:
            data += b"["
    return bytes(data)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("records")
    Image.new("RGB", (20, 10)).save(folder / "ok.png")
    return folder


@pytest.fixture(scope="module")
def processor(folder):
    tokenizer = QWenVLTokenizer(write_rank_file(folder / "a.tiktoken"), image_slots=4)
    return QwenVLProcessor(tokenizer, QwenVLImageProcessor(image_size=28), max_images=3)


POLICY = ImagePolicy()  # files, no addresses


def look(path, processor, options, max_length):
    """Read and check a file; what holds of every file is asserted here. How many records were good."""
    for problem in read_record_file(path, options, POLICY).problems:
        assert_readable(str(problem))
    report = check_files([path], processor, max_length=max_length, policy=POLICY, boxes=options)
    for line in str(report).splitlines() + report.table().splitlines():
        assert_readable(line)
    tokenizer = processor.tokenizer
    for good in report.records:
        texts = [part["text"] for message in good.messages for part in message["content"] if part["type"] == "text"]
        assert not [found for text in texts for found in foreign_placeholders(text)]
        ids = encode(good, tokenizer, max_length).input_ids.tolist()
        assert ids.count(tokenizer.im_start_id) <= len(good.messages) + (good.messages[0]["role"] != "system")
        assert ids.count(tokenizer.img_start_id) <= len(good.images) <= processor.max_images
        assert tokenizer.eod_id not in ids
    assert len(report.lengths) == len(report.records) == len(report.sources)
    return len(report.records)


def look_at(case, *arguments):
    """The same as one counted case: 0 good records where the file as a whole is refused."""
    good = []

    def run():
        try:
            good.append(look(*arguments))
        except ConfigurationError as error:
            assert_readable(str(error))
            raise

    attempt(case, run)
    return sum(good)


def assert_readable(line):
    assert escape_controls(line) == line, ascii(line)
    assert len(line) <= MOST_CHARACTERS, line


def test_random_files_of_records(folder, processor):
    good = 0
    for seed in range(FILES):
        rng = random.Random(seed)
        entries = [fitted(rng, record(rng)) for _ in range(rng.randrange(1, 4))]
        content = json.dumps(entries) if rng.random() < 0.5 else "\n".join(map(json.dumps, entries))
        content = content.encode()
        path = folder / "data.json"
        path.write_bytes(damaged(content, rng) if rng.random() < 0.4 else content)
        options = BoxOptions(rng.choice([None, None, *BOX_FORMATS]), rng.random() < 0.3)
        good += look_at(f"records, seed {seed}", path, processor, options, rng.choice([20, 60, 512]))
    assert good > FILES // 50  # the records are near enough to good ones
    counts.record("files of records", FILES)


TARGETED = {
    "deep list": "[" * 100_000,
    "deep objects": '{"messages":' * 100_000,
    "deep content": '[{"messages":[{"role":"user","content":' + "[" * 50_000 + "]" * 50_000 + "}]}]",
    "large integer": '[{"messages":' + "9" * 10_000 + "}]",
    "large numbers in a box": json.dumps(
        [{"query": "a", "response": "<bbox>", "images": ["ok.png"], "objects": {"bbox": [[10**400, 0, 1, 1]]}}]
    ),
    "many fields": "[{" + ",".join(f'"k{i}":1' for i in range(20_000)) + "}]",
    "many placeholders": json.dumps([{"query": "<image>" * 20_000, "response": "b", "images": ["ok.png"]}]),
    "many images": json.dumps([{"image": ["ok.png"] * 10_000, "conversations": [
        {"from": "human", "value": "<image>" * 10_000}, {"from": "gpt", "value": "b"}]}]),
    "brackets": json.dumps([{"image": "ok.png", "conversations": [
        {"from": "human", "value": "<image>" + "[1, " * 20_000}, {"from": "gpt", "value": "[" + "1" * 100_000}]}]),
    "angles": json.dumps([{"query": "<|" * 20_000 + "<image " * 8_000, "response": "<box>" * 8_000}]),
    "spaces": json.dumps([{"query": "[1," + " " * 100_000, "response": "<box>" + " " * 100_000 + "</box>"}]),
    "long names": json.dumps([{"\x1b]0;pwned\x07" * 10_000: 1, "query": "a", "response": "b"}]),
    "long role": json.dumps([{"conversations": [{"from": "x" * 1_000_000, "value": "a"}]}]),
    "empty": "", "blank": " " * 1000, "no records": "[]", "nul": "\0", "comma": "[,]", "bom": "\ufeff[]",
    "bad lines": "{\n" * 1_000,
}  # fmt: skip


@pytest.mark.parametrize("name", TARGETED)
def test_files_made_to_break_the_reader(folder, processor, name):
    path = folder / "data.json"
    path.write_text(TARGETED[name], encoding="utf-8")
    for options in (BoxOptions(), BoxOptions("unit", clamp=True), BoxOptions("pixels")):
        look_at(name, path, processor, options, 512)
    counts.record("hostile files of records", 3)
