"""Conditioning images: label maps in colours, edges, depth.

What a ControlNet follows (mode label2img). The label of the generated image
is the label map that made it, without the pixels that its conditioning image
could not tell.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from clouds_mmseg.generate.pipeline_parts import part_folder
from clouds_mmseg.utils.cityscapes import CLASSES, IGNORE, PALETTE
from clouds_mmseg.utils.errors import GenerationError
from clouds_mmseg.utils.image_files import images_below
from clouds_mmseg.utils.images import ImageFileError, decode_ids
from clouds_mmseg.utils.remote import refuse_address
from clouds_mmseg.utils.text_files import parse_json

CONTROLS = ('segmentation', 'edges', 'depth')
PALETTES = ('cityscapes', 'ade20k')
UNKNOWN_CLASSES = ('error', 'ignore')
# Colour of pixels without class.
_NO_CLASS = (0, 0, 0)
# Class of Cityscapes -> of ADE20K, on which most segmentation ControlNets
# were trained. ADE20K has no train.
_ADE20K = {
    'pole': 'pole', 'traffic sign': 'signboard', 'vegetation': 'tree',
    'terrain': 'grass', 'rider': 'person', 'motorcycle': 'minibike',
}  # fmt: skip
# Thresholds of the gradient for weak and strong edges, those of ControlNet's
# own Canny examples.
_WEAK, _STRONG = 100, 200
# Files that a message names.
_NAMED = 3


@dataclass(frozen=True)
class LabelSources:
    """Label maps from which images are made, and how they are read.

    Attributes:
        root: Folder that names are relative to, for the manifest.
        images: Name and full path of each: of the image, or where there is
            none of the label.
        labels: Name -> path of the label.
        read: Path of a label -> (H, W) uint8 class indices, 255 for none.
        classes: Names of the indices.
        meaning: What the ids in the files mean, for the recipe.
    """

    root: str
    images: Sequence[tuple[str, str]]
    labels: Mapping[str, str]
    read: Callable[[str], np.ndarray]
    classes: Sequence[str] = CLASSES
    meaning: str = 'train ids'


def read_train_ids(path: str) -> np.ndarray:
    """Read a label file whose ids are class indices.

    Args:
        path: 8-bit image of one channel, grey or palette.

    Returns:
        (H, W) uint8, 255 for no class.

    Raises:
        GenerationError: It cannot be read, or has larger ids.
    """
    try:
        ids = decode_ids(Path(path).read_bytes())
    except (OSError, ImageFileError) as error:
        raise GenerationError(f'the label {path}: {error}') from error
    if ids.max() > IGNORE:
        raise GenerationError(
            f'the label {path} has the id {int(ids.max())}: label files must '
            'hold train ids, 0 to 254, and 255 for no class'
        )
    return ids.astype(np.uint8)


def find_labels(
    labels: str | Path,
    sources: Sequence[tuple[str, str]] = (),
    *,
    image_end: str = '',
    label_end: str = '',
) -> LabelSources:
    """Find label maps in a folder, and pair them with images.

    Args:
        labels: Folder of label files with train ids, searched recursively.
        sources: Name and path of each image; empty: there are only labels.
        image_end: End of the images' names, such as ``_leftImg8bit.png``;
            by default the suffix of each.
        label_end: What stands in its place in the labels' names, such as
            ``_gtFine_labelTrainIds.png``; default ``.png``. Without images:
            the end of the files to use.

    Raises:
        GenerationError: The folder is missing or empty, or an image has no
            label.
    """
    refuse_address(labels, '--labels')
    root = Path(labels).expanduser()
    if not root.is_dir():
        raise GenerationError(f'--labels {labels}: there is no such folder')
    if not sources:
        end = label_end or '.png'
        names = sorted(
            path.relative_to(root).as_posix()
            for path in images_below(root)
            if path.name.endswith(end)
        )
        if not names:
            raise GenerationError(f'--labels {labels} holds no file *{end}')
        paths = [(name, str(root / name)) for name in names]
        return LabelSources(str(labels), paths, dict(paths), read_train_ids)
    found, missing = {}, []
    for name, _ in sources:
        end = image_end if image_end else Path(name).suffix
        if not name.endswith(end):
            raise GenerationError(
                f'--image-end {image_end}: the image {name} of --source ends '
                'otherwise'
            )
        path = root / (name[: len(name) - len(end)] + (label_end or '.png'))
        found[name] = str(path)
        if not path.is_file():
            missing.append(f'{path} of {name}')
    if missing:
        raise GenerationError(
            f'--labels {labels}: {len(missing)} of {len(sources)} images of '
            f'--source have no label, such as {"; ".join(missing[:_NAMED])}. '
            '--image-end and --label-end say how their names differ.'
        )
    return LabelSources('', sources, found, read_train_ids)


@dataclass(frozen=True)
class Palette:
    """Colours of a conditioning image.

    Attributes:
        name: Its name or the path of its file.
        colours: Class index -> RGB, for the classes that it knows.
        classes: Names of the indices, for messages.
    """

    name: str
    colours: Mapping[int, tuple[int, int, int]]
    classes: Sequence[str]

    def unknown(self, label: np.ndarray) -> list[int]:
        """Return the class indices of a label that have no colour.

        Args:
            label: (H, W) uint8.
        """
        there = np.flatnonzero(np.bincount(label.ravel(), minlength=256))
        return [
            int(i) for i in there if i != IGNORE and int(i) not in self.colours
        ]

    def draw(self, label: np.ndarray) -> np.ndarray:
        """Draw a label map; what has no colour is black.

        Args:
            label: (H, W) uint8.

        Returns:
            (H, W, 3) uint8 RGB.
        """
        table = np.full((256, 3), _NO_CLASS, np.uint8)
        for index, colour in self.colours.items():
            table[index] = colour
        return table[label]

    def named(self, index: int) -> str:
        """Return the name of a class index, or the index as text."""
        known = index < len(self.classes)
        return self.classes[index] if known else f'id {index}'

    def merged(self) -> list[str]:
        """Return sentences about classes that have one colour."""
        owners: dict[tuple, list[str]] = {}
        for index, colour in self.colours.items():
            owners.setdefault(tuple(colour), []).append(self.named(index))
        return [
            f'{" and ".join(names)} have one colour: the images cannot tell '
            'them apart, their labels do'
            for names in owners.values()
            if len(names) > 1
        ]


def read_palette(spec: str, classes: Sequence[str] = CLASSES) -> Palette:
    """Read the palette of conditioning images.

    Args:
        spec: ``'cityscapes'``; ``'ade20k'``, of most segmentation
            ControlNets; or a JSON file: class name -> [R, G, B], or a list
            of these in the order of the class indices.
        classes: Names of the class indices.

    Raises:
        GenerationError: There is no such palette, or the file is no palette.
    """
    if spec == 'cityscapes':
        table = dict(zip(CLASSES, PALETTE, strict=True))
    elif spec == 'ade20k':
        table = _ade20k()
    else:
        table = _read_palette_file(spec, classes)
    # As Cityscapes writes them: 'traffic light', and not traffic_light.
    colours = {
        index: tuple(table[name])
        for index, name in enumerate(classes)
        if name in table
    }
    if not colours:
        raise GenerationError(
            f'--palette {spec} has a colour for none of the classes '
            f'{", ".join(classes)}'
        )
    return Palette(spec, colours, classes)


def _ade20k():
    from mmseg.datasets import ADE20KDataset

    meta = ADE20KDataset.METAINFO
    there = dict(
        zip((c.strip() for c in meta['classes']), meta['palette'], strict=True)
    )
    return {
        name: there[_ADE20K.get(name, name)]
        for name in CLASSES
        if _ADE20K.get(name, name) in there
    }


def _read_palette_file(spec, classes):
    path = Path(spec).expanduser()
    if not path.is_file():
        raise GenerationError(
            f'--palette {spec} is neither {" nor ".join(PALETTES)} nor an '
            'existing JSON file, such as {"road": [128, 64, 128], ...}'
        )
    try:
        content = parse_json(path.read_text(encoding='utf-8'))
        if isinstance(content, list):
            content = dict(zip(classes, content, strict=False))
        fine = all(
            len(colour) == 3
            and all(type(v) is int and 0 <= v <= 255 for v in colour)
            for colour in content.values()
        )
    except (OSError, ValueError, TypeError, AttributeError):
        fine = False
    if not fine:
        raise GenerationError(
            f'--palette {spec} must be JSON, class name -> [R, G, B] with '
            'integers in 0..255, or a list of such colours in the order of '
            'the classes'
        )
    strangers = sorted(set(content) - set(classes))
    if strangers:
        raise GenerationError(
            f'--palette {spec} has colours of {", ".join(strangers)}, which '
            f'are no classes of the labels: {", ".join(classes)}'
        )
    return content


def ignore_borders(label: np.ndarray, width: int) -> np.ndarray:
    """Set a band on both sides of every border between classes to 255.

    Args:
        label: (H, W) uint8.
        width: Pixels on each side; 0 changes nothing.

    Returns:
        (H, W) uint8.
    """
    if width == 0:
        return label
    square = np.ones((2 * width + 1, 2 * width + 1), np.uint8)
    # Outside of the image there is no border.
    edge = dict(borderType=cv2.BORDER_REPLICATE)
    highest = cv2.dilate(label, square, **edge)
    lowest = cv2.erode(label, square, **edge)
    return np.where(highest == lowest, label, np.uint8(IGNORE))


def draw_edges(image: Image.Image) -> Image.Image:
    """Draw the edges of an image in white on black (Canny)."""
    grey = cv2.cvtColor(np.asarray(image), cv2.COLOR_RGB2GRAY)
    edges = cv2.Canny(grey, _WEAK, _STRONG)
    return Image.fromarray(np.stack([edges] * 3, axis=-1))


class DepthModel:
    """Depth of single images, by a model of transformers.

    Args:
        model: Folder that ``save_pretrained`` wrote, or id on the hub, of a
            model for depth estimation (DPT, Depth Anything, ZoeDepth).
        device: Of torch.

    Raises:
        GenerationError: It is not there or no such model.
    """

    def __init__(self, model: str, device: Any):
        folder, self.name, self.fingerprint = part_folder(
            model, '--depth-model'
        )
        from transformers import (
            AutoImageProcessor,
            AutoModelForDepthEstimation,
        )

        try:
            self.processor = AutoImageProcessor.from_pretrained(str(folder))
            self.model, report = AutoModelForDepthEstimation.from_pretrained(
                str(folder), output_loading_info=True
            )
            # transformers initialises missing weights without an error.
            if report['missing_keys']:
                raise ValueError(f'it lacks {min(report["missing_keys"])}')
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise GenerationError(
                f'--depth-model {model} cannot be loaded as a depth model of '
                f'transformers ({type(error).__name__}: {error})'
            ) from error
        self.device = device
        self.model.to(device).eval()
        kind = getattr(self.model.config, 'depth_estimation_type', 'relative')
        self.metric = kind == 'metric' or 'zoe' in self.model.config.model_type

    def draw(self, image: Image.Image) -> Image.Image:
        """Draw the inverse depth of an image: near is white, far is black.

        Raises:
            GenerationError: The model's output is not finite.
        """
        import torch

        inputs = self.processor(images=image, return_tensors='pt')
        with torch.inference_mode():
            depth = self.model(
                **{key: value.to(self.device) for key, value in inputs.items()}
            ).predicted_depth
        depth = depth.reshape(depth.shape[-2:]).float().cpu().numpy()
        if not np.isfinite(depth).all():
            raise GenerationError(
                f'--depth-model {self.name} gives depths that are not finite'
            )
        # Relative models predict the inverse already.
        if self.metric:
            depth = 1 / np.maximum(depth, 1e-3)
        low, high = depth.min(), depth.max()
        depth = (depth - low) / max(high - low, 1e-6)
        grey = cv2.resize(
            depth, image.size, interpolation=cv2.INTER_LINEAR
        )  # fmt: skip
        grey = np.round(np.clip(grey, 0, 1) * 255).astype(np.uint8)
        return Image.fromarray(np.stack([grey] * 3, axis=-1))


class Conditioning:
    """Draws the conditioning images of mode label2img, and their labels.

    Args:
        sources: The label maps.
        control: ``'segmentation'`` draws the label map; ``'edges'`` and
            ``'depth'`` are computed from the source image.
        palette: Of segmentation, see :func:`read_palette`.
        unknown_classes: What becomes of classes that the palette does not
            know: ``'error'`` at the first label that has one, or
            ``'ignore'``: black in the conditioning image, 255 in the label.
            Needed where there are such classes: a bank that stops at image
            5,000 cannot go on otherwise than it began.
        ignore_border: See :func:`ignore_borders`.
        depth_model: Of depth, see :class:`DepthModel`.
        device: For the depth model.

    Raises:
        GenerationError: An argument is out of its range, missing, or belongs
            to another control.
    """

    def __init__(
        self,
        sources: LabelSources,
        *,
        control: str = 'segmentation',
        palette: str | None = None,
        unknown_classes: str | None = None,
        ignore_border: int = 0,
        depth_model: str | None = None,
        device: Any = 'cpu',
    ):
        if control not in CONTROLS:
            raise GenerationError(
                f'--control must be one of {", ".join(CONTROLS)}, got '
                f'{control!r}'
            )
        for name, value, owner in (
            ('--palette', palette, 'segmentation'),
            ('--unknown-classes', unknown_classes, 'segmentation'),
            ('--depth-model', depth_model, 'depth'),
        ):
            if value is not None and control != owner:
                raise GenerationError(
                    f'{name} {value} belongs to --control {owner}, got '
                    f'--control {control}'
                )
        if unknown_classes not in (None, *UNKNOWN_CLASSES):
            raise GenerationError(
                '--unknown-classes must be error or ignore, got '
                f'{unknown_classes!r}'
            )
        if not 0 <= ignore_border <= 100:
            raise GenerationError(
                f'--ignore-border must be in 0..100, got {ignore_border}'
            )
        if control == 'depth' and depth_model is None:
            raise GenerationError(
                '--control depth needs --depth-model: the folder or id of a '
                'depth model of transformers, for example '
                'depth-anything/Depth-Anything-V2-Small-hf'
            )
        if control != 'segmentation' and _labels_alone(sources):
            raise GenerationError(
                f'--control {control} is computed from the images that the '
                'labels belong to: give their folder as --source'
            )
        self.sources = sources
        self.control = control
        self.ignore_unknown = unknown_classes == 'ignore'
        self.ignore_border = ignore_border
        self.palette = (
            read_palette(palette or 'ade20k', sources.classes)
            if control == 'segmentation'
            else None
        )
        if self.palette is not None and unknown_classes is None:
            self._require_all_classes()
        self.depth = DepthModel(depth_model, device) if depth_model else None

    def _require_all_classes(self):
        names = [
            name
            for index, name in enumerate(self.sources.classes)
            if index not in self.palette.colours
        ]
        if names:
            raise GenerationError(
                f'--palette {self.palette.name} has no colour for '
                f'{", ".join(names)}. Give a palette that knows all classes, '
                'or --unknown-classes ignore: such pixels are drawn black and '
                'not trained on (or error, which stops at the first label '
                'with one).'
            )

    def recipe(self) -> dict:
        """Return what images and labels depend on here; JSON values."""
        recipe: dict = dict(
            control=self.control,
            ignore_border=self.ignore_border,
            label_meaning=self.sources.meaning,
            classes=list(self.sources.classes),
        )
        if self.palette is not None:
            recipe.update(
                palette=self.palette.name,
                colours={
                    self.palette.named(index): list(colour)
                    for index, colour in self.palette.colours.items()
                },
                unknown_classes='ignore' if self.ignore_unknown else 'error',
            )
        if self.depth is not None:
            recipe.update(
                depth_model=self.depth.name,
                depth_fingerprint=self.depth.fingerprint,
            )
        return recipe

    def read_label(self, path: str) -> np.ndarray:
        """Read a label map and check its classes.

        Args:
            path: Of the file.

        Returns:
            (H, W) uint8 as it will be the label of the generated image, but
            for the borders.

        Raises:
            GenerationError: It has an id that is no class, or a class that
                the palette does not know.
        """
        label = self.sources.read(path)
        there = np.flatnonzero(np.bincount(label.ravel(), minlength=256))
        number = len(self.sources.classes)
        wrong = [int(i) for i in there if number <= i != IGNORE]
        if wrong:
            raise GenerationError(
                f'the label {path} has the ids {_listed(wrong)}; the classes '
                f'are 0 to {number - 1}, and 255 for none. Files of label '
                'ids (labelIds of Cityscapes) have to be converted first: '
                '--dataset reads them as they are.'
            )
        if self.palette is None:
            return label
        unknown = self.palette.unknown(label)
        if unknown and not self.ignore_unknown:
            names = ', '.join(map(self.palette.named, unknown))
            raise GenerationError(
                f'--palette {self.palette.name} has no colour for {names}, '
                f'which the label {path} has. Give a palette that knows '
                'them, or --unknown-classes ignore, and another folder.'
            )
        return np.where(np.isin(label, unknown), np.uint8(IGNORE), label)

    def draw(
        self, label: np.ndarray, image: Image.Image | None, size: tuple
    ) -> Image.Image:
        """Draw the conditioning image.

        Args:
            label: (H, W) uint8.
            image: Source image, of edges and depth.
            size: Width and height.
        """
        if self.palette is not None:
            drawn = Image.fromarray(self.palette.draw(label))
            # Colours between two classes would be those of a third.
            return drawn.resize(size, Image.NEAREST)
        assert image is not None
        resized = image.resize(size, Image.LANCZOS)
        return self.depth.draw(resized) if self.depth else draw_edges(resized)

    def training_label(self, label: np.ndarray) -> np.ndarray:
        """Return the label of the generated image, (H, W) uint8."""
        return ignore_borders(label, self.ignore_border)


def _labels_alone(sources):
    return all(sources.labels[name] == path for name, path in sources.images)


def _listed(numbers):
    shown = ', '.join(map(str, numbers[:10]))
    return shown + (', ...' if len(numbers) > 10 else '')
