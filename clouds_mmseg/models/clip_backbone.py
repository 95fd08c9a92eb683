"""The visual tower of a CLIP model as a backbone of four maps."""

import logging

import torch
from mmengine.logging import print_log
from mmengine.model import BaseModule
from mmseg.registry import MODELS

from clouds_mmseg.checkpoints.files import read_state_dict
from clouds_mmseg.checkpoints.strict import load_strictly
from clouds_mmseg.models.freezing import FreezableMixin
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.later_weights import are_weights_coming

# Mean and standard deviation of OpenAI's CLIP and of LAION's models.


@MODELS.register_module()
class CLIPBackbone(FreezableMixin, BaseModule):
    """Any open_clip tower with a feature pyramid: ConvNeXt, RN50, RN101, ...

    CLOUDS, section 3.1: the features of a frozen CLIP image encoder. Only
    the part of the visual tower that makes the maps is kept: neither the
    text tower nor the pooling and projection heads are in the
    ``state_dict``, so every parameter takes part in every step.

    Inputs are RGB normalised with CLIP's own mean (122.77, 116.75, 104.09)
    and standard deviation (68.50, 66.63, 70.32).

    Args:
        model_name (str | None): A model of open_clip; or
            ``hf-hub:owner/name`` or ``local-dir:folder``, which have weights
            of their own. None where ``pretrained`` says which model it is.
        pretrained (str | None): A tag that open_clip knows for the model; a
            local file (a whole CLIP checkpoint, OpenAI's TorchScript
            archive, or a visual tower alone) or its address;
            ``hf-hub:owner/name``, ``local-dir:folder`` or a folder as
            open_clip and its hub keep models, with their config; or None
            for random weights. Not read where a checkpoint replaces them,
            as in a test.
        frozen (bool): No gradients, eval mode, constant statistics.
        compile (bool | dict): Run the tower through ``torch.compile``, with
            these arguments if a dict. Every new size of images is compiled
            once, which takes about a minute on a CPU and needs a compiler
            there. Names of weights do not change. Only for a frozen tower.
        init_cfg (dict | None): mmengine's initialisation.

    Attributes:
        channels (list[int]): Width of each of the four maps.
        strides (list[int]): 4, 8, 16, 32.
        expects (tuple | None): Mean and standard deviation, RGB in
            [0, 255], that the pretrained weights were trained with.

    Raises:
        UserError: If the model or the tag is unknown, the weights cannot be
            had, or the tower has no maps at these strides (a ViT).
        CheckpointMismatchError: If the weights are of another tower.
    """

    def __init__(
        self,
        model_name: str | None = None,
        pretrained: str | None = None,
        frozen: bool = True,
        *,
        compile: bool | dict = False,
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
        super().__init__(init_cfg)
        # open_clip takes seconds to import, and most runs have another
        # backbone.
        from clouds_mmseg.models.clip_probe import (
            probe_pyramid,
            remove_modules,
        )
        from clouds_mmseg.models.clip_source import find_clip
        from clouds_mmseg.models.clip_towers import build_visual

        coming = are_weights_coming()
        source = find_clip(model_name, pretrained, weights=not coming)
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
        elif frozen and not init_cfg and not coming:
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
        """Raise an error if the weights of a config are not here.

        See :func:`~clouds_mmseg.utils.pretrained.missing_weights`.
        """
        from clouds_mmseg.models.clip_source import find_clip

        find_clip(cfg.get('model_name'), cfg.get('pretrained'), fetch=False)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Return the feature pyramid.

        Args:
            x (Tensor): (N, 3, H, W) normalised RGB; H and W at least 32.
                Sizes that 32 does not divide lose the border that the
                tower's own strided convolutions do not reach.

        Returns:
            list[Tensor]: Four maps (N, C_i, about H / s_i, about W / s_i),
            s = 4, 8, 16, 32.

        Raises:
            ValueError: If the image is smaller than the last stride.
        """
        if min(x.shape[-2:]) < self.strides[-1]:
            raise ValueError(
                f'CLIPBackbone needs images of at least {self.strides[-1]} '
                f'pixels a side, got {tuple(x.shape[-2:])}.'
            )
        run = self._compiled or self.pyramid
        with self.autograd_scope():
            # The layout that convolutions work in: they need not translate.
            return run(x.contiguous(memory_format=torch.channels_last))

    def pyramid(self, x):
        """What :meth:`forward` does inside of its checks.

        Args:
            x (Tensor): (N, 3, H, W).

        Returns:
            list[Tensor]: As :meth:`forward`, in the memory format of ``x``.
        """
        return self.visual.forward_intermediates(
            x,
            indices=self.indices,
            stop_early=True,
            intermediates_only=True,
            output_fmt='NCHW',
        )['image_intermediates']


def _visual_part(state_dict):
    """Return the visual tower of a CLIP checkpoint, or what is one already."""
    visual = {
        k.removeprefix('visual.'): v
        for k, v in state_dict.items()
        if k.startswith('visual.')
    }
    return visual or state_dict
