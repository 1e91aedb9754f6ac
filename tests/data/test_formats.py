"""Records of other projects: what they say here, and what of them is refused."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from paddlemix.data.boxes import BoxOptions
from paddlemix.data.records import read_record_file, read_records
from tests.data.building import messages, talk, write_lines


@pytest.fixture
def read(tmp_path):
    """The messages of one entry as (role, [parts]), images as file names, texts as they are; boxes as options say."""
    Image.new("RGB", (200, 100)).save(tmp_path / "a.png")
    Image.new("RGB", (50, 50)).save(tmp_path / "b.png")

    def run(entry, **options):
        (record,) = read_records(write_lines(tmp_path / "data.jsonl", entry), BoxOptions(**options))
        assert all(path.startswith(str(tmp_path)) for path in record.images)
        names = [
            (
                message["role"],
                [part.get("text", part.get("image", "").rpartition("/")[2]) for part in message["content"]],
            )
            for message in record.messages
        ]
        run.record = record
        return names

    return run


@pytest.fixture
def faults(tmp_path):
    """(field, came, expected) of each problem of one entry."""
    Image.new("RGB", (200, 100)).save(tmp_path / "a.png")

    def run(entry, **options):
        records, problems, malformed = read_record_file(
            write_lines(tmp_path / "data.jsonl", entry), BoxOptions(**options)
        )
        assert not records and malformed == 1
        return [(problem.field, problem.came, problem.expected) for problem in problems]

    return run


def llava(*turns, **fields):
    speakers = ("human", "gpt")
    return {**fields, "conversations": [{"from": speakers[i % 2], "value": text} for i, text in enumerate(turns)]}


# ---------------------------------------------------------------- images and turns


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        (llava("<image>\nWhere is the bus?", "There.", id="1", image="a.png", model=""),
         [["a.png", "Where is the bus?"], ["There."]]),
        (llava("What is it?\n<image>", "A bus.", image="a.png"), [["What is it?\n", "a.png"], ["A bus."]]),
        (llava("<image>\n<image>\nSame?", "No.", "And <image>?", "Yes.", image=["a.png", "b.png", "a.png"]),
         [["a.png", "b.png", "Same?"], ["No."], ["And ", "a.png", "?"], ["Yes."]]),
        (llava("Hello", "Hi"), [["Hello"], ["Hi"]]),
        (llava("<image>x", "y", images=["a.png"]), [["a.png", "x"], ["y"]]),
        ({**talk("<image>x", "y"), "image": "a.png"}, [["a.png", "x"], ["y"]]),
        ({"query": "<image>55<image>", "response": "y", "history": [["q", "r"]], "images": ["a.png", "b.png"]},
         [["q"], ["r"], ["a.png", "55", "b.png"], ["y"]]),
        ({"query": "Picture 1: <img>a.png</img>\nWhat?", "response": "y", "history": []}, [["a.png", "What?"], ["y"]]),
        ({"query": "What?", "response": "y", "images": ["a.png", "b.png"]}, [["a.png", "b.png", "What?"], ["y"]]),
        ({"query": "What?", "response": "y", "images": "a.png", "videos": []}, [["a.png", "What?"], ["y"]]),
        ({"messages": messages("<image>a", "b", "<image>c", "d"), "images": [{"path": "a.png"}, "b.png"]},
         [["a.png", "a"], ["b"], ["b.png", "c"], ["d"]]),
        ({"messages": messages("a", "b"), "images": ["a.png"]}, [["a.png", "a"], ["b"]]),
        ({"instruction": "<image>What", "input": "is it?", "output": "A bus.", "images": ["a.png"]},
         [["a.png", "What\nis it?"], ["A bus."]]),
        ({"instruction": "a", "input": "", "output": "b", "history": [["<image>q", "r"]], "images": ["a.png"]},
         [["a.png", "q"], ["r"], ["a"], ["b"]]),
    ],
)  # fmt: skip
def test_images_go_where_their_placeholders_stand(read, entry, expected):
    found = read(entry)
    assert [parts for _, parts in found] == expected
    assert [role for role, _ in found] == ["user", "assistant"] * (len(expected) // 2)
    assert not read.record.labeled  # rendering numbers the images


@pytest.mark.parametrize(
    "entry",
    [
        llava("a", "b", system="Be brief."),
        {"query": "a", "response": "b", "system": "Be brief."},
        {"messages": messages("a", "b"), "system": "Be brief."},
        {"instruction": "a", "output": "b", "system": "Be brief."},
        {"conversations": [{"from": "system", "value": "Be brief."}, *llava("a", "b")["conversations"]]},
        {"messages": [{"role": "system", "content": "Be brief."}, *messages("a", "b")], "images": []},
    ],
)
def test_a_system_text_stands_first(read, entry):
    assert read(entry) == [("system", ["Be brief."]), ("user", ["a"]), ("assistant", ["b"])]


@pytest.mark.parametrize(
    ("entry", "field", "came", "expected"),
    [
        (llava("Where?", "There.", image="a.png"), "image", "1 images for 0 <image>", "as many"),
        (llava("<image><image>", "There.", image="a.png"), "image", "1 images for 2 <image>", "as many"),
        (llava("<image>", "There."), "image", "0 images for 1 <image>", "as many"),
        (llava("a", "<image>", image="a.png"), "conversations[1].value", "<image> in the assistant's turn", "user's"),
        (llava("<image>", "b", image=["a.png", 3]), "image[1]", "3", "a path"),
        (llava("<image>", "b", image="a.png", images=["b.png"]), "images", "it beside image", "one of them"),
        (llava("a", "b", image="a.png", wight=2), "wight", "an unknown field", "only image, images, conversations"),
        (llava("a", "b", "c"), "conversations[2]", "the user's turn as the last one", "an answer"),
        (llava("a", "b", videos=["x.mp4"]), "videos", "list", "images only"),
        (llava("a", "b", tools="[{}]"), "tools", "'[{}]'", "no tool format"),
        ({"conversations": [{"from": "human", "value": "a"}, {"from": "function_call", "value": "{}"}]},
         "conversations[1].from", "'function_call'", "no tool format"),
        ({"messages": [*messages("a"), {"role": "tool", "content": "x"}], "images": []}, "messages[1].role", "'tool'",
         "tool format"),
        ({"messages": [*messages("a"), {"role": "assistant", "content": "x", "loss": False}], "images": []},
         "messages[1].loss", "False", "every answer is a loss target"),
        ({"query": "<image>", "response": "b", "images": ["a.png", "b.png"]}, "images", "2 images for 1 <image>",
         "as many"),
        ({"query": "a"}, "response", "nothing", "a text"),
        ({"query": "a", "response": "b", "rejected_response": "c"}, "rejected_response", "'c'", "preferences"),
        ({"query": "a", "response": "b", "history": [["q"]]}, "history[0]", "list", "[question, answer]"),
        ({"instruction": "a", "input": 3, "output": "b"}, "instruction", "3", "a text"),
        ({"instruction": "<image>", "output": "b", "images": []}, "images", "0 images for 1 <image>", "as many"),
        ({"conversations": 5, "image": "a.png"}, "conversations", "5", "a list of turns"),
    ],
)  # fmt: skip
def test_what_cannot_be_told_here_is_a_bad_record(faults, entry, field, came, expected):
    found = [fault for fault in faults(entry) if fault[:2] == (field, came)]
    assert len(found) == 1, faults(entry)
    assert expected in found[0][2]


@pytest.mark.parametrize(
    ("placeholder", "owner"),
    [
        ("<image>", "LLaVA"), ("<video>", "LLaMA-Factory"), ("<audio>", "ms-swift"), ("<bbox>", "ms-swift"),
        ("<ref-object>", "ms-swift"), ("<|image_pad|>", "Qwen2-VL"), ("<|vision_start|>", "Qwen2-VL"),
        ("<|box_start|>", "Qwen2-VL"), ("<|object_ref_end|>", "Qwen2-VL"), ("<ImageHere>", "InternLM-XComposer"),
        ("[IMG]", "Pixtral"), ("<image_placeholder>", "DeepSeek-VL"), ("<|image_1|>", "Phi-3-vision"),
        ("<|image|>", "Llama 3.2"), ("<IMG_CONTEXT>", "InternVL"), ("<start_of_image>", "Gemma 3"),
        ("<image 1>", "MMMU"), ("<image_2>", "MMMU"), ("<IMAGE>", "other projects"), ("<|im_img_x|>", "other projects"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("form", ["original", "messages", "swift"])
def test_a_placeholder_left_in_a_text_is_told_with_its_form(faults, form, placeholder, owner):
    entry = {
        "original": talk("see " + placeholder, "b"),
        "messages": messages("see " + placeholder, "b"),
        "swift": {"query": "a", "response": "see " + placeholder},
    }[form]
    found = faults(entry)
    assert any(placeholder in came for _, came, _ in found)
    if not (form == "swift" and placeholder == "<image>"):  # counted there
        assert found[0][1] == f"{placeholder!r}, a placeholder of " + found[0][1].partition("placeholder of ")[2]
        assert owner in found[0][1]


def test_plain_texts_with_brackets_are_no_placeholders(read):
    text = "if a < image > b: [IMGUR] <b>bold</b> |image| vision_start a<image.png"
    assert read(talk(text, text))[1][1] == [text]


# ---------------------------------------------------------------- boxes

NEW_OBJECTS = {"ref": ["a dog", "a cat"], "bbox": [[20, 10, 100, 50], [0, 0, 200, 100]]}


def new_swift(objects, answer="<ref-object><bbox> and <ref-object><bbox>", images=("a.png",)):
    return {"messages": messages("<image>" * len(images) + "What?", answer), "images": [*images], "objects": objects}


def test_objects_of_the_new_form_take_their_places(read):
    found = read(new_swift(NEW_OBJECTS))
    expected = "<ref>a dog</ref><box>(100,100),(500,500)</box> and <ref>a cat</ref><box>(0,0),(999,999)</box>"
    assert found[1] == ("assistant", [expected])


@pytest.mark.parametrize(
    ("objects", "options", "expected"),
    [
        ({"bbox": [[0.1, 0.2, 0.3, 1]], "bbox_type": "norm1"}, {}, "(100,200),(300,999)"),
        ({"bbox": [[100, 200, 300, 1000]], "bbox_type": "norm1000"}, {}, "(100,200),(300,999)"),
        ({"bbox": [[20, 10, 100.5, 50]], "bbox_type": "real"}, {}, "(100,100),(503,500)"),
        ({"bbox": [[0.1, 0.2, 0.3, 1]]}, {"box_format": "unit"}, "(100,200),(300,999)"),
        ({"bbox": [[20, 10, 100, 50]]}, {"box_format": "thousandths"}, "(20,10),(100,50)"),
        ({"bbox": [[20, 10, 100, 50]], "bbox_type": "real"}, {"box_format": "unit"}, "(100,100),(500,500)"),
    ],
)
def test_types_of_boxes_are_converted(read, objects, options, expected):
    found = read(new_swift({"ref": [], **objects}, "<bbox>"), **options)
    assert found[1][1] == [f"<box>{expected}</box>"]


def test_pixels_are_those_of_the_image_that_is_named(read):
    objects = {"bbox": [[25, 25, 50, 50], [20, 10, 100, 50]], "image_id": [1, 0]}
    found = read(new_swift(objects, "<bbox><bbox>", ("a.png", "b.png")))
    assert found[1][1] == ["<box>(500,500),(999,999)</box><box>(100,100),(500,500)</box>"]


@pytest.mark.parametrize("as_json", [True, False])
def test_objects_of_the_old_form_take_their_places(read, as_json):
    objects = [{"caption": "guy", "bbox": [[20, 10, 100, 50], [0, 0, 20, 10]], "bbox_type": "real", "image": 0}]
    entry = {"query": "Find <ref-object>", "response": "<bbox>", "images": ["a.png"]}
    found = read({**entry, "objects": json.dumps(objects) if as_json else objects})
    assert found[0][1] == ["a.png", "Find <ref>guy</ref>"]
    assert found[1][1] == ["<box>(100,100),(500,500)</box><box>(0,0),(100,100)</box>"]


@pytest.mark.parametrize(
    ("objects", "answer", "field", "came"),
    [
        ({"ref": [], "bbox": [[1, 2, 3, 4]]}, "<bbox><bbox>", "objects", "1 boxes for 2 <bbox>"),
        ({"ref": ["a"], "bbox": []}, "x", "objects", "1 phrases for 0 <ref-object>"),
        ({"bbox": [[1, 2]]}, "<bbox>", "objects.bbox[0]", "2 numbers"),
        ({"bbox": [[1, 2, 201, 4]]}, "<bbox>", "objects.bbox[0]", "[1, 2, 201, 4] in an image of 200 x 100 pixels"),
        ({"bbox": [[5, 2, 3, 4]]}, "<bbox>", "objects.bbox[0]", "[5, 2, 3, 4]"),
        ({"bbox": [[0, 0, 1.5, 1]], "bbox_type": "norm1"}, "<bbox>", "objects.bbox[0]", "[0, 0, 1.5, 1]"),
        ({"bbox": [[0, 0, 1, 1]], "bbox_type": "norm7"}, "<bbox>", "objects.bbox_type", "'norm7'"),
        ({"bbox": [[0, 0, 1, 1]], "image_id": [1]}, "<bbox>", "objects.bbox[0]", "image 1"),
        ({"bbox": [[0, 0, 1, "x"]]}, "<bbox>", "objects.bbox[0]", "list"),
        ({"bbox": [[0, 0, 1, 1]], "box": 3}, "<bbox>", "objects.box", "an unknown field"),
        ("[[[", "<bbox>", "objects", "'[[['"),
        ([{"caption": "x"}], "<bbox>", "objects[0].bbox", "nothing"),
        ({"ref": ["<bbox>"], "bbox": [[0, 0, 1, 1]]}, "<ref-object><bbox>", "objects.ref[0]", "'<bbox>'"),
    ],
)
def test_faulty_objects_are_told(faults, objects, answer, field, came):
    assert (field, came) in [fault[:2] for fault in faults(new_swift(objects, answer))]


@pytest.mark.parametrize(
    ("text", "options", "expected"),
    [
        ("[0.1, 0.2, 0.3, 0.4]", {"box_format": "unit"}, "<box>(100,200),(300,400)</box>"),
        ("<box>(0.1,0.2),(0.3,1.0)</box>", {"box_format": "unit"}, "<box>(100,200),(300,999)</box>"),
        ("<box>[[20, 10, 100, 50]]</box>", {"box_format": "pixels"}, "<box>(100,100),(500,500)</box>"),
        ("<quad>(20,10),(100,10),(100,50),(20,50)</quad>", {"box_format": "pixels"},
         "<quad>(100,100),(500,100),(500,500),(100,500)</quad>"),
        ("[1000, 0, 1000, 5]", {"box_format": "norm1000"}, "<box>(999,0),(999,5)</box>"),
        ("[0.1, 0.2, 0.3, 0.4]", {}, "[0.1, 0.2, 0.3, 0.4]"),
        ("<box>(1,2),(1000,1000)</box>", {"clamp": True}, "<box>(1,2),(999,999)</box>"),
        ("[1, 2, 3]", {"box_format": "unit"}, "[1, 2, 3]"),
    ],
)  # fmt: skip
def test_boxes_in_texts_are_converted_on_request(read, text, options, expected):
    found = read(llava("<image>", text, image="a.png"), **options)
    assert found[1][1] == [expected]
    assert read.record.clamped == (1 if options.get("clamp") else 0)


def test_lists_in_the_projects_own_forms_stay_texts(read):
    assert read(talk("a", "[0.1, 0.2, 0.3, 0.4]"), box_format="unit")[1][1] == ["[0.1, 0.2, 0.3, 0.4]"]


@pytest.mark.parametrize(
    ("entry", "options", "came", "expected"),
    [
        (llava("<image>", "[0.1, 0.2, 1.3, 0.4]", image="a.png"), {"box_format": "unit"}, "[0.1, 0.2, 1.3, 0.4]",
         "0 to 1"),
        (llava("<image>", "[0, 0, 201, 4]", image="a.png"), {"box_format": "pixels"},
         "[0, 0, 201, 4] in an image of 200 x 100 pixels", "0 to its width"),
        (llava("<image><image>", "[0, 0, 1, 4]", image=["a.png", "b.png"]), {"box_format": "pixels"},
         "[0, 0, 1, 4] in pixels", "one image in the record"),
        (talk("a", "<box>(1,2),(1001,3)</box>"), {"clamp": True}, "[1, 2, 1001, 3]", "0 to 999"),
        (talk("a", "<box>(1,2),(1000,3)</box>"), {"box_format": "thousandths"}, "[1, 2, 1000, 3]", "clamp_boxes"),
    ],
)  # fmt: skip
def test_boxes_out_of_range_are_bad_records(faults, entry, options, came, expected):
    (fault,) = faults(entry, **options)
    assert fault[1] == came and expected in fault[2]


def test_boxes_in_texts_are_not_converted_a_second_time_with_objects(read):
    entry = new_swift({"bbox": [[20, 10, 100, 50]]}, "[20, 10, 100, 50] <bbox>")
    box = "<box>(100,100),(500,500)</box>"
    assert read(entry, box_format="pixels")[1][1] == [f"{box} {box}"]


def test_the_content_hash_of_a_foreign_record_depends_on_its_conversation_alone(tmp_path):
    first = llava("<image>\na", "b", image="a.png", id="1")
    same = llava("<image>\na", "b", images=["a.png"], id="2")
    records = read_records(write_lines(tmp_path / "d.jsonl", first, same, llava("<image>\na", "c", image="a.png")))
    assert records[0].content_hash == records[1].content_hash != records[2].content_hash
