"""Training samples: a scene per index, conversations packed behind its image, targets for the training heads."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from paddlemix.models.qwen_vl.processing import QwenVLImageProcessor
from paddlemix.models.qwen_vl.tokenization import QWenVLTokenizer

from ..scenes.lexicon import COLORS, WORDS
from ..scenes.pairs import generate_pair, pair
from ..scenes.scene import Scene, generate_scene
from ..scenes.tasks import LANGUAGES, Conversation, coordinates, make_conversations, make_text_conversation
from .encoding import NOTHING, ConversationEncoder, PointedRow, cell, view
from .packing import pad_rows, predicting_positions
from .segments import visibility

# Rows of one length waste nothing on padding: as many of an image's conversations as fit.
ROW_LENGTH = 256


@dataclass(frozen=True)
class HeadTargets:
    """What the training heads should say. Grids are read row by row; ``NOTHING`` where there is nothing to say.

    Attributes:
        kinds: int64 ``[queries]``, the object whose center lies in the query's cell.
        boxes: float32 ``[queries, 4]``, its corners in [0, 1].
        digits: int64 ``[queries, 8]``, hundreds and tens of its four coordinates.
        colors: int64 ``[queries]``, its tint (``NOTHING``: no object; the last class: an object without tint).
        words: int64 ``[queries]``, the word whose sign has its center in the cell.
        patches: int64 ``[patches]``, the object at the patch's center; 0 is the background, kinds count from 1.
        patch_boxes: float32 ``[patches, 4]``, that object's corners in [0, 1].
        patch_words: int64 ``[patches]``, the word of the sign at the patch's center.
    """

    kinds: np.ndarray
    boxes: np.ndarray
    digits: np.ndarray
    colors: np.ndarray
    words: np.ndarray
    patches: np.ndarray
    patch_boxes: np.ndarray
    patch_words: np.ndarray


@dataclass(frozen=True)
class Sample:
    """One or two images, what the heads should say about each, and rows of conversations about them and without."""

    images: list[np.ndarray]
    targets: list[HeadTargets]
    row: PointedRow | None = None
    text_row: PointedRow | None = None


class SceneDataset:
    """Item ``[i, j, …]`` is a list of the samples of these indices.

    Sample ``i`` is the scene of seed ``first_seed + i``, with up to ``conversations`` of them behind its image. Only
    every second image has conversations: the vision part is the slower learner, and for it alone an image is cheap.
    Of these, one in ``pair_every`` is shown beside a second one and compared with it. Of all images that stand alone
    one in ``sign_every`` has a sign for sure (seldom otherwise, and words are the hardest to learn). One sample in
    ``talk_every`` has an additional row of conversations without an image. Deterministic in the index, so an
    interrupted training goes on with the same data.
    """

    conversations_every = 2
    pair_every = 5
    sign_every = 2
    talk_every = 48

    def __init__(
        self,
        tokenizer: QWenVLTokenizer,
        conversations: int,
        *,
        image_size: int,
        grid: int,
        patch_grid: int,
        first_seed: int = 0,
    ) -> None:
        self.encoder = ConversationEncoder(tokenizer)
        self.conversations = conversations
        self.image_size = image_size
        self.grid = grid
        self.patch_grid = patch_grid
        self.first_seed = first_seed

    def __getitem__(self, indices: Iterable[int]) -> list[Sample]:
        return [self.sample(index) for index in indices]

    def sample(self, index: int) -> Sample:
        seed = self.first_seed + index
        described, turn = divmod(index, self.conversations_every)
        sign = True if described % self.sign_every == 0 else None
        if not self.conversations or turn:
            return self._sample([generate_scene(seed, size=self.image_size, sign=sign)])
        rng = np.random.default_rng([seed, 2])
        if described % self.pair_every == 0:
            scenes = list(generate_pair(seed, size=self.image_size))
            conversations = pair_conversations(scenes[0], scenes[1], rng, self.conversations)
        else:
            scenes = [generate_scene(seed, size=self.image_size, sign=sign)]
            conversations = make_conversations(scenes[0], rng, self.conversations)
        seen = view(scenes, self.grid)
        row = self.encoder.row(len(scenes), [self.encoder.branch(item, seen) for item in conversations], ROW_LENGTH)
        text_row = None
        if index % self.talk_every == 0:
            nothing = view([], self.grid)
            talk = [make_text_conversation(rng) for _ in range(self.conversations)]
            text_row = self.encoder.row(0, [self.encoder.branch(item, nothing) for item in talk], ROW_LENGTH)
        return self._sample(scenes, row, text_row)

    def _sample(
        self, scenes: Sequence[Scene], row: PointedRow | None = None, text_row: PointedRow | None = None
    ) -> Sample:
        targets = [head_targets(scene, self.grid, self.patch_grid) for scene in scenes]
        return Sample([scene.image for scene in scenes], targets, row, text_row)


def pair_conversations(first: Scene, second: Scene, rng: np.random.Generator, count: int) -> list[Conversation]:
    """Up to ``count`` different questions that compare two images, out of twice as many drawn."""
    drawn = [pair(first, second, LANGUAGES[int(rng.integers(2))], rng) for _ in range(2 * count)]
    distinct = {item.turns: item for item in drawn if item is not None}
    return list(distinct.values())[:count]


def head_targets(scene: Scene, grid: int, patch_grid: int) -> HeadTargets:
    """The training heads' targets for a scene, for ``grid²`` queries and ``patch_grid²`` patches."""
    queries = grid * grid
    kinds, colors, words = (np.full(queries, NOTHING, np.int64) for _ in range(3))
    boxes, digits = np.zeros((queries, 4), np.float32), np.zeros((queries, 8), np.int64)
    centers = (np.arange(patch_grid) + 0.5) / patch_grid
    patches = np.zeros((patch_grid, patch_grid), np.int64)
    patch_boxes = np.zeros((patch_grid, patch_grid, 4), np.float32)
    patch_words = np.full((patch_grid, patch_grid), NOTHING, np.int64)

    def covered(box: Sequence[float]) -> np.ndarray:
        x1, y1, x2, y2 = box
        return ((centers >= y1) & (centers <= y2))[:, None] & ((centers >= x1) & (centers <= x2))[None, :]

    for placed in scene.objects:
        query = cell(placed.box, grid)
        kinds[query] = placed.kind
        colors[query] = len(COLORS) if placed.color is None else placed.color
        boxes[query] = placed.box
        digits[query] = [value for c in coordinates(placed.box) for value in (c // 100, c // 10 % 10)]
        inside = covered(placed.box)
        patches[inside] = placed.kind + 1
        patch_boxes[inside] = placed.box
    if scene.sign is not None:
        words[cell(scene.sign.box, grid)] = WORDS.index(scene.sign.word)
        patch_words[covered(scene.sign.box)] = WORDS.index(scene.sign.word)
    flat = (patches.reshape(-1), patch_boxes.reshape(-1, 4), patch_words.reshape(-1))
    return HeadTargets(kinds, boxes, digits, colors, words, *flat)


class SceneCollator:
    """Samples to a batch of tensors for :class:`~examples.bundled_model.training.heads.TrainingModel`."""

    def __init__(self, image_processor: QwenVLImageProcessor, pad_id: int) -> None:
        self.image_processor = image_processor
        self.pad_id = pad_id

    def __call__(self, samples: Sequence[Sample]) -> dict[str, np.ndarray]:
        images = [image for sample in samples for image in sample.images]
        targets = [target for sample in samples for target in sample.targets]
        batch = {"images": self.image_processor(images)}
        for field in HeadTargets.__dataclass_fields__:
            batch[field] = np.stack([getattr(target, field) for target in targets])
        first = np.cumsum([0] + [len(sample.images) for sample in samples])
        described = [
            range(start, start + len(sample.images)) for start, sample in zip(first, samples) if sample.row is not None
        ]
        if described:
            speaking = [sample for sample in samples if sample.row is not None]
            rows = [sample.row for sample in speaking]
            boxes = [np.concatenate([target.boxes for target in sample.targets]) for sample in speaking]
            for sample in samples:
                if sample.text_row is not None:
                    rows.append(sample.text_row)
                    boxes.append(np.zeros((1, 4), np.float32))
            batch["described"] = np.concatenate(described).astype(np.int64)
            batch.update(_row_arrays(rows, boxes, self.pad_id))
        return batch


def _row_arrays(rows: Sequence[PointedRow], boxes: Sequence[np.ndarray], pad_id: int) -> dict[str, np.ndarray]:
    """``boxes``: float32 ``[queries, 4]`` for each row, the box of the object at each query."""
    padded = pad_rows([row.row for row in rows], pad_id)
    batch, length = padded.input_ids.shape
    columns, named = np.full((batch, length), NOTHING), np.zeros((batch, length), bool)
    told_boxes = np.zeros((batch, length, 4), np.float32)
    for index, (row, row_boxes) in enumerate(zip(rows, boxes)):
        told = np.flatnonzero(row.about != NOTHING)
        columns[index, told] = row.slots[row.about[told]]
        told_boxes[index, told] = row_boxes[row.about[told]]
        named[index, : len(row)] = row.named
    sources, targets = predicting_positions(padded.labels, padded.segments)
    names = np.flatnonzero(named)
    reading = columns.reshape(-1)[targets] != NOTHING
    return {
        "input_ids": padded.input_ids,
        "position_ids": padded.position_ids,
        "attention_mask": visibility(padded.segments),
        "sources": sources,
        "labels": padded.labels.reshape(-1)[targets],
        "label_weights": padded.weights.reshape(-1)[targets],
        "name_positions": names,
        "name_columns": columns.reshape(-1)[names],
        "name_boxes": told_boxes.reshape(-1, 4)[names],
        "read_positions": sources[reading],
        "read_columns": columns.reshape(-1)[targets][reading],
        "read_weights": padded.weights.reshape(-1)[targets][reading],
    }
