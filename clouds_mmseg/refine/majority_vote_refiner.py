"""Refine labels by a majority vote within the masks of an image."""

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
from clouds_mmseg.refine.automatic_masks import MaskRules, automatic_masks
from clouds_mmseg.refine.mask_vote import (
    OVERLAPS,
    TIES,
    UNDECIDED,
    VoteRules,
    vote_in_masks,
    vote_in_segments,
)
from clouds_mmseg.refine.prediction_cache import (
    CachingRefiner,
    SAMPredictions,
    pack,
    unpack,
)
from clouds_mmseg.refine.prompted_model import PromptedModel
from clouds_mmseg.refine.sam_model import PromptedSAM, find_weights
from clouds_mmseg.refine.sam_refiner import PROMPT_BATCH, UNCOVERED
from clouds_mmseg.refine.superpixel_refiner import SuperpixelRefiner
from clouds_mmseg.refine.transformers_model import DTYPES
from clouds_mmseg.refine.transformers_sam import (
    TransformersSAM,
    require_prompted_model,
)
from clouds_mmseg.utils.cityscapes import IGNORE
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.hashing import hash_array, hash_text

_WHAT = 'weights of MajorityVoteRefiner'
_SOURCES = (
    "weights='FOLDER or owner/name' (a model of transformers), "
    "variant='vit_h' and checkpoint='FILE' (SAM of its original packages), "
    'or superpixels=dict() (needs no weights)'
)


@MODELS.register_module()
class MajorityVoteRefiner(CachingRefiner):
    """Give each mask of the image the most frequent label of its pixels.

    As in SAM4UDASS (TIV 2024), which reports more than 3 mIoU on labels of
    domain adaptation. The masks are those of everything in the image,
    whatever the label says, so that they are found once for each image.

    The result is a function of image and label.

    Args:
        weights: Model of transformers whose masks are taken, as for
            :class:`~clouds_mmseg.refine.PromptableRefiner`.
        variant: Or one of SAM's original packages, as for
            :class:`~clouds_mmseg.refine.SAMRefiner`.
        checkpoint: Path or URL of its weights.
        superpixels: Or the segments of a
            :class:`~clouds_mmseg.refine.SuperpixelRefiner` with these
            arguments (``method``, ``scale``, ``sigma``, ...).
        dtype: Of the image encoder's operations, with ``weights``.
        points_per_side: See
            :class:`~clouds_mmseg.refine.automatic_masks.MaskRules`. The
            default of 32 means 1,024 points an image.
        min_quality: Likewise.
        min_stability: Likewise.
        stability_offset: Likewise.
        max_box_iou: Likewise.
        min_share: See :class:`~clouds_mmseg.refine.mask_vote.VoteRules`.
        min_area: Likewise: a whole number of pixels, or below 1 a share of
            the image. In :func:`~clouds_mmseg.refine.mask_vote.vote_in_masks`
            smaller masks are left out.
        ties: Likewise.
        undecided: Likewise.
        overlap: See
            :func:`~clouds_mmseg.refine.mask_vote.vote_in_masks`, as for
            ``uncovered``. Superpixels neither overlap nor leave pixels out.
        uncovered: ``keep`` or ``ignore``.
        prompt_batch: Points that are decoded at once. None is 16 on CUDA and
            2 on the CPU.
        ignore_index: Label of unlabelled pixels.
        cache_dir: Folder or address of a cache of each image's masks, at one
            bit a pixel, compressed. None disables the cache.
        cache_bytes: Bound on its size.

    Raises:
        UserError: If an argument is out of range, not exactly one source of
            masks is given, a package is not installed, or the weights cannot
            be found or loaded.

    Attributes:
        sam: The model; None with superpixels.
        cache: None without ``cache_dir``.
    """

    def __init__(
        self,
        *,
        weights: str | None = None,
        variant: str | None = None,
        checkpoint: str | None = None,
        superpixels: dict | None = None,
        dtype: str = 'float32',
        points_per_side: int = 32,
        min_quality: float = 0.88,
        min_stability: float = 0.95,
        stability_offset: float = 1.0,
        max_box_iou: float = 0.7,
        min_share: float = 0.0,
        min_area: float = 1,
        ties: str = 'undecided',
        undecided: str = 'keep',
        overlap: str = 'small',
        uncovered: str = 'keep',
        prompt_batch: int | None = None,
        ignore_index: int = IGNORE,
        cache_dir: str | None = None,
        cache_bytes: int = 4_000_000_000,
    ):
        check_choice(self, 'dtype', dtype, DTYPES)
        check_choice(self, 'ties', ties, TIES)
        check_choice(self, 'undecided', undecided, UNDECIDED)
        check_choice(self, 'overlap', overlap, OVERLAPS)
        check_choice(self, 'uncovered', uncovered, UNCOVERED)
        for name, value in (
            ('min_stability', min_stability),
            ('max_box_iou', max_box_iou),
            ('min_share', min_share),
        ):
            check_range(self, name, value, low=0, high=1)
        for name, value in (
            # HQ-SAM and others predict qualities that may exceed one.
            ('min_quality', min_quality),
            ('stability_offset', stability_offset),
            ('min_area', min_area),
        ):
            check_range(self, name, value, low=0)
        for name, number in (
            ('points_per_side', points_per_side),
            ('prompt_batch', 1 if prompt_batch is None else prompt_batch),
        ):
            check_range(self, name, number, low=1, whole=True)
        self.mask_rules = MaskRules(
            points_per_side,
            min_quality,
            min_stability,
            stability_offset,
            max_box_iou,
        )
        self.vote_rules = VoteRules(
            min_share, 1, ties, undecided, ignore_index
        )
        self.min_area = min_area
        self.overlap = overlap
        self.uncovered = uncovered
        self.prompt_batch = prompt_batch
        self.sam: PromptedModel | None = None
        self.superpixels: SuperpixelRefiner | None = None
        source = _source_of(weights, variant, checkpoint, superpixels)
        if source == 'superpixels':
            self.superpixels = SuperpixelRefiner(
                **{'cache_dir': cache_dir, 'cache_bytes': cache_bytes}
                | _segment_options(superpixels)
            )
            self.cache = self.superpixels.cache
            return
        super().__init__(cache_dir, cache_bytes)
        if source == 'weights':
            self.sam = TransformersSAM(str(weights), dtype=dtype, what=_WHAT)
        else:
            self.sam = PromptedSAM(str(variant), str(checkpoint))

    @staticmethod
    def find_weights(cfg: dict) -> None:
        """Raise an error if the weights of a config are missing.

        See :func:`~clouds_mmseg.weights.locate.missing_weights`.
        """
        named = [
            cfg.get(key)
            for key in ('weights', 'variant', 'checkpoint', 'superpixels')
        ]
        source = _source_of(*named)
        if source == 'weights':
            require_prompted_model(cfg['weights'], what=_WHAT)
        elif source == 'variant':
            find_weights(cfg.get('checkpoint'), cfg['variant'], fetch=False)

    def to(self, device: str | torch.device) -> 'MajorityVoteRefiner':
        """Move the model to a device and return the refiner itself."""
        if self.sam is not None:
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
        given = label.cpu().numpy()
        area = self.min_area
        if 0 < area < 1:
            area = area * given.size
        rules = self.vote_rules._replace(min_area=area)
        if self.superpixels is not None:
            segments = self.superpixels.segment(array)
            refined = vote_in_segments(given, segments, rules)
        else:
            found = self._masks(array, hash_array(array))
            refined = vote_in_masks(
                given,
                found.masks,
                found.quality,
                rules,
                overlap=self.overlap,
                uncovered=self.uncovered,
            )
        return torch.from_numpy(refined).to(label.device)

    def _of_image(self, array: np.ndarray, name: str) -> object:
        if self.superpixels is not None:
            return self.superpixels._of_image(array, name)
        return self._masks(array, name)

    def _image_key(self, name: str) -> str:
        if self.superpixels is not None:
            return self.superpixels._image_key(name)
        assert self.sam is not None
        return hash_text('masks', name, self.sam.identity, *self.mask_rules)

    def _masks(self, array: np.ndarray, name: str) -> SAMPredictions:
        """Find the masks of an image, or read them from the cache."""
        assert self.sam is not None
        size = array.shape[:2]
        key = self._image_key(name)
        stored = self.cache.get(key) if self.cache else None
        if stored is not None:
            return unpack(stored, size[1])
        found = automatic_masks(
            self.sam,
            self.sam.embed(array),
            size,
            self.mask_rules,
            self.prompt_batch or PROMPT_BATCH[self.sam.device.type == 'cuda'],
        )
        if self.cache:
            self.cache.put(key, pack(found))
        return found


def _source_of(weights, variant, checkpoint, superpixels):
    """Return which source of masks is given.

    Raises:
        UserError: None is, or several are.
    """
    given = [
        name
        for name, value in (
            ('weights', weights),
            ('variant', variant or checkpoint),
            ('superpixels', superpixels),
        )
        if value is not None
    ]
    if len(given) != 1:
        raise UserError(
            'MajorityVoteRefiner takes its masks from one of: '
            f'{_SOURCES}; got {" and ".join(given) or "none"}.'
        )
    return given[0]


def _segment_options(superpixels):
    """Take the arguments of superpixels; those of their vote are refused."""
    wrong = sorted({'purity', 'impure', 'ignore_index'} & {*superpixels})
    if wrong:
        raise UserError(
            f'MajorityVoteRefiner: superpixels takes no {", ".join(wrong)}: '
            'give min_share, undecided and ignore_index of the refiner'
        )
    return dict(superpixels)
