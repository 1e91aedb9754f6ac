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
from .coordinates import DIGITS, digit_shares
from .encoding import NOTHING, ConversationEncoder, PointedRow, cell, view
from .packing import pad_rows, predicting_positions
from .segments import visibility

# Rows of one length waste nothing on padding: as many of an image's conversations as fit.
ROW_LENGTH = 256
CROWD = 4


@dataclass(frozen=True)
class HeadTargets:
    """What the training heads should say. Grids are read row by row; ``NOTHING`` where there is nothing to say.

    Attributes:
        kinds: int64 ``[queries]``, the object whose center lies in the query's cell.
        boxes: float32 ``[queries, 4]``, its corners in [0, 1].
        digits: float32 ``[queries, 8, 10]``, hundreds and tens of its four coordinates, as shares of 0 to 9.
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
    one image in ``conversations_every`` has conversations: the vision part is the slower learner, and for it alone a
    image is cheap; every second of those without has at least ``CROWD`` objects, for each of them teaches. Of those
    with, one in ``pair_every`` is shown beside a second one and compared with it. Of all images that stand alone
    one in ``sign_every`` has a sign for sure (seldom otherwise, and words are the hardest to learn). One sample in
    ``talk_every`` has an additional row of conversations without an image. Deterministic in the index, so an
    interrupted training goes on with the same data.
    """

    conversations_every = 3
    pair_every = 3
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
            crowd = CROWD + index % 2 if self.conversations and turn % 2 else None
            return self._sample([generate_scene(seed, size=self.image_size, sign=sign, num_objects=crowd)])
        rng = np.random.default_rng([seed, 2])
        if described % self.pair_every == 0:
            scenes = list(generate_pair(seed, size=self.image_size))
            conversations = pair_conversations(scenes[0], scenes[1], rng, self.conversations)
        else:
            scenes = [generate_scene(seed, size=self.image_size, sign=sign)]
            conversations = make_conversations(scenes[0], rng, self.conversations)
        seen = view(scenes, self.grid)
        branches = [self.encoder.branch(item, seen) for item in conversations]
        row = self.encoder.row(len(scenes), branches, ROW_LENGTH, seen)
        text_row = None
        if index % self.talk_every == 0:
            nothing = view([], self.grid)
            talk = [make_text_conversation(rng) for _ in range(self.conversations)]
            branches = [self.encoder.branch(item, nothing) for item in talk]
            text_row = self.encoder.row(0, branches, ROW_LENGTH, nothing)
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
    boxes, digits = np.zeros((queries, 4), np.float32), np.zeros((queries, 8, 10), np.float32)
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
        digits[query] = digit_shares(padded=True)[list(coordinates(placed.box)), :2].reshape(8, 10)
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
    length = padded.input_ids.shape[1]
    names, reads, twins = Looks(length), Looks(length), Looks(length)
    boxed, name_boxes, numbered, numbers = [], [], [], []
    codes = np.full(padded.input_ids.shape, NOTHING)
    for index, (row, row_boxes) in enumerate(zip(rows, boxes)):
        codes[index, : len(row)] = row.digits
        for place in np.flatnonzero(row.named):
            queries = row.about[place]
            names.add(index, place, row.slots[list(queries)] if queries else [place])
            if len(queries) == 1:
                boxed.append(index * length + place)
                name_boxes.append(row_boxes[queries[0]])
        for query, others in row.twins:
            own = row.slots[query]
            twins.add(index, own, row.slots[list(others)] if others else [own])
        if row.twins:
            numbered.append(index * length + row.slots)
            numbers.append(np.arange(len(row.slots)) >= len(row.slots) // 2)
    sources, targets = predicting_positions(padded.labels, padded.segments)
    weights = padded.weights.reshape(-1)[targets]
    for source, target, weight in zip(sources, targets, weights):
        index, place = divmod(int(target), length)
        row = rows[index]
        if queries := row.about[place]:
            reads.add(index, int(source) % length, row.slots[list(queries)], float(weight))
    codes = codes.reshape(-1)[targets]
    soft = np.flatnonzero(codes != NOTHING)
    right = np.eye(10, dtype=np.float32)[_digits(codes[soft])]
    return {
        "input_ids": padded.input_ids,
        "position_ids": padded.position_ids,
        "attention_mask": visibility(padded.segments),
        "sources": sources,
        "labels": padded.labels.reshape(-1)[targets],
        "label_weights": weights,
        "soft_targets": soft,
        "digit_shifts": right - digit_shares().reshape(-1, 10)[codes[soft]],
        **names.arrays("name"),
        **reads.arrays("read"),
        **twins.arrays("twin"),
        "boxed_positions": np.asarray(boxed, np.int64),
        "name_boxes": np.asarray(name_boxes, np.float32).reshape(-1, 4),
        "numbered_positions": np.concatenate(numbered or [np.zeros(0)]).astype(np.int64),
        "numbers": np.concatenate(numbers or [np.zeros(0)]).astype(np.int64),
    }


def _digits(codes: np.ndarray) -> np.ndarray:
    """The digits themselves, int64, of ``coordinate * DIGITS + digit``."""
    return np.asarray([int(str(code // DIGITS)[code % DIGITS]) for code in codes], np.int64)


class Looks:
    """Where positions should look: flat positions, the columns in their rows, and what each counts.

    A position that should look at several columns looks at each as much, and counts once.
    """

    def __init__(self, length: int) -> None:
        self.length = length
        self.positions: list[int] = []
        self.columns: list[int] = []
        self.weights: list[float] = []

    def add(self, row: int, place: int, columns: Sequence[int], weight: float = 1.0) -> None:
        for column in columns:
            self.positions.append(row * self.length + place)
            self.columns.append(int(column))
            self.weights.append(weight / len(columns))

    def arrays(self, name: str) -> dict[str, np.ndarray]:
        return {
            f"{name}_positions": np.asarray(self.positions, np.int64),
            f"{name}_columns": np.asarray(self.columns, np.int64),
            f"{name}_weights": np.asarray(self.weights, np.float32),
        }
