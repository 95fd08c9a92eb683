"""Strong views of unlabelled images: mixing, colours and masking.

They act on the batch after the pseudo labels are known, on the device. What
they draw belongs to the images of the whole batch, however many processes
share it (:mod:`clouds_mmseg.utils.step_draws`). So every process has to call
them, also with no unlabelled image. All of them are off by default, as in the
official CLOUDS.

Letters: N samples of a batch, K classes, H and W of the network's input.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from mmengine.dist import get_rank
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from torch import Tensor
from torchvision.transforms.v2 import functional as tvf

from clouds_mmseg.models.data_preprocessor import DGDataPreProcessor
from clouds_mmseg.utils.cityscapes import IGNORE
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.options import name_list
from clouds_mmseg.utils.step_draws import (
    ImageDraws,
    Place,
    gather_images,
    step_generator,
)


class _Labelled(NamedTuple):
    """A labelled image that may be pasted, in whichever process."""

    size: tuple[int, int]
    classes: list[int]


class _Paste(NamedTuple):
    """Classes of one image that are pasted onto another."""

    onto: Place
    source: Place
    classes: Tensor


@MODELS.register_module()
class ClassMix:
    """Paste classes of a labelled image onto each unlabelled one.

    Sources: ClassMix (arXiv 2007.07936); from the source to an unlabelled
    domain: DACS (arXiv 2007.08702). Half of the classes of a random labelled
    image of the batch are pasted, pixel by pixel, together with their labels;
    ignored pixels are not. Of several processes, one that pastes an image of
    another gets it from there.

    Args:
        prob: Probability that an unlabelled image is mixed.
        class_share: Share of the classes that are pasted, rounded up.
        rare_temperature: If given, classes are drawn with a probability
            proportional to ``exp((1 - f) / rare_temperature)``, where f is
            their share of the labelled pixels so far (DAFormer,
            arXiv 2111.14887, equations 4 and 5; its value is 0.01). By default
            all classes are equally likely.
        domains: Labelled images of these domains are treated like unlabelled
            ones. For experiments with known labels.

    Raises:
        UserError: A value is out of range.
    """

    def __init__(
        self,
        *,
        prob: float = 1.0,
        class_share: float = 0.5,
        rare_temperature: float | None = None,
        domains: Sequence[str] = (),
    ):
        _check_range('ClassMix.prob', prob, 0, 1)
        _check_range('ClassMix.class_share', class_share, 0, 1, above=True)
        if rare_temperature is not None and rare_temperature <= 0:
            raise UserError(
                'ClassMix.rare_temperature must be positive, got '
                f'{rare_temperature}'
            )
        self.prob = prob
        self.class_share = class_share
        self.rare_temperature = rare_temperature
        self.domains = tuple(name_list(domains, 'ClassMix.domains'))

    def __call__(
        self,
        inputs: Tensor,
        samples: Sequence[SegDataSample],
        unlabelled: Sequence[int],
        frequency: Tensor | None = None,
    ) -> Tensor:
        """Mix a batch; labels and weights of the samples are replaced.

        Args:
            inputs: (N, 3, H, W) float.
            samples: N samples with ``gt_sem_seg``, (1, H, W) int64. Of
                unlabelled ones it is the pseudo label, and ``gt_weight``
                (1, H, W) and ``gt_soft_label`` (K, H, W) are mixed where they
                exist; pasted pixels have the weight 1.
            unlabelled: Indices of the unlabelled samples.
            frequency: (K,) float, each class's share of the labelled pixels.

        Returns:
            (N, 3, H, W): a new tensor.

        Raises:
            UserError: The whole batch has no labelled sample.
        """
        apart = set(unlabelled)
        size = (inputs.shape[-2], inputs.shape[-1])
        images = gather_images(
            [
                None if i in apart else _Labelled(size, _classes_of(sample))
                for i, sample in enumerate(samples)
            ]
        )
        plan = self._plan(images, frequency)
        labelled = {place: found for place, found in images if found}
        sources = _exchange(plan, labelled, inputs, samples)
        inputs = inputs.clone()
        for paste in plan:
            if paste.onto.rank != get_rank():
                continue
            image, label = sources[paste.source]
            # Processes may have padded their images to different sizes.
            image, label = _fit(image, size, 0), _fit(label, size, IGNORE)
            pasted = torch.isin(label, paste.classes.to(label.device))
            index = paste.onto.number
            inputs[index] = torch.where(pasted, image, inputs[index])
            _paste(samples[index], label, pasted)
        return inputs

    def _plan(
        self,
        images: Sequence[tuple[Place, _Labelled | None]],
        frequency: Tensor | None,
    ) -> list[_Paste]:
        """Draw what is pasted in the whole batch, alike in all processes."""
        labelled = [(p, image) for p, image in images if image is not None]
        if not labelled and images:
            raise UserError(
                'ClassMix found no labelled image in a batch; give a larger '
                'batch size or a smaller train_cfg.generated_share'
            )
        generator = step_generator('cpu')
        plan = []
        for place, image in images:
            if image is not None:
                continue
            # The same draws in any case, so that what follows does not
            # depend on whether this image is mixed.
            is_mixed = float(torch.rand((), generator=generator)) < self.prob
            number = torch.randint(len(labelled), (), generator=generator)
            source, other = labelled[int(number)]
            classes = self.draw_classes(other.classes, frequency)
            if is_mixed:
                plan.append(_Paste(place, source, classes))
        return plan

    def draw_classes(
        self, classes: Sequence[int], frequency: Tensor | None = None
    ) -> Tensor:
        """Draw the classes that are pasted.

        Args:
            classes: Those of the labelled image, in ascending order.
            frequency: (K,) float, each class's share of the labelled pixels.

        Returns:
            Some of them, int64 on the CPU; none if there are none.
        """
        shown = torch.tensor(classes, dtype=torch.long)
        if not len(shown):
            return shown
        weights = torch.ones(len(shown), dtype=torch.float64)
        if self.rare_temperature is not None and frequency is not None:
            logits = (1 - frequency.double().cpu()[shown]) / (
                self.rare_temperature
            )
            # Not below what multinomial takes for zero.
            weights = (logits - logits.max()).exp().clamp(min=1e-12)
        count = -int(-len(shown) * self.class_share // 1)
        return shown[
            torch.multinomial(weights, count, generator=step_generator('cpu'))
        ]


def _classes_of(sample):
    """Return the classes that the label of a sample shows, ascending."""
    pixels = torch.bincount(sample.gt_sem_seg.data.flatten())
    return [c for c in pixels.nonzero().flatten().tolist() if c != IGNORE]


def _exchange(
    plan: Sequence[_Paste],
    images: dict[Place, _Labelled],
    inputs: Tensor,
    samples: Sequence[SegDataSample],
) -> dict[Place, tuple[Tensor, Tensor]]:
    """Send the images that other processes paste, and receive theirs.

    Args:
        plan: The same in all processes.
        images: All labelled images.
        inputs: (N, 3, H, W) of this process.
        samples: N samples.

    Returns:
        Image (3, h, w) and label (h, w) of each source that is pasted here.
    """
    own, found, transfers = get_rank(), {}, []
    for source, target in dict.fromkeys((p.source, p.onto.rank) for p in plan):
        if own == source.rank:
            image = inputs[source.number]
            label = samples[source.number].gt_sem_seg.data[0]
            if target == own:
                found[source] = (image, label)
                continue
            # Labels are at most 255.
            transfers += [
                dist.P2POp(dist.isend, part.contiguous(), target)
                for part in (image, label.byte())
            ]
        elif own == target:
            shown = images[source]
            assert shown is not None  # Only labelled images are pasted.
            size = shown.size
            found[source] = (
                inputs.new_empty((3, *size)),
                inputs.new_empty(size, dtype=torch.uint8),
            )
            transfers += [
                dist.P2POp(dist.irecv, part, source.rank)
                for part in found[source]
            ]
    if transfers:
        for work in dist.batch_isend_irecv(transfers):
            work.wait()
    return {place: (image, y.long()) for place, (image, y) in found.items()}


def _fit(maps, size, value):
    """Cut or pad (..., h, w) to a size."""
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    return pad_map(maps[..., : size[0], : size[1]], size, value)


def _paste(sample, label, pasted):
    """Replace label and weights of a sample where ``pasted``."""
    sample.gt_sem_seg = PixelData(
        data=torch.where(pasted, label, sample.gt_sem_seg.data)
    )
    if 'gt_weight' in sample:
        weight = sample.gt_weight.data.masked_fill(pasted, 1)
        sample.gt_weight = PixelData(data=weight)
    if 'gt_soft_label' in sample:
        soft = sample.gt_soft_label.data
        classes = torch.arange(len(soft), device=soft.device)
        one_hot = (label == classes[:, None, None]).to(soft.dtype)
        sample.gt_soft_label = PixelData(
            data=torch.where(pasted, one_hot, soft)
        )


@MODELS.register_module()
class ColorJitter:
    """Change colours and sharpness of unlabelled images after mixing.

    Pasted and original pixels get the same change, which hides the seams
    (DACS, arXiv 2007.08702).

    Args:
        prob: Probability that the colours of an image are changed.
        strength: Largest relative change of brightness, contrast and
            saturation; a quarter of it is the largest change of the hue.
        blur_prob: Probability that an image is blurred.
        max_sigma: Largest standard deviation of the blur, pixels.

    Raises:
        UserError: A value is out of range.
    """

    def __init__(
        self,
        *,
        prob: float = 0.8,
        strength: float = 0.2,
        blur_prob: float = 0.5,
        max_sigma: float = 1.15,
    ):
        _check_range('ColorJitter.prob', prob, 0, 1)
        _check_range('ColorJitter.strength', strength, 0, 1)
        _check_range('ColorJitter.blur_prob', blur_prob, 0, 1)
        _check_range('ColorJitter.max_sigma', max_sigma, 0.1, 100)
        self.prob = prob
        self.strength = strength
        self.blur_prob = blur_prob
        self.max_sigma = max_sigma

    def __call__(
        self,
        inputs: Tensor,
        unlabelled: Sequence[int],
        preprocessor: DGDataPreProcessor,
    ) -> Tensor:
        """Change unlabelled images of (N, 3, H, W) normalised inputs."""
        drawn = _draw(inputs, unlabelled, 7).tolist()
        inputs = inputs.clone()
        for index, (use, blur, sigma, *factors) in zip(
            unlabelled, drawn, strict=True
        ):
            if use < self.prob:
                image = preprocessor.denormalize(inputs[index]) / 255
                image = self._change_colors(image.clamp(0, 1), factors)
                inputs[index] = preprocessor.normalize(image * 255)
            if blur < self.blur_prob:
                sigma = 0.1 + sigma * (self.max_sigma - 0.1)
                size = 2 * max(1, round(3 * sigma)) + 1
                # Reflection pads by less than a side.
                size = min(size, 2 * (min(inputs.shape[-2:]) - 1) + 1)
                inputs[index] = tvf.gaussian_blur(
                    inputs[index], [size, size], [sigma, sigma]
                )
        return inputs

    def _change_colors(self, image, factors):
        """Change (3, H, W) RGB in [0, 1]; factors are four of [0, 1)."""
        changes = [self.strength * (2 * factor - 1) for factor in factors]
        image = tvf.adjust_brightness(image, 1 + changes[0])
        image = tvf.adjust_contrast(image, 1 + changes[1])
        image = tvf.adjust_saturation(image, 1 + changes[2])
        return tvf.adjust_hue(image, changes[3] / 4)


@MODELS.register_module()
class BlockMask:
    """Hide random blocks of unlabelled images from the student.

    The student has to infer hidden pixels from their context: masked image
    consistency (MIC, arXiv 2212.01322, section 3.3), here as an augmentation
    of the one view of the student instead of a second forward pass. Hidden
    pixels are zero in normalised images, the mean of the data.

    Args:
        block: Side of a block, pixels. A multiple of the patch size of a
            vision transformer hides whole tokens.
        ratio: Share of the blocks that are hidden, on average.
        prob: Probability that an image is masked.

    Raises:
        UserError: A value is out of range.
    """

    def __init__(
        self, *, block: int = 64, ratio: float = 0.7, prob: float = 1.0
    ):
        if not isinstance(block, int) or block < 1:
            raise UserError(
                f'BlockMask.block must be a positive integer, got {block!r}'
            )
        _check_range('BlockMask.ratio', ratio, 0, 1)
        _check_range('BlockMask.prob', prob, 0, 1)
        self.block = block
        self.ratio = ratio
        self.prob = prob

    def __call__(
        self,
        inputs: Tensor,
        unlabelled: Sequence[int],
        preprocessor: DGDataPreProcessor,
    ) -> Tensor:
        """Mask unlabelled images of (N, 3, H, W) normalised inputs."""
        del preprocessor

        inputs = inputs.clone()
        height, width = inputs.shape[-2:]
        grid = (-(-height // self.block), -(-width // self.block))
        drawn = _draw(inputs, unlabelled, 1 + grid[0] * grid[1])
        for index, numbers in zip(unlabelled, drawn, strict=True):
            if numbers[0] < self.prob:
                kept = numbers[1:].view(grid) >= self.ratio
                mask = kept.repeat_interleave(self.block, 0)
                mask = mask.repeat_interleave(self.block, 1)
                inputs[index] *= mask[:height, :width].to(inputs)
        return inputs


def _draw(inputs, unlabelled, count):
    """Draw so many numbers for each unlabelled image, on the CPU."""
    rows = [int(i in set(unlabelled)) for i in range(len(inputs))]
    return ImageDraws(rows, 'cpu').rows(1, count)


def class_frequencies(labels: Sequence[Tensor], num_classes: int) -> Tensor:
    """Count the pixels of each class.

    Args:
        labels: (1, H, W) int64 each, in [0, K) or 255.
        num_classes: K.

    Returns:
        (K,) float64.
    """
    flat = torch.cat([label.flatten() for label in labels])
    return torch.bincount(flat[flat != IGNORE], minlength=num_classes).double()


def region_means(values: Tensor, label: Tensor, num_classes: int) -> Tensor:
    """Average values over the region of each class.

    Args:
        values: (H, W) float.
        label: (H, W) int64 in [0, K) or 255.
        num_classes: K.

    Returns:
        (K,) float32; 1 for a class without a pixel.
    """
    known = label != IGNORE
    index, values = label[known], values[known].float()
    total = values.new_zeros(num_classes).index_add_(0, index, values)
    area = torch.bincount(index, minlength=num_classes)
    return torch.where(area > 0, total / area.clamp(min=1), 1.0)


def pad_map(maps: Tensor, size: Sequence[int], value: float) -> Tensor:
    """Pad (..., h, w) at the right and at the bottom to the given size."""
    height, width = maps.shape[-2:]
    padding = (0, size[1] - width, 0, size[0] - height)
    return F.pad(maps, padding, value=value)


def _check_range(name, value, low, high, *, above=False):
    is_number = isinstance(value, (int, float)) and value == value
    if not is_number or not low <= value <= high or (above and value == low):
        interval = f'{"(" if above else "["}{low}, {high}]'
        raise UserError(f'{name} must lie in {interval}, got {value!r}')
