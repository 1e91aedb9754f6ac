"""Images to model input, exactly as the original prepares them, and keys of images for caches."""

from __future__ import annotations

import copy
import hashlib
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageColor

from ...errors import ConfigurationError
from ...media import ImagePolicy, load_image
from ...media.loading import ImageSource, full_size, image_name, is_from_file, mark_full_size
from ...media.orientation import orientation, upright, upright_size
from ...utils.dependencies import require
from ...utils.display import quoted
from ...utils.files import CONFIG_FILE, PREPROCESSOR_CONFIG_FILE, read_json_object
from ...utils.schema import Kind, check_kind, number, one_of, shown
from .config_schema import VISUAL
from .image_placeholders import PlaceholderFormat

if TYPE_CHECKING:
    import paddle

    from .configuration import QWenVLVisionConfig

logger = logging.getLogger(__name__)

# per channel (red, green, blue) of values 0..1: the statistics of CLIP's training images
_MEAN = np.array((0.48145466, 0.4578275, 0.40821073), dtype=np.float32)
_STD = np.array((0.26862954, 0.26130258, 0.27577711), dtype=np.float32)
# part of cache keys: change it when the same image would give other pixels than before
_PREPROCESSING = "qwen_vl bicubic clip 1"
_MOST_NOTES = 1000  # that are remembered, to be told once

_OWN = ("image_size", "exif_transpose", "background")
_DESCRIPTIVE = ("image_processor_type", "feature_extractor_type", "processor_class", "auto_map")
_ORIGINAL = "images are prepared as in the original Qwen-VL and in no other way"


def _near(name: str, *values: float) -> Kind:
    """These numbers, or as good as these."""

    def accepts(value: Any) -> bool:
        listed = value if isinstance(value, list) else [value]
        return len(listed) == len(values) and all(
            number(wanted - 1e-4, wanted + 1e-4).accepts(v) for v, wanted in zip(listed, values)
        )

    return Kind(name, accepts)


# What image processors of other tools call the steps that are taken here anyway.
_FIXED = {
    "do_resize": one_of(True),
    "do_rescale": one_of(True),
    "do_normalize": one_of(True),
    "do_convert_rgb": one_of(True, None),
    "do_center_crop": one_of(False, None),
    "resample": one_of(3),
    "rescale_factor": _near("1/255", 1 / 255),
    "image_mean": _near(f"{_MEAN.tolist()}", *_MEAN.tolist()),
    "image_std": _near(f"{_STD.tolist()}", *_STD.tolist()),
}


class QwenVLImageProcessor:
    """Images to model input: RGB, squeezed to a square by Pillow's bicubic filter, normalized as for CLIP.

    :meth:`load` gives the image as the model sees it, before it is squeezed: boxes are places in it, so whatever draws
    or counts pixels uses that image and never the file.
    """

    def __init__(
        self,
        image_size: int = 448,
        exif_transpose: bool = False,
        background: Sequence[int] | None = None,
    ) -> None:
        """Check and keep the settings.

        Args:
            image_size: side of the square in pixels.
            exif_transpose: turn images upright by their EXIF tag. The original ignores it, and so does the default.
            background: (red, green, blue), 0..255, that transparent images are laid upon. None drops the alpha
                channel, as the original does: transparent parts then show whatever color is stored beneath.

        Raises:
            ConfigurationError: a value that cannot work.
        """
        check_kind("image_size", image_size, VISUAL["image_size"].kind)
        if not isinstance(exif_transpose, bool):
            raise ConfigurationError(f"exif_transpose: got {shown(exif_transpose)}, expected true or false")
        if background is not None:
            background = _color(background)
        self.image_size = image_size
        self.exif_transpose = exif_transpose
        self.background = background
        self._notes = True
        self._noted: set[str] = set()

    def load(self, source: ImageSource, policy: ImagePolicy | None = None) -> Image.Image:
        """The image behind ``source`` as the model sees it.

        Args:
            source: as for :func:`paddlemix.media.load_image`.
            policy: what may be read.

        Returns:
            The image in RGB at its own size, turned upright and laid on the background where so configured.

        Raises:
            ImageError: it cannot be read, or may not.
        """
        image = load_image(source, policy)
        if self._notes:
            self._note(image)
        return self.to_rgb(image)

    def without_notes(self) -> QwenVLImageProcessor:
        """The same, but it logs nothing: for images that were looked at before."""
        silent = copy.copy(self)
        silent._notes = False
        return silent

    def ignores_orientation(self, orientation: int) -> bool:
        """Whether an image of that EXIF orientation is seen as it is stored, and not as its camera was held."""
        return orientation != 1 and not self.exif_transpose

    def _note(self, image: Image.Image) -> None:
        name, size = image_name(image), full_size(image)
        notes = []
        if self.ignores_orientation(orientation(image)):
            notes.append(
                f"{name}: its EXIF orientation {orientation(image)} is ignored, so the model sees it as it is stored; "
                "--exif_transpose (exif_transpose=True) turns it upright"
            )
        if size != image.size and is_from_file(image):  # not again of an image that this gave
            notes.append(
                f"{name}: {size[0]}x{size[1]} pixels are read at {image.width}x{image.height}; --max_pixels "
                "(ImagePolicy.max_pixels) sets the limit"
            )
        for note in notes:
            if note not in self._noted:
                if len(self._noted) >= _MOST_NOTES:
                    self._noted.clear()
                self._noted.add(note)
                logger.warning(note)

    def __call__(self, images: ImageSource | Sequence[ImageSource], policy: ImagePolicy | None = None) -> np.ndarray:
        """Pixels of one image (n = 1) or of a list of images; one that stands in several places is opened once.

        Args:
            images: whatever :func:`paddlemix.media.load_image` takes.
            policy: what may be read.

        Returns:
            float32 ``[n, 3, image_size, image_size]``.

        Raises:
            ImageError: an image cannot be read, or may not.
        """
        sources: Sequence[Any] = images if isinstance(images, (list, tuple)) else [images]
        size = self.image_size
        pixels = np.empty((len(sources), 3, size, size), dtype=np.float32)
        rows: dict[Any, int] = {}
        for index, source in enumerate(sources):
            row = rows.setdefault(source if isinstance(source, (str, os.PathLike)) else id(source), index)
            pixels[index] = pixels[row] if row < index else self._normalize(self._squeeze(self.load(source, policy)))
        return pixels

    def to_rgb(self, image: Image.Image) -> Image.Image:
        """A loaded image in mode RGB at its own size, turned upright and laid on the background where so configured.

        Metadata is left behind, so that nothing turns it again.
        """
        size = full_size(image)
        if self.exif_transpose:
            size = upright_size(size, orientation(image))
            image = upright(image)
        if self.background is not None and (
            image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info
        ):
            image = image.convert("RGBA")
            ground = Image.new("RGBA", image.size, (*self.background, 255))
            image = Image.alpha_composite(ground, image)
        elif image.mode == "P" and "transparency" in image.info:
            # without this Pillow warns that the transparency is lost, which is what is wanted here
            image = image.copy()
            del image.info["transparency"]
        result = image.convert("RGB")
        result.info = {}
        if size != result.size:
            mark_full_size(result, size)
        return result

    def resize(self, image: Image.Image) -> Image.Image:
        """RGB, image_size x image_size: the image as the model sees it, before normalization."""
        return self._squeeze(self.to_rgb(image))

    def _squeeze(self, image: Image.Image) -> Image.Image:
        return image.resize((self.image_size, self.image_size), Image.Resampling.BICUBIC)

    @staticmethod
    def _normalize(image: Image.Image) -> np.ndarray:
        pixels = np.asarray(image, dtype=np.float32) / np.float32(255)
        return ((pixels - _MEAN) / _STD).transpose(2, 0, 1)

    def to_dict(self) -> dict[str, Any]:
        """The settings, as written to ``preprocessor_config.json``."""
        return {
            "image_processor_type": type(self).__name__,
            "image_size": self.image_size,
            "exif_transpose": self.exif_transpose,
            "background": None if self.background is None else list(self.background),
        }

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> QwenVLImageProcessor:
        """The image processor of :meth:`to_dict`'s settings.

        Raises:
            ConfigurationError: unknown settings.
        """
        for name, value in settings.items():
            if name in _FIXED and not _FIXED[name].accepts(value):
                raise ConfigurationError(f"{name}: expected {_FIXED[name].expected}, got {shown(value)}; {_ORIGINAL}")
        known = {*_OWN, *_FIXED, *_DESCRIPTIVE}
        unknown = sorted(str(name) for name in settings if name not in known and not str(name).startswith("_"))
        if unknown:
            listed = ", ".join(quoted(name) for name in unknown[:5])
            raise ConfigurationError(f"unknown field(s) {listed}; remove them or correct the spelling")
        return cls(**{name: value for name, value in settings.items() if name in _OWN})


def load_images_of_ids(
    ids: np.ndarray,
    visual: QWenVLVisionConfig,
    policy: ImagePolicy | None = None,
    image_processor: QwenVLImageProcessor | None = None,
) -> paddle.Tensor:
    """Read the images whose paths or URLs stand in the image placeholders of ``ids``.

    Args:
        ids: int ``[batch, length]``.
        visual: the vision part of the model's configuration.
        policy: what may be read; ``ImagePolicy.scripts()`` (files and public URLs) by default.
        image_processor: turns them into pixels; by default one of the model's size with the original's choices.

    Returns:
        float32 ``[n, 3, side, side]``, in order of appearance over the rows.

    Raises:
        PromptError: a placeholder is cut or holds no path.
        ImageError: an image cannot be read, or may not.
    """
    paddle = require("paddle", "reading images out of ids")
    policy = ImagePolicy.scripts() if policy is None else policy
    if image_processor is None:
        image_processor = QwenVLImageProcessor(image_size=visual.image_size)
    return paddle.to_tensor(image_processor(PlaceholderFormat.of(visual).paths(ids), policy))


def read_preprocessor_config(directory: Path, image_size: int | None) -> dict[str, Any]:
    """The settings for :meth:`QwenVLImageProcessor.from_dict` in a directory's ``preprocessor_config.json``, checked.

    image_size: the model's, which counts where the file says nothing; None: not known.

    Raises:
        CheckpointError: the file cannot be read as a JSON object.
        ConfigurationError: a field is unknown or has a value that cannot work, or the size is not the model's.
    """
    path = directory / PREPROCESSOR_CONFIG_FILE
    settings = {"image_size": image_size} if image_size is not None else {}
    settings.update(read_json_object(path) or {})
    try:
        stored = QwenVLImageProcessor.from_dict(settings)
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: {error}") from error
    if image_size is not None and stored.image_size != image_size:
        raise ConfigurationError(
            f"{path}: image_size: got {stored.image_size}, but visual.image_size in {CONFIG_FILE} is {image_size}, "
            "and boxes would come out wrong; make them equal"
        )
    return settings


def source_key(source: Any) -> bytes:
    """Names a source among those that are alive, without opening it."""
    return (f"path {os.fspath(source)}" if isinstance(source, (str, os.PathLike)) else f"object {id(source)}").encode()


def image_key(image: Image.Image, image_processor: QwenVLImageProcessor) -> str:
    """A key for caches of what the model computes from an image: sha256 over all that the model sees of it.

    Mode, size and pixels are those after conversion and resizing, so images share a key exactly if their model input
    is the same, whatever file they come from.
    """
    seen = image_processor.resize(image)
    digest = hashlib.sha256(f"{_PREPROCESSING} {seen.mode} {seen.width}x{seen.height} ".encode())
    digest.update(seen.tobytes())
    return digest.hexdigest()


def parse_color(text: str) -> tuple[int, int, int]:
    """(red, green, blue) of a name, ``#rrggbb`` or ``red,green,blue``.

    Raises:
        ConfigurationError: it is none of these.
    """
    parts = text.split(",")
    try:
        channels = [int(part) for part in parts] if len(parts) == 3 else list(ImageColor.getrgb(text.strip()))
        return _color(channels)
    except ValueError as error:  # ConfigurationError is one, too
        raise ConfigurationError(
            f"background: got {shown(text)}, expected a color such as 'white', '#fff8f0' or '255,248,240'"
        ) from error


def _color(value: Any) -> tuple[int, int, int]:
    channels = tuple(value) if isinstance(value, (list, tuple)) else ()
    if len(channels) != 3 or not all(type(c) is int and 0 <= c <= 255 for c in channels):
        raise ConfigurationError(f"background: got {shown(value)}, expected three integers 0..255 (red, green, blue)")
    return channels
