"""Mend labels with SAM's masks of their components.

Shape letters: H, W of the image; N prompts of P points each.
"""

import numpy as np
import torch
from mmseg.registry import MODELS

from clouds_mmseg.refine.arguments import (
    as_rgb_array,
    check_choice,
    check_label,
    check_range,
)
from clouds_mmseg.refine.prediction_cache import (
    ArrayCache,
    SAMPredictions,
    no_predictions,
    pack,
    unpack,
)
from clouds_mmseg.refine.sam_model import (
    PromptedSAM,
    drop_overlaps,
    find_weights,
    paint,
)
from clouds_mmseg.refine.sam_prompts import (
    POINT_MODES,
    find_components,
    sample_prompts,
)
from clouds_mmseg.utils.cityscapes import IGNORE
from clouds_mmseg.utils.hashing import digest_array, digest_text

OVERLAPS = ('drop', 'best_score')
UNCOVERED = ('ignore', 'keep')
# Prompts at once on the CPU and on CUDA.
_PROMPTS = (2, 16)


@MODELS.register_module()
class SAMRefiner:
    """Replace each component of a label by what SAM sees at its place.

    CLOUDS (arXiv 2312.09788, section 3.3), with the values of its official
    code as defaults: each connected component of each class gives SAM a few
    points inside of it; of the three masks that SAM answers, the one that it
    trusts most takes the component's class. A label without any component
    that is large enough is returned as it is.

    The result is a function of image and label: the points follow from
    ``seed``, the image's content and the component's pixels.

    With a cache, an image that comes again costs what has changed: SAM is
    asked about the components whose points are new. Its encoder and decoder
    take nearly all of the time, and most components of a teacher's label
    are those of the epoch before.

    Args:
        variant (str): ``vit_b``, ``vit_l``, ``vit_h`` of segment-anything, or
            ``vit_t`` of MobileSAM, which the official code uses.
        checkpoint (str): Path or address of its weights.
        min_area (int | float): Components must be larger than this: a whole
            number of pixels, or below 1 a share of the image, for views of
            different sizes. The official 5000 is 0.0085 of 768 x 768.
        points_per_component (int): A component with room for fewer gives no
            prompt; its pixels are then uncovered.
        point_mode (str): ``random``, ``center`` or ``largest_component``,
            see :func:`~clouds_mmseg.refine.sam_prompts.sample_points`.
        erosion (int): Side of the square in pixels by which components are
            shrunk before points are drawn; 0 for none, officially 3 where
            it is used.
        second_pass (bool): Ask again with the first answer as mask input.
        overlap (str): Who gets a pixel of several masks: nobody (``drop``)
            or the mask of the highest predicted quality (``best_score``).
        uncovered (str): Pixels of no mask are ignored (``ignore``) or keep
            their label (``keep``).
        prompt_batch (int | None): Prompts that are decoded at once. One
            takes about 40 MB with the published models. None is 16 on CUDA
            and 2 on the CPU, where more are slower: their maps leave the
            caches.
        seed (int): Of the points.
        ignore_index (int): The label of pixels without one.
        cache_dir (str | None): Keep here, for images that come again,
            their embeddings and SAM's last answers. Embeddings are kept in
            half precision, 2.1 MB each with the published models, and used
            in half precision the first time too; answers are small beside
            them. None keeps nothing.
        cache_bytes (int): Bound on the size of that folder.

    Raises:
        UserError: If an argument is out of range, the package of the variant
            is not installed, or the weights cannot be found or fetched.
        WeightFileError: If the weights cannot be read.
        CheckpointMismatchError: If they are of another variant.
    """

    def __init__(
        self,
        *,
        variant,
        checkpoint,
        min_area=5000,
        points_per_component=5,
        point_mode='random',
        erosion=0,
        second_pass=False,
        overlap='drop',
        uncovered='ignore',
        prompt_batch=None,
        seed=0,
        ignore_index=IGNORE,
        cache_dir=None,
        cache_bytes=16_000_000_000,
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
        self._cache = cache_dir and ArrayCache(cache_dir, cache_bytes)
        self.sam = self._load(variant, checkpoint)

    @staticmethod
    def find_weights(cfg):
        """Raise an error if the weights of a config are not here.

        See :func:`~clouds_mmseg.weights.locate.missing_weights`.
        """
        find_weights(cfg.get('checkpoint'), cfg.get('variant'), fetch=False)

    def _load(self, variant, checkpoint):
        return PromptedSAM(variant, checkpoint)

    def to(self, device):
        """Move SAM.

        Args:
            device (str | torch.device): Where to.

        Returns:
            SAMRefiner: Itself.
        """
        self.sam.to(device)
        return self

    @torch.no_grad()
    def __call__(self, image, label):
        """Mend the label of an image.

        Args:
            image (Tensor): (3, H, W) uint8 RGB.
            label (Tensor): (H, W) int64.

        Returns:
            Tensor: (H, W) int64 on the device of ``label``.
        """
        array = as_rgb_array(image)
        check_label(label, image)
        name = digest_array(array)
        classes, points = self._prompts(label.cpu().numpy(), name)
        if not len(points):
            return label.clone()
        answers = self._cached_predictions(array, name, points)
        refined = self._merge(
            torch.from_numpy(answers.masks),
            torch.from_numpy(answers.quality),
            torch.from_numpy(classes),
        )
        refined = refined.to(label.device)
        if self.uncovered == 'keep':
            refined = torch.where(refined == self.ignore_index, label, refined)
        return refined

    def _prompts(self, label, name):
        """Find what to ask about.

        Returns:
            tuple[np.ndarray, np.ndarray]: Classes (N,) int64 and their
            points (N, P, 2) float32, (x, y).
        """
        min_area = self.min_area
        if 0 < min_area < 1:
            min_area = min_area * label.size
        points, classes = sample_prompts(
            find_components(label, min_area, self.ignore_index),
            label.shape,
            self.points_per_component,
            seed=[self.seed, int(name, 16)],
            mode=self.point_mode,
            erosion=self.erosion,
        )
        return classes, points

    def _cached_predictions(self, array, name, points):
        """Answer prompts from the cache; ask SAM what is not there.

        Returns:
            SAMPredictions: To all prompts, in their order.
        """
        if not self._cache:
            return self._predict(array, name, points)
        size = array.shape[:2]
        key = digest_text(
            'answers',
            name,
            self.sam.identity,
            self.points_per_component,
            self.second_pass,
        )
        stored = self._cache.get(key)
        if stored is None:
            known = no_predictions(self.points_per_component, size)
        else:
            known = unpack(stored, size[1])
        new = known.find(points) < 0
        if new.any():
            known = known.joined(self._predict(array, name, points[new]))
        answers = known.take(known.find(points))
        if new.any():
            # Only the answers of now: what is kept does not grow.
            self._cache.put(key, pack(answers))
        return answers

    def _predict(self, array, name, points):
        """Ask SAM.

        Returns:
            SAMPredictions: To the prompts, in their order.
        """
        embedding = self._embed(array, name)
        size = array.shape[:2]
        at_once = self.prompt_batch or _PROMPTS[self.sam.device.type == 'cuda']
        masks, qualities = [], []
        for batch in np.split(points, range(at_once, len(points), at_once)):
            answer = self.sam.best_masks(embedding, batch, size)
            if self.second_pass:
                answer = self.sam.best_masks(
                    embedding, batch, size, mask_input=answer[2]
                )
            masks.append(answer[0].cpu())
            qualities.append(answer[1].cpu())
        return SAMPredictions(
            points, torch.cat(masks).numpy(), torch.cat(qualities).numpy()
        )

    def _embed(self, array, name):
        """Return SAM's embedding of the image, (1, C, h, w)."""
        if not self._cache:
            return self.sam.embed(array)
        key = digest_text(name, self.sam.identity)
        stored = self._cache.get(key)
        if stored is None:
            stored = self.sam.embed(array).half().cpu().numpy()
            self._cache.put(key, stored)
        # Rounded the first time too: a label must not depend on whether its
        # image was met before.
        return torch.from_numpy(stored).to(self.sam.device)

    def _merge(self, masks, quality, classes):
        """Draw the masks into one label, (H, W) int64."""
        if self.overlap == 'drop':
            masks = drop_overlaps(masks)
        else:
            # Later ones are drawn over earlier ones; of equals the first
            # wins.
            order = quality.argsort(descending=True, stable=True).flip(0)
            masks, classes = masks[order], classes[order]
        return paint(masks, classes, self.ignore_index)
