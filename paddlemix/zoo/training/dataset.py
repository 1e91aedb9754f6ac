"""Training samples: a scene per index, conversations packed behind its picture, targets for the training heads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import paddle

from ...finetune.packing import PackedRow, TokenSpan, context, pack_branches, pad_rows, predicting_positions, visibility
from ...models.qwen_vl.processing import QwenVLImageProcessor
from ...models.qwen_vl.tokenization import QWenVLTokenizer
from ..scenes.lexicon import COLOURS, WORDS
from ..scenes.phrases import SYSTEM_PROMPT
from ..scenes.scene import Scene, generate_scene
from ..scenes.tasks import Conversation, coordinates, make_conversations, make_text_conversation

# The last digit of a coordinate is finer than a pixel of the small picture: mostly noise, so it counts for less.
LAST_DIGIT_WEIGHT = 0.3
# Rows of one length waste nothing on padding: as many of a picture's conversations as fit.
ROW_LENGTH = 200
NONE = -1


@dataclass(frozen=True)
class HeadTargets:
    """What the training heads should say. Grids are read row by row; ``NONE`` where there is nothing to say.

    Attributes:
        kinds: int64 ``[queries]``, the object whose centre lies in the query's cell.
        boxes: float32 ``[queries, 4]``, its corners in [0, 1].
        digits: int64 ``[queries, 8]``, hundreds and tens of its four coordinates.
        colours: int64 ``[queries]``, its tint (``NONE``: no object; the last class: an object without tint).
        words: int64 ``[queries]``, the word whose sign has its centre in the cell.
        patches: int64 ``[patches]``, the object at the patch's centre; 0 is the background, kinds count from 1.
        patch_boxes: float32 ``[patches, 4]``, that object's corners in [0, 1].
    """

    kinds: np.ndarray
    boxes: np.ndarray
    digits: np.ndarray
    colours: np.ndarray
    words: np.ndarray
    patches: np.ndarray
    patch_boxes: np.ndarray


class ConversationEncoder:
    """Conversations to token spans, in the chat format that the model is used with."""

    def __init__(self, tokenizer: QWenVLTokenizer) -> None:
        self.tokenizer = tokenizer
        self._newline = self._encode("\n")
        self._digits = frozenset(self._encode("0123456789"))
        system = self._message_start("system") + self._encode(SYSTEM_PROMPT) + [tokenizer.im_end_id] + self._newline
        picture = tokenizer.image_block()
        user = self._message_start("user")
        self.with_picture = context(system + user + self._encode("Picture 1: ") + picture + self._newline)
        self.without_picture = context(system + user)

    def branch(self, conversation: Conversation) -> TokenSpan:
        """Everything behind the shared part: the questions as context, the answers and their ends as targets."""
        spans = TokenSpan([], [])
        for turn, (question, answer) in enumerate(conversation.turns):
            header = self._newline + self._message_start("user") if turn else []
            end = [self.tokenizer.im_end_id]
            header = header + self._encode(question) + end + self._newline + self._message_start("assistant")
            spans = spans + context(header) + self._answer(answer) + TokenSpan(end, [1.0])
        return spans

    def _answer(self, text: str) -> TokenSpan:
        ids = self._encode(text)
        weights = [1.0] * len(ids)
        inside_box = False
        for index, token in enumerate(ids):
            if token in (self.tokenizer.box_start_id, self.tokenizer.box_end_id):
                inside_box = token == self.tokenizer.box_start_id
            elif inside_box and token in self._digits and ids[index + 1] not in self._digits:
                weights[index] = LAST_DIGIT_WEIGHT
        return TokenSpan(ids, weights)

    def _message_start(self, role: str) -> list[int]:
        return [self.tokenizer.im_start_id] + self._encode(role) + self._newline

    def _encode(self, text: str) -> list[int]:
        return self.tokenizer(text).input_ids


class SceneDataset(paddle.io.Dataset):
    """Sample ``i`` is the scene of seed ``first_seed + i``, with up to ``conversations`` of them behind its picture.

    Only every second picture has conversations: the vision part is the slower learner, and for it alone a picture is
    cheap. One sample in ``talk_every`` has an additional row of conversations without a picture. Deterministic in the
    index, so an interrupted training goes on with the same data.
    """

    conversations_every = 2
    talk_every = 48

    def __init__(
        self,
        tokenizer: QWenVLTokenizer,
        conversations: int,
        length: int,
        *,
        image_size: int,
        grid: int,
        patch_grid: int,
        first_seed: int = 0,
    ) -> None:
        super().__init__()
        self.encoder = ConversationEncoder(tokenizer)
        self.conversations = conversations
        self.length = length
        self.image_size = image_size
        self.grid = grid
        self.patch_grid = patch_grid
        self.first_seed = first_seed

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, object]:
        seed = self.first_seed + index
        scene = generate_scene(seed, size=self.image_size)
        sample: dict[str, object] = {
            "image": scene.image,
            "targets": head_targets(scene, self.grid, self.patch_grid),
        }
        if self.conversations and index % self.conversations_every == 0:
            rng = np.random.default_rng([seed, 2])
            branches = [self.encoder.branch(item) for item in make_conversations(scene, rng, self.conversations)]
            sample["row"] = pack_within(self.encoder.with_picture, branches, ROW_LENGTH)
            if index % self.talk_every == 0:
                talk = [self.encoder.branch(make_text_conversation(rng)) for _ in range(self.conversations)]
                sample["text_row"] = pack_branches(self.encoder.without_picture, talk)
        return sample


def pack_within(shared: TokenSpan, branches: Sequence[TokenSpan], length: int) -> PackedRow:
    """Pack the branches that fit into ``length`` tokens, in their order; at least the first, however long."""
    chosen, room = [branches[0]], length - len(shared.ids) - len(branches[0].ids)
    for branch in branches[1:]:
        if len(branch.ids) <= room:
            chosen.append(branch)
            room -= len(branch.ids)
    return pack_branches(shared, chosen)


def head_targets(scene: Scene, grid: int, patch_grid: int) -> HeadTargets:
    """The training heads' targets for a scene, for ``grid²`` queries and ``patch_grid²`` patches."""
    queries = grid * grid
    kinds, colours, words = (np.full(queries, NONE, np.int64) for _ in range(3))
    boxes, digits = np.zeros((queries, 4), np.float32), np.zeros((queries, 8), np.int64)
    centres = (np.arange(patch_grid) + 0.5) / patch_grid
    patches = np.zeros((patch_grid, patch_grid), np.int64)
    patch_boxes = np.zeros((patch_grid, patch_grid, 4), np.float32)
    for placed in scene.objects:
        cell = _cell(placed.box, grid)
        kinds[cell] = placed.kind
        colours[cell] = len(COLOURS) if placed.colour is None else placed.colour
        boxes[cell] = placed.box
        digits[cell] = [value for c in coordinates(placed.box) for value in (c // 100, c // 10 % 10)]
        x1, y1, x2, y2 = placed.box
        inside = ((centres >= y1) & (centres <= y2))[:, None] & ((centres >= x1) & (centres <= x2))[None, :]
        patches[inside] = placed.kind + 1
        patch_boxes[inside] = placed.box
    if scene.sign is not None:
        words[_cell(scene.sign.box, grid)] = WORDS.index(scene.sign.word)
    return HeadTargets(kinds, boxes, digits, colours, words, patches.reshape(-1), patch_boxes.reshape(-1, 4))


def _cell(box: Sequence[float], grid: int) -> int:
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    return min(int(y * grid), grid - 1) * grid + min(int(x * grid), grid - 1)


class SceneCollator:
    """Samples to a batch of tensors for :class:`~paddlemix.zoo.training.heads.TrainingModel`."""

    def __init__(self, image_processor: QwenVLImageProcessor, pad_id: int) -> None:
        self.image_processor = image_processor
        self.pad_id = pad_id

    def __call__(self, samples: Sequence[dict[str, object]]) -> dict[str, np.ndarray]:
        batch = {"images": self.image_processor([sample["image"] for sample in samples])}
        for field in HeadTargets.__dataclass_fields__:
            batch[field] = np.stack([getattr(sample["targets"], field) for sample in samples])
        described = [index for index, sample in enumerate(samples) if "row" in sample]
        if described:
            rows: list[PackedRow] = [samples[index]["row"] for index in described]
            rows += [sample["text_row"] for sample in samples if "text_row" in sample]
            padded = pad_rows(rows, self.pad_id)
            sources, targets = predicting_positions(padded.labels, padded.segments)
            batch.update(
                described=np.asarray(described, np.int64),
                input_ids=padded.input_ids,
                position_ids=padded.position_ids,
                attention_mask=visibility(padded.segments),
                sources=sources,
                labels=padded.labels.reshape(-1)[targets],
                label_weights=padded.weights.reshape(-1)[targets],
            )
        return batch
