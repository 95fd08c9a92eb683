"""Refine labels by a model that finds classes in an image by their names.

Shape letters: H, W of the image; K classes of S words; h, w of the scores.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from mmseg.registry import MODELS
from torch import Tensor
from torch.nn import functional as F

from clouds_mmseg.refine.arguments import (
    as_rgb_array,
    check_choice,
    check_label,
    check_range,
)
from clouds_mmseg.refine.concept_model import (
    HEADS,
    PRESENCES,
    ConceptModel,
    ScoreRules,
    find_concept_model,
)
from clouds_mmseg.refine.prediction_cache import (
    CachingRefiner,
    pack_arrays,
    unpack_arrays,
)
from clouds_mmseg.refine.sam_refiner import UNCOVERED
from clouds_mmseg.refine.transformers_model import DTYPES
from clouds_mmseg.utils.cityscapes import IGNORE
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.hashing import hash_array, hash_text
from clouds_mmseg.utils.options import shared_words

FUSIONS = ('replace', 'agree', 'uncertain')
# Words at once on the CPU and on CUDA.
_WORD_BATCH = (1, 4)


@MODELS.register_module()
class ConceptRefiner(CachingRefiner):
    """Refine by SAM 3, prompted by the names of the classes.

    The score of a class in a pixel is the largest of its words', each as
    :class:`~clouds_mmseg.refine.concept_model.ScoreRules` says; the class
    with the best score, if that is at least ``threshold``, is the pixel's
    *concept label*. How it is joined with the teacher's label is ``fusion``.

    SAM 3 has seen street scenes in training, so that a model trained on such
    labels is no longer one that never saw a target domain: report results
    with and without.

    The result is a function of image, label and confidence. The scores
    depend on the image alone, so that with a cache the model runs once for
    each image.

    Args:
        weights: Folder that ``save_pretrained`` wrote, or an id on the
            Hugging Face hub, such as ``facebook/sam3`` (access has to be
            asked for).
        words: Class name -> words that are looked for, such as
            ``{'terrain': ['grass', 'soil']}``, in the order of train ids.
            The names themselves are not looked for. No word may stand for
            two classes, which would have the same scores.
            :class:`~clouds_mmseg.engine.SAMRefineHook` compares them with the
            dataset's.
        fusion: ``replace`` takes the concept label; ``agree`` keeps the
            teacher's label where both are the same; ``uncertain`` keeps the
            teacher's label where its confidence is at least
            ``min_confidence`` and takes the concept label elsewhere.
        threshold: Least score of a concept label, in [0, 1].
        min_confidence: For ``fusion='uncertain'``, in [0, 1].
        uncovered: Pixels without a concept label where one is needed keep the
            teacher's (``keep``) or are ignored (``ignore``). Pixels whose
            labels differ with ``fusion='agree'`` are ignored in any case.
        heads: See :class:`~clouds_mmseg.refine.concept_model.ScoreRules`.
        instance_threshold: Likewise.
        presence: Likewise.
        min_presence: Likewise.
        dtype: Of the image encoder's operations: ``float32``, ``float16`` or
            ``bfloat16``.
        word_batch: Words at once. None is 4 on CUDA and 1 on the CPU.
        ignore_index: Label of unlabelled pixels.
        cache_dir: Folder or address of a cache of the words' embeddings and
            of each image's scores, (K, h, w) in half precision: 3 MB before
            compression for 19 classes and 288 x 288. None disables the cache.
        cache_bytes: Bound on its size.

    Raises:
        UserError: If an argument is out of range, two classes have a word in
            common, transformers is not installed, or the weights cannot be
            found or take no words.

    Attributes:
        classes: Names of the classes, (K,).
        cache: None without ``cache_dir``.
    """

    # The hook gives the teacher's confidence as third argument.
    uses_confidence = True

    def __init__(
        self,
        *,
        weights: str,
        words: Mapping[str, Sequence[str]],
        fusion: str = 'replace',
        threshold: float = 0.5,
        min_confidence: float = 0.8,
        uncovered: str = 'keep',
        heads: str = 'both',
        instance_threshold: float = 0.3,
        presence: str = 'multiply',
        min_presence: float = 0.5,
        dtype: str = 'float32',
        word_batch: int | None = None,
        ignore_index: int = IGNORE,
        cache_dir: str | None = None,
        cache_bytes: int = 16_000_000_000,
    ):
        for name, value, choices in (
            ('fusion', fusion, FUSIONS),
            ('uncovered', uncovered, UNCOVERED),
            ('heads', heads, HEADS),
            ('presence', presence, PRESENCES),
            ('dtype', dtype, DTYPES),
        ):
            check_choice(self, name, value, choices)
        for name, number in (
            ('threshold', threshold),
            ('min_confidence', min_confidence),
            ('instance_threshold', instance_threshold),
            ('min_presence', min_presence),
        ):
            check_range(self, name, number, low=0, high=1)
        batch = 1 if word_batch is None else word_batch
        check_range(self, 'word_batch', batch, low=1, whole=True)
        self.words = _check_words(words)
        self.classes = tuple(self.words)
        self.fusion = fusion
        self.threshold = threshold
        self.min_confidence = min_confidence
        self.uncovered = uncovered
        self.rules = ScoreRules(
            heads, instance_threshold, presence, min_presence
        )
        self.word_batch = word_batch
        self.ignore_index = ignore_index
        super().__init__(cache_dir, cache_bytes)
        self.model = ConceptModel(
            weights,
            [word for words in self.words.values() for word in words],
            dtype=dtype,
            cache=self.cache,
        )

    @staticmethod
    def find_weights(cfg: dict) -> None:
        """Raise an error if the weights of a config are missing.

        See :func:`~clouds_mmseg.weights.locate.missing_weights`.
        """
        if 'words' in cfg:
            _check_words(cfg['words'])
        find_concept_model(cfg.get('weights'), fetch=False)

    def to(self, device: str | torch.device) -> 'ConceptRefiner':
        """Move the model to a device and return the refiner itself."""
        self.model.to(device)
        return self

    def __call__(
        self, image: Tensor, label: Tensor, confidence: Tensor | None = None
    ) -> Tensor:
        """Refine the label of an image.

        Args:
            image: (3, H, W) uint8 RGB.
            label: (H, W) int64.
            confidence: (H, W) float in [0, 1], the teacher's;
                ``fusion='uncertain'`` needs it.

        Returns:
            (H, W) int64 on the device of ``label``.

        Raises:
            ValueError: A tensor has another shape, or the confidence is
                missing.
            UserError: The label has a class that has no words.
        """
        array = as_rgb_array(image)
        check_label(label, image)
        self._check_classes(label)
        scores = self.scores(array)  # (K, H, W)
        best, concept = scores.max(dim=0)
        concept = concept.to(label.device)
        found = (best >= self.threshold).to(label.device)
        ignored = torch.full_like(label, self.ignore_index)
        other = label if self.uncovered == 'keep' else ignored
        if self.fusion == 'agree':
            same = torch.where(concept == label, label, ignored)
            return torch.where(found, same, other)
        replaced = torch.where(found, concept, other)
        if self.fusion == 'replace':
            return replaced
        if confidence is None or confidence.shape != label.shape:
            raise ValueError(
                "ConceptRefiner(fusion='uncertain') needs the confidence of "
                f'each pixel, {tuple(label.shape)}, got '
                f'{None if confidence is None else tuple(confidence.shape)}.'
            )
        sure = confidence.to(label.device) >= self.min_confidence
        sure &= label != self.ignore_index
        return torch.where(sure, label, replaced)

    def scores(self, array: np.ndarray) -> Tensor:
        """Score each class in each pixel.

        Args:
            array: (H, W, 3) uint8 RGB.

        Returns:
            (K, H, W) float32 in [0, 1] on the model's device.
        """
        size = array.shape[:2]
        low = torch.from_numpy(self._of_image(array, hash_array(array)))
        low = low.to(self.model.device)
        return F.interpolate(
            low.float()[None], size=size, mode='bilinear', align_corners=False
        )[0]

    def _image_key(self, name: str) -> str:
        return hash_text(
            'concepts',
            name,
            self.model.identity,
            list(self.words.values()),
            *self.rules,
        )

    def _of_image(self, array: np.ndarray, name: str) -> np.ndarray:
        """Return the scores before they are upscaled, (K, h, w) float16."""
        key = self._image_key(name)
        stored = self.cache.get(key) if self.cache else None
        if stored is not None:
            return unpack_arrays(stored)['scores']
        batch = (
            self.word_batch or _WORD_BATCH[self.model.device.type == 'cuda']
        )
        scores = self.model.scores(array, self.rules, batch)  # (S, h, w)
        counts = [len(words) for words in self.words.values()]
        low = torch.stack([x.amax(dim=0) for x in scores.split(counts)])
        # In half precision without a cache too: a label must not depend on
        # whether there is one.
        half = low.half().cpu().numpy()
        if self.cache:
            self.cache.put(key, pack_arrays(compress=True, scores=half))
        return half

    def _check_classes(self, label):
        largest = label.masked_fill(label == self.ignore_index, -1).max()
        if int(largest) >= len(self.classes):
            raise UserError(
                f'ConceptRefiner: words are given for {len(self.classes)} '
                f'classes, and the label has class {int(largest)}. Give words '
                'for each class of the dataset, in the order of train ids'
            )


def _check_words(words):
    """Take the words of classes as lists; each word is of one class."""
    if not isinstance(words, Mapping) or not words:
        raise UserError(
            'ConceptRefiner: words must be a dict of class names and lists of '
            "words, such as {'road': ['road', 'street']}; got "
            f'{type(words).__name__}.'
        )
    for name, found in words.items():
        if (
            isinstance(found, str)
            or not found
            or not all(
                isinstance(word, str) and word.strip() for word in found
            )
        ):
            raise UserError(
                f'ConceptRefiner: words[{name!r}] must be a list of at least '
                f'one word, got {found!r}.'
            )
    for word, first, second in shared_words(words):
        raise UserError(
            f'ConceptRefiner: the word {word!r} stands in both '
            f'words[{first!r}] and words[{second!r}]: where it is found both '
            'have the same score, and the first would always win. Leave it '
            'to one of them, or give each a word of its own.'
        )
    return {str(name): list(found) for name, found in words.items()}
