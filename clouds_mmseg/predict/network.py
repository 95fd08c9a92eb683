"""A trained model as one graph: uint8 images in, labels and scores out.

Letters: N images, K classes, H and W of an image.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
import torch.nn.functional as F
from timm.layers import Conv2dSame, RotaryEmbeddingDinoV3
from torch import Tensor, nn

from clouds_mmseg.models.mask2former.deform_attn import (
    MultiScaleDeformableAttention,
)
from clouds_mmseg.models.mask2former.inference import upscaled_scores
from clouds_mmseg.models.mask2former.mask_head import MaskHead
from clouds_mmseg.models.plain_mask.plain_head import PlainMaskHead
from clouds_mmseg.models.plain_mask.pmt import rotary_table
from clouds_mmseg.models.segmentors.pseudo_labels import as_scores
from clouds_mmseg.utils.cityscapes import IGNORE
from clouds_mmseg.utils.errors import UserError

OUTPUTS = ('labels', 'scores')
# Labels are bytes, and 255 is "nothing".
_MAX_CLASSES = 255
# Of a padded side, in multiples: enough for 131,072 pixels at 32.
_MAX_BLOCKS = 4096
_EXAMPLE = (2, 3, 96, 160)


class ExportNetwork(nn.Module):
    """Everything between an image and its labels, for ``torch.export``.

    Normalisation and padding are those of the model's data preprocessor at
    test time; the image is predicted whole. The resizing of the test pipeline
    is not part of it.

    Args:
        model: A segmentor of MMSegmentation with loaded weights.
        outputs: Of :data:`OUTPUTS`, in the order of the results.

    Raises:
        UserError: The model pads to one fixed size, has too many classes, or
            one output for two classes and therefore no scores.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, outputs: Sequence[str] = OUTPUTS):
        super().__init__()
        self.outputs = tuple(outputs)
        self.model = model
        self.head = model.decode_head
        if isinstance(self.head, nn.ModuleList):
            self.head = self.head[-1]
        if model.out_channels > _MAX_CLASSES:
            raise UserError(
                f'exported labels are bytes: at most {_MAX_CLASSES} classes, '
                f'the model has {model.out_channels}'
            )
        self.binary = model.out_channels == 1 and model.num_classes != 1
        if self.binary and 'scores' in outputs:
            raise UserError(
                'a model with one output for two classes has no scores of '
                'classes: export it with --outputs labels'
            )
        preprocessor = model.data_preprocessor
        test_cfg = preprocessor.test_cfg or {}
        if test_cfg.get('size') is not None:
            raise UserError(
                'data_preprocessor.test_cfg.size pads every image to one size '
                f'({test_cfg["size"]}), and an exported program has none: '
                'give size_divisor instead'
            )
        self.multiple = int(test_cfg.get('size_divisor') or 1)
        self.pad_value = float(preprocessor.pad_val)
        # As loaded, images are BGR.
        self.takes_rgb = bool(preprocessor._channel_conversion)
        mean, std = torch.zeros(3, 1, 1), torch.ones(3, 1, 1)
        if preprocessor._enable_normalize:
            mean, std = preprocessor.mean, preprocessor.std
        self.register_buffer('mean', mean.detach().clone().view(-1, 1, 1))
        self.register_buffer('std', std.detach().clone().view(-1, 1, 1))

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Predict images (N, 3, H, W) uint8 RGB.

        Returns:
            The outputs: labels (N, H, W) uint8, 255 for "nothing"; scores (N,
            K, H, W) float32, as :class:`Prediction` has them.
        """
        height, width = image.shape[-2:]
        x = image if self.takes_rgb else image.flip(1)
        x = (x.float() - self.mean) / self.std
        if self.multiple > 1:
            rows = _next_multiple(height, self.multiple)
            columns = _next_multiple(width, self.multiple)
            padding = (0, columns - width, 0, rows - height)
            x = F.pad(x, padding, value=self.pad_value)
        result = self._predict(x)[..., :height, :width]
        found = dict(labels=self._labels(result))
        if 'scores' in self.outputs:
            found['scores'] = as_scores(self.head, result)
        return tuple(found[name] for name in self.outputs)

    def _predict(self, x):
        """Return what the head predicts, at the size of its input."""
        if isinstance(self.head, MaskHead) and not self.head.resizes_scores:
            classes, masks = self.head.last_prediction(
                self.model.extract_feat(x)
            )
            if self.multiple % self.head.strides[0] == 0:
                return upscaled_scores(classes, masks, self.head.mask_stride)
            masks = F.interpolate(
                masks, size=x.shape[-2:], mode='bilinear', align_corners=False
            )
            classes = classes.softmax(-1)[..., :-1].transpose(1, 2)
            scores = classes @ masks.sigmoid().flatten(2)
            return scores.unflatten(2, x.shape[-2:])
        size = (x.shape[-2], x.shape[-1])
        meta = dict(img_shape=size, ori_shape=size, pad_shape=size)
        return self.model.encode_decode(x, [meta])

    def _labels(self, result):
        if self.binary:
            labels = result.sigmoid() > self.head.threshold
        elif result.shape[1] == 1:
            inside = result > self.head.threshold
            labels = torch.where(inside, 0, IGNORE)
        else:
            return result.argmax(1).to(torch.uint8)
        return labels[:, 0].to(torch.uint8)


def _next_multiple(side, multiple):
    """Round a side up, to a size that is variable by itself.

    An expression of the side would be carried through all sizes of the
    network, whose simplification takes most of the time of an export.
    """
    blocks = torch.full((), (side + multiple - 1) // multiple).item()
    torch._check(blocks >= 1)
    torch._check(blocks <= _MAX_BLOCKS)
    torch._check(side <= blocks * multiple)
    return blocks * multiple


@contextmanager
def exportable(network: ExportNetwork) -> Iterator[ExportNetwork]:
    """Replace what cannot be recorded, for the length of a block.

    Deformable attention samples by ``grid_sample``; timm's convolutions with
    padding as in TensorFlow, which depends on the size, get that of a size
    that their strides divide, which padded sizes are. DINOv3's rotary
    positions are computed without numbers of Python. Whether a block of PMT
    or EoMT masks its queries is decided once.
    """
    with ExitStack() as restore:
        for module in network.modules():
            if isinstance(module, MultiScaleDeformableAttention):
                restore.callback(
                    setattr,
                    module,
                    'deformable_sampling',
                    module.deformable_sampling,
                )
                module.deformable_sampling = 'grid_sample'
            elif isinstance(module, PlainMaskHead):
                restore.callback(setattr, module, 'recorded_probs', None)
                module.recorded_probs = module.mask_probabilities()
            elif _is_plain_rotary(module):
                restore.callback(delattr, module, 'get_embed')
                module.get_embed = _Rotary(module)
            elif isinstance(module, Conv2dSame) and network.multiple > 1:
                restore.callback(delattr, module, 'forward')
                module.forward = _FixedPadding(module)
        yield network


def _is_plain_rotary(module):
    """Return whether positions are those of :func:`rotary_table`."""
    return (
        isinstance(module, RotaryEmbeddingDinoV3)
        and module.rotate_half
        and module.grid_offset == 0
        and module.grid_indexing == 'ij'
        and module.normalize_coords == 'separate'
    )


class _Rotary:
    """``get_embed`` of a ``RotaryEmbeddingDinoV3`` for variable sizes."""

    def __init__(self, module: RotaryEmbeddingDinoV3):
        self.periods = module.periods

    def __call__(self, shape: Sequence[int]) -> Tensor:
        return rotary_table(shape, self.periods)


class _FixedPadding:
    """``forward`` of a ``Conv2dSame`` for sides that its strides divide."""

    def __init__(self, conv: Conv2dSame):
        self.conv = conv
        self.padding: list[int] = []
        for kernel, stride, dilation in zip(
            conv.kernel_size[::-1],
            conv.stride[::-1],
            conv.dilation[::-1],
            strict=True,
        ):
            total = max((kernel - 1) * dilation + 1 - stride, 0)
            self.padding += [total // 2, total - total // 2]

    def __call__(self, x: Tensor) -> Tensor:
        conv = self.conv
        return F.conv2d(
            F.pad(x, self.padding),
            conv.weight,
            conv.bias,
            conv.stride,
            0,
            conv.dilation,
            conv.groups,
        )


def record(network: ExportNetwork) -> torch.export.ExportedProgram:
    """Record a network for any number of images and any height and width.

    Raises:
        UserError: Part of the model computes what depends on a size in a way
            that cannot be recorded.
    """
    variable = torch.export.Dim.DYNAMIC
    device = network.mean.device
    example = torch.zeros(_EXAMPLE, dtype=torch.uint8, device=device)
    with exportable(network), torch.no_grad():
        try:
            return torch.export.export(
                network.eval(),
                (example,),
                dynamic_shapes=({0: variable, 2: variable, 3: variable},),
                strict=False,
            )
        except (
            torch._dynamo.exc.UserError,
            torch._dynamo.exc.TorchDynamoException,
            torch.fx.experimental.symbolic_shapes.GuardOnDataDependentSymNode,
        ) as error:
            first = str(error).strip().splitlines()[0]
            raise UserError(
                f'{type(network.model.backbone).__name__} with '
                f'{type(network.head).__name__} cannot be recorded for '
                f'variable sizes: {first}'
            ) from error
