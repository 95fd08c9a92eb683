"""Find the CLIP model that a config names, and its weights; build towers."""

import logging
import os
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import open_clip
import torch
from open_clip.constants import (
    HF_CONFIG_NAME,
    HF_SAFE_WEIGHTS_NAME,
    HF_WEIGHTS_NAME,
)
from open_clip.pretrained import get_pretrained_cfg
from open_clip.transform import PreprocessCfg
from torch import nn

from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.options import closest_names
from clouds_mmseg.utils.text_files import parse_json
from clouds_mmseg.weights.io import MissingWeightsError, is_torchscript
from clouds_mmseg.weights.locate import find_or_fetch, find_or_fetch_from_hub

_HUB, _FOLDER = 'hf-hub:', 'local-dir:'
# In open_clip's order of preference, for a folder that holds several.
_FILES = (
    HF_SAFE_WEIGHTS_NAME,
    'open_clip_pytorch_model.safetensors',
    HF_WEIGHTS_NAME,
    'open_clip_pytorch_model.pth',
    'model.safetensors',
    'pytorch_model.bin',
    'pytorch_model.pth',
    'model.pth',
)
_INSTEAD = "the path of the file or folder as pretrained='...'"
# A tiny tower in place of the one that is not needed.
_TINY_TEXT = dict(context_length=8, vocab_size=64, width=64, heads=1, layers=1)
_TINY_VISION = dict(image_size=32, patch_size=32, width=64, layers=1)


@dataclass(frozen=True)
class CLIPSource:
    """A CLIP model and its weights.

    Attributes:
        model: Argument of ``open_clip.create_model``: a name of its list, or
            ``local-dir:`` with the folder of the model's config.
        name: Of the model, for messages.
        weights: The file; None for random weights, or if not requested.
        quick_gelu: The weights were trained with QuickGELU, whatever the
            model's config says.
        identity: Identifies weights that a tag or a repository names, for
            caches; None if only their content does.
        mean: Of the images that the weights were trained with, RGB in
            [0, 1].
        std: Likewise.
    """

    model: str
    name: str
    weights: Path | None = None
    quick_gelu: bool = False
    identity: str | None = None
    mean: tuple[float, ...] = PreprocessCfg().mean
    std: tuple[float, ...] = PreprocessCfg().std

    @property
    def folder(self) -> Path | None:
        """Folder of the model's config; None for a name of the list."""
        if _prefix(self.model) is None:
            return None
        return Path(self.model.removeprefix(_FOLDER))


def find_clip(
    model_name: str | None,
    pretrained: str | None,
    *,
    fetch: bool = True,
    weights: bool = True,
) -> CLIPSource:
    """Find a CLIP model and its weights.

    Args:
        model_name: A model of open_clip's list, or ``hf-hub:owner/name`` or
            ``local-dir:folder``, which have weights, so that ``pretrained``
            is left out. None if ``pretrained`` has the model's config.
        pretrained: A tag that open_clip has for the model; a local file; a
            URL (``https://...``); ``hf-hub:owner/name``, with ``@revision``
            if need be; ``local-dir:folder`` or the folder itself, with
            ``open_clip_config.json`` in it. Or None for random weights. The
            files of a tag, a URL or a repository are looked up in the
            pretrained folder first (``--pretrained-dir``).
        fetch: False searches without downloading.
        weights: False if the weights come from elsewhere: only the model's
            config is needed, and if that is missing and ``model_name`` is a
            name of the list, open_clip's own config is used.

    Raises:
        UserError: The two do not name one model and its weights.
        MissingWeightsError: A file is not found and cannot be downloaded.
    """
    source = _find(model_name, pretrained, fetch, weights)
    # OpenAI's archives do not name the activation, but all of their models
    # were trained with QuickGELU.
    if source.weights is not None and is_torchscript(source.weights):
        source = replace(source, quick_gelu=True)
    return source


def _find(model_name, pretrained, fetch, weights):
    source_name = _source_name(model_name, pretrained)
    if source_name is None:
        return _find_listed(model_name, pretrained, fetch, weights)
    # A name beside a source is that of a model of open_clip's list.
    named = model_name if _prefix(model_name) is None else None
    if named is not None:
        named = check_model_name(named)
    try:
        source = _find_in_source(source_name, named, fetch, weights)
    except UserError:
        if weights or named is None:
            raise
        return CLIPSource(named, named)
    if named is not None and source.model != named:
        _check_same_model(source, named)
    return source


def check_model_name(model_name: str | None) -> str:
    """Return the name as open_clip lists it.

    Raises:
        UserError: If open_clip has no such model; near names are listed.
    """
    known = open_clip.list_models()
    if not model_name:
        raise UserError(
            'model_name must be a model of open_clip (open_clip.list_models() '
            f'lists all), got {model_name!r}. Only beside '
            "pretrained='hf-hub:...', 'local-dir:...' or a folder with "
            f'{HF_CONFIG_NAME} it may be left out.'
        )
    # OpenAI wrote ViT-B/32 where open_clip lists ViT-B-32.
    name = model_name.replace('/', '-')
    if name in known:
        return name
    folded = {k.lower(): k for k in known}
    near = closest_names(name.lower(), folded, most=5, cutoff=0.5)
    raise UserError(
        f'model_name={model_name!r} is not a model of open_clip '
        f'{open_clip.__version__}. Near: {[folded[n] for n in near]}; '
        'open_clip.list_models() lists all.' + _hint(model_name)
    )


def _prefix(name):
    """Return the prefix ``hf-hub:`` or ``local-dir:`` of a name, or None."""
    for prefix in (_HUB, _FOLDER):
        if name and name.startswith(prefix):
            return prefix
    return None


def _source_name(model_name, pretrained):
    """Return the name of both config and weights (a repository or folder)."""
    if _prefix(model_name):
        if pretrained and pretrained != model_name:
            raise UserError(
                f'model_name={model_name!r} has weights of its own, and '
                f'{pretrained=} names others. Leave one of them out.'
            )
        return model_name
    if _prefix(pretrained):
        return pretrained
    # A tag comes before a folder that happens to have its name.
    if pretrained and not get_pretrained_cfg(model_name or '', pretrained):
        if Path(pretrained).expanduser().is_dir():
            return _FOLDER + pretrained
    return None


def _find_listed(model_name, pretrained, fetch, weights):
    name = check_model_name(model_name)
    if not pretrained:
        return CLIPSource(name, name)
    path = Path(pretrained).expanduser()
    if path.is_file():
        return CLIPSource(name, name, path)
    if pretrained.startswith(('http://', 'https://')):
        what = f'{pretrained=} of {name}'
        found = (
            find_or_fetch(pretrained, what, fetch=fetch) if weights else None
        )
        return CLIPSource(name, name, found)
    config = get_pretrained_cfg(name, pretrained)
    if not config and not weights:
        return CLIPSource(name, name)
    if not config:
        tags = open_clip.list_pretrained_tags_by_model(name)
        kind = MissingWeightsError if _is_path(pretrained) else UserError
        raise kind(
            f'{pretrained=} is neither a file nor a folder nor a tag of '
            f'{name}; its tags: {tags or "none"}.' + _hint(pretrained)
        )
    return CLIPSource(
        name,
        name,
        _file_of_tag(name, pretrained, config, fetch) if weights else None,
        quick_gelu=config.get('quick_gelu', False),
        identity=f'tag {pretrained}',
        **_statistics(config),
    )


def _file_of_tag(name, tag, config, fetch):
    """Return the weight file of a tag."""
    what = f'pretrained={tag!r} of {name}'
    url, hub = config.get('url'), config.get('hf_hub')
    if not hub:
        return find_or_fetch(url, what, folder='~/.cache/clip', fetch=fetch)
    repository, file = os.path.split(hub)
    return find_or_fetch_from_hub(
        repository,
        [file] if file else [HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME],
        what,
        # OpenAI's own archives are published under a URL as well.
        paths=[os.path.basename(url)] if url else [],
        instead=_INSTEAD,
        fetch=fetch,
    )


def _find_in_source(source_name, named, fetch, weights):
    """Find the model of ``hf-hub:`` or ``local-dir:``."""
    prefix = _prefix(source_name)
    where = source_name.removeprefix(prefix)
    if not where:
        raise UserError(f'{source_name!r} names nothing behind {prefix!r}')
    if prefix == _FOLDER:
        return _find_in_folder(
            source_name, Path(where).expanduser(), named, weights
        )
    config = find_or_fetch_from_hub(
        where, [HF_CONFIG_NAME], source_name, instead=_INSTEAD, fetch=fetch
    )
    file = None
    if weights:
        file = find_or_fetch_from_hub(
            where,
            [HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME],
            source_name,
            instead=_INSTEAD,
            fetch=fetch,
        )
    return CLIPSource(
        f'{_FOLDER}{config.parent}',
        where,
        file,
        identity=f'hub {where}',
        **_statistics(_read_config(config)['preprocess_cfg']),
    )


def _find_in_folder(source_name, folder, named, weights):
    if not folder.is_dir():
        raise MissingWeightsError(
            f'{source_name!r}: there is no folder {folder}'
        )
    config = folder / HF_CONFIG_NAME
    if not config.is_file():
        other = _other_layout(folder)
        if named is None or other:
            raise UserError(
                f'{folder} holds no {HF_CONFIG_NAME}{other}. Give a folder '
                "in open_clip's layout, as hf download makes it of a "
                'repository of open_clip models'
                + ('' if other else ', or name the model with model_name=')
                + '.'
            )
        return CLIPSource(
            named, named, _weights_in(folder) if weights else None
        )
    return CLIPSource(
        f'{_FOLDER}{folder}',
        str(folder),
        _weights_in(folder) if weights else None,
        **_statistics(_read_config(config)['preprocess_cfg']),
    )


def _read_config(path):
    """Read both parts of an ``open_clip_config.json``."""
    try:
        content = parse_json(path.read_text(encoding='utf-8'))
        model = content['model_cfg']
        missing = {'embed_dim', 'vision_cfg', 'text_cfg'} - set(model)
        if missing:
            raise KeyError(f'model_cfg.{min(missing)}')
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f'{path} is no config of an open_clip model '
            f'({type(error).__name__}: {error}); download it again'
        ) from error
    return dict(
        model_cfg=model, preprocess_cfg=content.get('preprocess_cfg') or {}
    )


def _weights_in(folder):
    """Return the weight file that open_clip would use, if unambiguous."""
    for name in _FILES:
        if (folder / name).is_file():
            return folder / name
    others = sorted(
        path
        for suffix in ('safetensors', 'bin', 'pth', 'pt')
        for path in folder.glob(f'*.{suffix}')
    )
    if len(others) == 1:
        return others[0]
    expected = f'{HF_SAFE_WEIGHTS_NAME} or {HF_WEIGHTS_NAME} is expected'
    if not others:
        raise MissingWeightsError(
            f'{folder} holds no weights; {expected}. Download it.'
        )
    found = ', '.join(path.name for path in others)
    raise UserError(
        f'{folder} holds several files of weights ({found}); {expected}. '
        'Give the path of one of them.'
    )


def _other_layout(folder):
    """Describe the layout of a folder that is not open_clip's."""
    if not (folder / 'config.json').is_file():
        return ''
    try:
        content = parse_json((folder / 'config.json').read_text('utf-8'))
        kind = content.get('model_type')
        architecture = content.get('architecture')
    except (OSError, ValueError, AttributeError):
        return ''
    if kind:
        return (
            f': it is a model of transformers (model_type {kind!r}), whose '
            'weights have other names'
        )
    if architecture:
        return (
            f': it is a model of timm ({architecture}), which '
            'FrozenTIMMBackbone takes'
        )
    return ''


def _statistics(config):
    """Return mean and std of an open_clip entry or a preprocess_cfg."""
    return {
        key: tuple(config[key]) for key in ('mean', 'std') if config.get(key)
    }


def _hint(name):
    """Suggest what was meant by an unknown name."""
    if name.replace('hf_hub:', _HUB, 1) != name:
        return f' Write {name.replace("hf_hub:", _HUB, 1)!r}?'
    if _is_path(name):
        return ' There is no such file or folder.'
    if name.count('/') == 1:
        return f' A repository of the hub is written {_HUB + name!r}.'
    return ''


def _is_path(name):
    """Return whether a name is meant as the path of a file or folder."""
    path = Path(name)
    return (
        path.is_absolute()
        or name.startswith(('.', '~'))
        or path.suffix in ('.pt', '.pth', '.bin', '.safetensors')
    )


def build_visual(
    model_name: str, device: str = 'cpu', *, quick_gelu: bool = False
) -> nn.Module:
    """Build the visual tower of a model, randomly initialised.

    Args:
        model_name: A model of open_clip, or ``local-dir:`` with the folder of
            a model's config.
        device: On ``meta`` it has shapes and no storage.
        quick_gelu: Use QuickGELU even if the model's config does not.
    """
    with torch.device(device), _without_warnings():
        model = open_clip.create_model(
            model_name,
            device=device,
            load_weights=False,
            force_quick_gelu=quick_gelu,
            text_cfg=dict(_TINY_TEXT),
            pretrained_text=False,
        )
    return model.visual


def build_text(
    model_name: str, quick_gelu: bool, device: str = 'cpu'
) -> nn.Module:
    """Build a CLIP model with a tiny visual tower, for ``encode_text``.

    Args:
        model_name: A model of open_clip, or ``local-dir:`` with the folder of
            a model's config.
        quick_gelu: Use QuickGELU even if the model's config does not.
        device: On ``meta`` it has shapes and no storage.

    Raises:
        UserError: If the tower is from the Hugging Face hub, which is not
            reachable.
    """
    try:
        with torch.device(device), _without_warnings():
            return open_clip.create_model(
                model_name,
                device=device,
                load_weights=False,
                force_quick_gelu=quick_gelu,
                vision_cfg=dict(_TINY_VISION),
                pretrained_text=False,
            ).eval()
    except OSError as error:
        raise hub_error(f'The text tower of {model_name}', error) from error


def hub_error(what: str, error: Exception) -> UserError:
    """Return the error for a part that only the Hugging Face hub has."""
    return UserError(
        f'{what} is not here ({type(error).__name__}). It comes from the '
        'Hugging Face hub: run once where there is a network, or take a '
        "model with open_clip's own text tower (RN50, convnext_*)."
    )


@contextmanager
def _without_warnings():
    """Silence open_clip's warnings that the model has random weights.

    The weights are loaded right after, by this package.
    """
    root = logging.getLogger()

    def drop(record):
        message = record.getMessage()
        return (
            'No pretrained weights loaded' not in message
            and 'no CLIP weights found in' not in message
        )

    root.addFilter(drop)
    try:
        yield
    finally:
        root.removeFilter(drop)


def _check_same_model(source, named):
    """Raise an error if the source holds another model than ``named``."""
    shapes = []
    for model in (source.model, named):
        state_dict = build_visual(model, 'meta').state_dict()
        shapes.append({k: tuple(v.shape) for k, v in state_dict.items()})
    if shapes[0] == shapes[1]:
        return
    odd = sorted(shapes[0].items() ^ shapes[1].items())[0][0]
    found, expected = (
        f'{odd} {list(s[odd])}' if odd in s else f'no {odd}' for s in shapes
    )
    raise UserError(
        f'{source.name} is another model than model_name={named!r}: its '
        f'visual tower has {found}, that of {named} {expected}. Leave '
        'model_name out or correct it.'
    )
