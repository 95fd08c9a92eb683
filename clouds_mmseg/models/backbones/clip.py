"""Visual tower of a CLIP model as a backbone of four feature maps."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import open_clip
import torch
from mmengine.logging import print_log
from mmengine.model import BaseModule
from mmseg.registry import MODELS
from torch import Tensor

from clouds_mmseg.models.backbones.adapters import AdaptableMixin
from clouds_mmseg.models.backbones.clip_source import build_visual, find_clip
from clouds_mmseg.models.backbones.single_scale import (
    STRIDES,
    check_resize,
    choose_blocks,
    fit_state_dict,
    fit_to_patches,
    resize_maps,
    table_for_grid,
)
from clouds_mmseg.models.backbones.unused import find_unused, remove_modules
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.weights.io import read_state_dict
from clouds_mmseg.weights.load import load_strictly

# torch 2.6 returned fewer maps from a compiled ConvNeXt than it has.
_COMPILES_RIGHT = (2, 8)
# H and W of the probe image. Not the image size of any tower: one that takes
# only its own size fails at once, and not at the first crop.
_PROBE_SIZE = (128, 160)


@MODELS.register_module()
class CLIPBackbone(AdaptableMixin, BaseModule):
    """Any open_clip tower with a feature pyramid: ConvNeXt, RN50, RN101, ...

    Of open_clip's own ViTs (``ViT-B-16``, ``ViT-L-14``) the maps are those
    behind four blocks, as of a :class:`TIMMTower`, which takes the ViTs that
    open_clip builds through timm (EVA02, SigLIP, PE).

    CLOUDS, section 3.1: the features of a frozen CLIP image encoder. Only
    the part of the visual tower that computes the maps is kept: neither the
    text tower nor the pooling and projection heads are in the
    ``state_dict``, so every parameter is used in every step.

    Inputs are RGB normalised with CLIP's own mean (122.77, 116.75, 104.09)
    and standard deviation (68.50, 66.63, 70.32).

    Args:
        model_name: A model of open_clip; or ``hf-hub:owner/name`` or
            ``local-dir:folder``, which have weights of their own. None if
            ``pretrained`` determines the model.
        pretrained: A tag that open_clip has for the model; a local file (a
            whole CLIP checkpoint, OpenAI's TorchScript archive, or a visual
            tower alone) or its URL; ``hf-hub:owner/name``,
            ``local-dir:folder`` or a folder in open_clip's layout, with its
            config; or None for random weights.
        frozen: No gradients, eval mode, constant statistics.
        compile: Run the tower through ``torch.compile``, with these arguments
            if a dict. Every new image size is compiled once, which takes
            about a minute on a CPU and needs a compiler there. Names of
            weights do not change. Only for a frozen tower without adapter.
        blocks: Of a ViT: as for :class:`TIMMTower`.
        resize: Of a ViT: as for :class:`TIMMTower`.
        adapter: As for :class:`TIMMTower`.
        load_pretrained: False leaves the files of ``pretrained`` unread. The
            runner gives it where a checkpoint replaces the weights.
        init_cfg: mmengine's initialisation.

    Attributes:
        channels (list[int]): Width of each of the four maps.
        strides (list[int]): 4, 8, 16, 32.
        expects (tuple | None): Mean and standard deviation, RGB in
            [0, 255], that the pretrained weights were trained with.

    Raises:
        UserError: If the model or the tag is unknown, the weights are not
            available, or the tower has no maps at these strides.
        CheckpointMismatchError: If the weights are of another tower.
    """

    tower = 'visual'

    def __init__(
        self,
        model_name: str | None = None,
        pretrained: str | None = None,
        frozen: bool = True,
        *,
        compile: bool | dict = False,
        blocks: Sequence[int] | None = None,
        resize: str = 'timm',
        adapter: dict | None = None,
        load_pretrained: bool = True,
        init_cfg: dict | None = None,
    ):
        if pretrained and init_cfg:
            raise UserError(
                'CLIPBackbone: the weights must come from one place, got '
                f'{pretrained=} and {init_cfg=}. Keep one.'
            )
        if compile and not frozen:
            raise UserError(
                f'CLIPBackbone: {compile=} is for a frozen tower, got '
                f'{frozen=}. Leave one of them out.'
            )
        if compile and adapter:
            raise UserError(
                f'CLIPBackbone: {compile=} is for a tower without adapter, '
                f'got {adapter=}. Leave one of them out.'
            )
        if compile and torch.__version__ < _COMPILES_RIGHT:
            raise UserError(
                f'CLIPBackbone: with torch {torch.__version__} the compiled '
                f'tower may lose feature maps; {compile=} needs torch '
                '2.8 or newer. Leave it out.'
            )
        check_resize(resize)
        super().__init__(init_cfg)
        self.build_adapter(adapter, frozen)
        source = find_clip(model_name, pretrained, weights=load_pretrained)
        pyramid = probe_pyramid(source.model, blocks)
        self.channels = pyramid.channels
        self.strides = pyramid.strides
        self.indices = pyramid.indices
        self.patch_size = pyramid.patch_size
        self.probe_size = pyramid.probe_size
        if self.patch_size:
            self.probe_grid = tuple(
                side // self.patch_size for side in self.probe_size
            )
        self.resize = resize
        self.model_name = source.name
        self._compiled = None
        self.visual = build_visual(source.model, quick_gelu=source.quick_gelu)
        remove_modules(self.visual, pyramid.unused)
        self.attach_adapter(loaded=False, initialise=load_pretrained)
        if source.weights:
            load_strictly(
                self.visual,
                fit_state_dict(
                    visual_part(read_state_dict(source.weights)),
                    self.visual,
                    resize,
                ),
                source=str(source.weights),
                allow_missing=self.adapter_keys_of_tower(),
                allow_unexpected=pyramid.unused,
            )
        elif frozen and not init_cfg and load_pretrained:
            print_log(
                f'{source.name} is frozen with random weights; give '
                'pretrained= or a checkpoint, or set frozen=False.',
                logger='current',
                level=logging.WARNING,
            )
        self.weights_loaded = bool(pretrained or source.weights)
        self.expects = None
        if self.weights_loaded:
            self.expects = tuple(
                [255 * value for value in values]
                for values in (source.mean, source.std)
            )
        self.attach_adapter(loaded=True, initialise=load_pretrained)
        if compile:
            options = compile if isinstance(compile, dict) else {}
            self._compiled = torch.compile(self.pyramid, **options)
        self.set_frozen(frozen)

    @staticmethod
    def find_weights(cfg: dict) -> None:
        """Raise an error if the weights of a config are missing.

        See :func:`~clouds_mmseg.weights.locate.missing_weights`.
        """
        find_clip(cfg.get('model_name'), cfg.get('pretrained'), fetch=False)

    @staticmethod
    def weights_file(cfg: dict) -> Path | None:
        """Return the file of the weights that a config names, if any.

        Raises:
            MissingWeightsError: It is not here and cannot be fetched.
        """
        return find_clip(cfg.get('model_name'), cfg.get('pretrained')).weights

    def forward(self, x: Tensor) -> list[Tensor]:
        """Compute the feature pyramid.

        Args:
            x: (N, 3, H, W) normalised RGB; H and W at least 32. If 32 does
                not divide them, the tower's strided convolutions may not
                cover the last rows and columns.

        Returns:
            Four maps (N, C_i, about H / s_i, about W / s_i), s = 4, 8, 16,
            32; a :class:`~.adapters.QueriedMaps` if the adapter has queries.

        Raises:
            UserError: If the image is smaller than the last stride.
        """
        if min(x.shape[-2:]) < self.strides[-1]:
            raise UserError(
                f'CLIPBackbone needs images of at least {self.strides[-1]} '
                f'pixels a side, got {tuple(x.shape[-2:])}.'
            )
        with self.autograd_scope():
            return self.with_queries(self.maps(x))

    def maps(self, x: Tensor) -> list[Tensor]:
        """Compute :meth:`forward` without its checks and without queries."""
        if self.patch_size is None:
            run = self._compiled or self.pyramid
            # The layout that convolutions work in: no conversions.
            return run(x.contiguous(memory_format=torch.channels_last))
        size = x.shape[-2:]
        x = fit_to_patches(x, self.patch_size)
        grid = tuple(side // self.patch_size for side in x.shape[-2:])
        run = self._compiled or self.pyramid
        with table_for_grid(self.visual, grid, self.resize):
            found = dict(zip(sorted(set(self.indices)), run(x), strict=True))
        return resize_maps(
            [found[i] for i in self.indices], size, self.patch_size
        )

    def pyramid(self, x: Tensor) -> list[Tensor]:
        """Compute :meth:`forward` without its checks, for ``torch.compile``.

        Args:
            x: (N, 3, H, W).

        Returns:
            The maps, in the memory format of ``x``.
        """
        return self.visual.forward_intermediates(
            x,
            indices=sorted(set(self.indices)),
            stop_early=True,
            intermediates_only=True,
            output_fmt='NCHW',
        )['image_intermediates']


@dataclass(frozen=True)
class Pyramid:
    """The feature pyramid of a tower.

    Attributes:
        indices: Which of its intermediate maps are used.
        strides: Their strides.
        channels: Their numbers of channels.
        unused: Names of the submodules and parameters that the maps do not
            depend on, the outermost ones only.
        probe_size: Height and width of the image that they were found with.
        patch_size: Of a plain ViT; None for a tower with stages.
    """

    indices: list[int]
    strides: list[int]
    channels: list[int]
    unused: list[str]
    probe_size: tuple[int, int] = _PROBE_SIZE
    patch_size: int | None = None


def probe_pyramid(
    model_name: str, blocks: Sequence[int] | None = None
) -> Pyramid:
    """Run a tower on the meta device to get the shapes of its maps.

    Args:
        model_name: As for :func:`build_visual`.
        blocks: See :func:`~.single_scale.choose_blocks`.

    Raises:
        UserError: If it has no maps at strides 4, 8, 16 and 32, or takes
            images of one size only.
    """
    visual = build_visual(model_name, device='meta').eval()
    if isinstance(visual, open_clip.transformer.VisionTransformer):
        return _probe_vit(visual, blocks)
    if blocks is not None:
        raise UserError(
            f'{model_name} is no plain ViT of open_clip: leave blocks out'
        )
    image = torch.zeros(1, 3, *_PROBE_SIZE, device='meta')
    try:
        maps = visual.forward_intermediates(
            image, intermediates_only=True, output_fmt='NCHW'
        )['image_intermediates']
    except (AssertionError, AttributeError, RuntimeError, ValueError) as error:
        raise _no_pyramid(
            model_name, 'it takes images of one size only'
        ) from error
    found = [_PROBE_SIZE[0] // m.shape[-2] for m in maps]
    if not set(STRIDES) <= set(found):
        raise _no_pyramid(
            model_name, f'its maps have strides {sorted(set(found))}'
        )
    # A stem may have the stride of the first stage: the later map is used.
    indices = [max(i for i, s in enumerate(found) if s == k) for k in STRIDES]
    chosen = [maps[i] for i in indices]
    sum(m.sum() for m in chosen).backward()
    return Pyramid(
        indices=indices,
        strides=list(STRIDES),
        channels=[m.shape[1] for m in chosen],
        unused=find_unused(visual),
    )


def _probe_vit(visual, blocks):
    """Choose the blocks of a plain ViT of open_clip."""
    patch = visual.patch_size[0]
    chosen = choose_blocks(len(visual.transformer.resblocks), blocks)
    # Its own image size: the table needs no resizing here.
    image = torch.zeros(1, 3, *visual.image_size, device='meta')
    maps = visual.forward_intermediates(
        image,
        indices=sorted(set(chosen)),
        stop_early=True,
        intermediates_only=True,
    )['image_intermediates']
    sum(m.sum() for m in maps).backward()
    return Pyramid(
        indices=chosen,
        strides=list(STRIDES),
        channels=[maps[0].shape[1]] * len(chosen),
        unused=find_unused(visual),
        probe_size=(8 * patch, 10 * patch),
        patch_size=patch,
    )


def _no_pyramid(model_name, reason):
    return UserError(
        f'{model_name} has no feature pyramid at strides 4, 8, 16, 32: '
        f'{reason}. Towers that have one: the ConvNeXt family '
        '(convnext_base_w, convnext_large_d_320, ...), the CLIP ResNets '
        "(RN50, RN101, RN50x4, ...) and open_clip's own ViTs (ViT-B-16, "
        'ViT-L-14, ...). ViTs that open_clip takes from timm (EVA02, SigLIP, '
        'PE) are TIMMTower(model_name=...) here.'
    )


def visual_part(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the visual tower of a checkpoint of CLIP or of a tower alone."""
    visual = {
        k.removeprefix('visual.'): v
        for k, v in state_dict.items()
        if k.startswith('visual.')
    }
    return visual or state_dict
