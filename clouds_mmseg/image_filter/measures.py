"""What a filter measures on each image, with a model and with CLIP.

K classes; H and W of an image.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from mmengine.logging import print_log
from mmseg.datasets import BaseSegDataset
from torch.nn import functional as F
from torchvision.transforms import functional as TF

from clouds_mmseg.datasets.transforms.loading import LoadSegLabels
from clouds_mmseg.image_filter.rules import difference_hash
from clouds_mmseg.models.backbones.clip import visual_part
from clouds_mmseg.models.backbones.clip_source import build_visual, find_clip
from clouds_mmseg.models.text_embeddings import class_text_embeddings
from clouds_mmseg.predict.segmenter import Segmenter
from clouds_mmseg.utils.cityscapes import IGNORE
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.images import (
    ImageFileError,
    decode_ids,
    read_image,
)
from clouds_mmseg.weights.io import (
    MissingWeightsError,
    read_state_dict,
)
from clouds_mmseg.weights.load import load_strictly

# Least share of a class in the scores of a pixel, for a finite loss.
_LEAST_SHARE = 1e-6
_GREY_WIDTH = 32


@dataclass
class Measures:
    """What is known of one image.

    Attributes:
        index: Number of the image.
        sha256: Of its file.
        spread: Standard deviation of its grey values, reduced, in 1/255.
        hash: Perceptual hash.
        confidence: Of the model, mean over pixels, in [0, 1].
        similarity: Cosine of image and prompt; None without CLIP.
        sums: Sum of the loss over the pixels of each class, (K,); None
            without label.
        counts: Number of these pixels, (K,).
    """

    index: int
    sha256: str
    spread: float
    hash: str
    confidence: float
    similarity: float | None = None
    sums: list[float] | None = None
    counts: list[int] | None = None

    def to_json(self) -> dict:
        """Return JSON values."""
        return asdict(self)


class LabelFinder:
    """Finds the label of an image of a generated set.

    That is the image's own label, or that of the image which was restyled,
    looked up in datasets of labelled images.

    Args:
        root: Folder of the set.
        source_root: Folder that sources are named from; None if the set has
            none.
        datasets: Labelled datasets, not opened.
        folder: Folder of labels (class indices) under the names of the
            sources, in place of the datasets.
        classes: Of the model.

    Raises:
        UserError: A dataset that holds the sources has other classes.
    """

    def __init__(
        self,
        root: Path,
        source_root: str | None,
        datasets: Sequence[BaseSegDataset],
        folder: str | Path | None,
        classes: Sequence[str],
    ):
        self.root = root
        self.folder = None if folder is None else Path(folder).expanduser()
        self.num_classes = len(classes)
        self.classes = tuple(classes)
        self._load = LoadSegLabels()
        self._infos: dict[str, dict] = {}
        if source_root is not None and self.folder is None:
            self._read(Path(source_root).resolve(), datasets)

    def _read(self, root, datasets):
        for dataset in datasets:
            if not getattr(dataset, 'has_labels', False):
                continue
            dataset.full_init()
            found = {}
            for index in range(len(dataset)):
                info = dataset.get_data_info(index)
                path = Path(info['img_path']).resolve()
                if path.is_relative_to(root):
                    found[path.relative_to(root).as_posix()] = info
            if not found:
                continue
            names = tuple(dataset.metainfo['classes'])
            if names != self.classes:
                raise UserError(
                    f'the labels of {dataset.domain} have the classes '
                    f'{", ".join(names)}, the checkpoint has '
                    f'{", ".join(self.classes)}: filter with a model that '
                    'was trained on these classes'
                )
            self._infos |= found

    def has_label(self, entry: dict) -> bool:
        """Return whether an image has a label, which may be missing."""
        if entry.get('label') or entry.get('evaluation_label'):
            return True
        source = entry.get('source')
        if source is None:
            return False
        return self.folder is not None or source in self._infos

    def find(self, entry: dict) -> np.ndarray | None:
        """Return the label of an image.

        Args:
            entry: Of the manifest.

        Returns:
            (H, W) uint8 class indices, 255 ignored; None if there is none.

        Raises:
            UserError: It cannot be read, or has ids that are no classes.
            DataError: Likewise, of a dataset.
        """
        if not self.has_label(entry):
            return None
        own = entry.get('label') or entry.get('evaluation_label')
        source = entry.get('source') or ''
        if own:
            label = _read_ids(self.root / own)
        elif self.folder is not None:
            label = _read_ids((self.folder / source).with_suffix('.png'))
        else:
            info = dict(self._infos[source], seg_fields=[])
            label = self._load(info)['gt_seg_map']
        self._check(label, own or source)
        size = (entry.get('height'), entry.get('width'))
        if None not in size and label.shape != size:
            raise UserError(
                f'the label of {entry["file"]} is {label.shape[1]}x'
                f'{label.shape[0]}, the image {size[1]}x{size[0]} (width x '
                'height): they must be equal'
            )
        return label.astype(np.uint8)

    def _check(self, label, name):
        odd = np.setdiff1d(label, [*range(self.num_classes), IGNORE])
        if odd.size:
            raise UserError(
                f'the label {name} has the ids {odd.tolist()[:5]}, and the '
                f'checkpoint has the classes 0 to {self.num_classes - 1} '
                f'({", ".join(self.classes[:3])}, ...): filter with a model '
                'that was trained on the classes of these labels'
            )


def _read_ids(path):
    try:
        return decode_ids(path.read_bytes())
    except OSError as error:
        raise UserError(
            f'the label {path} cannot be read ({error.strerror})'
        ) from error
    except ImageFileError as error:
        raise UserError(f'the label {path} {error}') from error


def measure(
    entry: dict,
    root: Path,
    segmenter: Segmenter,
    label: np.ndarray | None,
    prompts: 'PromptSimilarity | None' = None,
) -> tuple[Measures, np.ndarray | None]:
    """Measure one image.

    Args:
        entry: Of the manifest.
        root: Folder of the set.
        segmenter: The model.
        label: (H, W) class indices; None without label.
        prompts: Compares images with prompts.

    Returns:
        The measures, and (H, W) float16 loss of each pixel, 0 where the label
        is 255; None without label.
    """
    image = read_image(root / entry['file'])
    found = segmenter(image, scores=True, confidence=True)
    assert not isinstance(found, list)  # One image was given.
    # Both were asked for.
    assert found.scores is not None and found.confidence is not None
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    height = max(round(_GREY_WIDTH * grey.shape[0] / grey.shape[1]), 2)
    reduced = cv2.resize(
        grey, (_GREY_WIDTH, height), interpolation=cv2.INTER_AREA
    )
    small = cv2.resize(grey, (17, 16), interpolation=cv2.INTER_AREA)
    result = Measures(
        index=entry['index'],
        sha256=entry['sha256'],
        spread=float(reduced.astype(np.float64).std()),
        hash=difference_hash(small),
        confidence=float(found.confidence.mean(dtype=np.float64)),
    )
    if prompts is not None:
        result.similarity = prompts(image, entry['prompt'])
    if label is None:
        return result, None
    loss = pixel_loss(found.scores, label)
    known = label != IGNORE
    classes = len(segmenter.classes)
    result.sums = np.bincount(
        label[known], loss[known].astype(np.float64), classes
    ).tolist()
    result.counts = np.bincount(label[known], minlength=classes).tolist()
    return result, loss


def pixel_loss(scores: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Return the cross entropy of each pixel.

    Args:
        scores: (K, H, W), not negative.
        label: (H, W) class indices, 255 ignored.

    Returns:
        (H, W) float16; 0 where the label is 255. The scores of a pixel are
        divided by their sum before.
    """
    known = label != IGNORE
    index = np.where(known, label, 0).astype(np.int64)[None]
    scores = scores.astype(np.float32)
    own = np.take_along_axis(scores, index, axis=0)[0]
    share = own / np.maximum(scores.sum(0), _LEAST_SHARE)
    loss = -np.log(np.clip(share, _LEAST_SHARE, 1))
    return np.where(known, loss, 0).astype(np.float16)


class PromptSimilarity:
    """Cosine between an image and its prompt in CLIP's space.

    Args:
        model_name: See
            :func:`~clouds_mmseg.models.backbones.clip_source.find_clip`.
        pretrained: Likewise.
        prompts: All that images have.
        device: Of the visual tower.
        fetch: Whether weights may be downloaded.

    Raises:
        MissingWeightsError: The weights are not at hand.
        UserError: The model is unknown.
    """

    def __init__(
        self,
        model_name: str | None,
        pretrained: str | None,
        prompts: Sequence[str],
        *,
        device: torch.device | str = 'cpu',
        fetch: bool = False,
    ):
        source = find_clip(model_name, pretrained, fetch=fetch)
        if source.weights is None:
            raise MissingWeightsError(
                f'CLIP {source.name} is named without weights'
            )
        self.name = f'{source.name} {pretrained or ""}'.strip()
        texts = list(dict.fromkeys(prompts))
        rows, _ = class_text_embeddings(
            texts,
            model_name=model_name,
            pretrained=pretrained,
            templates=['{}'],
        )
        self.rows = dict(zip(texts, rows, strict=True))
        visual = build_visual(source.model, quick_gelu=source.quick_gelu)
        load_strictly(
            visual,
            visual_part(read_state_dict(source.weights)),
            source=str(source.weights),
        )
        self.visual = visual.float().eval().to(device)
        self.device = device
        side = visual.image_size
        self.side = side[0] if isinstance(side, (tuple, list)) else side
        self.mean, self.std = list(source.mean), list(source.std)

    @torch.no_grad()
    def __call__(self, image: np.ndarray, prompt: str) -> float:
        """Return the cosine of an image (H, W, 3) uint8 RGB and a prompt."""
        tensor = torch.from_numpy(image).permute(2, 0, 1).float() / 255
        # The whole image, without cropping: a street is wide.
        tensor = TF.resize(tensor, [self.side, self.side], antialias=True)
        tensor = TF.normalize(tensor, self.mean, self.std)
        found = self.visual(tensor[None].to(self.device))
        found = found[0] if isinstance(found, tuple) else found
        row = F.normalize(found.float(), dim=-1)[0].cpu()
        return float(row @ self.rows[prompt].float())


def find_similarity(
    prompts: Sequence[str],
    clip: tuple[str | None, str | None],
    *,
    named: bool,
    device: torch.device | str,
) -> PromptSimilarity | None:
    """Load CLIP, or say that images off their prompts are not looked for.

    Args:
        prompts: Of the images.
        clip: Model and weights.
        named: Whether the user named them: then they may be downloaded, and
            that they are missing is an error.
        device: Of the visual tower.

    Raises:
        UserError: They were named and cannot be had.
    """
    try:
        return PromptSimilarity(*clip, prompts, device=device, fetch=named)
    except MissingWeightsError as error:
        if named:
            raise
        print_log(
            'images off their prompts are not looked for: the weights of '
            f'CLIP {clip[0]} are not at hand ({error}). Name others with '
            '--clip and --clip-weights.',
            logger='current',
        )
        return None
