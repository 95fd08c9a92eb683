"""Refine labels with the masks that SAM predicts for their components.

Shape letters: H, W of the image; N prompts of P points each.
"""

from typing import Any

import numpy as np
import torch
from mmseg.registry import MODELS
from torch import Tensor

from clouds_mmseg.refine.arguments import (
    as_rgb_array,
    check_choice,
    check_label,
    check_range,
)
from clouds_mmseg.refine.prediction_cache import (
    CachingRefiner,
    SAMPredictions,
    no_predictions,
    pack,
    pack_embedding,
    unpack,
    unpack_embedding,
)
from clouds_mmseg.refine.prompted_model import (
    Embedding,
    PromptedModel,
    drop_overlaps,
    paint,
)
from clouds_mmseg.refine.sam_model import PromptedSAM, find_weights
from clouds_mmseg.refine.sam_prompts import (
    POINT_MODES,
    find_components,
    sample_prompts,
)
from clouds_mmseg.refine.transformers_sam import (
    DTYPES,
    PROMPTS,
    TransformersSAM,
    require_prompted_model,
)
from clouds_mmseg.utils.cityscapes import IGNORE
from clouds_mmseg.utils.hashing import hash_array, hash_text

OVERLAPS = ('drop', 'best_score')
UNCOVERED = ('ignore', 'keep')
# Prompts decoded at once on the CPU and on CUDA.
PROMPT_BATCH = (2, 16)


class ComponentRefiner(CachingRefiner):
    """Replace the components of a label by the masks of a prompted model.

    CLOUDS (arXiv 2312.09788, section 3.3), with the values of its official
    code as defaults: the model is prompted with a few points inside of each
    connected component of each class; of the masks that it predicts, the one
    with the highest predicted quality gets the component's class. A label
    without any component that is large enough is returned unchanged.

    The result is a function of image and label: the points depend on
    ``seed``, the image's content and the component's pixels.

    With a cache, the model runs only for components whose points are not
    those of an earlier call with the same image. Its encoder and decoder
    take nearly all of the time, and most components of a teacher's label are
    those of the previous epoch.

    A subclass sets :attr:`sam`.

    Args:
        min_area: Components must be larger than this: a whole number of
            pixels, or below 1 a share of the image, for views of different
            sizes. The official 5000 is 0.0085 of 768 x 768.
        points_per_component: A component that has fewer pixels gives no
            prompt; its pixels are then uncovered.
        point_mode: ``random``, ``center`` or ``largest_component``, see
            :func:`~clouds_mmseg.refine.sam_prompts.sample_points`.
        erosion: Side in pixels of the square structuring element that
            components are eroded with before points are sampled; 0 for none,
            officially 3 where it is used.
        second_pass: Predict again with the first masks as mask input.
        overlap: Pixels of several masks belong to none (``drop``) or to the
            mask of the highest predicted quality (``best_score``).
        uncovered: Pixels of no mask are ignored (``ignore``) or keep their
            label (``keep``).
        prompt_batch: Prompts that are decoded at once. One takes about 40 MB
            with the published SAMs. None is 16 on CUDA and 2 on the CPU,
            where more are slower: their maps do not fit the CPU's caches.
        seed: Of the points.
        ignore_index: Label of unlabelled pixels.
        cache_dir: Folder or address of a cache of each image's embedding and
            last predictions. Embeddings are stored in half precision, 2.1 MB
            each with the published SAMs, and used in half precision the first
            time too; predictions are small beside them. None disables the
            cache.
        cache_bytes: Bound on its size.

    Raises:
        UserError: If an argument is out of range.

    Attributes:
        sam: The model.
        cache: None without ``cache_dir``.
    """

    sam: PromptedModel
    # Kind of prompt: points, boxes, or both.
    prompt = 'points'

    def __init__(
        self,
        *,
        min_area: float = 5000,
        points_per_component: int = 5,
        point_mode: str = 'random',
        erosion: int = 0,
        second_pass: bool = False,
        overlap: str = 'drop',
        uncovered: str = 'ignore',
        prompt_batch: int | None = None,
        seed: int = 0,
        ignore_index: int = IGNORE,
        cache_dir: str | None = None,
        cache_bytes: int = 16_000_000_000,
    ):
        check_choice(self, 'point_mode', point_mode, POINT_MODES)
        check_choice(self, 'overlap', overlap, OVERLAPS)
        check_choice(self, 'uncovered', uncovered, UNCOVERED)
        check_range(self, 'min_area', min_area, low=0)
        for name, value, low in (
            ('points_per_component', points_per_component, 1),
            ('prompt_batch', 1 if prompt_batch is None else prompt_batch, 1),
            ('erosion', erosion, 0),
            ('seed', seed, 0),
        ):
            check_range(self, name, value, low=low, whole=True)
        self.min_area = min_area
        self.points_per_component = points_per_component
        self.point_mode = point_mode
        self.erosion = erosion
        self.second_pass = second_pass
        self.overlap = overlap
        self.uncovered = uncovered
        self.prompt_batch = prompt_batch
        self.seed = seed
        self.ignore_index = ignore_index
        super().__init__(cache_dir, cache_bytes)

    def to(self, device: str | torch.device) -> 'ComponentRefiner':
        """Move the model to a device and return the refiner itself."""
        self.sam.to(device)
        return self

    @torch.no_grad()
    def __call__(self, image: Tensor, label: Tensor) -> Tensor:
        """Refine the label of an image.

        Args:
            image: (3, H, W) uint8 RGB.
            label: (H, W) int64.

        Returns:
            (H, W) int64 on the device of ``label``.
        """
        array = as_rgb_array(image)
        check_label(label, image)
        name = hash_array(array)
        classes, points = self._prompts(label.cpu().numpy(), name)
        if not len(points):
            return label.clone()
        predictions = self._cached_predictions(array, name, points)
        refined = self._merge(
            torch.from_numpy(predictions.masks),
            torch.from_numpy(predictions.quality),
            torch.from_numpy(classes),
        )
        refined = refined.to(label.device)
        if self.uncovered == 'keep':
            refined = torch.where(refined == self.ignore_index, label, refined)
        return refined

    def _prompts(
        self, label: np.ndarray, name: str
    ) -> tuple[np.ndarray, np.ndarray]:
        """Sample the prompts of a label; ``name`` is the image's hash.

        Returns:
            Classes (N,) int64 and points (N, P, 2) float32, (x, y), of
            which the last two may be the corners of a box.
        """
        min_area = self.min_area
        if 0 < min_area < 1:
            min_area = min_area * label.size
        points, classes = sample_prompts(
            find_components(label, min_area, self.ignore_index),
            label.shape,
            self.points_per_component if self.prompt != 'boxes' else 0,
            seed=[self.seed, int(name, 16)],
            mode=self.point_mode,
            erosion=self.erosion,
            boxes=self.prompt != 'points',
        )
        return classes, points

    def _cached_predictions(
        self, array: np.ndarray, name: str, points: np.ndarray
    ) -> SAMPredictions:
        """Return predictions, running the model for prompts not cached.

        Returns:
            The predictions of all prompts, in their order.
        """
        if not self.cache:
            return self._predict(array, name, points)
        size = array.shape[:2]
        key = hash_text(
            # Part of the keys of caches on disk: not to be changed.
            'answers',
            name,
            self.sam.identity,
            self.points_per_component,
            self.second_pass,
            *([self.prompt] if self.prompt != 'points' else []),
        )
        stored = self.cache.get(key)
        if stored is None:
            known = no_predictions(points.shape[1], size)
        else:
            known = unpack(stored, size[1])
        new = known.find(points) < 0
        if new.any():
            known = known.concat(self._predict(array, name, points[new]))
        predictions = known.select(known.find(points))
        if new.any():
            # Older predictions are dropped, so that the entry does not grow.
            self.cache.put(key, pack(predictions))
        return predictions

    def _predict(
        self, array: np.ndarray, name: str, points: np.ndarray
    ) -> SAMPredictions:
        """Run the model.

        Returns:
            The predictions of the prompts, in their order.
        """
        embedding = self._of_image(array, name)
        size = array.shape[:2]
        batch_size = (
            self.prompt_batch or PROMPT_BATCH[self.sam.device.type == 'cuda']
        )
        masks, qualities = [], []
        for batch in np.split(
            points, range(batch_size, len(points), batch_size)
        ):
            prediction = self.sam.best_masks(embedding, batch, size)
            if self.second_pass:
                prediction = self.sam.best_masks(
                    embedding, batch, size, mask_input=prediction[2]
                )
            masks.append(prediction[0].cpu())
            qualities.append(prediction[1].cpu())
        return SAMPredictions(
            points, torch.cat(masks).numpy(), torch.cat(qualities).numpy()
        )

    def _image_key(self, name: str) -> str:
        return hash_text(name, self.sam.identity)

    def _of_image(self, array: np.ndarray, name: str) -> Embedding:
        """Return the embedding of the image."""
        if not self.cache:
            return self.sam.embed(array)
        key = self._image_key(name)
        stored = self.cache.get(key)
        if stored is None:
            stored = pack_embedding(self.sam.embed(array))
            self.cache.put(key, stored)
        # In half precision the first time too: a label must not depend on
        # whether the embedding comes from the cache.
        return unpack_embedding(stored, self.sam.device)

    def _merge(
        self, masks: Tensor, quality: Tensor, classes: Tensor
    ) -> Tensor:
        """Draw the masks into one label, (H, W) int64."""
        if self.overlap == 'drop':
            masks = drop_overlaps(masks)
        else:
            # Later masks are drawn over earlier ones; on a tie the first
            # wins.
            order = quality.argsort(descending=True, stable=True).flip(0)
            masks, classes = masks[order], classes[order]
        return paint(masks, classes, self.ignore_index)


@MODELS.register_module()
class SAMRefiner(ComponentRefiner):
    """Refine by SAM of its original packages, as CLOUDS does.

    Args:
        variant: ``vit_b``, ``vit_l``, ``vit_h`` of segment-anything, or
            ``vit_t`` of MobileSAM, which the official code uses.
        checkpoint: Path or URL of its weights.
        **options: As for :class:`ComponentRefiner`; the defaults are the
            official values.

    Raises:
        UserError: If an argument is out of range, the package of the variant
            is not installed, or the weights cannot be found or downloaded.
        WeightFileError: If the weights cannot be read.
        CheckpointMismatchError: If they are of another variant.
    """

    def __init__(self, *, variant: str, checkpoint: str, **options: Any):
        super().__init__(**options)
        self.sam = self._load(variant, checkpoint)

    @staticmethod
    def find_weights(cfg: dict) -> None:
        """Raise an error if the weights of a config are missing.

        See :func:`~clouds_mmseg.weights.locate.missing_weights`.
        """
        find_weights(cfg.get('checkpoint'), cfg.get('variant'), fetch=False)

    def _load(self, variant, checkpoint):
        return PromptedSAM(variant, checkpoint)


@MODELS.register_module()
class PromptableRefiner(ComponentRefiner):
    """Refine by any model of transformers that takes points or boxes.

    SAM, HQ-SAM, SAM 2 and 2.1, EdgeTAM, and SAM 3's tracker: the family is
    that of the weights' ``config.json``. SAM of the same weights gives the
    labels of :class:`SAMRefiner`.

    Args:
        weights: Folder that ``save_pretrained`` wrote, or an id on the
            Hugging Face hub (``owner/name``), which is also looked up in the
            pretrained folder (``--pretrained-dir``).
        prompt: What is prompted for each component: ``points`` as in CLOUDS,
            its bounding ``boxes``, or ``both``. A box changes with any pixel
            of the component's border, so that fewer predictions come from
            the cache.
        dtype: Of the image encoder's operations: ``float32``, ``float16`` or
            ``bfloat16``. The weights stay in single precision, and so does
            the decoder.
        **options: As for :class:`ComponentRefiner`. The cached embedding of
            an image of a published model takes 2 MB (SAM), 8 MB (SAM 2,
            EdgeTAM, HQ-SAM of ViT-B) or 11 MB (SAM 3): ``cache_bytes`` has
            to be raised for 5,000 images of any but the first.

    Raises:
        UserError: If an argument is out of range, transformers is not
            installed, the weights cannot be found or are not of such a
            model, or there is too little memory for them.
    """

    def __init__(
        self,
        *,
        weights: str,
        prompt: str = 'points',
        dtype: str = 'float32',
        **options: Any,
    ):
        super().__init__(**options)
        check_choice(self, 'prompt', prompt, PROMPTS)
        check_choice(self, 'dtype', dtype, DTYPES)
        self.prompt = prompt
        self.sam = TransformersSAM(weights, prompt=prompt, dtype=dtype)

    @staticmethod
    def find_weights(cfg: dict) -> None:
        """Raise an error if the weights of a config are missing.

        See :func:`~clouds_mmseg.weights.locate.missing_weights`.
        """
        require_prompted_model(cfg.get('weights'), cfg.get('prompt', 'points'))
