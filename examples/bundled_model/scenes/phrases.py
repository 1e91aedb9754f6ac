"""The wording of every question and answer, in English and Chinese.

Slots: ``{kind}`` / ``{kinds}`` / ``{a_kind}`` name (singular, plural, with article), ``{measure}`` Chinese measure
word, ``{other}`` a second name, ``{n}`` a number, ``{ordinal}`` first or second. An answer has one wording, so that a
small model spends nothing on choosing between synonyms.
"""

from __future__ import annotations

QUESTIONS: dict[str, dict[str, tuple[str, ...]]] = {
    "caption": {
        "en": ("Generate the caption in English with grounding:",),
        "zh": ("用中文描述图片并框出物体:", "用中文描述图片并框出所有物体："),
    },
    "refer": {
        "en": (
            "Locate the {kind} in the picture.",
            "Where is the {kind}?",
            "Find the {kind}.",
            "Draw a box around the {kind}.",
            "Show me the {kind} in the picture.",
            "Where is the {kind} in the image?",
        ),
        "zh": ("框出图中{kind}的位置", "框出{kind}。", "{kind}在哪里？", "找出图中的{kind}。", "图中的{kind}在哪里？"),
    },
    "what": {
        "en": (
            "What is this?",
            "What are these?",
            "What do you see?",
            "What is in the picture?",
            "What is in the image?",
        ),
        "zh": ("这是什么？", "这些是什么？", "你看到了什么？", "图中有什么？"),
    },
    "describe": {
        "en": (
            "Describe the picture.",
            "What does the picture show?",
            "Describe this picture in English.",
            "Describe the image.",
        ),
        "zh": ("描述这张图片。", "描述一下这张图片。", "请用中文描述图片。"),
    },
    "count": {
        "en": (
            "How many objects are in the picture?",
            "How many objects do you see?",
            "How many objects are there?",
            "Count the objects in the picture.",
            "How many objects are in the image?",
        ),
        "zh": ("图中有几个物体？", "图中有多少个物体？", "你看到了几个物体？", "数一数图中的物体。"),
    },
    "count_kind": {
        "en": ("How many {kinds} are in the picture?", "How many {kinds} do you see?", "Count the {kinds}."),
        "zh": ("图中有几{measure}{kind}？", "有多少{measure}{kind}？", "你看到了几{measure}{kind}？"),
    },
    "color": {
        "en": (
            "What colour is the {kind}?",
            "What color is the {kind}?",
            "Which colour does the {kind} have?",
            "Tell me the colour of the {kind}.",
        ),
        "zh": ("{kind}是什么颜色的？", "{kind}是什么颜色？", "图中的{kind}是什么颜色的？", "说出{kind}的颜色。"),
    },
    "relation": {
        "en": (
            "Is the {kind} to the left or to the right of the {other}?",
            "Is the {kind} left or right of the {other}?",
            "On which side of the {other} is the {kind}, left or right?",
        ),
        "zh": (
            "{kind}在{other}的左边还是右边？",
            "图中的{kind}在{other}的左边还是右边？",
            "{kind}在{other}的哪一边，左边还是右边？",
        ),
    },
    "word": {
        "en": (
            "What word is written in the picture?",
            "What does the sign say?",
            "What is written on the sign?",
            "Read the word in the picture.",
        ),
        "zh": ("图中写着什么字？", "牌子上写着什么？", "牌子上写的是什么字？", "读出图中的文字。"),
    },
    # About two images.
    "pair_more": {
        "en": ("Which picture has more objects?", "In which picture are more objects?"),
        "zh": ("哪张图片里的物体更多？", "哪张图里的物体多？"),
    },
    "pair_which": {
        "en": ("Which picture shows {a_kind}?", "In which picture is {a_kind}?", "Which picture has {a_kind}?"),
        "zh": ("哪张图片里有{kind}？", "{kind}在哪张图片里？", "哪张图里有{kind}？"),
    },
    "pair_both": {
        "en": ("What is in both pictures?", "What do both pictures show?"),
        "zh": ("两张图片里都有什么？", "两张图里都有什么？"),
    },
    "pair_what": {
        "en": ("What is in picture {n}?", "What does the {ordinal} picture show?", "What is in the {ordinal} picture?"),
        "zh": ("图{n}里有什么？", "第{ordinal}张图片里有什么？"),
    },
    "pair_count": {
        "en": ("How many objects are in picture {n}?", "How many objects are in the {ordinal} picture?"),
        "zh": ("图{n}里有几个物体？", "第{ordinal}张图片里有几个物体？"),
    },
    # Only about the thing that the turn before was about.
    "refer_it": {"en": ("Where is it?", "Draw a box around it."), "zh": ("它在哪里？", "框出它的位置")},
    "color_it": {"en": ("What colour is it?", "What color is it?"), "zh": ("它是什么颜色的？", "它是什么颜色？")},
}

ANSWERS: dict[str, dict[str, str]] = {
    "what_one": {"en": "This is {list}.", "zh": "这是{list}。"},
    "what_many": {"en": "These are {list}.", "zh": "这是{list}。"},
    "describe": {"en": "The picture shows {list}.", "zh": "图中有{list}。"},
    "count_one": {"en": "There is {n} object.", "zh": "图中有{n}个物体。"},
    "count_many": {"en": "There are {n} objects.", "zh": "图中有{n}个物体。"},
    "count_kind_one": {"en": "There is {n} {kind}.", "zh": "图中有{n}{measure}{kind}。"},
    "count_kind_many": {"en": "There are {n} {kinds}.", "zh": "图中有{n}{measure}{kind}。"},
    "color": {"en": "The {kind} is {color}.", "zh": "{kind}是{color}的。"},
    "color_it": {"en": "It is {color}.", "zh": "它是{color}的。"},
    "left": {"en": "The {kind} is to the left of the {other}.", "zh": "{kind}在{other}的左边。"},
    "right": {"en": "The {kind} is to the right of the {other}.", "zh": "{kind}在{other}的右边。"},
    "absent": {"en": "There is no {kind} in the image.", "zh": "图中没有{kind}。"},
    "pair_one": {"en": "Picture {n}.", "zh": "图{n}。"},
    "pair_which_both": {"en": "Both pictures.", "zh": "两张图片都有。"},
    "pair_which_none": {"en": "Neither picture.", "zh": "两张图片都没有。"},
    "pair_both": {"en": "Both pictures show {list}.", "zh": "两张图片里都有{list}。"},
    "pair_both_none": {"en": "Nothing.", "zh": "没有。"},
    "pair_what": {"en": "Picture {n} shows {list}.", "zh": "图{n}里有{list}。"},
}

JOINERS: dict[str, tuple[str, str]] = {"en": (", ", " and "), "zh": ("、", "和")}
"""What stands between the things in a list, and before the last one."""

ORDINALS: dict[str, tuple[str, str]] = {"en": ("first", "second"), "zh": ("一", "二")}

NO_IMAGE: dict[str, str] = {"en": "Please show me a picture.", "zh": "请给我看一张图片。"}
"""The answer to a question about an image when there is none."""

SMALL_TALK: dict[str, tuple[tuple[tuple[str, ...], str], ...]] = {
    "en": (
        (("Hello", "Hello!", "Hi", "Hi!"), "Hello! Please show me a picture of a drawn scene."),
        (
            ("Who are you?", "What are you?", "What can you do?", "Help"),
            "I am a small model that describes drawn scenes. Please show me a picture.",
        ),
        (("Thank you.", "Thanks!"), "You are welcome!"),
    ),
    "zh": (
        (("你好", "你好！", "您好"), "你好！请给我看一张图片。"),
        (("你是谁？", "你能做什么？", "你会什么？", "帮助"), "我是一个小模型，会描述画出来的图片。请给我看一张图片。"),
        (("谢谢", "谢谢！"), "不客气！"),
    ),
}
"""(questions, answer) without an image."""

SYSTEM_PROMPT = "You are a helpful assistant."
OTHER_TEXT: tuple[str, ...] = (
    SYSTEM_PROMPT,
    "system",
    "user",
    "assistant",
    "Picture 1: ",
    "Picture 2: ",
    "),(",
    "、",
    ", ",
    "\n",
)
"""What else the text of a conversation holds: the chat template, the numbers of images, the punctuation of boxes."""
