"""Visual tower of a CLIP model as a backbone of four feature maps."""

import logging
from dataclasses import dataclass
from pathlib import Path

import torch
from mmengine.logging import print_log
from mmengine.model import BaseModule
from mmseg.registry import MODELS
from torch import Tensor, nn

from clouds_mmseg.models.backbones.clip_source import build_visual, find_clip
from clouds_mmseg.models.backbones.freezing import FreezableMixin
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.weights.io import read_state_dict
from clouds_mmseg.weights.load import load_strictly

STRIDES = [4, 8, 16, 32]
# torch 2.6 returned fewer maps from a compiled ConvNeXt than it has.
_COMPILES_RIGHT = (2, 8)
# H and W of the probe image. Not the image size of any tower: one that takes
# only its own size fails at once, and not at the first crop.
_PROBE_SIZE = (128, 160)


@MODELS.register_module()
class CLIPBackbone(FreezableMixin, BaseModule):
    """Any open_clip tower with a feature pyramid: ConvNeXt, RN50, RN101, ...

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
            weights do not change. Only for a frozen tower.
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
            available, or the tower has no maps at these strides (a ViT).
        CheckpointMismatchError: If the weights are of another tower.
    """

    def __init__(
        self,
        model_name: str | None = None,
        pretrained: str | None = None,
        frozen: bool = True,
        *,
        compile: bool | dict = False,
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
        if compile and torch.__version__ < _COMPILES_RIGHT:
            raise UserError(
                f'CLIPBackbone: with torch {torch.__version__} the compiled '
                f'tower may lose feature maps; {compile=} needs torch '
                '2.8 or newer. Leave it out.'
            )
        super().__init__(init_cfg)
        source = find_clip(model_name, pretrained, weights=load_pretrained)
        pyramid = probe_pyramid(source.model)
        self.channels = pyramid.channels
        self.strides = pyramid.strides
        self.indices = pyramid.indices
        self.visual = build_visual(source.model)
        remove_modules(self.visual, pyramid.unused)
        if source.weights:
            load_strictly(
                self.visual,
                _visual_part(read_state_dict(source.weights)),
                source=str(source.weights),
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
        self._compiled = None
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
            32.

        Raises:
            UserError: If the image is smaller than the last stride.
        """
        if min(x.shape[-2:]) < self.strides[-1]:
            raise UserError(
                f'CLIPBackbone needs images of at least {self.strides[-1]} '
                f'pixels a side, got {tuple(x.shape[-2:])}.'
            )
        run = self._compiled or self.pyramid
        with self.autograd_scope():
            # The layout that convolutions work in: no conversions.
            return run(x.contiguous(memory_format=torch.channels_last))

    def pyramid(self, x: Tensor) -> list[Tensor]:
        """Compute :meth:`forward` without its checks, for ``torch.compile``.

        Args:
            x: (N, 3, H, W).

        Returns:
            The maps, in the memory format of ``x``.
        """
        return self.visual.forward_intermediates(
            x,
            indices=self.indices,
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
    """

    indices: list[int]
    strides: list[int]
    channels: list[int]
    unused: list[str]


def probe_pyramid(model_name: str) -> Pyramid:
    """Run a tower on the meta device to get the shapes of its maps.

    Raises:
        UserError: If it has no maps at strides 4, 8, 16 and 32, or takes
            images of one size only.
    """
    visual = build_visual(model_name, device='meta').eval()
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


def remove_modules(module: nn.Module, names: list[str]) -> None:
    """Replace submodules by ``nn.Identity`` and parameters by None."""
    for name in names:
        parent, _, leaf = name.rpartition('.')
        parent = module.get_submodule(parent)
        is_module = isinstance(getattr(parent, leaf), nn.Module)
        setattr(parent, leaf, nn.Identity() if is_module else None)


def _no_pyramid(model_name, reason):
    return UserError(
        f'{model_name} has no feature pyramid at strides 4, 8, 16, 32: '
        f'{reason}. Towers that have one: the ConvNeXt family '
        '(convnext_base_w, convnext_large_d_320, ...) and the CLIP ResNets '
        '(RN50, RN101, RN50x4, ...).'
    )


def find_unused(module: nn.Module, prefix: str = '') -> list[str]:
    """Find the outermost parts of a module whose parameters have no gradient.

    Args:
        module: A module after a backward pass.
        prefix: Prefix of the names.

    Returns:
        Dotted names of submodules and of single parameters.
    """
    names = [
        prefix + name
        for name, parameter in module.named_parameters(recurse=False)
        if parameter.grad is None
    ]
    for name, child in module.named_children():
        parameters = list(child.parameters())
        if parameters and all(p.grad is None for p in parameters):
            names.append(prefix + name)
        else:
            names += find_unused(child, f'{prefix}{name}.')
    return names


def _visual_part(state_dict):
    """Return the visual tower of a checkpoint of CLIP or of a tower alone."""
    visual = {
        k.removeprefix('visual.'): v
        for k, v in state_dict.items()
        if k.startswith('visual.')
    }
    return visual or state_dict
