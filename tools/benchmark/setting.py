"""Model and synthetic inputs of the step benchmarks."""

from dataclasses import dataclass, field

import torch
from mmengine.config import Config, ConfigDict
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from torch import Tensor, nn

from clouds_mmseg.models.segmentors.self_training_segmentor import (
    SelfTrainingSegmentor,
)
from clouds_mmseg.utils.cityscapes import CLASSES
from clouds_mmseg.utils.config_file import find_config, read_file
from clouds_mmseg.utils.errors import UserError

# CLIP's statistics, as in configs/_base_/models/clouds_convnext_large.py.
MEAN = (122.7709383, 116.7460125, 104.09373615)
STD = (68.5005327, 66.6321579, 70.32316305)
DTYPES = {'fp32': torch.float32, 'bf16': torch.bfloat16}


@dataclass(frozen=True)
class Setting:
    """Model and input size of a benchmark; defaults are the official sizes.

    Attributes:
        device: Device of the model.
        dtype: ``fp32``, or ``bf16`` for autocast.
        tower: Model name of open_clip; weights are random.
        size: Width and height of an image.
        batch: Batch size; in self-training the second half is unlabelled.
        model: Merged into the model's config, dotted keys.
        config: Path of a self-training config whose model is taken in place
            of the official head on ``tower``.
        seed: Seed of weights and images.
    """

    device: torch.device = torch.device('cpu')
    dtype: str = 'fp32'
    tower: str = 'RN50'
    size: tuple[int, int] = (512, 512)
    batch: int = 1
    model: dict = field(default_factory=dict)
    config: str | None = None
    seed: int = 0

    def __post_init__(self):
        check_size(self.size, self.batch)

    @property
    def autocast(self) -> torch.autocast:
        """New autocast context for :attr:`dtype`."""
        return torch.autocast(
            self.device.type, torch.bfloat16, enabled=self.dtype == 'bf16'
        )

    def build_model(self, **test_cfg) -> SelfTrainingSegmentor:
        """Build the segmentor with a teacher.

        Args:
            **test_cfg: As in a config; by default whole images.

        Returns:
            On the device, in eval mode.
        """
        config = merge_options(
            self._config_model() if self.config else self._official(test_cfg),
            self.model,
        )
        torch.manual_seed(self.seed)
        model = MODELS.build(config)
        _perturb_initial_weights(model)
        model.update_teacher()
        return model.to(self.device).eval()

    def _config_model(self):
        model = read_file(find_config(self.config, '--config')).model
        if model.get('type') != 'SelfTrainingSegmentor':
            raise UserError(
                f'--config {self.config}: its model must be a '
                f'SelfTrainingSegmentor, got {model.get("type")}'
            )
        # Crops of the config have one size; the option --size counts.
        model.data_preprocessor.size = self.size[::-1]
        return model

    def _official(self, test_cfg):
        return dict(
            type='SelfTrainingSegmentor',
            data_preprocessor=dict(
                type='SegDataPreProcessor',
                mean=MEAN,
                std=STD,
                size=self.size[::-1],
                pad_val=0,
                seg_pad_val=255,
            ),
            backbone=dict(
                type='CLIPBackbone',
                model_name=self.tower,
                pretrained=None,
                frozen=True,
            ),
            decode_head=dict(type='CLOUDSHead', num_classes=len(CLASSES)),
            train_cfg=dict(),
            test_cfg=test_cfg or dict(mode='whole'),
        )

    def images(self, count: int | None = None) -> Tensor:
        """Generate images with structure at several scales.

        Args:
            count: Number of images. Defaults to the batch size.

        Returns:
            (N, 3, H, W) uint8 on the device.
        """
        generator = torch.Generator().manual_seed(self.seed)
        width, height = self.size
        total = torch.zeros(count or self.batch, 3, height, width)
        for side in (4, 16, 64):
            noise = torch.randn(len(total), 3, side, side, generator=generator)
            total += nn.functional.interpolate(
                noise, size=(height, width), mode='bilinear'
            )
        return (total * 30 + 110).clamp(0, 255).byte().to(self.device)

    def labels(self, count: int) -> Tensor:
        """Generate label maps of about fifteen classes with an ignored border.

        Args:
            count: Number of label maps.

        Returns:
            (count, H, W) int64 on the device.
        """
        generator = torch.Generator().manual_seed(self.seed)
        width, height = self.size
        grid = torch.randint(
            len(CLASSES), (count, 1, 4, 8), generator=generator
        )
        labels = nn.functional.interpolate(
            grid.float(), size=(height, width), mode='nearest'
        )[:, 0].long()
        labels[:, :4] = 255
        return labels.to(self.device)

    def sample(
        self, label: Tensor | None = None, clean: Tensor | None = None
    ) -> SegDataSample:
        """Build the data sample of an image.

        Args:
            label: (H, W) int64.
            clean: (3, H, W) uint8.

        Returns:
            With metainfo of :attr:`size`.
        """
        shape = self.size[::-1]
        sample = SegDataSample(metainfo=dict(img_shape=shape, ori_shape=shape))
        if label is not None:
            sample.gt_sem_seg = PixelData(data=label[None])
        if clean is not None:
            sample.clean_img = PixelData(data=clean)
        return sample


def check_size(size: tuple[int, int], batch: int) -> None:
    """Refuse unsupported image and batch sizes.

    Args:
        size: Width and height of an image.
        batch: Batch size.

    Raises:
        UserError: A side is no multiple of 32, or the batch is empty.
    """
    if min(size) < 32 or any(side % 32 for side in size):
        raise UserError(
            f'--size {size[0]}x{size[1]}: both sides must be multiples of 32'
        )
    if batch < 1:
        raise UserError(f'--batch must be at least 1, got {batch}')


def merge_options(model: dict, options: dict) -> ConfigDict:
    """Merge options into the config of a model.

    Args:
        options: Dotted keys, as ``decode_head.num_queries``.

    Returns:
        The changed config.
    """
    config = Config(dict(model=model))
    config.merge_from_dict({f'model.{k}': v for k, v in options.items()})
    return config.model


def _perturb_initial_weights(model):
    """Make a new model behave like a trained one.

    At initialisation deformable attention samples the same regular offsets
    for every query, which is unrealistically cache-friendly. And the queries
    of a new model have nearly equal outputs: all pixels would have one
    class, on which any two implementations agree.
    """
    generator = torch.Generator().manual_seed(0)
    head = model.decode_head
    for parameter in head.parameters():
        if parameter.dim() > 1 and not parameter.any():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.data.copy_(noise * 0.05)
    for layer in head.transformer_decoder.layers:
        # These projections add the component shared by all queries.
        for projection in (
            layer.self_attn.attn.out_proj,
            layer.cross_attn.attn.out_proj,
            layer.ffn.layers[1],
        ):
            projection.weight.data.mul_(0.03)
    head.cls_embed.weight.data.mul_(30)
    head.mask_embed[-1].weight.data.mul_(5)
