"""A CLIP tower of timm with its projection: maps, and features beside text.

Letters: N images, C channels of the tower, D dimensions of the space that
images and texts share, h and w of the patch grid, P the patch size.
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from mmseg.registry import MODELS
from torch import Tensor, nn

from clouds_mmseg.models.backbones.single_scale import (
    resize_maps,
    table_for_grid,
)
from clouds_mmseg.models.backbones.timm_tower import TIMMTower
from clouds_mmseg.utils.errors import UserError

PYRAMIDS = ('learned', 'resize')


class CLIPMaps(list):
    """Feature maps, and what else a head needs that compares with text.

    Attributes:
        image: (N, D), CLIP's feature of the image, not normalised.
        dense: (N, D, h, w), the same projection of each patch.
        size: H and W of the network's input.
        initial_image: (N, D) without gradient: ``image`` of the tower as it
            was before training; None where it is not asked for.
        text: (N, K, D), embeddings of the classes; a head adds them.
    """

    def __init__(
        self,
        maps: Sequence[Tensor],
        *,
        image: Tensor,
        dense: Tensor,
        size: tuple[int, int],
        initial_image: Tensor | None = None,
    ):
        super().__init__(maps)
        self.image = image
        self.dense = dense
        self.size = size
        self.initial_image = initial_image
        self.text: Tensor | None = None

    def of_images(self, part: slice) -> 'CLIPMaps':
        """Return the maps and features of some of the N images."""
        initial = self.initial_image
        return CLIPMaps(
            [x[part] for x in self],
            image=self.image[part],
            dense=self.dense[part],
            size=self.size,
            initial_image=None if initial is None else initial[part],
        )


@MODELS.register_module()
class TIMMCLIPTower(TIMMTower):
    """The visual tower of a CLIP model in timm, trained, with its projection.

    As tqdm (ECCV 2024) uses EVA02-CLIP: beside the four maps it returns the
    features of CLIP's joint space for the image and for each patch, so that a
    :class:`~clouds_mmseg.models.TextQueryHead` can compare them with text.

    Unlike :class:`TIMMTower`, rows and columns of pixels that fill no patch
    are dropped, as the convolution of the patch embedding drops them, and
    the maps are 4, 2, 1 and 1/2 times the grid: with patches of 14 pixels
    strides of 3.5 to 28.

    Args:
        model_name: As for :class:`TIMMTower`; a plain ViT with a class token
            and a linear projection, such as
            ``eva02_large_patch14_clip_336.merged2b``.
        pyramid: ``'learned'``: transposed convolutions for the two fine maps
            and maximum pooling for the coarse one, as tqdm; ``'resize'``:
            bilinear, nothing to learn.
        keep_initial: Keep a second, frozen copy of the tower with the weights
            that training begins with, which the head's visual regularisation
            compares with. It is part of the checkpoint, and computed in
            training only.
        frozen: As for :class:`TIMMTower`.
        load_pretrained: As for :class:`TIMMTower`.
        **kwargs: As for :class:`TIMMTower`.

    Attributes:
        joint_channels (int): D.

    Raises:
        UserError: The model has no such projection, or the arguments
            contradict one another.
    """

    def __init__(
        self,
        model_name: str,
        *,
        pyramid: str = 'learned',
        keep_initial: bool = False,
        frozen: bool = False,
        load_pretrained: bool = True,
        **kwargs: Any,
    ):
        if pyramid not in PYRAMIDS:
            raise UserError(
                "TIMMCLIPTower: pyramid must be 'learned' or 'resize', got "
                f'{pyramid!r}'
            )
        if frozen and (pyramid == 'learned' or keep_initial):
            raise UserError(
                'TIMMCLIPTower with frozen=True: a learned pyramid would stay '
                'random, and the tower as it was is the tower: give '
                "pyramid='resize' and keep_initial=False"
            )
        super().__init__(
            model_name,
            frozen=frozen,
            load_pretrained=load_pretrained,
            **kwargs,
        )
        self.pyramid = pyramid
        if pyramid == 'learned':
            self.fpn1 = nn.Sequential(
                _double(self.channels[0]),
                nn.BatchNorm2d(self.channels[0]),
                nn.GELU(),
                _double(self.channels[0]),
            )
            self.fpn2 = nn.Sequential(_double(self.channels[1]))
        self.initial = copy.deepcopy(self.model) if keep_initial else None
        self.set_frozen(frozen)

    def _probe(self, blocks):
        head = getattr(self.model, 'head', None)
        pooled = getattr(self.model, 'global_pool', None)
        if not isinstance(head, nn.Linear) or pooled != 'token':
            raise UserError(
                f'TIMMCLIPTower: {self.model_name} has no linear projection '
                'of its class token into a space of CLIP (its head is '
                f'{type(head).__name__}, its pooling {pooled!r}); '
                'eva02_large_patch14_clip_336.merged2b has, and TIMMTower '
                'needs none'
            )
        self.joint_channels = head.out_features
        super()._probe(blocks)

    def set_frozen(self, frozen: bool) -> None:
        """Freeze or release the tower; its initial copy stays frozen."""
        super().set_frozen(frozen)
        initial = getattr(self, 'initial', None)
        if initial is not None:
            initial.requires_grad_(False)

    def train(self, mode: bool = True) -> 'TIMMCLIPTower':
        """Set the mode; the initial copy stays in eval mode."""
        super().train(mode)
        initial = getattr(self, 'initial', None)
        if initial is not None:
            initial.eval()
        return self

    def maps(self, x: Tensor) -> CLIPMaps:
        """Compute :meth:`forward` without its checks.

        Args:
            x: (N, 3, H, W).

        Returns:
            Four maps, and the features of the joint space.
        """
        size = (x.shape[-2], x.shape[-1])
        rows, columns = (side // self.patch_size for side in size)
        x = x[..., : rows * self.patch_size, : columns * self.patch_size]
        with table_for_grid(self.model, (rows, columns), self.resize):
            joint, found = self._project(x, self.indices)
        maps = [found[i] for i in self.order]
        prefix = self.model.num_prefix_tokens
        initial = None
        if getattr(self, 'initial', None) is not None:
            # Inference has no use of it.
            if torch.is_grad_enabled():
                initial = self._initial_image(x, (rows, columns))
        return CLIPMaps(
            self._pyramid(maps),
            image=joint[:, 0],
            dense=joint[:, prefix:].mT.unflatten(2, (rows, columns)),
            size=size,
            initial_image=initial,
        )

    def _project(self, x, indices, model=None):
        """Return the projected tokens (N, n, D), and the maps of blocks."""
        model = self.model if model is None else model
        # All blocks are computed, also those behind the last map.
        tokens, found = model.forward_intermediates(
            x, indices=indices, norm=self.norm, output_fmt='NCHW'
        )
        return model.head(tokens), found

    @torch.no_grad()
    def _initial_image(self, x, grid):
        with table_for_grid(self.initial, grid, self.resize):
            joint, _ = self._project(x, [self.indices[-1]], self.initial)
        return joint[:, 0]

    def _outputs(self, x: Tensor, indices) -> list[Tensor]:
        """Compute all that the backbone takes from the model."""
        joint, found = self._project(x, indices)
        return [*found, joint]

    def _pyramid(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Resize four maps (N, C, h, w) to 4, 2, 1 and 1/2 times the grid."""
        if getattr(self, 'pyramid', 'resize') == 'resize':
            grid = tuple(maps[0].shape[-2:])
            # As if the patches had 16 pixels.
            return resize_maps(maps, (16 * grid[0], 16 * grid[1]), 16)
        return [
            self.fpn1(maps[0]),
            self.fpn2(maps[1]),
            maps[2],
            nn.functional.max_pool2d(maps[3], 2),
        ]

    def layer_numbers(self) -> tuple[dict[str, int], int]:
        """Number the layers; the learned pyramid follows the blocks."""
        numbers, last = super().layer_numbers()
        for name, _ in self.named_parameters():
            if name.startswith(('fpn1.', 'fpn2.')):
                numbers[name] = last
        return numbers, last


def _double(channels: int) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(channels, channels, kernel_size=2, stride=2)
