"""What can be seen in a scene, and what it is called in English and Chinese.

To add an object, append a row to :data:`KINDS`, run ``python -m examples.bundled_model.scenes.build_assets`` (draws the
atlases) and ``python -m examples.bundled_model.scenes.vocabulary FOLDER`` (writes the rank file), then train. The order
is a contract: a kind's index is its class.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ObjectKind:
    """One kind of object: names, the Chinese measure word that counts it, the emoji (hex code points) that draws it."""

    en: str
    plural: str
    zh: str
    measure: str
    emoji: str

    @property
    def with_article(self) -> str:
        """The English name with its indefinite article: ``an apple``."""
        return f"{'an' if self.en[0] in 'aeiou' else 'a'} {self.en}"


KINDS: tuple[ObjectKind, ...] = (
    ObjectKind("bus", "buses", "公交车", "辆", "1f68c"),
    ObjectKind("car", "cars", "汽车", "辆", "1f697"),
    ObjectKind("bicycle", "bicycles", "自行车", "辆", "1f6b2"),
    ObjectKind("airplane", "airplanes", "飞机", "架", "2708-fe0f"),
    ObjectKind("boat", "boats", "船", "艘", "26f5"),
    ObjectKind("train", "trains", "火车", "列", "1f682"),
    ObjectKind("dog", "dogs", "狗", "只", "1f415"),
    ObjectKind("cat", "cats", "猫", "只", "1f431"),
    ObjectKind("elephant", "elephants", "大象", "头", "1f418"),
    ObjectKind("bird", "birds", "鸟", "只", "1f426"),
    ObjectKind("fish", "fish", "鱼", "条", "1f41f"),
    ObjectKind("turtle", "turtles", "乌龟", "只", "1f422"),
    ObjectKind("apple", "apples", "苹果", "个", "1f34e"),
    ObjectKind("banana", "bananas", "香蕉", "根", "1f34c"),
    ObjectKind("cake", "cakes", "蛋糕", "个", "1f382"),
    ObjectKind("pizza", "pizzas", "披萨", "块", "1f355"),
    ObjectKind("cup", "cups", "杯子", "个", "2615"),
    ObjectKind("book", "books", "书", "本", "1f4d5"),
    ObjectKind("clock", "clocks", "钟", "个", "23f0"),
    ObjectKind("key", "keys", "钥匙", "把", "1f511"),
    ObjectKind("umbrella", "umbrellas", "雨伞", "把", "2602-fe0f"),
    ObjectKind("hat", "hats", "帽子", "顶", "1f3a9"),
    ObjectKind("shoe", "shoes", "鞋", "只", "1f45e"),
    ObjectKind("ball", "balls", "球", "个", "26bd"),
    ObjectKind("tree", "trees", "树", "棵", "1f333"),
    ObjectKind("flower", "flowers", "花", "朵", "1f337"),
    ObjectKind("house", "houses", "房子", "座", "1f3e0"),
    ObjectKind("guitar", "guitars", "吉他", "把", "1f3b8"),
    ObjectKind("truck", "trucks", "卡车", "辆", "1f69a"),
    ObjectKind("rocket", "rockets", "火箭", "枚", "1f680"),
    ObjectKind("horse", "horses", "马", "匹", "1f40e"),
    ObjectKind("rabbit", "rabbits", "兔子", "只", "1f407"),
    ObjectKind("frog", "frogs", "青蛙", "只", "1f438"),
    ObjectKind("butterfly", "butterflies", "蝴蝶", "只", "1f98b"),
    ObjectKind("snail", "snails", "蜗牛", "只", "1f40c"),
    ObjectKind("strawberry", "strawberries", "草莓", "颗", "1f353"),
    ObjectKind("carrot", "carrots", "胡萝卜", "根", "1f955"),
    ObjectKind("mushroom", "mushrooms", "蘑菇", "朵", "1f344"),
    ObjectKind("cactus", "cacti", "仙人掌", "棵", "1f335"),
    ObjectKind("camera", "cameras", "相机", "台", "1f4f7"),
    ObjectKind("gift", "gifts", "礼物", "件", "1f381"),
    ObjectKind("drum", "drums", "鼓", "面", "1f941"),
    ObjectKind("bell", "bells", "铃铛", "个", "1f514"),
    ObjectKind("crown", "crowns", "皇冠", "顶", "1f451"),
)
"""What random scenes are made of and the bundled model is trained on."""

NEW_KINDS: tuple[ObjectKind, ...] = (
    ObjectKind("robot", "robots", "机器人", "个", "1f916"),
    ObjectKind("penguin", "penguins", "企鹅", "只", "1f427"),
)
"""What training never shows and the vocabulary has no token for: something left to teach by fine-tuning."""

ALL_KINDS: tuple[ObjectKind, ...] = KINDS + NEW_KINDS
KIND_INDEX: dict[str, int] = {kind.en: index for index, kind in enumerate(ALL_KINDS)}


@dataclass(frozen=True)
class Color:
    """A tint: its names and the sRGB value of its middle tone."""

    en: str
    zh: str
    rgb: tuple[int, int, int]


COLORS: tuple[Color, ...] = (
    Color("red", "红色", (214, 30, 38)),
    Color("orange", "橙色", (255, 132, 10)),
    Color("yellow", "黄色", (246, 214, 30)),
    Color("green", "绿色", (36, 164, 62)),
    Color("blue", "蓝色", (38, 98, 226)),
    Color("purple", "紫色", (138, 52, 190)),
    Color("pink", "粉色", (255, 140, 190)),
    Color("grey", "灰色", (134, 136, 140)),
)

STYLES: tuple[str, ...] = ("noto", "twemoji")
"""Drawing styles of random scenes; each is an atlas in ``assets/``."""
HELD_OUT_STYLES: tuple[str, ...] = ("fluent",)
"""A style that training never shows: does a model know the objects, or their two drawings?"""
ALL_STYLES: tuple[str, ...] = STYLES + HELD_OUT_STYLES

WORDS_EN: tuple[str, ...] = (
    "STOP", "OPEN", "CAFE", "TAXI", "EXIT", "PARK", "SALE", "FOOD", "BOOK", "SHOP", "GOLD", "MENU",
    "HOT", "NEW", "TEA", "BAR", "ZOO", "GYM", "ICE", "SPA", "ART", "FUN", "BUS", "WAY",
    "HOTEL", "MARKET", "COFFEE", "BAKERY", "MUSEUM", "SCHOOL", "POLICE", "GARDEN", "TICKET", "BEACH",
)  # fmt: skip
WORDS_ZH: tuple[str, ...] = (
    "出口", "停车", "学校", "银行", "超市", "医院", "书店", "公园",
    "火车站", "图书馆", "咖啡馆", "洗手间", "小心地滑", "禁止吸烟",
)  # fmt: skip
WORDS: tuple[str, ...] = WORDS_EN + WORDS_ZH
"""Words that can stand on a sign."""
