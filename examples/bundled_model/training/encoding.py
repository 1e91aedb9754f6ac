"""Conversations about scenes as token ids, with what each token speaks of.

A token speaks of an object when it names it, stands in its box or says its color or number, and of the sign when it
says its word. In training the decoder is told to look there (:mod:`.pointers`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from paddlemix.models.qwen_vl.grounding import exact_boxes
from paddlemix.models.qwen_vl.tokenization import QWenVLTokenizer

from ..scenes.lexicon import WORDS
from ..scenes.phrases import SYSTEM_PROMPT
from ..scenes.scene import Scene
from ..scenes.tasks import Conversation, coordinates
from ..scenes.vocabulary import color_token_ids, object_token_ids
from .coordinates import DIGITS
from .packing import PackedRow, TokenSpan, context, pack_branches

# The last digit of a coordinate is finer than a pixel of the small image: mostly noise, so it counts for less.
LAST_DIGIT_WEIGHT = 0.6
# One token decides an answer about a color, a side, a number or a printed word; the rest of it is form. A image has
# a hundred tokens of boxes and one of these, so that they count for more.
DECISIVE_WEIGHT = 4.0
WORD_WEIGHT = 8.0
# The first token decides what kind of answer it is: a box or a refusal, one image or both or neither.
FIRST_WEIGHT = 3.0
# Where boxes are said, the name says which object comes next, and what follows a box whether another one comes at all.
NAME_WEIGHT = 3.0
NOTHING = -1

Queries = tuple[int, ...]

DECIDING_WORDS = (" left", " right", "左边", "右边", " no", "没有", "有")
"""Words that decide an answer, beside numbers, colors and printed words."""


@dataclass(frozen=True)
class Branch:
    """A conversation behind its images.

    Attributes:
        span: its ids and which of them are learned.
        about: for each id the queries (over all images) in whose cells stands what it speaks of; none if nowhere.
        named: for each id whether it is the name of a kind, there or not.
        digits: for each id which digit of which coordinate it is, ``coordinate * DIGITS + digit``, or ``NOTHING``.
    """

    span: TokenSpan
    about: list[Queries]
    named: list[bool]
    digits: list[int]

    def __add__(self, other: Branch) -> Branch:
        return Branch(
            self.span + other.span, self.about + other.about, self.named + other.named, self.digits + other.digits
        )


@dataclass(frozen=True)
class PointedRow:
    """A packed row, for each token what it speaks of as in :class:`Branch`, and the column of each query's slot.

    ``twins``: for each object of the second image its query, and those of the first image's objects of its kind.
    """

    row: PackedRow
    about: list[Queries]
    named: np.ndarray
    digits: np.ndarray
    slots: np.ndarray
    twins: list[tuple[int, Queries]]

    def __len__(self) -> int:
        return len(self.row)


@dataclass(frozen=True)
class View:
    """What can be spoken of: by kind the queries of its objects, the query of each box and of each printed word."""

    kinds: dict[int, list[int]]
    boxes: dict[tuple[int, int, int, int], int]
    words: dict[str, int]

    def twins(self, first: int) -> list[tuple[int, Queries]]:
        """For each object at query ``first`` or later its query, and those of its kind that come before ``first``."""
        return [
            (query, tuple(other for other in queries if other < first))
            for queries in self.kinds.values()
            for query in queries
            if query >= first
        ]


def view(scenes: Sequence[Scene], grid: int) -> View:
    """The view of images that are shown together, each encoded by ``grid²`` queries."""
    kinds: dict[int, list[int]] = {}
    boxes, words = {}, {}
    for index, scene in enumerate(scenes):
        first = index * grid * grid
        for placed in scene.objects:
            query = first + cell(placed.box, grid)
            kinds.setdefault(placed.kind, []).append(query)
            boxes[coordinates(placed.box)] = query
        if scene.sign is not None:
            words[scene.sign.word] = first + cell(scene.sign.box, grid)
    return View(kinds, boxes, words)


def cell(box: Sequence[float], grid: int) -> int:
    """The cell of a ``grid`` x ``grid`` raster, row by row, that holds the center of a box in [0, 1]."""
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    return min(int(y * grid), grid - 1) * grid + min(int(x * grid), grid - 1)


class ConversationEncoder:
    """Conversations to branches and rows, in the chat format that the model is used with."""

    def __init__(self, tokenizer: QWenVLTokenizer) -> None:
        self.tokenizer = tokenizer
        ranks = tokenizer.mergeable_ranks
        self._kind_of = {token: kind for kind, ids in enumerate(object_token_ids(ranks)) for token in ids}
        self._colors = frozenset(token for ids in color_token_ids(ranks) for token in ids)
        self._word_of = {ranks[word.encode("utf-8")]: word for word in WORDS}
        self._newline = self._encode("\n")
        self._digits = frozenset(self._encode("0123456789"))
        self._deciding = frozenset(ranks[text.encode("utf-8")] for text in DECIDING_WORDS)
        self._system = (
            self._message_start("system") + self._encode(SYSTEM_PROMPT) + [tokenizer.im_end_id] + self._newline
        )

    def shared(self, images: int) -> TokenSpan:
        """What stands before every conversation about ``images`` images."""
        ids = self._system + self._message_start("user")
        for number in range(1, images + 1):
            label = f"Picture {number}: " if number == 1 else f"\nPicture {number}: "
            ids = ids + self._encode(label) + self.tokenizer.image_block()
        return context(ids + self._newline if images else ids)

    def row(self, images: int, branches: Sequence[Branch], length: int, seen: View) -> PointedRow:
        """Pack the branches that fit into ``length`` tokens, in their order; at least the first, however long."""
        shared = self.shared(images)
        chosen, room = [branches[0]], length - len(shared.ids) - len(branches[0].span.ids)
        for branch in branches[1:]:
            if len(branch.span.ids) <= room:
                chosen.append(branch)
                room -= len(branch.span.ids)
        ids = np.asarray(shared.ids)
        starts = np.flatnonzero(ids == self.tokenizer.img_start_id)
        slots = (starts[:, None] + 1 + np.arange(self.tokenizer.num_image_tokens)).reshape(-1)
        lead = _plain(shared.ids, 0.0)
        whole = sum(chosen, lead)
        packed = pack_branches(shared, [branch.span for branch in chosen])
        twins = seen.twins(self.tokenizer.num_image_tokens) if images > 1 else []
        return PointedRow(packed, whole.about, np.asarray(whole.named), np.asarray(whole.digits), slots, twins)

    def branch(self, conversation: Conversation, seen: View) -> Branch:
        """Everything behind the shared part: the questions as context, the answers and their ends as targets."""
        branch = _plain([], 0.0)
        for turn, (question, answer) in enumerate(conversation.turns):
            header = self._newline + self._message_start("user") if turn else []
            ids = header + self._encode(question)
            about, named = self._names(ids, seen)
            branch += Branch(context(ids), about, named, [NOTHING] * len(ids))
            branch += _plain([self.tokenizer.im_end_id, *self._newline, *self._message_start("assistant")], 0.0)
            last = next((queries for queries in reversed(branch.about) if queries), ())
            asked = next((queries for queries, is_name in zip(about, named) if is_name), ())
            said = self._answer(answer, seen, asked, last)
            closes_box = said.span.ids[-1] == self.tokenizer.box_end_id
            branch += said + _plain([self.tokenizer.im_end_id], NAME_WEIGHT if closes_box else 1.0)
        return branch

    def _names(self, ids: Sequence[int], seen: View) -> tuple[list[Queries], list[bool]]:
        """For each id the queries of the objects that it names, and whether it is a name."""
        kinds = [self._kind_of.get(token, NOTHING) for token in ids]
        return [tuple(seen.kinds.get(kind, ())) for kind in kinds], [kind != NOTHING for kind in kinds]

    def _answer(self, text: str, seen: View, asked: Queries, last: Queries) -> Branch:
        """``asked``: of the first thing that the question names; ``last``: of what was spoken of last before."""
        ids = self._encode(text)
        about, named = self._names(ids, seen)
        boxes = iter(exact_boxes(text))
        grounded: Queries = ()
        inside_box = False
        weights = [1.0] * len(ids)
        for index, token in enumerate(ids):
            if token == self.tokenizer.ref_start_id:
                query = seen.boxes.get(next(boxes, None))
                grounded = () if query is None else (query,)
                continue
            if grounded:
                about[index] = grounded
                if token in self._kind_of:
                    weights[index] = NAME_WEIGHT
            elif token in self._colors:
                about[index], weights[index] = last, DECISIVE_WEIGHT
            elif token in self._word_of:
                query = seen.words.get(self._word_of[token])
                about[index], weights[index] = () if query is None else (query,), WORD_WEIGHT
            elif token in self._digits and not inside_box:
                about[index], weights[index] = asked, DECISIVE_WEIGHT
            elif token in self._deciding:
                weights[index] = DECISIVE_WEIGHT
            if token == self.tokenizer.box_start_id:
                inside_box = True
            elif token == self.tokenizer.box_end_id:
                inside_box, grounded = False, ()
                if index + 1 < len(ids):
                    weights[index + 1] = NAME_WEIGHT
            elif inside_box and token in self._digits and ids[index + 1] not in self._digits:
                weights[index] = LAST_DIGIT_WEIGHT
            if about[index]:
                last = about[index]
        weights[0] = max(weights[0], FIRST_WEIGHT)
        about[0] = about[0] or asked
        return Branch(TokenSpan(ids, weights), about, named, self._coordinate_digits(ids))

    def _coordinate_digits(self, ids: Sequence[int]) -> list[int]:
        """For each id of an answer which digit of which coordinate it is, as in :class:`Branch`."""
        codes = [NOTHING] * len(ids)
        inside_box, run = False, []
        for index, token in enumerate(ids):
            if inside_box and token in self._digits:
                run.append(index)
                continue
            if run:
                value = int(self.tokenizer.decode([ids[place] for place in run]))
                for digit, place in enumerate(run):
                    codes[place] = value * DIGITS + digit
                run = []
            inside_box = token == self.tokenizer.box_start_id or (inside_box and token != self.tokenizer.box_end_id)
        return codes

    def _message_start(self, role: str) -> list[int]:
        return [self.tokenizer.im_start_id] + self._encode(role) + self._newline

    def _encode(self, text: str) -> list[int]:
        return self.tokenizer(text).input_ids


def _plain(ids: list[int], weight: float) -> Branch:
    return Branch(TokenSpan(ids, [weight] * len(ids)), [()] * len(ids), [False] * len(ids), [NOTHING] * len(ids))
